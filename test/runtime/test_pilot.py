# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One tick of control, with a planner that does what the test says and a clock that it moves."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.runtime.arrival import StampCheck
from pruning_core.runtime.fallback import make_fallback
from pruning_core.runtime.faults import Fault, FaultInjector
from pruning_core.runtime.loop import Tick
from pruning_core.runtime.monitor import StabilityMonitor
from pruning_core.runtime.pilot import Pilot
from pruning_core.runtime.planner import Plan
from pruning_core.runtime.supervisor import Mode, Supervisor, SupervisorSettings
from pruning_core.runtime.swap import Model, ModelSwitch, ProbationSettings

GOOD = np.array([1.0, 0.0, 0.0])
PERIOD_S, TIMEOUT_S = 0.05, 0.5
PLAN = Plan(np.array([1.5]), np.array([-1.0]), -3.0, -0.25, 3, 96, 1, 32, 0.01, 0.002)


class Planner:
    """Returns `next`, or raises it; takes `needs_s` on the clock."""

    def __init__(self, cockpit):
        self.cockpit, self.next, self.needs_s = cockpit, PLAN, 0.0
        self.asked, self.resets = [], 0

    def plan(self, values, budget_s=None):
        self.asked.append((values.tolist(), budget_s))
        self.cockpit.now += self.needs_s
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    def reset(self):
        self.resets += 1

    def trace(self):
        return f'of plan {len(self.asked)}'


class Cockpit:
    """A pilot and everything around it."""

    def __init__(self, manifest, window=100, faults=None, supervisor=None, **settings):
        self.manifest, self.now, self.wall_s, self.ticks = manifest, 10.0, 1000.0, 0
        self.sent, self.notes = [], []
        self.first = self.model('a')
        self.switch = ModelSwitch(self.first, ProbationSettings(window))
        self.pilot = Pilot(
            self.switch, Supervisor(
                manifest, SupervisorSettings(TIMEOUT_S, **(supervisor or {})),
                make_fallback('zero', manifest)),
            StampCheck(TIMEOUT_S), send=lambda command, of: self.sent.append((command, of[0])),
            note=self.notes.append, faults=faults, clock=lambda: self.now,
            wall_clock=lambda: self.wall_s, **settings)

    def model(self, name):
        return Model(Planner(self), StabilityMonitor.of(self.manifest),
                     SimpleNamespace(hash=name * 64, manifest=self.manifest), 'test')

    def see(self, values=GOOD, stamp_s=0.0):
        self.pilot.observe(np.asarray(values, float), stamp_s)

    def tick(self, late_s=0.0, skipped=0, **options):
        due, self.ticks = self.ticks * 50_000_000, self.ticks + 1
        return self.pilot.tick(Tick(self.ticks - 1, due, due + round(late_s * 1e9), skipped,
                                    PERIOD_S), **options)


@pytest.fixture
def cockpit(manifest):
    return lambda **settings: Cockpit(manifest, **settings)


def test_nothing_is_planned_before_an_observation_and_a_command_is_sent_all_the_same(cockpit):
    c = cockpit()
    done = c.tick()
    assert done.decision.mode is Mode.FALLBACK and done.age_s == math.inf
    assert math.isnan(done.reward) and not c.first.planner.asked
    assert [(x.tolist(), of) for x, of in c.sent] == [([0.0], 'a')]
    assert c.first.compute.count == 1 and c.first.age.count == c.first.age.rejected == 0
    c.see()
    c.tick()
    assert c.first.compute.count == 2 and c.first.age.count == 1


def test_a_tick_plans_on_the_newest_observation_and_counts(cockpit):
    c = cockpit()
    c.see([0.0, 1.0, 5.0])
    c.see()
    c.now += 0.02
    c.first.planner.needs_s = 0.004
    done = c.tick(late_s=0.001)
    assert c.first.planner.asked == [(GOOD.tolist(), None)]
    assert done.decision.mode is Mode.PLANNING and done.decision.command.tolist() == [1.5]
    assert done.compute_s == pytest.approx(0.004) and done.age_s == pytest.approx(0.02)
    assert done.reward == -0.25 and c.pilot.decision is done.decision
    assert c.first.given_up == (1, 32) and c.first.modes[Mode.PLANNING] == 1
    assert c.first.lateness.summary().max_s == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize(('budget', 'late_s', 'given'), [
    (0.02, 0.0, 0.02),
    (0.02, -0.001, 0.02),  # woken early
    (0.02, 0.015, 0.005),
    (0.02, 0.03, 0.0),  # the policy alone: a command is better than none
    (0.0, 0.015, None)])
def test_the_budget_counts_from_when_the_tick_was_due(cockpit, budget, late_s, given):
    c = cockpit()
    c.pilot.budget_s = budget  # as a parameter that is set while it runs
    c.see()
    c.tick(late_s=late_s)
    assert c.first.planner.asked[0][1] == (None if given is None else pytest.approx(given))


def test_planning_is_spared_where_the_supervisor_says_so(cockpit):
    """After misses in a row the policy acts alone: the planner is asked with no time at all."""
    c = cockpit(budget_s=0.02, supervisor={'max_consecutive_misses': 2})
    for skipped in (0, 1, 1):
        c.see()
        done = c.tick(skipped=skipped)
    assert (done.decision.mode, done.decision.command.tolist()) == (Mode.POLICY, [-1.0])
    assert [budget for _, budget in c.first.planner.asked] == [0.02, 0.02, 0.0]
    for _ in range(3):
        c.see()
        c.tick(skipped=1)
    assert len(c.first.planner.asked) == 4, 'nor is the policy asked once the fallback acts'


@pytest.mark.parametrize('outcome', [
    RuntimeError('broken'), dataclasses.replace(PLAN, action=np.array([math.nan]))],
    ids=['raises', 'not finite'])
def test_a_new_model_whose_plans_fail_is_changed_back(cockpit, outcome):
    c = cockpit(window=10)
    c.see()
    c.tick()
    second = c.model('b')
    second.planner.next = outcome
    c.switch.offer(second)
    said = []
    for _ in range(3):
        c.see()
        c.tick()
        said = [n for n in c.notes if isinstance(n, str)]
        if said:
            break
    assert len(said) == 1 and 'changed back' in said[0]
    assert c.switch.active is c.first and c.sent[-1][1] == 'a'
    assert c.sent[-1][0].tolist() == [1.5]
    assert [n for n in c.notes if isinstance(n, Exception)] == (
        [outcome] * len([of for _, of in c.sent if of == 'b'])
        if isinstance(outcome, Exception) else [])


def test_a_new_model_that_misses_its_deadlines_is_changed_back(cockpit):
    c = cockpit(window=10)
    c.see()
    c.tick()
    c.switch.offer(c.model('b'))
    c.tick()
    c.tick(skipped=1)
    c.tick(skipped=2)
    assert c.switch.active is c.first and 'came too late' in c.notes[0]


def test_each_tick_is_judged_by_what_it_did_itself(cockpit):
    c, judged = cockpit(), []
    c.switch.judge = lambda failed, share: judged.append((failed, math.isnan(share))) or ''
    c.first.monitor = SimpleNamespace(update=lambda *a, **k: SimpleNamespace(share=0.75))

    def after(outcome, passes_s=0.0, restarted=False):
        c.first.planner.next = outcome
        c.see()
        c.now += passes_s
        c.tick()
        if restarted:
            c.pilot.restart()
        c.first.planner.next = PLAN
        c.see()
        c.tick()
        return judged[-1]

    assert after(PLAN) == (False, False)
    assert after(RuntimeError()) == (True, True)
    c.first.planner.next = RuntimeError()
    c.tick()
    c.now += 1.0
    c.tick()
    c.tick()
    assert judged[-2:] == [(True, True), (False, True)], 'without an observation none failed'
    assert after(PLAN, restarted=True) == (False, True)
    assert after(RuntimeError(), restarted=True) == (False, True)


def test_stability_is_that_of_ticks_with_a_plan(cockpit):
    c = cockpit()
    c.first.monitor = SimpleNamespace(update=lambda *a, **k: SimpleNamespace(share=0.75))
    c.see()
    assert c.tick().share == 0.75
    c.now += 1.0
    assert math.isnan(c.tick().share), 'not measurable where nothing was observed'


def test_a_tick_says_what_its_plan_came_from(cockpit):
    c = cockpit()
    c.see()
    assert [c.tick().trace(), c.tick().trace()] == ['of plan 1', 'of plan 2']
    c.first.planner.next = RuntimeError('broken')
    assert c.tick().trace is None, 'it planned, and there is no plan'
    c.now += 1.0
    assert c.tick().trace is None, 'nothing was observed'


def test_where_control_ended_while_a_plan_was_made_nothing_is_sent(cockpit):
    c = cockpit()
    c.see()
    assert c.tick(wanted=lambda: not c.first.planner.asked) is None
    assert c.first.planner.asked and not c.sent and c.pilot.decision is None
    assert c.first.compute.count == 0


def test_an_observation_that_was_overtaken_leaves_the_newer_one_and_the_reason(cockpit):
    c = cockpit()
    c.see([0.0, 1.0, 0.0], stamp_s=999.9)
    assert c.pilot.usable().tolist() == [0.0, 1.0, 0.0]
    c.see(stamp_s=999.8)
    assert c.pilot.usable().tolist() == [0.0, 1.0, 0.0]
    assert c.tick().age_s == pytest.approx(0.1), 'what its stamp says was lost on the way'
    c.now += 1.0
    assert c.pilot.usable() is None
    assert 'overtaken' in c.tick().decision.reason


def test_reset_leaves_the_fallback_at_the_next_good_tick(cockpit):
    c = cockpit(supervisor={'hold_ticks': 0, 'recover_ticks': 0, 'blend_ticks': 0})
    c.see()
    c.tick()
    c.now += 1.0
    assert c.tick().decision.mode is Mode.FALLBACK
    c.see()
    assert c.tick().decision.mode is Mode.FALLBACK, 'it is left by a person alone'
    c.pilot.reset_fallback()
    assert c.tick().decision.mode is Mode.PLANNING
    c.now += 1.0
    assert c.tick().decision.mode is Mode.FALLBACK
    c.see()
    assert c.tick().decision.mode is Mode.FALLBACK, 'asked once, reset once'


def test_a_restart_takes_the_model_that_waits_and_forgets_the_last_command(cockpit):
    c = cockpit()
    c.see()
    c.tick()
    second = c.model('b')
    c.switch.offer(second)
    c.pilot.restart()
    assert c.switch.active is second and second.planner.resets == 1
    c.now += 1.0
    assert c.tick().decision.command.tolist() == [0.0], 'not the command before the restart'


def test_a_reset_before_the_restart_does_not_take_its_blend_away(cockpit):
    def commands(asked):
        c = cockpit(supervisor={'proof_ticks': 2, 'blend_ticks': 4})
        if asked:
            c.pilot.reset_fallback()
        c.pilot.restart()
        for _ in range(6):
            c.see()
            c.tick()
        return [command.tolist() for command, _ in c.sent]

    assert commands(asked=True) == commands(asked=False)
    assert 0 < commands(asked=True)[1][0] < 1.5


def test_faults_stand_between_the_world_and_the_pilot(cockpit):
    faults = FaultInjector()
    c = cockpit(faults=faults)
    faults.choose(Fault(observation='drop'))
    c.see()
    assert c.pilot.usable() is None
    faults.choose(Fault(plan='raise', ticks=1))
    c.see()
    assert c.tick().decision.mode is not Mode.PLANNING
    assert not c.first.planner.asked and 'injected' in str(c.notes[0])
    assert c.tick().decision.mode is Mode.PLANNING
    faults.choose(Fault(plan='nan', ticks=1))
    done = c.tick()
    assert done.decision.mode is not Mode.PLANNING and np.isfinite(done.decision.command).all()


def test_a_model_that_is_surprised_is_planned_with_no_more(cockpit):
    c = cockpit(budget_s=0.02, supervisor={'max_residual': 1.0, 'residual_ticks': 1})
    c.first.planner.next = dataclasses.replace(PLAN, residual=9.0)
    for _ in range(2):
        c.see()
        done = c.tick()
    assert done.decision.mode is Mode.POLICY
    assert [budget for _, budget in c.first.planner.asked] == [0.02, 0.0]


def test_the_monitor_is_told_what_the_plant_is_told(cockpit):
    c, told = cockpit(), []
    c.first.monitor = SimpleNamespace(update=lambda values, command, residual: (
        told.append((values, command, residual)), SimpleNamespace(share=0.5))[1])
    c.first.planner.next = dataclasses.replace(PLAN, action=np.array([7.0]))
    c.see()
    c.tick()
    assert told == [(GOOD.tolist(), [2.0], 0.01)], 'the command within its limits'


def test_the_time_of_a_tick_is_that_until_its_command_is_sent(cockpit):
    c = cockpit()
    c.pilot._send = lambda command, of: setattr(c, 'now', c.now + 0.25)
    assert c.tick().compute_s == pytest.approx(0.25)


def test_who_is_held_up_between_two_clocks_takes_an_observation_for_older(cockpit):
    c = cockpit()

    def slow():
        c.now, c.wall_s = c.now + 0.03, c.wall_s + 0.03
        return c.wall_s

    c.pilot._wall_clock = slow
    c.see(stamp_s=999.9)
    c.wall_s, measured_s = 1000.0, 9.9
    assert c.tick().age_s == pytest.approx(c.now - measured_s + 0.03)


def test_the_safe_command_is_that_of_the_model_in_use(cockpit):
    c = cockpit()
    c.pilot.send_safe()
    c.switch.offer(c.model('b'))
    c.tick()
    c.pilot.send_safe()
    assert [(x.tolist(), of) for x, of in c.sent] == [([0.0], 'a'), ([0.0], 'b'), ([0.0], 'b')]


@given(age=st.floats(0, 0.4), target=st.floats(0, 0.049))
def test_ticks_are_aimed_at_an_age_by_the_shorter_way(manifest, age, target):
    c = Cockpit(manifest, phase_s=target)
    c.see()
    c.now += age
    slew = c.tick().slew_s
    assert abs(slew) <= PERIOD_S / 2 + 1e-9
    off = (age + slew - target) / PERIOD_S
    assert off == pytest.approx(round(off), abs=1e-6)


def test_ticks_are_left_where_they_are_without_a_phase_to_lock_to(cockpit):
    def slew(observations=1, apart_s=PERIOD_S, late_s=0.0, phase_s=0.003):
        c = cockpit(phase_s=phase_s)
        for _ in range(observations):
            c.now += apart_s
            c.see()
        c.now += 0.01
        return c.tick(late_s=late_s).slew_s

    assert slew() == slew(2) == pytest.approx(-0.007)
    assert slew(observations=0) == 0, 'nothing was observed'
    assert slew(2, apart_s=0.02) == 0, 'a sensor that fast always has a fresh one'
    assert slew(late_s=0.004) == 0, 'what a late tick sees says nothing of the phase'
    assert slew(phase_s=-1.0) == slew(late_s=-0.02, phase_s=-0.01) == 0, 'switched off'


_NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
_VALUES = st.lists(_NUMBERS, min_size=0, max_size=4) | st.just(GOOD.tolist())
_ACTIONS = st.lists(_NUMBERS, min_size=0, max_size=2).map(np.array)
_OUTCOMES = st.just(PLAN) | st.builds(RuntimeError) | st.builds(
    lambda action, policy, residual: dataclasses.replace(
        PLAN, action=action, policy_action=policy, residual=residual),
    _ACTIONS, _ACTIONS, _NUMBERS)


@given(st.lists(st.tuples(
    st.none() | st.tuples(_VALUES, _NUMBERS.filter(math.isfinite)), _OUTCOMES,
    st.floats(-0.01, 0.2), st.integers(0, 3), st.floats(0, 1), st.booleans()), max_size=30))
def test_whatever_happens_each_tick_sends_one_command_within_limits(manifest, story):
    c = Cockpit(manifest, window=5, budget_s=0.02, phase_s=0.003)
    for seen, outcome, late_s, skipped, passes_s, offered in story:
        c.now += passes_s
        if seen is not None:
            c.see(*seen)
        if offered:
            c.switch.offer(c.model('b'))
        for model in (c.switch.active, c.switch.pending, c.switch.previous):
            if model is not None:
                model.planner.next = outcome
        before = len(c.sent)
        done = c.tick(late_s=late_s, skipped=skipped)
        (command, _), = c.sent[before:]
        assert command is done.decision.command and command.shape == (1,)
        assert np.isfinite(command).all() and abs(command[0]) <= 2.0
        assert math.isfinite(done.slew_s)
