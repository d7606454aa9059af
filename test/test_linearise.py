# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Numeric linearisation against plants whose matrices are known, and goals that cannot be used."""

from __future__ import annotations

import types

import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

from pruning_core.errors import EnvError
from pruning_core.linearise import Goal, goal_of, jacobian, linearise
from pruning_core.plants import GymPlant, PendulumPlant
from pruning_core.stability import declared, pendulum

DECLARED = {'state': [0.5, 0], 'action': [0], 'terms': ['1-1', '0'], 'error_cost': [1, 1],
            'action_cost': [0.1], 'reach': [1, 1]}


def goal(**change):
    return goal_of(types.SimpleNamespace(stability_goal={**DECLARED, **change}), 'Cart')


class Linear:
    """x' = F x + G (u - 0.2), observed through an invertible H."""

    def __init__(self, f, g, h):
        self.f, self.g, self.h = f, g, h

    def observe(self, states):
        return states @ self.h.T

    def step(self, states, commands):
        return states @ self.f.T + (commands - 0.2) @ self.g.T


def test_a_linear_plant_in_the_coordinates_of_its_error():
    rng = np.random.default_rng(0)
    f, g, h = (rng.normal(size=s) for s in ((3, 3), (3, 1), (3, 3)))
    at = Goal(np.zeros(3), np.array([0.2]), ('0', '1', '2'), np.ones(3), np.ones(1), np.ones(3))
    a, b = linearise(Linear(f, g, h), at)
    np.testing.assert_allclose(a, h @ f @ np.linalg.inv(h), atol=1e-8)
    np.testing.assert_allclose(b, h @ g, atol=1e-8)


def test_jacobian_by_hand():
    found = jacobian(lambda x: np.array([x[0] * x[1], np.sin(x[0])]), np.array([2.0, 3.0]))
    np.testing.assert_allclose(found, [[3, 2], [np.cos(2), 0]], atol=1e-5)


def test_the_pendulum_numerically_is_the_closed_form():
    upright = Goal(np.zeros(2), np.zeros(1), ('atan2(1,0)', '2'), np.array([1, 0.1]),
                   np.array([0.001]), np.array([np.pi, 8]))
    plant = types.SimpleNamespace(goal=upright, observe=PendulumPlant().observe,
                                  step=PendulumPlant().step)
    found, closed = declared(plant, 0.05), pendulum(0.05)
    np.testing.assert_allclose(found.P, closed.P, rtol=1e-3)
    np.testing.assert_allclose(found.K, closed.K, rtol=1e-3)


def test_an_environment_that_declares_its_goal(cart):
    """V solves the Riccati equation of the cart in its error (2 x - 1, v)."""
    from pruning_core.config import EnvConfig
    from pruning_core.stability import candidate

    found = candidate(cart, 0.1)
    a, b = np.array([[1, 0.2], [0, 1]]), np.array([[0], [0.1]])
    p = solve_discrete_are(a, b, np.eye(2), np.array([[0.1]]))
    np.testing.assert_allclose(found.P, p, rtol=1e-3)
    assert (found.terms, found.steps) == (('1-1', '0'), 10)
    assert found.ball == pytest.approx(1e-3 * np.trace(p), rel=1e-3)
    twice = candidate(cart, 0.2, 2)
    assert not np.allclose(twice.K, found.K)
    assert isinstance(GymPlant(EnvConfig(id=cart)), GymPlant)


@pytest.mark.parametrize(('change', 'said'), [
    ({'reach': [1]}, 'reach'), ({'terms': ['cot(1)', '0']}, 'error term'),
    ({'error_cost': [1, -1]}, 'above 0'), ({'action_cost': [1, 1]}, 'differ in length'),
    ({'state': ['x', 0]}, 'x'), ({'extra': 1}, 'extra'),
])
def test_goals_that_cannot_be_used(change, said, four_parts):
    with pytest.raises(EnvError) as error:
        goal(**change)
    four_parts(error, 'Cart', said)


def test_a_goal_that_is_no_equilibrium(four_parts):
    plant = Linear(np.eye(2) * 2, np.ones((2, 1)), np.eye(2))
    moving = Goal(np.array([1.0, 0]), np.array([0.2]), ('0-1', '1'), np.ones(2), np.ones(1),
                  np.ones(2))
    with pytest.raises(EnvError) as error:
        linearise(plant, moving)
    four_parts(error, 'equilibrium')


def test_an_error_that_does_not_determine_the_state(four_parts):
    plant = Linear(np.eye(2), np.ones((2, 1)), np.eye(2))
    for terms in (('0', '0'), ('0',)):
        n = len(terms)
        half = Goal(np.zeros(2), np.array([0.2]), terms, np.ones(n), np.ones(1), np.ones(n))
        with pytest.raises(EnvError) as error:
            linearise(plant, half)
        four_parts(error, 'as many independent terms')


def test_a_plant_that_cannot_be_stabilised(four_parts):
    plant = Linear(np.eye(2) * 2, np.zeros((2, 1)), np.eye(2))
    plant.goal = Goal(np.zeros(2), np.array([0.2]), ('0', '1'), np.ones(2), np.ones(1), np.ones(2))
    with pytest.raises(EnvError) as error:
        declared(plant, 0.1)
    four_parts(error, 'Riccati')


def test_nothing_declared():
    assert goal_of(object(), 'x') is None
