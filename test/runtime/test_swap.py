# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The switch between models: tick by tick, with models that are told how well they do."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import BundleError, ConfigError
from pruning_core.runtime.planner import Planner
from pruning_core.runtime.swap import (
    Model,
    ModelSwitch,
    PlanBudget,
    ProbationSettings,
    check_contract,
    load,
    shadow_run,
)


class Part:
    """Planner or monitor of a model: only told to forget."""

    def __init__(self):
        self.resets = 0

    def reset(self):
        self.resets += 1


def model(name, watched=True):
    return Model(Part(), Part(), SimpleNamespace(hash=name * 64), 'test', watched=watched)


def switched(window=100, worse=0.05, loss=0.3, before=(), share_before=math.nan):
    """A switch whose first model ran for some ticks, and the second that was just taken."""
    first, second = model('a'), model('b')
    switch = ModelSwitch(first, ProbationSettings(window, worse, loss))
    for failed in before:
        assert switch.judge(failed, share_before) == ''
    switch.offer(second)
    assert switch.take() is second
    return switch, first, second


def test_one_reference_changes_between_two_ticks_and_only_once():
    switch, first, second = switched()
    assert switch.take() is second
    assert (switch.active, switch.previous, switch.pending) == (second, first, None)


def test_of_two_offers_between_two_ticks_the_later_one_counts():
    switch, third = ModelSwitch(model('a'), ProbationSettings()), model('c')
    switch.offer(model('b'))
    switch.offer(third)
    assert switch.pending is third
    assert switch.take() is third
    assert switch.pending is None


def test_a_model_that_does_well_proves_itself_at_the_end_of_its_window():
    switch, _, second = switched(window=10)
    for _ in range(9):
        assert switch.judge(False, 1.0) == ''
        assert switch.on_probation
        assert switch.proven == 'a' * 64
    assert switch.judge(False, 1.0) == ''
    assert not switch.on_probation
    assert switch.proven == second.hash
    assert switch.active is second


def test_too_many_failures_change_back_at_once_and_quarantine():
    switch, first, second = switched(window=100, worse=0.05)
    said = [switch.judge(True, math.nan) for _ in range(6)]
    assert said[:5] == [''] * 5
    assert 'changed back' in said[5]
    assert 'allowed 5 of 100' in said[5]
    assert switch.active is first
    assert switch.previous is None, 'nobody rolls back to what was rolled back'
    assert second.hash in switch.quarantined
    assert switch.proven == first.hash
    assert (first.planner.resets, first.monitor.resets) == (1, 1), 'its last plan is old'
    for _ in range(300):
        assert switch.judge(True, math.nan) == '', 'and it is not judged again'


def test_what_failed_before_is_allowed_to_fail_again():
    """A machine too slow for both models is no fault of the second one."""
    switch, _, second = switched(window=100, worse=0.05, before=[True, False] * 50)
    for i in range(100):
        assert switch.judge(i % 2 == 0, math.nan) == ''
    assert switch.active is second
    assert switch.proven == second.hash


@pytest.mark.parametrize(('share', 'back'), [(1.0, False), (0.71, False), (0.69, True)])
def test_stability_is_compared_at_the_end_of_the_window(share, back):
    switch, first, second = switched(window=50, loss=0.3, before=[False] * 50, share_before=1.0)
    said = [switch.judge(False, share) for _ in range(50)]
    assert said[:-1] == [''] * 49
    assert bool(said[-1]) == back
    assert switch.active is (first if back else second)


@pytest.mark.parametrize(('before', 'after'), [(math.nan, 0.0), (1.0, math.nan)])
def test_stability_that_is_not_measurable_is_not_judged(before, after):
    switch, _, second = switched(window=20, before=[False] * 20, share_before=before)
    assert not any(switch.judge(False, after) for _ in range(20))
    assert switch.active is second


def test_a_second_change_within_the_window_goes_back_to_what_proved_itself():
    switch, first, _ = switched(window=100)
    third = model('c')
    switch.offer(third)
    assert switch.take() is third
    while not switch.judge(True, math.nan):
        pass
    assert switch.active is first


def test_what_a_person_asked_for_is_not_changed_back():
    switch, first, _ = switched(window=100)
    switch.offer(Model(first.planner, first.monitor, first.bundle, 'rollback', watched=False))
    assert switch.take().hash == first.hash
    assert not any(switch.judge(True, math.nan) for _ in range(500))
    assert switch.active.hash == first.hash


def test_another_size_of_the_same_bundle_is_no_rollback_and_no_probation():
    switch = ModelSwitch(model('a'), ProbationSettings())
    switch.offer(model('a'))
    switch.take()
    assert switch.previous is None
    assert not switch.on_probation


@given(st.lists(st.sampled_from(['other', 'same', 'bad', 'tick', 'back']), max_size=30))
def test_no_model_is_closed_in_a_tick(events):
    """Closing the sessions of one takes milliseconds; whoever clears `retired` has them."""
    names = iter('bcdefghijklmnopqrstuvwxyzABCDEFGHIJ')
    switch = ModelSwitch(model('a'), ProbationSettings(3, 0.0, 1.0))
    planners = [weakref.ref(switch.active.planner)]
    for event in events:
        if event in ('other', 'same'):
            made = model(next(names) if event == 'other' else switch.active.hash[0])
            planners.append(weakref.ref(made.planner))
            switch.offer(made)
            del made
            switch.take()
        elif event == 'back' and switch.previous is not None:
            switch.offer(replace(switch.previous, origin='rollback', watched=False))
            switch.take()
        else:
            switch.judge(event == 'bad', math.nan)
    assert all(planner() is not None for planner in planners)
    switch.retired.clear()
    alive = {id(p()) for p in planners if p() is not None}
    assert alive == {id(m.planner) for m in (switch.active, switch.previous) if m}


def test_without_a_window_nothing_is_ever_changed_back():
    switch, _, second = switched(window=0)
    assert not any(switch.judge(True, 0.0) for _ in range(1000))
    assert switch.active is second
    assert switch.proven == second.hash


def test_quarantine_is_bounded():
    switch = ModelSwitch(model('a'), ProbationSettings(10, 0.0))
    for i in range(100):
        bad = model('b')
        bad.bundle.hash = f'{i:064x}'
        switch.use(bad)
        assert switch.judge(True, math.nan)
    assert len(switch.quarantined) == 32
    assert f'{99:064x}' in switch.quarantined


@given(st.lists(st.tuples(st.sampled_from(['good', 'bad', 'none', 'none', 'none']),
                          st.booleans()), max_size=200))
def test_each_tick_has_one_model_and_the_count_of_failures_is_exact(events):
    """The running sum against a count from the start."""
    switch = ModelSwitch(model('a'), ProbationSettings(20, 0.2))
    since: list[bool] = []
    number = 0
    for kind, failed in events:
        before = switch.active
        if kind != 'none':
            number += 1
            fresh = model('x')
            fresh.bundle.hash = f'{number:064x}'
            switch.offer(fresh)
        taken = switch.take()
        assert taken is switch.active
        if taken is not before:
            since = []
        since.append(failed)
        if switch.judge(failed, math.nan):
            since = []
            assert switch.active is not taken
        assert switch._failures == sum(since[-20:])


@pytest.mark.parametrize('wrong', [{'window_ticks': -1}, {'max_worse': -0.1},
                                   {'max_stability_loss': math.nan}])
def test_bounds_out_of_range_are_refused(wrong, four_parts):
    with pytest.raises(ConfigError) as caught:
        ProbationSettings(**wrong)
    four_parts(caught)


# --- loading and the shadow run, with real bundles ----------------------------------------------


def test_contract_names_what_differs(bundle, make_run, tmp_path_factory, four_parts):
    from pruning_core.export import export

    crane = export(make_run(env='TestCrane-v0'), tmp_path_factory.mktemp('crane') / 'b')[0]
    with pytest.raises(BundleError) as caught:
        check_contract(crane, bundle.manifest)
    four_parts(caught, 'observation', 'as the running one')
    check_contract(bundle, bundle.manifest)


def shadow(bundle, observations, *, ticks=5, typical_s=0.0, change=lambda plan: plan,
           plan_s=0.01, budget_s=None):
    found, _ = load(bundle, 'test', PlanBudget())
    given_out = iter(observations)

    class Changed:
        def __init__(self, planner: Planner):
            self.plan = lambda values, budget_s: change(planner.plan(values, budget_s))
            self.reset = planner.reset

    found.planner = Changed(found.planner)
    clock = (i // 2 * 1.0 + i % 2 * plan_s for i in range(1000))
    return shadow_run(found, lambda: next(given_out, None), ticks, typical_s, budget_s,
                      sleep=lambda s: None, clock=lambda: next(clock))


FRESH = [np.array([1.0, 0.0, 0.1 * i]) for i in range(20)]


def test_shadow_plans_once_on_each_fresh_observation(bundle):
    assert shadow(bundle, FRESH) == 5
    assert shadow(bundle, [FRESH[0]] * 20) == 1, 'the same one again is no second look'
    assert shadow(bundle, []) == 0, 'an inactive plant does not keep a bundle waiting'


def test_shadow_plans_as_long_as_the_loop_will_let_it(bundle):
    done = []
    for budget_s in (None, 0.0):
        shadow(bundle, FRESH, budget_s=budget_s,
               change=lambda plan: (done.append(plan.iterations), plan)[1])
    assert done == 5 * [bundle.manifest.planner.iterations] + 5 * [0]


def test_shadow_refuses_commands_that_are_not_finite(bundle, four_parts):
    from dataclasses import replace

    with pytest.raises(BundleError) as caught:
        shadow(bundle, FRESH, change=lambda p: replace(p, action=p.action * math.nan))
    four_parts(caught, 'nan')


def test_shadow_refuses_what_cannot_keep_a_period_that_the_running_one_keeps(bundle, four_parts):
    with pytest.raises(BundleError) as caught:
        shadow(bundle, FRESH, typical_s=0.01, plan_s=0.06)  # the period is 0.05 s
    four_parts(caught, '0.060 s')
    for typical_s in (0.2, math.nan):  # the running one does not keep it either, or is not known
        assert shadow(bundle, FRESH, typical_s=typical_s, plan_s=0.06) == 5
