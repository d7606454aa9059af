# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Faults on demand, so that what the supervisor promises can be tried on the real nodes.

Off unless the node was started with `fault_injection.enabled`; then parameters choose a fault at
run time. Nothing here knows how a fault is noticed.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pruning_core.errors import ConfigError, explain, nearest

if TYPE_CHECKING:  # a plant has no onnxruntime
    from pruning_core.runtime.planner import Plan

Command = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
_BEHIND_S = 10.0  # how far the stamps of 'old', 'future' and 'jump' are off

# What is done to the numbers of an observation.
_VALUES: dict[str, Callable[[Array], Array]] = {
    'nan': lambda v: np.full_like(v, math.nan),
    'inf': lambda v: np.full_like(v, -math.inf),
    'short': lambda v: v[:-1],
    'long': lambda v: np.append(v, 0.0),
    'denormal': lambda v: np.full_like(v, 5e-324),
    'huge': lambda v: np.full_like(v, 1e300),
}
# What is done to a command, the planner's and the policy's.
_COMMANDS: dict[str, Callable[[Command], Command]] = {
    'nan': lambda c: np.full_like(c, math.nan),
    'inf': lambda c: np.full_like(c, math.inf),
    'huge': lambda c: np.full_like(c, 1e30),
    'short': lambda c: c[:-1],
}
_STAMPS = ('old', 'future', 'reorder', 'jump')
OBSERVATION = ('', 'drop', *_VALUES, *_STAMPS)
PLAN = ('', *_COMMANDS, 'raise', 'crash')


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        observation: one of `OBSERVATION`.
        plan: one of `PLAN`; what happens to the planner's command and the policy's.
        stall_s: seconds by which inference takes longer.
        ticks: ticks that `plan` and `stall_s` last; 0: until they are changed.
    """

    observation: str = ''
    plan: str = ''
    stall_s: float = 0.0
    ticks: int = 0

    def __post_init__(self) -> None:
        """Check names.

        Raises:
            ConfigError: a fault is unknown.
        """
        for what, kind, known in (('observation', self.observation, OBSERVATION),
                                  ('plan', self.plan, PLAN)):
            if kind not in known:
                raise ConfigError(
                    explain(f"fault_injection.{what} '{kind}' was asked for",
                            'it is not known' + nearest(kind, known), ', '.join(known[1:]),
                            'choose one, or leave it empty for none')
                )


class FaultInjector:
    """Makes the faults that are chosen.

    Faults are chosen by one thread while another one plans. A tick keeps the fault that it began
    with: one that is chosen in the middle of a tick lasts for its ticks from the next on, and none
    is used up without having done anything.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Nothing goes wrong until `choose`."""
        self._sleep = sleep
        self._chosen = _Chosen(Fault(), math.inf)
        self._now = ''  # what happens to the plan of this tick
        self._odd = False

    def choose(self, fault: Fault) -> None:
        """Let something go wrong from the next tick on."""
        self._chosen = _Chosen(fault, fault.ticks or math.inf)

    def observation(self, values: Array, stamp_s: float, now_s: float
                    ) -> tuple[Array, float] | None:
        """Return what arrives in place of an observation and its stamp; None: nothing does.

        Args:
            values: (O,) as they were measured.
            stamp_s: when, by the sender's clock; 0 without a stamp.
            now_s: the same clock now.
        """
        kind = self._chosen.fault.observation
        if not kind:
            return values, stamp_s
        if kind == 'drop':
            return None
        if kind in _VALUES:
            return _VALUES[kind](values), stamp_s
        stamp_s = stamp_s or now_s
        self._odd = not self._odd
        if kind == 'reorder':
            return values, stamp_s - (0.1 if self._odd else 0.0)
        return values, stamp_s + (_BEHIND_S if kind == 'future' else -_BEHIND_S)

    def inference(self) -> None:
        """Begin a tick's plan: stall or fail, where that is the fault.

        Raises:
            RuntimeError: that is the fault.
        """
        chosen = self._chosen
        self._now = ''
        if chosen.left <= 0:
            return
        chosen.left -= 1
        self._now = chosen.fault.plan
        if chosen.fault.stall_s > 0:
            self._sleep(chosen.fault.stall_s)
        if self._now == 'crash':
            os.kill(os.getpid(), signal.SIGKILL)
        if self._now == 'raise':
            raise RuntimeError('injected: inference failed')

    def plan(self, plan: Plan) -> Plan:
        """Return what the inference that began gives in place of its plan."""
        if change := _COMMANDS.get(self._now):
            return replace(plan, action=change(plan.action),
                           policy_action=change(plan.policy_action))
        return plan


@dataclass
class _Chosen:
    """A fault, and the ticks that it has left."""

    fault: Fault
    left: float
