# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle in many closed loops at once: the planner of the robot itself, on onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.plants import Array
from pruning_core.runtime.bundle import Bundle
from pruning_core.runtime.planner import Course, Planner


class BundleController:
    """Decides for N runs with one planner, which goes from run to run; a `Controller`.

    What a robot runs is tested, not what it was exported from; and a plan is cheaper than the same
    one of many in torch, which does not fuse its operations.
    """

    def __init__(self, bundle: Bundle, samples: int = 0, iterations: int = 0,
                 precision: str = 'fp32') -> None:
        """Take a bundle and the size of its plans; 0 takes the bundle's own.

        Raises:
            BundleError: a graph does not load or does not match the manifest.
            ConfigError: a setting is out of range.
        """
        self._bundle = bundle
        self._size: dict[str, Any] = {
            'samples': samples, 'iterations': iterations, 'precision': precision}
        self._planner: Planner | None = Planner(bundle, **self._size)
        self._courses: list[Course] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave the sessions behind on the way to another process; they are opened there anew."""
        return {**self.__dict__, '_planner': None, '_courses': []}

    def begin(self, seeds: Sequence[int]) -> None:
        """Seed one stream of planner noise per run."""
        if self._planner is None:
            self._planner = Planner(self._bundle, **self._size)
        self._courses = [self._planner.course(seed) for seed in seeds]

    def act(self, observations: Array) -> Array:
        """See `Controller`."""
        assert self._planner is not None
        commands = np.empty((len(observations), len(self._bundle.manifest.action.names)))
        for i, (course, observation) in enumerate(zip(self._courses, observations, strict=True)):
            self._planner.follow(course)
            commands[i] = self._planner.plan(observation).action
        return commands

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """See `Controller`."""
        self._courses = [self._courses[i] for i in rows]
