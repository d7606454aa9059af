# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Every guard of the supervisor has a scenario that needs it: each is taken out in turn.

The scenarios are behaviour that is promised; with the supervisor as it is all of them hold. A
mutant is the supervisor without one guard, or with one of its mechanisms broken; at least one
scenario must notice it, and the one that is named for it does.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from pruning_core.runtime.envelope import Envelope
from pruning_core.runtime.fallback import make_fallback
from pruning_core.runtime.supervisor import Cause, Mode, Supervisor, SupervisorSettings

GOOD = [1.0, 0.0, 0.0]
TIMEOUT_S = 0.5


class Bench:
    """A supervisor at work: ticks with whatever is not named being good."""

    def __init__(self, manifest, *, fallback='zero', envelope=(), margin=0.1, start=True,
                 **settings):
        self.period_s = manifest.period_s
        self.supervisor = Supervisor(
            manifest, SupervisorSettings(TIMEOUT_S, **settings),
            make_fallback(fallback, manifest), Envelope.of(manifest, margin, envelope))
        if start:
            self.ticks(1 + settings.get('proof_ticks', 0) + settings.get('blend_ticks', 5))
            assert self.last.mode is Mode.PLANNING

    def tick(self, observation=GOOD, age_s=0.0, plan=(1.0,), policy=(-1.0,), residual=0.0,
             skipped=0):
        s = self.supervisor
        s.missed(skipped)
        if not s.may_act or s.problem(observation, age_s):
            plan = policy = None
        self.last = s.decide(observation, age_s, plan, policy, residual)
        assert np.isfinite(self.last.command).all()
        assert (np.abs(self.last.command) <= 2).all()
        return self.last

    def ticks(self, count, **what):
        return [self.tick(**what) for _ in range(count)]

    def modes(self, count, **what):
        return [d.mode for d in self.ticks(count, **what)]


def a_missing_number_is_noticed(m):
    b = Bench(m, hold_ticks=1)
    assert b.modes(3, observation=[1.0, 0.0]) == [Mode.HOLD, Mode.FALLBACK, Mode.FALLBACK]
    assert 'shape' in b.last.reason


def numbers_that_are_none_are_noticed(m):
    b = Bench(m, hold_ticks=1)
    assert b.modes(2, observation=[math.nan, 0.0, 0.0]) == [Mode.HOLD, Mode.FALLBACK]
    assert 'not finite' in b.last.reason


def old_observations_are_noticed(m):
    b = Bench(m, hold_ticks=1)
    assert b.modes(2, age_s=TIMEOUT_S) == [Mode.PLANNING] * 2
    assert b.modes(2, age_s=TIMEOUT_S + 0.001) == [Mode.HOLD, Mode.FALLBACK]
    assert 'older than 0.5 s' in b.last.reason


def plans_that_are_not_finite_give_way_to_the_policy(m):
    b = Bench(m)
    assert b.tick(plan=[math.nan]).mode is Mode.POLICY
    assert b.last.command.tolist() == [-1.0]
    b = Bench(m, hold_ticks=0)
    assert b.tick(plan=[math.nan], policy=[math.inf]).mode is Mode.FALLBACK


def commands_stay_within_limits(m):
    b = Bench(m)
    assert b.tick(plan=[1e30]).command.tolist() == [2.0]
    assert b.tick(plan=[-1e30]).command.tolist() == [-2.0]


def commands_change_no_faster_than_their_rate(m):
    b = Bench(m, command_rate=1.0)  # 4 N m a second: 0.2 in a period of 0.05 s
    before = b.last.command[0]
    assert b.tick(plan=[-2.0]).command[0] == pytest.approx(before - 0.2)
    b = Bench(m, command_rate=1.0, hold_ticks=0)
    before = b.last.command[0]
    assert b.tick(observation=None).command[0] == pytest.approx(before - 0.2), 'the fallback, too'


def a_state_outside_its_envelope_falls_back_at_once(m):
    b = Bench(m, fallback='lqr', hold_ticks=100, envelope=['angular velocity -2 2'])
    fast = [1.0, 0.0, 2.1]
    assert b.tick(observation=fast).mode is Mode.FALLBACK
    assert 'angular velocity left its envelope, -2 to 2' in b.last.reason
    assert b.last.command.tolist() == make_fallback('lqr', m).act(fast).tolist() == [-2.0]


def coming_back_into_the_envelope_takes_more_than_its_edge(m):
    b = Bench(m, recover_ticks=1, envelope=['angular velocity -2 2'])
    b.tick(observation=[1.0, 0.0, 2.1])
    assert b.modes(5, observation=[1.0, 0.0, 1.95]) == [Mode.FALLBACK] * 5
    assert b.modes(1, observation=[1.0, 0.0, 1.5]) == [Mode.PLANNING]


def surprises_of_the_model_leave_planning_to_the_policy(m):
    b = Bench(m, max_residual=1.0, residual_ticks=3, recover_ticks=4)
    assert b.modes(2, residual=1.5) == [Mode.PLANNING] * 2
    assert b.tick(residual=1.5).mode is Mode.POLICY
    assert 'mispredicts' in b.last.reason
    assert b.modes(20, residual=0.9) == [Mode.POLICY] * 20, 'neither calm nor surprised'
    assert b.modes(4, residual=0.1) == [Mode.POLICY] * 3 + [Mode.PLANNING]


def one_surprise_is_no_reason(m):
    b = Bench(m, max_residual=1.0, residual_ticks=2)
    for _ in range(10):
        assert b.tick(residual=1.5).mode is Mode.PLANNING
        assert b.tick(residual=0.0).mode is Mode.PLANNING


def misses_spare_planning_and_then_everything(m):
    b = Bench(m, max_consecutive_misses=3, recover_ticks=4, hold_ticks=100)
    assert b.modes(3, skipped=1) == [Mode.PLANNING, Mode.PLANNING, Mode.POLICY]
    assert b.modes(3, skipped=1) == [Mode.POLICY, Mode.POLICY, Mode.FALLBACK]
    assert 'by the policy alone' in b.last.reason
    assert not b.supervisor.may_act, 'nothing is computed that would miss again'
    assert b.modes(3) == [Mode.FALLBACK] * 3
    assert not b.supervisor.may_act


def after_misses_the_way_back_leads_over_the_policy(m):
    b = Bench(m, max_consecutive_misses=1, recover_ticks=3, blend_ticks=0)
    b.ticks(2, skipped=1)
    modes = b.modes(20)
    order = [mode for i, mode in enumerate(modes) if i == 0 or mode is not modes[i - 1]]
    assert order == [Mode.FALLBACK, Mode.POLICY, Mode.PLANNING]
    assert modes.count(Mode.FALLBACK) == 2 + 2, 'the rest of three at rest, then two good ones'
    assert modes.count(Mode.POLICY) >= 3


def a_miss_now_and_then_changes_nothing(m):
    b = Bench(m, max_consecutive_misses=3)
    for _ in range(20):
        assert b.modes(2, skipped=1) == [Mode.PLANNING] * 2
        assert b.tick().mode is Mode.PLANNING


def nothing_acts_before_its_proof_of_life(m):
    b = Bench(m, proof_ticks=3, blend_ticks=1, start=False)
    assert b.modes(2) == [Mode.FALLBACK] * 2
    assert b.last.reason == 'proof of life'
    b.tick(observation=None)
    assert b.modes(3) == [Mode.FALLBACK] * 2 + [Mode.PLANNING], 'three in a row'
    assert b.last.command.tolist() == [0.5], 'and blended from what acted until then'


def the_fallback_is_latched_with_its_first_reason(m):
    b = Bench(m, hold_ticks=0, recover_ticks=5, blend_ticks=0)
    b.tick(observation=None)
    first = b.last.reason
    assert b.modes(4) == [Mode.FALLBACK] * 4
    assert b.last.reason == first
    assert b.tick().mode is Mode.PLANNING


def a_bad_tick_among_good_ones_starts_the_count_again(m):
    b = Bench(m, hold_ticks=0, recover_ticks=3, blend_ticks=0)
    b.tick(observation=None)
    assert b.modes(2) == [Mode.FALLBACK] * 2
    b.tick(observation=None)
    assert b.modes(3) == [Mode.FALLBACK] * 2 + [Mode.PLANNING]


def the_last_command_is_held_and_no_longer_than_that(m):
    b = Bench(m, hold_ticks=2)
    held = b.last.command.tolist()
    found = b.ticks(3, observation=None)
    assert [d.mode for d in found] == [Mode.HOLD, Mode.HOLD, Mode.FALLBACK]
    assert [d.command.tolist() for d in found] == [held, held, [0.0]]


def the_return_is_blended(m):
    b = Bench(m, hold_ticks=0, recover_ticks=1, blend_ticks=4)
    b.tick(observation=None)
    found = [d.command[0] for d in b.ticks(6, plan=[2.0])]
    assert 0 < found[0] < 1
    assert found == sorted(found)
    assert found[3] < 2.0 == found[5]


def the_fallback_does_not_act_on_what_is_old(m):
    leaning = [math.cos(0.1), math.sin(0.1), 0.0]
    b = Bench(m, fallback='lqr', hold_ticks=0)
    assert b.tick(observation=leaning, age_s=9.0).command.tolist() == [0.0]


def what_no_newer_one_came_for_is_told(m):
    b = Bench(m, hold_ticks=0)
    b.supervisor.hint = 'stamped in the future'
    assert 'stamped in the future' in b.tick(age_s=9.0).reason


SCENARIOS = [a_missing_number_is_noticed, numbers_that_are_none_are_noticed,
             old_observations_are_noticed, plans_that_are_not_finite_give_way_to_the_policy,
             commands_stay_within_limits, commands_change_no_faster_than_their_rate,
             a_state_outside_its_envelope_falls_back_at_once,
             coming_back_into_the_envelope_takes_more_than_its_edge,
             surprises_of_the_model_leave_planning_to_the_policy, one_surprise_is_no_reason,
             misses_spare_planning_and_then_everything,
             after_misses_the_way_back_leads_over_the_policy,
             a_miss_now_and_then_changes_nothing, nothing_acts_before_its_proof_of_life,
             the_fallback_is_latched_with_its_first_reason,
             a_bad_tick_among_good_ones_starts_the_count_again,
             the_last_command_is_held_and_no_longer_than_that, the_return_is_blended,
             the_fallback_does_not_act_on_what_is_old, what_no_newer_one_came_for_is_told]


@pytest.mark.parametrize('scenario', SCENARIOS, ids=lambda s: s.__name__)
def test_scenario(manifest, scenario):
    scenario(manifest)


# --- mutants ---------------------------------------------------------------------------------


def without(name, instead):
    """A mutant in which one method is something else."""
    return lambda patch: patch.setattr(Supervisor, name, instead)


def with_settings(**changed):
    """A mutant that does not see some of its settings."""
    def mutate(patch):
        original = Supervisor.__init__

        def init(self, manifest, settings, *rest):
            from dataclasses import replace

            original(self, manifest, replace(settings, **changed), *rest)
        patch.setattr(Supervisor, '__init__', init)
    return mutate


def lenient_return(patch):
    original = Envelope.beyond
    patch.setattr(Envelope, 'beyond', lambda self, values, strict=False: original(self, values))


def forgetful_latch(patch):
    patch.setattr(Supervisor, '_latch', lambda self, reason, cause: None)


def latest_reason(patch):
    def latch(self, reason, cause):
        self._good_ticks, self._latched, self._cause = 0, reason, cause
    patch.setattr(Supervisor, '_latch', latch)


def uncounted(patch):
    original = Supervisor._without

    def without_(self, observation, problem):
        good = self._good_ticks
        decision = original(self, observation, problem)
        self._good_ticks = good
        return decision
    patch.setattr(Supervisor, '_without', without_)


def trusting_fallback(patch):
    original = Supervisor.decide

    def decide(self, observation, age_s, *rest):
        decision = original(self, observation, age_s, *rest)
        if decision.mode is Mode.FALLBACK and observation is not None:
            return self._fall_back(observation, decision.reason)
        return decision
    patch.setattr(Supervisor, 'decide', decide)


def silent_about_arrival(patch):
    original = Supervisor._stale
    patch.setattr(Supervisor, '_stale',
                  lambda self, age_s: original(self, age_s).partition(';')[0])


def always_acting(patch):
    patch.setattr(Supervisor, 'may_act', property(lambda self: True))


def first_stage_only(patch):
    def missed(self, skipped):
        limit = self.settings.max_consecutive_misses
        self._misses = self._misses + 1 if skipped else 0
        if limit and self._misses >= limit:
            self._spared = self.settings.recover_ticks
        elif self._spared > 0:
            self._spared -= 1
    patch.setattr(Supervisor, 'missed', missed)


def straight_to_planning(patch):
    original = Supervisor._good

    def good(self, *arguments):
        if self._cause is Cause.MISSES:
            self._spared = 0
        return original(self, *arguments)
    patch.setattr(Supervisor, '_good', good)


MUTANTS = {
    'length of observations': (without('_misshapen', lambda self, v: ''),
                               a_missing_number_is_noticed),
    'finite observations': (without('_unfinite', lambda self, v: ''),
                            numbers_that_are_none_are_noticed),
    'age of observations': (without('_stale', lambda self, a: ''), old_observations_are_noticed),
    'state envelope': (without('_outside', lambda self, v: ''),
                       a_state_outside_its_envelope_falls_back_at_once),
    'hysteresis of the envelope': (lenient_return,
                                   coming_back_into_the_envelope_takes_more_than_its_edge),
    'model residual': (without('_doubt', lambda self, r: None),
                       surprises_of_the_model_leave_planning_to_the_policy),
    'residual in a row': (with_settings(residual_ticks=1), one_surprise_is_no_reason),
    'consecutive misses': (without('missed', lambda self, s: None),
                           misses_spare_planning_and_then_everything),
    'misses of the policy': (first_stage_only, misses_spare_planning_and_then_everything),
    'rest after misses': (always_acting, misses_spare_planning_and_then_everything),
    'misses in a row': (with_settings(max_consecutive_misses=1),
                        a_miss_now_and_then_changes_nothing),
    'finite commands': (without('_usable', lambda self, c: None if c is None
                                else np.nan_to_num(np.asarray(c, float))),
                        plans_that_are_not_finite_give_way_to_the_policy),
    'limits of commands': (without('_clip', lambda self, c: c), commands_stay_within_limits),
    'rate of commands': (without('_ramp', lambda self, c: c),
                         commands_change_no_faster_than_their_rate),
    'proof of life': (with_settings(proof_ticks=0), nothing_acts_before_its_proof_of_life),
    'policy after misses': (straight_to_planning,
                            after_misses_the_way_back_leads_over_the_policy),
    'latch': (forgetful_latch, the_fallback_is_latched_with_its_first_reason),
    'first reason': (latest_reason, misses_spare_planning_and_then_everything),
    'good ticks in a row': (uncounted, a_bad_tick_among_good_ones_starts_the_count_again),
    'hold': (with_settings(hold_ticks=10**6), the_last_command_is_held_and_no_longer_than_that),
    'blending': (with_settings(blend_ticks=0), the_return_is_blended),
    'age for the fallback': (trusting_fallback, the_fallback_does_not_act_on_what_is_old),
    'cause of silence': (silent_about_arrival, what_no_newer_one_came_for_is_told),
}


def noticed_by(manifest):
    found = []
    for scenario in SCENARIOS:
        try:
            scenario(manifest)
        except Exception:
            found.append(scenario)
    return found


@pytest.mark.parametrize('guard', MUTANTS)
def test_a_supervisor_without_this_guard_fails_some_scenario(manifest, monkeypatch, guard):
    mutate, expected = MUTANTS[guard]
    mutate(monkeypatch)
    found = noticed_by(manifest)
    assert found, 'no scenario needs this guard'
    assert expected in found


def test_every_guard_of_the_source_has_a_mutant():
    """What stands under 'guards' in the source is what is taken out above."""
    import inspect

    source = inspect.getsource(Supervisor)
    section = source[source.index('# ---- guards'):source.index('# ---- decisions')]
    names = {line.split('(')[0].split()[1] for line in section.splitlines()
             if line.startswith('    def ')}
    names -= {'problem'}  # it only asks three of the others
    tried = inspect.getsource(__import__('sys').modules[__name__])
    assert names
    assert all(f"without('{name}'" in tried for name in names), names


def test_the_wiring_of_problem_is_guarded_too(manifest, monkeypatch):
    monkeypatch.setattr(Supervisor, 'problem', lambda self, observation, age_s: '')
    assert len(noticed_by(manifest)) >= 3
