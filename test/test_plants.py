# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The batched pendulum is Gymnasium's, bit for bit; other environments are stepped as they are."""

from __future__ import annotations

import sys
import types

import gymnasium
import numpy as np
import pytest

from pruning_core.config import EnvConfig
from pruning_core.env import make_raw
from pruning_core.errors import EnvError
from pruning_core.plants import GymPlant, Pendulum, PendulumPlant, make_plant


@pytest.mark.parametrize(('mass', 'length', 'torque'), [(1, 1, 2), (1.3, 0.7, 1.5), (0.5, 2, 9)])
def test_pendulum_is_gymnasiums_step_by_step(mass, length, torque):
    """Commands beyond the limits, speeds at theirs, angles over many turns: equal, not close."""
    env = make_raw('Pendulum-v1').unwrapped
    env.m, env.l, env.max_torque = mass, length, torque
    plant = PendulumPlant(Pendulum(mass, length, torque))
    rng = np.random.default_rng(0)
    states = np.column_stack([rng.uniform(-9, 9, 20), rng.uniform(-8, 8, 20)])
    for _ in range(40):
        commands = rng.uniform(-4, 4, (20, 1))
        expected, observed = [], []
        for state, command in zip(states, commands, strict=True):
            env.state = state.copy()
            observed.append(env.step(command.astype(np.float32))[0])
            expected.append(env.state)
        states = plant.step(states, commands)
        np.testing.assert_array_equal(states, np.array(expected))
        np.testing.assert_array_equal(plant.observe(states), np.array(observed, float))


def test_action_repeat_is_that_many_steps():
    once, twice = PendulumPlant(), PendulumPlant(action_repeat=2)
    states, command = np.array([[1.0, -2.0]]), np.array([[1.5]])
    np.testing.assert_array_equal(twice.step(states, command),
                                  once.step(once.step(states, command), command))


def test_limits_are_those_the_agent_was_trained_with():
    """A weaker motor does not change what the agent's 1 means: it saturates."""
    weak = PendulumPlant(Pendulum(torque_nm=0.5))
    assert weak.limits.action_high == 2
    still = np.zeros((1, 2))
    np.testing.assert_array_equal(weak.step(still, np.array([[2.0]])),
                                  weak.step(still, np.array([[0.5]])))


def test_a_gymnasium_environment_from_chosen_states(cart):
    plant = make_plant(EnvConfig(id=cart))
    assert isinstance(plant, GymPlant)
    states = np.array([[0.0, 1.0], [0.7, -0.2]])
    np.testing.assert_allclose(plant.observe(states), [[1, 0], [-0.2, 1.4]], rtol=1e-6)
    np.testing.assert_allclose(plant.step(states, np.array([[1.0], [5.0]])),
                               [[0.1, 1.1], [0.68, -0.1]], rtol=1e-6)
    errors = np.array([[0.4, -0.3], [0.0, 0.0]])
    back = plant.goal.errors(plant.observe(plant.states_at(errors)))
    np.testing.assert_allclose(back, errors, atol=1e-3)


@pytest.mark.parametrize('bad', [{'mass_kg': 0.0}, {'length_m': -1.0},
                                 {'torque_nm': float('nan')}])
def test_pendulum_that_cannot_be(bad, four_parts):
    with pytest.raises(EnvError) as error:
        Pendulum(**bad)
    four_parts(error, next(iter(bad)))


def test_an_observation_that_nothing_makes_of_the_state(cart, four_parts, monkeypatch):
    plant = gymnasium.make(cart).unwrapped.__class__

    def observed(self, *, whole):
        return np.array(self.state if whole else [self.state[1], 2 * self.state[0]], np.float32)

    class Blind(plant):  # reset and step observe, but chosen states cannot be
        _get_obs, whole = None, False

        def reset(self, **options):
            self.state = np.zeros(2)  # which looks like its observation
            return observed(self, whole=self.whole), {}

        def step(self, action):
            x, v = self.state
            self.state = np.array([x + 0.1 * v, v + 0.1 * action[0]])
            return observed(self, whole=self.whole), 0.0, False, False, {}

    class Whole(Blind):  # of this one they can: it observes its state
        whole = True
        stability_goal = {**plant.stability_goal, 'terms': ['0-0.5', '1']}

    monkeypatch.setitem(sys.modules, 'blind', types.SimpleNamespace(Blind=Blind, Whole=Whole))
    with pytest.raises(EnvError) as error:
        make_plant(EnvConfig(id='blind:Blind'))
    four_parts(error, '_get_obs()')
    states = np.array([[0.0, 1.0], [0.7, -0.2]])
    np.testing.assert_array_equal(make_plant(EnvConfig(id='blind:Whole')).observe(states), states)


def test_environment_without_a_goal(four_parts):
    with pytest.raises(EnvError) as error:
        make_plant(EnvConfig(id='MountainCarContinuous-v0'))
    four_parts(error, 'stability_goal')
