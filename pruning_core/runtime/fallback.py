# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What acts when the planner may not: constant time, numpy alone, within limits."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from pruning_core.errors import ConfigError, explain, nearest
from pruning_core.runtime.bundle import Manifest
from pruning_core.runtime.errormap import Vector

Array = npt.NDArray[np.float64]
KINDS = ('zero', 'lqr')


class Fallback(Protocol):
    """Acts on an observation that may be missing."""

    def act(self, observation: Vector | None) -> Array:
        """Return an (A,) command in the robot's units, finite and within its limits."""


class Zero:
    """The command nearest to zero that is within limits, whatever the observation."""

    def __init__(self, manifest: Manifest) -> None:
        """Take the limits of a bundle."""
        self._command: Array = np.clip(0.0, manifest.action.low, manifest.action.high)

    def act(self, observation: Vector | None) -> Array:
        """Return the same command always."""
        return self._command.copy()


class Lqr:
    """u = goal - K e, clipped; zero without a usable observation."""

    def __init__(self, manifest: Manifest) -> None:
        """Take gain and limits of a bundle.

        Raises:
            ConfigError: the bundle's plant has no linearisation.
        """
        if manifest.lyapunov is None:
            raise ConfigError(
                explain("fallback 'lqr' was asked for", f"'{manifest.env_id}' has no gain in its "
                        'bundle', 'zero', 'set fallback to zero')
            )
        self._lyapunov = manifest.lyapunov
        self._low, self._high = np.asarray(manifest.action.low), np.asarray(manifest.action.high)
        self._zero = Zero(manifest)

    def act(self, observation: Vector | None) -> Array:
        """Return the command of the linear regulator."""
        if observation is None or not np.isfinite(observation).all():
            return self._zero.act(None)
        plant = self._lyapunov
        command: Array = np.clip(
            plant.goal_action - plant.K @ plant.error(observation), self._low, self._high)
        return command


def make_fallback(kind: str, manifest: Manifest) -> Fallback:
    """Make a fallback by name.

    Raises:
        ConfigError: the name is unknown, or the bundle cannot serve it.
    """
    if kind == 'zero':
        return Zero(manifest)
    if kind == 'lqr':
        return Lqr(manifest)
    raise ConfigError(
        explain(f"fallback '{kind}' was asked for", 'it is not known' + nearest(kind, KINDS),
                ', '.join(KINDS), 'choose one of these')
    )
