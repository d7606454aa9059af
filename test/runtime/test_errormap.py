# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Terms and stability candidates: hand-computed values, and refusals in words."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import BundleError
from pruning_core.runtime.errormap import Lyapunov, read_term

OBSERVATION = [0.6, -0.8, 2.5]
WHOLE = {'terms': ['atan2(1,0)', '2'], 'P': [[4.0, 1.0], [1.0, 2.0]], 'K': [[3.0, 0.5]],
         'goal_action': [0.25], 'steps': 20, 'decrease': 0.1, 'ball': 0.05}


@pytest.mark.parametrize(('text', 'value', 'index'), [
    ('0', 0.6, 0),
    ('2', 2.5, 2),
    ('2-1', 1.5, 2),
    ('1-0.25', -1.05, 1),
    ('cos(2)', math.cos(2.5), 2),
    ('sin(1)', math.sin(-0.8), 1),
    ('atan2(1,0)', math.atan2(-0.8, 0.6), 1),
    ('atan2(0,2)', math.atan2(0.6, 2.5), 2),
])
def test_terms(text, value, index):
    term, highest = read_term(text)
    assert term(OBSERVATION) == pytest.approx(value)
    assert highest == index


@pytest.mark.parametrize('text', [
    '', 'x', '-1', '1.5', '0+1', '0-', '0--1', ' 0', '0 ', '0\n', '0-1e3', 'tan(0)', 'cos()',
    'cos(0,1)', 'atan2(1)', 'atan2(1,0,2)', 'cos(sin(0))', '__import__("os")', '0;1', 'COS(0)',
])
def test_other_forms_are_refused_and_never_run(text):
    with pytest.raises(BundleError, match='error term') as caught:
        read_term(text)
    assert repr(text) in str(caught.value)
    assert 'atan2(i,j)' in str(caught.value)


def test_error_and_value_by_hand():
    plant = Lyapunov.from_json(WHOLE)
    e = np.array([math.atan2(-0.8, 0.6), 2.5])
    assert plant.error(OBSERVATION) == pytest.approx(e)
    assert plant.value(OBSERVATION) == pytest.approx(4 * e[0]**2 + 2 * e[0] * e[1] + 2 * e[1]**2)


@pytest.mark.parametrize('change', [
    {'terms': []},
    {'terms': ['0']},
    {'terms': ['0', 'nonsense']},
    {'P': [[1.0]]},
    {'P': [[1.0, 0.5], [0.0, 1.0]]},
    {'P': [[math.nan, 0], [0, 1]]},
    {'P': 'four'},
    {'P': None},
    {'P': [[1.0, 0.0], [0.0]]},
    {'P': [[10**400, 0], [0, 1]]},
    {'K': [[3.0]]},
    {'K': [3.0, 0.5]},
    {'K': [[math.inf, 0]]},
    {'goal_action': [0.0, 0.0]},
    {'goal_action': [math.nan]},
    {'steps': 0},
    {'steps': 2.5},
    {'steps': '20'},
    {'steps': 10**9},
    {'decrease': 1.0},
    {'decrease': -0.1},
    {'decrease': math.nan},
    {'decrease': 10**400},
    {'ball': -1},
    {'ball': math.inf},
    {'ball': None},
])
def test_candidate_that_does_not_fit_is_refused(change):
    with pytest.raises(BundleError, match='stability candidate|error term'):
        Lyapunov.from_json({**WHOLE, **change})


@pytest.mark.parametrize('name', sorted(WHOLE))
def test_candidate_with_a_field_missing_is_refused(name):
    with pytest.raises(BundleError, match='stability candidate'):
        Lyapunov.from_json({k: v for k, v in WHOLE.items() if k != name})


def test_observation_that_is_too_short_is_refused():
    with pytest.raises(BundleError, match='2 observations'):
        Lyapunov.from_json(WHOLE).error([0.1, 0.2])


def test_candidate_cannot_be_changed():
    given_p = np.array(WHOLE['P'])
    plant = Lyapunov(('0', '1'), given_p, np.array(WHOLE['K']), np.array([0.0]), 1, 0.0, 0.0)
    with pytest.raises(ValueError, match='read-only'):
        plant.P[0, 0] = 9.0


entries = st.floats(-1e3, 1e3)


@given(st.lists(entries, min_size=2, max_size=2), entries, st.integers(1, 10_000),
       st.floats(0, 1, exclude_max=True), st.floats(0, 1e9))
def test_json_round_trip(diagonal, off, steps, decrease, ball):
    values = {**WHOLE, 'P': [[diagonal[0], off], [off, diagonal[1]]], 'steps': steps,
              'decrease': decrease, 'ball': ball}
    read = Lyapunov.from_json(json.loads(json.dumps(Lyapunov.from_json(values).to_json())))
    assert read.to_json() == values
