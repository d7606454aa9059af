# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Joint states in, the observation of a bundle out, by a table such as `cos(arm.position)`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pruning_core.errors import ConfigError, explain

_ENTRY = re.compile(r'(?:(cos|sin)\()?(\w[\w/-]*)\.(position|velocity|effort)(\))?')
_FUNCTIONS = {None: float, 'cos': math.cos, 'sin': math.sin}


class JointStates(Protocol):
    """The fields of a sensor_msgs/JointState."""

    name: Sequence[str]
    position: Sequence[float]
    velocity: Sequence[float]
    effort: Sequence[float]


class JointMap:
    """Makes an observation from joint states, by a table such as `cos(pendulum.position)`."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Read one entry per observation.

        Raises:
            ConfigError: an entry has another form.
        """
        self._entries = []
        for text in entries:
            found = _ENTRY.fullmatch(text)
            if not found or (found[1] is None) != (found[4] is None):
                raise ConfigError(
                    explain(f'joint_map entry {text!r} was read', 'it has another form',
                            "'joint.position', 'joint.velocity', 'joint.effort', or cos(...) or "
                            'sin(...) of one', 'correct joint_map: one entry per observation')
                )
            self._entries.append((_FUNCTIONS[found[1]], found[2], found[3]))

    def __len__(self) -> int:
        """Return the number of observations made."""
        return len(self._entries)

    def __call__(self, message: JointStates) -> npt.NDArray[np.float64]:
        """Return the (O,) observation; NaN where the message lacks a joint or a field."""
        index = {name: i for i, name in enumerate(message.name)}
        out = np.full(len(self._entries), math.nan)
        for k, (function, joint, quantity) in enumerate(self._entries):
            values = getattr(message, quantity)
            i = index.get(joint)
            if i is not None and i < len(values):
                out[k] = function(values[i]) if math.isfinite(values[i]) else math.nan
        return out
