# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The cart-pole: its physics against conservation laws, its spaces, its determinism."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from pruning_core.cartpole import CartPoleSwingUp, derivative, energy_j
from pruning_core.config import EnvConfig
from pruning_core.env import ScaledEnv
from pruning_core.linearise import linearise
from pruning_core.plants import GymPlant
from pruning_core.stability import candidate

CARTPOLE = EnvConfig('pruning_core.cartpole:CartPoleSwingUp', max_episode_steps=20)
states = st.tuples(*(st.floats(-x, x) for x in (1, 3, math.pi, 6))).map(np.array)


@pytest.fixture
def balanced(monkeypatch):
    """The cart-pole as one who wants it held upright would declare it."""

    class Balanced(CartPoleSwingUp):
        # The costs of position and angle are what the reward loses, to second order.
        stability_goal = {
            'state': [0, 0, 0, 0], 'action': [0], 'terms': ['0', '1', 'atan2(3,2)', '4'],
            'error_cost': [0.174, 0.01, 0.25, 0.01], 'action_cost': [0.001],
            'reach': [0.5, 1, 0.5, 2]}

    monkeypatch.setitem(sys.modules, 'balanced', types.SimpleNamespace(Balanced=Balanced))
    return EnvConfig('balanced:Balanced', max_episode_steps=20)


@given(states)
def test_energy_rises_by_the_work_of_the_force(state):
    """dE/dt = force * velocity, for any state and force."""
    for force in (-10.0, 0.0, 7.0):
        step = 1e-6 * derivative(state, force)
        change = (energy_j(state + step) - energy_j(state - step)) / 2e-6
        assert change == pytest.approx(force * state[1], abs=1e-4)


@given(states)
@settings(max_examples=20)
def test_a_free_swing_keeps_its_energy(state):
    env = CartPoleSwingUp()
    env.state = state * [0.1, 0.1, 1, 1]
    before = energy_j(env.state)
    for _ in range(25):
        env.step(np.zeros(1, np.float32))
        if abs(env.state[0]) >= 2.4:
            return  # the end of the rail takes energy out
    assert energy_j(env.state) == pytest.approx(before, abs=0.02)


def test_small_swings_have_the_period_of_the_textbook():
    """A light pole under a heavy cart: omega^2 = g / (l (4/3 - m/(M+m)))."""
    env = CartPoleSwingUp()
    env.state = np.array([0.0, 0.0, math.pi - 0.01, 0.0])
    angles = []
    for _ in range(100):
        env.step(np.zeros(1, np.float32))
        angles.append(env.state[2] - math.pi)
    turns = np.flatnonzero(np.diff(np.sign(angles)) > 0)
    omega = math.sqrt(9.81 / (0.5 * (4 / 3 - 0.1 / 1.1)))
    assert np.diff(turns).mean() * env.dt == pytest.approx(2 * math.pi / omega, rel=0.03)


def test_the_rail_ends_and_the_reward_has_its_limits():
    env = CartPoleSwingUp()
    env.reset(seed=0)
    for _ in range(60):
        observation, reward, terminated, truncated, _ = env.step(np.array([10], np.float32))
        assert env.observation_space.contains(observation) and not (terminated or truncated)
        assert 0 <= reward <= 1
    assert observation[0] == np.float32(2.4) and reward == 0
    env.state = np.zeros(4)
    assert env.step(np.zeros(1, np.float32))[1] == 1


def test_upright_is_linearised_as_on_paper(balanced):
    """Upright: l (4/3 - m/M) a = g angle - F/M, and the cart's acceleration F/M - (m l/M) a."""
    plant = GymPlant(balanced)
    a, b = linearise(plant, plant.goal)
    turn = 1 / (0.5 * (4 / 3 - 0.1 / 1.1))
    back = 0.1 * 0.5 / 1.1
    rates = np.zeros((5, 5))
    rates[0, 1] = rates[2, 3] = 1
    rates[3, 2], rates[1, 2] = 9.81 * turn, -back * 9.81 * turn
    rates[3, 4], rates[1, 4] = -turn / 1.1, (1 + back * turn) / 1.1
    both = expm(rates * CartPoleSwingUp.dt)[:4]  # a force that is held
    assert a == pytest.approx(both[:, :4], abs=1e-3) and b == pytest.approx(both[:, 4:], abs=1e-4)


def test_its_regulator_brings_the_pole_upright_and_the_cart_to_the_middle(balanced):
    law = candidate(balanced.id, CartPoleSwingUp.dt)
    env = CartPoleSwingUp()
    env.state = np.array([0.4, 0.0, 0.15, 0.0])
    observation = env._get_obs()
    before = law.value(observation)
    for _ in range(law.steps):
        observation = env.step(law.goal_action - law.K @ law.error(observation))[0]
    assert law.value(observation) < (1 - law.decrease) * before
    for _ in range(5 * law.steps):
        observation = env.step(law.goal_action - law.K @ law.error(observation))[0]
    assert law.value(observation) < 1e-3 * law.ball and abs(env.state).max() < 1e-2


def test_keeps_the_contract_of_gymnasium():
    check_env(CartPoleSwingUp(), skip_render_check=True)


def test_as_the_agent_sees_it():
    env = ScaledEnv(CARTPOLE)
    assert env.spec.period_s == 0.04 and env.spec.max_decisions == 20
    assert env.spec.observation_names[2] == 'cos(pole angle)'
    assert env.spec.observation_units[4] == 'rad/s' and env.spec.action_high == (10.0,)
    first = env.reset(3)
    np.testing.assert_array_equal(first, ScaledEnv(CARTPOLE).reset(3))
    ends = [env.step([0.0])[3] for _ in range(20)]
    assert ends == [False] * 19 + [True]
