# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Stability candidates: the Riccati equation, and the pendulum's against the simulated one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

from pruning_core.env import make_raw
from pruning_core.runtime.errormap import Lyapunov
from pruning_core.stability import candidate, pendulum, riccati


@pytest.mark.parametrize(('a', 'b', 'q', 'r'), [(1.0, 1.0, 1.0, 1.0), (1.2, 0.5, 2.0, 0.1),
                                                (0.5, 1.0, 1.0, 3.0)])
def test_scalar_riccati_is_a_quadratic_equation(a, b, q, r):
    """b2 p2 + (r - a2 r - q b2) p - q r = 0, its positive root."""
    linear = r - a * a * r - q * b * b
    p = (-linear + math.sqrt(linear ** 2 + 4 * b * b * q * r)) / (2 * b * b)
    found, gain = riccati(*(np.array([[x]]) for x in (a, b, q, r)))
    assert found.item() == pytest.approx(p)
    assert gain.item() == pytest.approx(a * b * p / (r + b * b * p))


def test_against_value_iteration_and_scipy():
    """A cost-to-go that is iterated until it stands still, for three states and two inputs."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 3)), rng.normal(size=(3, 2))
    q, r = np.diag([1.0, 2.0, 0.5]), np.diag([0.3, 0.7])
    p = q
    for _ in range(2000):
        k = np.linalg.inv(r + b.T @ p @ b) @ b.T @ p @ a
        p = q + a.T @ p @ (a - b @ k)
    found, gain = riccati(a, b, q, r)
    np.testing.assert_allclose(found, p, rtol=1e-6)
    np.testing.assert_allclose(found, solve_discrete_are(a, b, q, r), rtol=1e-9)
    np.testing.assert_allclose(gain, k, rtol=1e-6)
    assert np.abs(np.linalg.eigvals(a - b @ gain)).max() < 1


def step(state, torque):
    """One step of Gymnasium's own pendulum."""
    env = make_raw('Pendulum-v1').unwrapped
    env.reset(seed=0)
    env.state = np.array(state, float)
    _, reward, *_ = env.step(np.array([torque]))
    return np.array(env.state), reward


def observe(state):
    return [math.cos(state[0]), math.sin(state[0]), state[1]]


def test_pendulum_against_finite_differences():
    """P solves the equation of the plant and cost that Gymnasium has at the upright state."""
    h = 1e-5
    columns = [(step(d, 0)[0] - step(-d, 0)[0]) / (2 * h) for d in h * np.eye(2)]
    a, b = np.stack(columns, 1), ((step([0, 0], h)[0] - step([0, 0], -h)[0]) / (2 * h))[:, None]
    cost = [-step(s, u)[1] for s, u in (([0.1, 0], 0), ([0, 0.1], 0), ([0, 0], 0.1))]
    q, r = np.diag([cost[0], cost[1]]) / 0.01, np.array([[cost[2] / 0.01]])
    p = solve_discrete_are(a, b, q, r)
    found = pendulum(0.05)
    np.testing.assert_allclose(found.P, p, rtol=1e-3)
    np.testing.assert_allclose(found.K, np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a), rtol=1e-3)


@pytest.mark.parametrize('state', [(0.1, 0.0), (-0.1, 0.3), (0.05, -0.5), (2 * math.pi + 0.1, 0)])
def test_lqr_holds_the_pendulum_and_v_falls(state):
    """u = -K e within 2 N m on the true plant: the finite-step test holds, and V goes to zero."""
    stable = candidate('Pendulum-v1', 0.05)
    values = []
    for _ in range(5 * stable.steps):
        e = stable.error(observe(state))
        values.append(stable.value(observe(state)))
        torque = (stable.goal_action - stable.K @ e).item()
        assert abs(torque) <= 2
        state, _ = step(state, torque)
    for before, after in zip(values, values[stable.steps:], strict=False):
        assert after <= (1 - stable.decrease) * before or before < stable.ball
    assert values[-1] < 1e-3 * values[0]


def test_error_of_the_pendulum():
    """The angle from upright, wrapped, and the velocity."""
    stable = pendulum(0.05)
    np.testing.assert_allclose(stable.error(observe((0.3, -1.5))), [0.3, -1.5])
    np.testing.assert_allclose(stable.error(observe((2 * math.pi - 0.3, 2))), [-0.3, 2], atol=1e-9)
    assert stable.value(observe((0.0, 0.0))) == 0
    assert np.linalg.eigvalsh(stable.P).min() > 0
    again = Lyapunov.from_json(stable.to_json())
    np.testing.assert_array_equal(again.P, stable.P)


def test_plants_without_a_goal_have_none():
    assert candidate('MountainCarContinuous-v0', 0.05) is None
