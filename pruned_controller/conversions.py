# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, UInt8MultiArray

from pruning_core.errors import ConfigError, explain

# Observations: only the newest counts, and any publisher matches. Commands and metrics: reliable.
# Latched: who comes late still gets the last message; both ends must ask for it.
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
METRIC = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)

_ENTRY = re.compile(r'(?:(cos|sin)\()?(\w[\w/-]*)\.(position|velocity|effort)(\))?')
_FUNCTIONS = {None: float, 'cos': math.cos, 'sin': math.sin}


def to_array(message: Float64MultiArray) -> npt.NDArray[np.float64]:
    """Return the numbers of a message, flat."""
    return np.asarray(message.data, float)


def to_message(values: npt.ArrayLike) -> Float64MultiArray:
    """Return numbers as a message."""
    return Float64MultiArray(data=np.asarray(values, float).ravel().tolist())


def archive_message(content: bytes, hash: str) -> UInt8MultiArray:
    """Return a bundle archive as a message; its hash is the label of the one dimension."""
    message = UInt8MultiArray(data=array('B', content))
    message.layout.dim = [MultiArrayDimension(label=hash, size=len(content), stride=len(content))]
    return message


def archive_of(message: UInt8MultiArray) -> tuple[bytes, str]:
    """Return archive and hash of a message.

    Raises:
        ConfigError: the message carries no hash.
    """
    if not message.layout.dim or not message.layout.dim[0].label:
        raise ConfigError(
            explain('a bundle message was received', 'it carries no hash',
                    'the hash as the label of its first dimension',
                    'publish bundles with the pruner node')
        )
    return bytes(message.data), str(message.layout.dim[0].label)


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

    def __call__(self, message: JointState) -> npt.NDArray[np.float64]:
        """Return the (O,) observation; NaN where the message lacks a joint or a field."""
        index = {name: i for i, name in enumerate(message.name)}
        out = np.full(len(self._entries), math.nan)
        for k, (function, joint, quantity) in enumerate(self._entries):
            values = getattr(message, quantity)
            i = index.get(joint)
            if i is not None and i < len(values):
                out[k] = function(values[i]) if math.isfinite(values[i]) else math.nan
        return out
