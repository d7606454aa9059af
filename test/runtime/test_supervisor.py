# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The mode machine row by row, and the one promise that holds whatever happens."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.errors import ConfigError
from pruning_core.export import export
from pruning_core.runtime.envelope import Envelope
from pruning_core.runtime.fallback import make_fallback
from pruning_core.runtime.planner import Planner
from pruning_core.runtime.supervisor import Mode, Supervisor, SupervisorSettings

GOOD = [1.0, 0.0, 0.0]
TIMEOUT_S = 0.5


def supervised(manifest, fallback='zero', **settings):
    return Supervisor(manifest, SupervisorSettings(TIMEOUT_S, **settings),
                      make_fallback(fallback, manifest))


def started(manifest, command=1.0, fallback='zero', **settings):
    """A supervisor that has issued one plan."""
    supervisor = supervised(manifest, fallback, **settings)
    assert supervisor.decide(GOOD, 0.0, [command], [0.0]).mode is Mode.PLANNING
    return supervisor


def lost(supervisor, ticks, observation=None):
    return [supervisor.decide(observation, 0.0, None, None) for _ in range(ticks)]


@pytest.mark.parametrize(('plan', 'policy', 'mode', 'command'), [
    ([1.5], [-1.0], Mode.PLANNING, 1.5),
    ([2.5], [-1.0], Mode.PLANNING, 2.0),
    ([-1e30], [-1.0], Mode.PLANNING, -2.0),
    ([math.nan], [-1.0], Mode.POLICY, -1.0),
    ([math.inf], [-1.0], Mode.POLICY, -1.0),
    ([1.0, 1.0], [-1.0], Mode.POLICY, -1.0),
    ([], [-1.0], Mode.POLICY, -1.0),
    (None, [-1.0], Mode.POLICY, -1.0),
    (None, [5.0], Mode.POLICY, 2.0),
    (None, None, Mode.FALLBACK, 0.0),
    ([math.nan], [math.nan], Mode.FALLBACK, 0.0),
])
def test_first_decision_on_a_good_observation(manifest, plan, policy, mode, command):
    decision = supervised(manifest).decide(GOOD, 0.0, plan, policy)
    assert (decision.mode, decision.command.tolist()) == (mode, [command])
    assert bool(decision.reason) == (mode is not Mode.PLANNING)


@pytest.mark.parametrize(('observation', 'age_s', 'reason'), [
    (None, math.inf, 'no observation yet'),
    ([1.0, 0.0], 0.0, r'shape \(2,\), not \(3,\)'),
    ([1.0, 0.0, 0.0, 0.0], 0.0, 'shape'),
    ([GOOD], 0.0, 'shape'),
    (1.0, 0.0, 'shape'),
    ([1.0, math.nan, 0.0], 0.0, 'not finite'),
    ([1.0, 0.0, -math.inf], 0.0, 'not finite'),
    (GOOD, 0.50001, 'older than 0.5 s'),
    (GOOD, math.inf, 'older'),
    (GOOD, math.nan, 'older'),
])
def test_unusable_observation_holds_then_falls_back_with_its_reason(
        manifest, observation, age_s, reason):
    supervisor = started(manifest, hold_ticks=3)
    decisions = [supervisor.decide(observation, age_s, [-1.5], [-1.5]) for _ in range(5)]
    assert [d.mode for d in decisions] == [Mode.HOLD] * 3 + [Mode.FALLBACK] * 2
    assert [d.command[0] for d in decisions] == [1, 1, 1, 0, 0]
    assert re.search(reason, decisions[0].reason)
    assert {d.reason for d in decisions} == {decisions[0].reason}


def test_observation_is_usable_up_to_the_timeout(manifest):
    assert supervised(manifest).problem(GOOD, TIMEOUT_S) == ''


def test_before_the_first_observation_nothing_is_held(manifest):
    supervisor = supervised(manifest, hold_ticks=100)
    assert {d.mode for d in lost(supervisor, 3)} == {Mode.FALLBACK}
    first = supervisor.decide(GOOD, 0.0, [1.0], [0.0])  # and nothing was latched by waiting
    assert (first.mode, first.command.tolist()) == (Mode.PLANNING, [1.0])


def test_short_gap_is_forgotten(manifest):
    supervisor = started(manifest, hold_ticks=2)
    for _ in range(5):
        assert [d.mode for d in lost(supervisor, 2)] == [Mode.HOLD] * 2
        assert supervisor.decide(GOOD, 0.0, [1.0], [0.0]).mode is Mode.PLANNING


@pytest.mark.parametrize('recover', [1, 2, 20])
def test_fallback_is_left_after_enough_good_ticks_in_a_row(manifest, recover):
    supervisor = started(manifest, hold_ticks=0, recover_ticks=recover, blend_ticks=0)
    lost(supervisor, 1)
    for _ in range(recover - 1):
        supervisor.decide(GOOD, 0.0, [1.0], [0.0])
    lost(supervisor, 1, observation=[math.nan] * 3)  # the row is broken
    modes = [supervisor.decide(GOOD, 0.0, [1.0], [0.0]).mode for _ in range(recover + 1)]
    assert modes == [Mode.FALLBACK] * (recover - 1) + [Mode.PLANNING] * 2


def test_latched_reason_stays_while_recovering(manifest):
    supervisor = started(manifest, hold_ticks=0)
    lost(supervisor, 1)
    decision = supervisor.decide(GOOD, 0.0, [1.0], [0.0])
    assert (decision.mode, decision.reason) == (Mode.FALLBACK, 'no observation yet')


def test_without_recovery_only_reset_leaves_the_fallback(manifest):
    supervisor = started(manifest, hold_ticks=0, recover_ticks=0, blend_ticks=0)
    lost(supervisor, 1)
    modes = {supervisor.decide(GOOD, 0.0, [1.0], [0.0]).mode for _ in range(50)}
    assert modes == {Mode.FALLBACK}
    supervisor.reset()
    assert supervisor.decide(GOOD, 0.0, [1.0], [0.0]).mode is Mode.PLANNING


@pytest.mark.parametrize('leave', ['in time', 'by reset'])
def test_return_from_the_fallback_is_blended(manifest, leave):
    supervisor = started(manifest, command=0.0, hold_ticks=0, blend_ticks=4,
                         recover_ticks=2 if leave == 'in time' else 0)
    lost(supervisor, 1)
    supervisor.decide(GOOD, 0.0, [2.0], [0.0])
    if leave == 'by reset':
        supervisor.reset()
    commands = [supervisor.decide(GOOD, 0.0, [2.0], [0.0]).command[0] for _ in range(6)]
    assert 0 < commands[0] < 1
    assert commands == sorted(commands)
    assert commands[3] < 2.0 == commands[4] == commands[5]


def test_fallback_acts_on_a_fresh_observation_and_never_on_an_old_one(manifest):
    supervisor = started(manifest, fallback='lqr', hold_ticks=0)
    leaning = [math.cos(0.1), math.sin(0.1), 0.0]
    supervisor.decide(leaning, 9.9, [1.0], [0.0])
    decision = supervisor.decide(leaning, 0.0, [1.0], [0.0])
    assert decision.mode is Mode.FALLBACK, 'it is latched'
    assert decision.command.tolist() == make_fallback('lqr', manifest).act(leaning).tolist() != [0]
    decision = supervisor.decide(leaning, 9.9, [1.0], [0.0])
    assert (decision.mode, decision.command.tolist()) == (Mode.FALLBACK, [0.0])


def test_misses_in_a_row_spare_the_planner(manifest):
    supervisor = started(manifest, max_consecutive_misses=3, recover_ticks=2)
    for skipped, may_plan in ((1, True), (2, True), (0, True), (1, True), (1, True), (1, False)):
        supervisor.missed(skipped)
        assert supervisor.may_plan == may_plan
    decision = supervisor.decide(GOOD, 0.0, [1.0], [-1.0])
    assert (decision.mode, decision.command.tolist()) == (Mode.POLICY, [-1.0])
    assert '3 deadlines missed' in decision.reason
    supervisor.missed(0)
    assert not supervisor.may_plan, 'one tick in time is the policy, not the plan'
    supervisor.missed(0)
    assert supervisor.decide(GOOD, 0.0, [1.0], [-1.0]).mode is Mode.PLANNING


def test_planning_that_may_not_come_back_waits_for_reset(manifest):
    supervisor = started(manifest, max_consecutive_misses=1, recover_ticks=0)
    supervisor.missed(1)
    for _ in range(50):
        supervisor.missed(0)
    assert not supervisor.may_plan
    supervisor.reset()
    assert supervisor.may_plan


def test_misses_are_ignored_where_no_limit_is_set(manifest):
    supervisor = started(manifest)
    for _ in range(1000):
        supervisor.missed(1)
    assert supervisor.may_plan


def test_issued_commands_belong_to_the_caller(manifest):
    supervisor = started(manifest, hold_ticks=5)
    lost(supervisor, 1)[0].command[0] = -2.0
    assert lost(supervisor, 1)[0].command.tolist() == [1.0]


@pytest.mark.parametrize('wrong', [
    {'proof_ticks': -1}, {'command_rate': -1.0}, {'command_rate': math.nan},
    {'max_residual': -0.1}, {'max_residual': math.nan}, {'residual_ticks': 0},
    {'observation_timeout_s': 0.0}, {'observation_timeout_s': -1.0},
    {'observation_timeout_s': math.nan}, {'hold_ticks': -1}, {'max_consecutive_misses': -1},
    {'recover_ticks': -1}, {'blend_ticks': -1},
])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match='a timeout above 0 s, and counts of 0 or more'):
        SupervisorSettings(**{'observation_timeout_s': 0.5, **wrong})


# --- whatever happens -----------------------------------------------------------------------

any_float = st.floats(width=64)
vector = st.none() | st.lists(any_float, max_size=4) | st.lists(any_float, min_size=3, max_size=3)
command = st.none() | st.lists(any_float, min_size=1, max_size=1) | st.lists(any_float, max_size=3)
tick = st.tuples(st.just('tick'), vector, any_float | st.just(0.0), command, command,
                 any_float | st.just(0.0))
event = tick | st.tuples(st.just('missed'), st.integers(0, 5)) | st.tuples(st.just('reset'))


@given(st.lists(event, max_size=60), st.sampled_from(['zero', 'lqr']),
       st.sampled_from([(-2.0, 2.0), (0.5, 3.0), (-7.0, -6.5)]),
       st.fixed_dictionaries({name: st.integers(0, 4) for name in (
           'hold_ticks', 'max_consecutive_misses', 'recover_ticks', 'blend_ticks',
           'proof_ticks')}),
       st.sampled_from([0.0, 0.5, 100.0]), st.sampled_from([0.0, 1.0]),
       st.sampled_from([-1.0, 0.1]))
def test_command_is_always_finite_and_within_limits_and_rate(
        manifest, events, fallback, limits, counts, rate, residual, margin):
    action = dataclasses.replace(manifest.action, low=limits[:1], high=limits[1:])
    manifest = dataclasses.replace(manifest, action=action)
    supervisor = Supervisor(
        manifest, SupervisorSettings(TIMEOUT_S, command_rate=rate, max_residual=residual,
                                     **counts),
        make_fallback(fallback, manifest), Envelope.of(manifest, margin))
    last = make_fallback(fallback, manifest).act(None)[0]
    step = (rate or math.inf) * manifest.period_s * (limits[1] - limits[0])
    for kind, *details in events:
        if kind == 'tick':
            decision = supervisor.decide(*details)
            assert decision.command.shape == (1,)
            assert limits[0] <= decision.command[0] <= limits[1]
            assert abs(decision.command[0] - last) <= step * (1 + 1e-9)
            last = decision.command[0]
            assert bool(decision.reason) == (decision.mode is not Mode.PLANNING)
        elif kind == 'missed':
            supervisor.missed(*details)
        else:
            supervisor.reset()


@pytest.fixture(scope='module')
def make_planners(bundle, make_run, tmp_path_factory):
    """Returns a function that makes two planners for the same plant, of different sizes."""
    run = make_run(widths={'latent': 4, 'dynamics': (7, 5)}, seed=1)
    other = export(run, tmp_path_factory.mktemp('other') / 'bundle')[0]
    return lambda: [Planner(bundle), Planner(other)]


@pytest.mark.filterwarnings('ignore:overflow encountered')
@settings(max_examples=50)
@given(st.lists(st.tuples(st.lists(any_float, min_size=3, max_size=3), st.sampled_from(
    ['plan', 'plan', 'plan', 'policy', 'raise', 'swap'])), max_size=12))
def test_real_planners_swapped_between_ticks(manifest, make_planners, events):
    """What one tick saw, or failed at, must not follow the loop around for good."""
    planners = make_planners()
    supervisor = supervised(manifest, 'lqr', hold_ticks=1, recover_ticks=1)
    for observation, kind in events:
        plan = None
        if kind == 'swap':
            planners.reverse()
        if not supervisor.problem(observation, 0.0) and kind != 'raise':
            plan = planners[0].plan(observation, 0.0 if kind == 'policy' else None)
        decision = supervisor.decide(observation, 0.0, plan.action if plan else None,
                                     plan.policy_action if plan else None)
        assert np.isfinite(decision.command).all()
        assert -2 <= decision.command[0] <= 2
    for _ in range(3):
        plan = planners[0].plan(GOOD)
        decision = supervisor.decide(GOOD, 0.0, plan.action, plan.policy_action)
    assert decision.mode is Mode.PLANNING
