# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The dynamic programme's plant is Gymnasium's; its interpolation is exact where it must be."""


import gymnasium
import numpy as np
import pytest

from pruning_core.checkpoint import load_run
from pruning_core.evaluation import evaluate


@pytest.fixture(scope='module')
def optimum(load_benchmark):
    return load_benchmark('pendulum_optimum')


def test_its_equations_are_those_of_the_environment(optimum):
    env = gymnasium.make('Pendulum-v1')
    rng = np.random.default_rng(0)
    for _ in range(50):
        angle, speed, torque = rng.uniform([-4, -8, -2], [4, 8, 2])
        env.reset(seed=0)
        env.unwrapped.state = np.array([angle, speed])
        _, reward, *_ = env.step(np.array([torque], np.float32))
        found = optimum.step(angle, speed, np.float32(torque))
        np.testing.assert_allclose(found, [*env.unwrapped.state, reward], rtol=1e-5, atol=1e-6)


def test_interpolation_is_exact_on_linear_functions(optimum):
    rng = np.random.default_rng(1)
    angle, speed = rng.uniform(-3, 3, 200), rng.uniform(-8, 8, 200)
    grid = np.meshgrid(np.linspace(-np.pi, np.pi, optimum.ANGLES),
                       np.linspace(-8, 8, optimum.SPEEDS), indexing='ij')
    index, weight = optimum.corners(angle, speed)
    table = (2 * grid[0] - 3 * grid[1] + 1).ravel()
    np.testing.assert_allclose((weight * table[index]).sum(0), 2 * angle - 3 * speed + 1,
                               atol=1e-4)
    np.testing.assert_allclose(weight.sum(0), 1, atol=1e-6)


def test_with_a_discount_every_step_has_the_same_value(optimum, monkeypatch):
    """That of an episode without end; hanging costs pi ** 2 for ever where nothing else is."""
    for name, size in (('ANGLES', 21), ('SPEEDS', 11), ('STEPS', 30)):
        monkeypatch.setattr(optimum, name, size)
    value = optimum.values(torques=3, discount=0.9)
    assert (value == value[0]).all()
    again = optimum.values(torques=3, discount=0.9)[0]
    top = (optimum.ANGLES // 2) * optimum.SPEEDS + optimum.SPEEDS // 2
    assert value[0][top] == again[top] == 0, 'upright and at rest'
    assert value[0].min() > -(np.pi ** 2 + 0.1 * 64 + 0.004) / (1 - 0.9)
    assert optimum.values(torques=3)[0].min() < optimum.values(torques=3)[-2].min() < 0


def test_policies_side_by_side_return_what_they_do_one_by_one(optimum, trained, monkeypatch):
    run = load_run(trained)
    with pytest.raises(SystemExit, match='12 decisions of 1 steps was given; allowed'):
        optimum.policy_returns(run, (7,))
    monkeypatch.setattr(optimum, 'STEPS', run.config.env.max_episode_steps)
    expected = evaluate(run.agent, run.config.env, (7, 8, 9), None).returns
    np.testing.assert_allclose(optimum.policy_returns(run, (7, 8, 9)), expected, rtol=1e-4)
