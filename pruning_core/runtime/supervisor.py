# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The mode machine: plan -> policy -> hold -> fallback, and the guards on every command.

| what is wrong | what acts |
|---|---|
| nothing | the plan |
| the plan is not finite | the policy alone |
| the model mispredicts the plant, for `residual_ticks` ticks | the policy alone, for a while |
| deadlines were missed too often in a row | the policy alone, for `recover_ticks` ticks |
| no usable observation, or no finite command, for `hold_ticks` ticks | the last command, held |
| the same for longer, or before the first proof of life | the fallback |
| the state left its envelope | the fallback, at once |
| the policy alone misses deadlines, too | the fallback, at once; nothing else is computed |

An observation is usable if it has the right length, is finite and not older than the timeout. The
fallback is latched with its reason until enough good ticks in a row (`recover_ticks`), or until
`reset`; the return is blended. What was left behind must be left clearly: a residual by a fifth,
an envelope by a twentieth of its width. Whatever happens, a command is finite, within its limits,
and no further from the one before it than its rate allows.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pruning_core.errors import ConfigError, explain
from pruning_core.runtime.bundle import Manifest
from pruning_core.runtime.envelope import Envelope
from pruning_core.runtime.fallback import Fallback

Array = npt.NDArray[np.float64]
_CALM = 0.8  # part of the allowed residual that counts as predicting again


class Mode(enum.Enum):
    """What decides."""

    PLANNING = 'planning'
    POLICY = 'policy'
    HOLD = 'hold'
    FALLBACK = 'fallback'


class Cause(enum.Enum):
    """What latched the fallback; it decides what may be computed meanwhile, and what ends it."""

    INPUT = 'input'
    ENVELOPE = 'envelope'
    MISSES = 'misses'


@dataclass(frozen=True)
class SupervisorSettings:
    """Thresholds.

    Attributes:
        observation_timeout_s: older observations are not used.
        hold_ticks: ticks that the last command is held before the fallback acts.
        max_consecutive_misses: missed deadlines in a row before the policy acts alone, and then
            as many more before the fallback; 0 = never.
        recover_ticks: good ticks in a row after which the fallback is left, or planning tried
            again; 0 = only by `reset`.
        blend_ticks: ticks over which the return from the fallback is blended.
        proof_ticks: good ticks in a row before control begins, the fallback acting until then;
            0 = the first good tick begins it, unblended.
        command_rate: fastest change of a command, in full ranges per second; 0 = unlimited.
        max_residual: largest relative error of the model's prediction of the next latent;
            0 = never checked.
        residual_ticks: ticks in a row beyond it before the policy acts alone.
    """

    observation_timeout_s: float
    hold_ticks: int = 5
    max_consecutive_misses: int = 0
    recover_ticks: int = 20
    blend_ticks: int = 5
    proof_ticks: int = 0
    command_rate: float = 0.0
    max_residual: float = 0.0
    residual_ticks: int = 3

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: a threshold is negative, or the timeout is not above 0.
        """
        counts = (self.hold_ticks, self.max_consecutive_misses, self.recover_ticks,
                  self.blend_ticks, self.proof_ticks)
        if not (self.observation_timeout_s > 0 and min(counts) >= 0 and self.residual_ticks >= 1
                and self.command_rate >= 0 and self.max_residual >= 0):
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
    """Decides, tick by tick, what may act.

    Attributes:
        hint: why no newer observation came, where that is known; told with the reason.
    """

    def __init__(self, manifest: Manifest, settings: SupervisorSettings, fallback: Fallback,
                 envelope: Envelope | None = None) -> None:
        """Take limits from a bundle; start in fallback until a good observation comes."""
        self.settings, self._fallback = settings, fallback
        self._low, self._high = np.asarray(manifest.action.low), np.asarray(manifest.action.high)
        self._width = len(manifest.observation.names)
        self._envelope = envelope or Envelope.none(manifest)
        rate = settings.command_rate or math.inf
        self.hint = ''
        self._step = rate * manifest.period_s * (self._high - self._low)  # per tick, in its units
        self.restart()

    def restart(self) -> None:
        """Forget everything, the last command too, as when control begins."""
        self._last = self._fallback.act(None)
        self._started = False
        self._latched = ''
        self.reset()
        self._blend = self.settings.blend_ticks if self.settings.proof_ticks else 0

    def reset(self) -> None:
        """Leave the fallback at the next good tick."""
        self._blend = self.settings.blend_ticks if self._latched else 0
        self._latched, self._cause = '', Cause.INPUT
        self._bad_ticks = self._good_ticks = self._misses = self._surprises = 0
        # Ticks for which planning, or even the policy, is still spared, or the model doubted.
        self._spared = self._idle = self._doubted = 0.0

    # ---- guards; the tests take each of them out in turn ----------------------------------

    def problem(self, observation: npt.ArrayLike | None, age_s: float) -> str:
        """Say why an observation cannot be used; empty where it can."""
        if observation is None:
            return 'no observation yet'
        values = np.asarray(observation, float)
        return self._misshapen(values) or self._unfinite(values) or self._stale(age_s)

    def _misshapen(self, values: Array) -> str:
        if values.shape != (self._width,):
            return f'observation has shape {values.shape}, not ({self._width},)'
        return ''

    def _unfinite(self, values: Array) -> str:
        return '' if np.isfinite(values).all() else 'observation is not finite'

    def _stale(self, age_s: float) -> str:
        if not age_s <= self.settings.observation_timeout_s:
            return (f'observation is older than {self.settings.observation_timeout_s:g} s'
                    + (f'; newer ones were {self.hint}' if self.hint else ''))
        return ''

    def _outside(self, values: Array) -> str:
        """Say which limit of its envelope the state is beyond; stricter on the way back."""
        return self._envelope.beyond(values, strict=bool(self._latched))

    def _doubt(self, residual: float) -> None:
        """Count surprises of the model; in between calm and surprised, nothing changes."""
        allowed = self.settings.max_residual
        if not allowed or math.isnan(residual):
            return
        if residual > allowed:
            self._surprises += 1
            if self._surprises >= self.settings.residual_ticks:
                self._doubted = self.settings.recover_ticks or math.inf
        elif residual <= _CALM * allowed:
            self._surprises = 0
            self._doubted = max(0.0, self._doubted - 1)

    def missed(self, skipped: int) -> None:
        """Tell the outcome of the tick before: whole periods skipped, or 0 for in time."""
        limit = self.settings.max_consecutive_misses
        self._misses = self._misses + 1 if skipped else 0
        if self._idle > 0:
            self._idle -= 1
        elif limit and self._misses >= limit:
            if self._spared > 0 or self._cause is Cause.MISSES:
                self._latch(f'{limit} deadlines missed in a row by the policy alone, too',
                            Cause.MISSES)
                self._idle = self.settings.recover_ticks or math.inf
            self._spared = self.settings.recover_ticks or math.inf
            self._misses = 0
        elif self._spared > 0 and self._cause is not Cause.MISSES:
            self._spared -= 1

    def _usable(self, command: npt.ArrayLike | None) -> Array | None:
        """Return a command that has the right length and is finite; else None."""
        if command is None:
            return None
        values = np.asarray(command, float)
        good = values.shape == self._low.shape and np.isfinite(values).all()
        return values if good else None

    def _clip(self, command: Array) -> Array:
        limited: Array = np.clip(command, self._low, self._high)
        return limited

    def _ramp(self, command: Array) -> Array:
        near: Array = np.clip(command, self._last - self._step, self._last + self._step)
        return near

    # ---- decisions ------------------------------------------------------------------------

    @property
    def may_plan(self) -> bool:
        """Whether a plan would be used now; planning is spared where it would not."""
        return self._spared <= 0 and self._doubted <= 0

    @property
    def may_act(self) -> bool:
        """Whether the policy may be computed at all; not after it missed deadlines by itself."""
        return self._idle <= 0

    def decide(self, observation: npt.ArrayLike | None, age_s: float,
               plan: npt.ArrayLike | None, policy: npt.ArrayLike | None,
               residual: float = math.nan) -> Decision:
        """Choose the command of one tick.

        Args:
            observation: (O,) newest observation, or None.
            age_s: its age in seconds.
            plan: (A,) the planner's command, None where it did not plan.
            policy: (A,) the policy's command, None where it did not act.
            residual: relative error of the model's last prediction; NaN where there was none.
        """
        problem = self.problem(observation, age_s)
        if problem:
            fresh = age_s <= self.settings.observation_timeout_s
            return self._without(observation if fresh else None, problem)
        if outside := self._outside(np.asarray(observation, float)):
            self._good_ticks = 0
            if self._started:
                self._latch(outside, Cause.ENVELOPE)
            return self._fall_back(observation, self._latched or outside)
        self._doubt(residual)
        chosen, mode, reason = self._candidate(plan, policy)
        if chosen is None:
            return self._without(observation, 'planner and policy gave no finite command')
        return self._good(observation, chosen, mode, reason)

    def _good(self, observation: npt.ArrayLike | None, chosen: Array, mode: Mode, reason: str
              ) -> Decision:
        """One tick on which everything needed was there."""
        self._bad_ticks = 0
        self._good_ticks += 1
        if not self._started and self._good_ticks < self.settings.proof_ticks:
            return self._fall_back(observation, 'proof of life')
        if self._latched:
            needed = self.settings.recover_ticks
            if not needed or self._good_ticks < needed:
                return self._fall_back(observation, self._latched)
            self._latched, self._cause = '', Cause.INPUT
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
        if self._doubted > 0:
            reason = f'the model mispredicts the plant by more than {self.settings.max_residual:g}'
        elif self._spared > 0:
            reason = f'{self.settings.max_consecutive_misses} deadlines missed in a row'
        else:
            reason = 'the plan is not finite'
        return self._usable(policy), Mode.POLICY, reason

    def _latch(self, reason: str, cause: Cause) -> None:
        """Keep the first reason, until the fallback is left."""
        self._good_ticks = 0
        if not self._latched:
            self._latched, self._cause = reason, cause

    def _without(self, observation: npt.ArrayLike | None, problem: str) -> Decision:
        self._good_ticks = 0
        self._bad_ticks += 1
        if self._started and not self._latched and self._bad_ticks <= self.settings.hold_ticks:
            return self._issue(self._last, Mode.HOLD, problem)
        if self._started:
            self._latch(problem, Cause.INPUT)
        return self._fall_back(observation, self._latched or problem)

    def _fall_back(self, observation: npt.ArrayLike | None, reason: str) -> Decision:
        usable = None
        if observation is not None:
            values = np.asarray(observation, float)
            if values.shape == (self._width,) and np.isfinite(values).all():
                usable = values
        return self._issue(self._fallback.act(usable), Mode.FALLBACK, reason)

    def _issue(self, command: Array, mode: Mode, reason: str) -> Decision:
        self._last = self._clip(self._ramp(np.nan_to_num(command, nan=0.0)))
        return Decision(self._last.copy(), mode, reason)
