# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The mode machine: plan -> policy -> hold -> fallback, and the guard on every command.

| what is wrong | what acts |
|---|---|
| nothing | the plan |
| the plan is not finite | the policy alone |
| deadlines were missed too often in a row | the policy alone, for `recover_ticks` ticks |
| no usable observation, for `hold_ticks` ticks | the last command, held |
| no usable observation for longer, or before the first one | the fallback |

An observation is usable if it has the right length, is finite and not older than the timeout. The
fallback is latched with its reason until enough good ticks in a row (`recover_ticks`), or until
`reset`; the return is blended. Whatever happens, a command is finite and within its limits.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pruning_core.errors import ConfigError, explain
from pruning_core.runtime.bundle import Manifest
from pruning_core.runtime.fallback import Fallback

Array = npt.NDArray[np.float64]


class Mode(enum.Enum):
    """What decides."""

    PLANNING = 'planning'
    POLICY = 'policy'
    HOLD = 'hold'
    FALLBACK = 'fallback'


@dataclass(frozen=True)
class SupervisorSettings:
    """Thresholds.

    Attributes:
        observation_timeout_s: older observations are not used.
        hold_ticks: ticks that the last command is held before the fallback acts.
        max_consecutive_misses: missed deadlines in a row before the policy acts alone; 0 = never.
        recover_ticks: good ticks in a row after which the fallback is left, or planning tried
            again; 0 = only by `reset`.
        blend_ticks: ticks over which the return from the fallback is blended.
    """

    observation_timeout_s: float
    hold_ticks: int = 5
    max_consecutive_misses: int = 0
    recover_ticks: int = 20
    blend_ticks: int = 5

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: a threshold is negative, or the timeout is not above 0.
        """
        if not self.observation_timeout_s > 0 or min(
                self.hold_ticks, self.max_consecutive_misses, self.recover_ticks,
                self.blend_ticks) < 0:
            raise ConfigError(
                explain(f'supervisor settings {self} were asked for', 'one is out of range',
                        'a timeout above 0 s, and counts of 0 or more', 'correct the parameters')
            )


@dataclass(frozen=True)
class Decision:
    """What the robot gets.

    Attributes:
        command: (A,) finite, within limits.
        mode: what decided; `reason` why, empty while planning.
    """

    command: Array
    mode: Mode
    reason: str


class Supervisor:
    """Decides, tick by tick, what may act."""

    def __init__(self, manifest: Manifest, settings: SupervisorSettings, fallback: Fallback
                 ) -> None:
        """Take limits from a bundle; start in fallback until a good observation comes."""
        self.settings, self._fallback = settings, fallback
        self._low, self._high = np.asarray(manifest.action.low), np.asarray(manifest.action.high)
        self._width = len(manifest.observation.names)
        self.restart()

    def restart(self) -> None:
        """Forget everything, the last command too, as when control begins."""
        self._last = self._fallback.act(None)
        self._started = False
        self._latched = ''
        self.reset()

    def reset(self) -> None:
        """Leave the fallback at the next good tick."""
        self._blend = self.settings.blend_ticks if self._latched else 0
        self._latched = ''
        self._bad_ticks = self._good_ticks = self._misses = 0
        self._spared = 0.0  # ticks for which planning is still spared

    def problem(self, observation: npt.ArrayLike | None, age_s: float) -> str:
        """Say why an observation cannot be used; empty where it can."""
        if observation is None:
            return 'no observation yet'
        values = np.asarray(observation, float)
        if values.shape != (self._width,):
            return f'observation has shape {values.shape}, not ({self._width},)'
        if not np.isfinite(values).all():
            return 'observation is not finite'
        if not age_s <= self.settings.observation_timeout_s:
            return f'observation is older than {self.settings.observation_timeout_s:g} s'
        return ''

    @property
    def may_plan(self) -> bool:
        """Whether a plan would be used now; planning is spared where it would not."""
        return self._spared <= 0

    def missed(self, skipped: int) -> None:
        """Tell the outcome of the tick before: whole periods skipped, or 0 for in time."""
        limit = self.settings.max_consecutive_misses
        self._misses = self._misses + 1 if skipped else 0
        if limit and self._misses >= limit:
            self._spared = self.settings.recover_ticks or math.inf
        elif self._spared > 0:
            self._spared -= 1

    def decide(self, observation: npt.ArrayLike | None, age_s: float,
               plan: npt.ArrayLike | None, policy: npt.ArrayLike | None) -> Decision:
        """Choose the command of one tick.

        Args:
            observation: (O,) newest observation, or None.
            age_s: its age in seconds.
            plan: (A,) the planner's command, None where it did not plan.
            policy: (A,) the policy's command, None where it did not act.
        """
        problem = self.problem(observation, age_s)
        chosen, mode, reason = self._candidate(plan, policy)
        if not problem and chosen is None:
            problem = 'planner and policy gave no finite command'
        if problem:
            fresh = age_s <= self.settings.observation_timeout_s
            return self._without(observation if fresh else None, problem)
        assert chosen is not None
        self._bad_ticks = 0
        self._good_ticks += 1
        if self._latched:
            needed = self.settings.recover_ticks
            if not needed or self._good_ticks < needed:
                return self._fall_back(observation, self._latched)
            self._latched = ''
            self._blend = self.settings.blend_ticks
        self._started = True
        if self._blend:
            share = self._blend / (self.settings.blend_ticks + 1)
            chosen = share * self._last + (1 - share) * chosen
            self._blend -= 1
        return self._issue(chosen, mode, reason)

    def _candidate(self, plan: npt.ArrayLike | None, policy: npt.ArrayLike | None
                   ) -> tuple[Array | None, Mode, str]:
        if self.may_plan and (command := self._usable(plan)) is not None:
            return command, Mode.PLANNING, ''
        reason = 'the plan is not finite' if self.may_plan else \
            f'{self.settings.max_consecutive_misses} deadlines missed in a row'
        return self._usable(policy), Mode.POLICY, reason

    def _usable(self, command: npt.ArrayLike | None) -> Array | None:
        if command is None:
            return None
        values = np.asarray(command, float)
        good = values.shape == self._low.shape and np.isfinite(values).all()
        return values if good else None

    def _without(self, observation: npt.ArrayLike | None, problem: str) -> Decision:
        self._good_ticks = 0
        self._bad_ticks += 1
        if self._started and not self._latched and self._bad_ticks <= self.settings.hold_ticks:
            return self._issue(self._last, Mode.HOLD, problem)
        if self._started:
            self._latched = problem
        return self._fall_back(observation, problem)

    def _fall_back(self, observation: npt.ArrayLike | None, reason: str) -> Decision:
        usable = None
        if observation is not None:
            values = np.asarray(observation, float)
            if values.shape == (self._width,) and np.isfinite(values).all():
                usable = values
        return self._issue(self._fallback.act(usable), Mode.FALLBACK, reason)

    def _issue(self, command: Array, mode: Mode, reason: str) -> Decision:
        self._last = np.clip(np.nan_to_num(command, nan=0.0), self._low, self._high)
        return Decision(self._last.copy(), mode, reason)
