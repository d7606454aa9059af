# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The faults themselves: each does what its name says, as long as it says, and no more."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pruning_core.errors import ConfigError
from pruning_core.runtime.faults import OBSERVATION, PLAN, Fault, FaultInjector
from pruning_core.runtime.planner import Plan

VALUES = np.array([1.0, 0.5, -2.0])
NOW = 1000.0


def injector(**fault):
    slept = []
    made = FaultInjector(sleep=slept.append)
    made.choose(Fault(**fault))
    return made, slept


def plan():
    one = np.ones(1, np.float32)
    return Plan(one, -one, 0.0, 0.0, 1, 1, 0, 0, 0.0, 0.0)


def test_nothing_goes_wrong_until_it_is_chosen():
    made = FaultInjector()
    values, stamp_s = made.observation(VALUES, 5.0, NOW)
    assert values is VALUES
    assert stamp_s == 5.0
    made.inference()
    assert made.plan(p := plan()) is p


@pytest.mark.parametrize(('kind', 'check'), [
    ('nan', lambda v: np.isnan(v).all()), ('inf', lambda v: np.isinf(v).all()),
    ('short', lambda v: v.shape == (2,)), ('long', lambda v: v.shape == (4,)),
    ('denormal', lambda v: (v != 0).all() and (np.abs(v) < 1e-300).all()),
    ('huge', lambda v: np.isfinite(v).all() and (v > 1e299).all())])
def test_numbers(kind, check):
    values, stamp_s = injector(observation=kind)[0].observation(VALUES, 7.0, NOW)
    assert check(values)
    assert stamp_s == 7.0
    assert VALUES.tolist() == [1.0, 0.5, -2.0], 'what was measured is left alone'


@pytest.mark.parametrize('stamp_s', [0.0, NOW])
@pytest.mark.parametrize(('kind', 'offsets'), [
    ('old', [-10.0, -10.0]), ('jump', [-10.0, -10.0]), ('future', [10.0, 10.0]),
    ('reorder', [-0.1, 0.0])])
def test_stamps(kind, offsets, stamp_s):
    made, _ = injector(observation=kind)
    found = [made.observation(VALUES, stamp_s, NOW)[1] - NOW for _ in offsets]
    assert found == pytest.approx(offsets)


def test_dropped_means_that_nothing_arrives():
    assert injector(observation='drop')[0].observation(VALUES, NOW, NOW) is None


@pytest.mark.parametrize(('kind', 'check'), [
    ('nan', lambda a: math.isnan(a[0])), ('inf', lambda a: math.isinf(a[0])),
    ('huge', lambda a: a[0] > 1e29), ('short', lambda a: a.shape == (0,))])
def test_commands_of_planner_and_policy(kind, check):
    made, _ = injector(plan=kind, ticks=1)
    made.inference()
    changed = made.plan(plan())
    assert check(changed.action)
    assert check(changed.policy_action)


def test_a_stall_lasts_for_its_ticks():
    made, slept = injector(stall_s=0.2, ticks=3)
    for _ in range(5):
        made.inference()
        made.plan(plan())
    assert slept == [0.2] * 3


def test_failing_inference_lasts_for_its_ticks():
    made, _ = injector(plan='raise', ticks=2)
    for _ in range(2):
        with pytest.raises(RuntimeError, match='injected'):
            made.inference()
    made.inference()


def test_a_fault_that_is_chosen_while_a_plan_is_made_begins_with_the_next():
    made, slept = injector(ticks=3)
    made.inference()
    made.choose(Fault(stall_s=0.2, ticks=2))
    assert made.plan(p := plan()) is p
    for _ in range(4):
        made.inference()
        made.plan(plan())
    assert slept == [0.2] * 2, 'the plan that was made meanwhile used up none'
    made.choose(Fault(plan='nan', ticks=1))
    assert made.plan(p) is p, 'and the fault did nothing to it'
    made.inference()
    made.choose(Fault())
    assert math.isnan(made.plan(p).action[0]), 'nor is one ended in the middle'
    made.inference()
    assert made.plan(p) is p


@pytest.mark.parametrize('wrong', [{'observation': 'nam'}, {'plan': 'rais'}, {'plan': 'drop'}])
def test_unknown_faults_are_refused(wrong, four_parts):
    with pytest.raises(ConfigError) as caught:
        Fault(**wrong)
    four_parts(caught, 'fault_injection')


def test_every_fault_that_is_documented_exists():
    from pathlib import Path

    text = (Path(__file__).parents[2] / 'pruned_controller' / 'parameters.py').read_text()
    text = ' '.join(text.replace("'\n", ' ').split())
    for kind in (*OBSERVATION, *PLAN):
        assert kind in text
