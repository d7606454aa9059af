# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One tick of control: the newest observation in, a supervised command out.

Whatever carries the signals calls `observe` as they come, and a loop calls `tick` once a period;
neither waits for the other. The newest observation lies in a slot, a tick takes the model that is
in use, and nothing in it waits for anything but the planner. Whatever the planner does, the
supervisor has the last word on the command.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pruning_core.runtime.arrival import StampCheck
from pruning_core.runtime.fallback import make_fallback
from pruning_core.runtime.faults import FaultInjector
from pruning_core.runtime.loop import Tick
from pruning_core.runtime.planner import Plan
from pruning_core.runtime.supervisor import Decision, Supervisor
from pruning_core.runtime.swap import Model, ModelSwitch, Observation
from pruning_core.runtime.trace import Trace

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Observed:
    """The newest observation: (O,) values and the monotonic time they were measured at."""

    values: Observation
    measured_s: float


class Steered(NamedTuple):
    """What a tick did.

    Attributes:
        decision: the command that was sent, and what decided it.
        compute_s: seconds from the start of the tick until it was sent.
        age_s: of the observation it was made on; inf where there was none yet.
        reward: the model's, of the first planned step; NaN without a plan.
        share: of recent windows in which V decreased; NaN where it is not measurable.
        slew_s: by how much the ticks to come should move, to begin `phase_s` after observations.
        trace: tells what the plan came from, until the next tick; None without a plan.
    """

    decision: Decision
    compute_s: float
    age_s: float
    reward: float
    share: float
    slew_s: float
    trace: Callable[[], Trace] | None = None


class Pilot:
    """Steers one plant; see the module.

    Attributes:
        budget_s: seconds from when a tick was due in which its plan must be made; 0: however long
            it takes. It may change at any time.
        stamps: judges how old observations are.
        decision: the last one; None before the first tick.
    """

    def __init__(self, switch: ModelSwitch, supervisor: Supervisor, stamps: StampCheck, *,
                 send: Callable[[Array, str], None],
                 note: Callable[[str | BaseException], None] = lambda what: None,
                 faults: FaultInjector | None = None, budget_s: float = 0.0,
                 phase_s: float = -1.0, clock: Callable[[], float] = time.monotonic,
                 wall_clock: Callable[[], float] = time.time) -> None:
        """Steer nothing until a loop calls `tick`.

        Args:
            switch: the models.
            supervisor: has the last word.
            stamps: judges observations as they arrive.
            send: takes each command, (A,), and the hash of the model in use.
            note: takes what somebody should read; a tick has no time to log.
            faults: goes wrong where it is told to; None: nothing does.
            budget_s: see the class.
            phase_s: age that an observation should have when a tick begins; negative: ticks do
                not follow observations.
            clock: monotonic seconds; for tests.
            wall_clock: seconds of the kind that observations are stamped with.
        """
        self.budget_s, self.stamps = budget_s, stamps
        self.decision: Decision | None = None
        self._switch, self._supervisor, self._faults = switch, supervisor, faults
        self._send, self._note = send, note
        self._phase_s, self._clock, self._wall_clock = phase_s, clock, wall_clock
        self._observed: Observed | None = None
        self._interval_s = math.inf  # between the last two observations
        self._reset_asked = False
        self._failed, self._share = False, math.nan  # of the tick before

    def restart(self) -> None:
        """Begin to steer anew, with the model that is offered, if one is."""
        self._switch.take().planner.reset()
        self._supervisor.restart()
        self._reset_asked = False
        self._failed, self._share = False, math.nan

    def reset_fallback(self) -> None:
        """Leave the fallback at the next good tick; from any thread."""
        self._reset_asked = True

    def observe(self, values: Observation, stamp_s: float) -> None:
        """Put an observation into the slot, as old as its stamp and its arrival say.

        Args:
            values: (O,) in the plant's units.
            stamp_s: when it was measured, by the sender's clock; 0 without a stamp.
        """
        # In this order: a thread that is held up in between takes it for older, never for younger.
        arrived_s = self._clock()
        now_s = self._wall_clock()
        if self._faults is not None:
            arrived = self._faults.observation(values, stamp_s, now_s)
            if arrived is None:
                return
            values, stamp_s = arrived
        arrival = self.stamps.judge(stamp_s, now_s)
        self._supervisor.hint = arrival.problem
        if arrival.problem:
            return  # what is in the slot grows old, and the supervisor says why
        measured_s = arrived_s - arrival.delay_s
        if self._observed is not None:
            self._interval_s = measured_s - self._observed.measured_s
        self._observed = Observed(values, measured_s)

    def usable(self) -> Observation | None:
        """Return the newest observation, where a plan could be made on it."""
        seen = self._observed
        if seen is None:
            return None
        age = self._clock() - seen.measured_s
        return None if self._supervisor.problem(seen.values, age) else seen.values

    def tick(self, tick: Tick, wanted: Callable[[], bool] = lambda: True) -> Steered | None:
        """Plan, decide and send.

        Args:
            tick: the loop's.
            wanted: asked once the plan is made; where control has ended meanwhile the safe
                command was the last word, and nothing is sent.

        Returns:
            What was done; None where nothing was wanted any more.
        """
        if said := self._switch.judge(tick.skipped > 0 or self._failed, self._share):
            self._note(said)
        model, supervisor = self._switch.take(), self._supervisor
        if self._reset_asked:
            self._reset_asked = False
            supervisor.reset()
        supervisor.missed(tick.skipped)
        began = self._clock()
        seen = self._observed
        age = began - seen.measured_s if seen else math.inf
        values = seen.values if seen else None
        plan = self._plan(model, values, age, max(0.0, tick.lateness_s))
        if not wanted():
            return None
        decision = supervisor.decide(
            values, age, plan.action if plan else None, plan.policy_action if plan else None,
            plan.residual if plan else math.nan)
        self._send(decision.command, model.hash)
        compute = self._clock() - began
        self.decision = decision
        model.compute.add(compute)
        model.lateness.add(max(0.0, tick.lateness_s))
        if seen is not None:  # before the first observation there is no age to count
            model.age.add(age)
        model.modes[decision.mode] += 1
        self._share = math.nan
        if plan is not None and values is not None:
            model.given_up = plan.given_up_iterations, plan.given_up_samples
            self._share = model.monitor.update(
                values.tolist(), command=decision.command.tolist(), residual=plan.residual).share
        return Steered(decision, compute, age, plan.reward if plan else math.nan, self._share,
                       self._off_phase(tick, age),
                       None if plan is None else model.planner.trace)

    def send_safe(self) -> None:
        """Send the command that a robot can live with when nobody steers it."""
        model = self._switch.active
        self._send(make_fallback('zero', model.bundle.manifest).act(None), model.hash)

    def _plan(self, model: Model, values: Observation | None, age: float, late_s: float
              ) -> Plan | None:
        """Plan on a usable observation, as far as the supervisor lets it; None: no plan.

        The budget counts from when the tick was due: one that began late plans less.
        """
        self._failed = False
        supervisor = self._supervisor
        if values is None or not supervisor.may_act or supervisor.problem(values, age):
            return None
        given_s = self.budget_s  # once: it may change meanwhile
        budget = max(0.0, given_s - late_s) if given_s else None
        try:
            if self._faults is not None:
                self._faults.inference()
            plan = model.planner.plan(values, budget if supervisor.may_plan else 0.0)
            if self._faults is not None:
                plan = self._faults.plan(plan)
        except Exception as error:  # the supervisor holds, then falls back, and says so
            self._failed = True
            self._note(error)
            return None
        self._failed = not bool(np.isfinite(plan.action).all())
        return plan

    def _off_phase(self, tick: Tick, age: float) -> float:
        """Seconds to move the ticks by, so that the plant's next step has a fresh command."""
        target, period = self._phase_s, tick.period_s
        if target < 0 or not math.isfinite(age) or tick.lateness_s > target:
            return 0.0
        if self._interval_s < 0.5 * period:
            return 0.0  # a sensor that fast always has a fresh one; there is no phase to lock to
        off = (age - target) % period
        return -off if off < period / 2 else period - off
