# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Agents in the loop: as evaluated elsewhere, on common noise, and whatever runs beside them."""

from __future__ import annotations

import numpy as np
import pytest

from pruning_core.closed_loop import AgentController, Conditions, Loop, simulate
from pruning_core.config import EnvConfig, PlannerConfig
from pruning_core.decrease import check
from pruning_core.env import ScaledEnv
from pruning_core.plants import PendulumPlant
from pruning_core.region import region_map
from pruning_core.robustness import SWEEPS, Point, delay_margin, delay_of, sweep, varied
from pruning_core.stability import pendulum

V = pendulum(0.05)
PLANNER = PlannerConfig(horizon=2, samples=16, policy_samples=2, elites=4, iterations=2)


def loop(agent, planner=PLANNER, **conditions):
    plant = PendulumPlant()
    return Loop(plant, AgentController(agent, plant.limits, planner), V,
                Conditions(**{'steps': 6, **conditions}))


def test_the_policy_alone_acts_as_in_the_environment(make_agent):
    agent, env = make_agent(), ScaledEnv(EnvConfig())
    observation = env.reset(3)
    expected = [V.value((observation / env._scale).tolist())]
    state = env.env.unwrapped.state.copy()
    from pruning_core.agent import as_tensor
    for _ in range(6):
        observation, *_ = env.step(agent.policy(as_tensor(observation[None])).numpy()[0])
        expected.append(V.value((observation / env._scale).tolist()))
    found = simulate(loop(agent, None), state[None], [0]).values[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_dense_minus_dense_is_exactly_zero(make_agent):
    """Common random numbers: two controllers that are the same never differ, noise and all."""
    found = [check(loop(make_agent(), noise=0.05, delay=1), np.inf, 80, 5) for _ in range(2)]
    np.testing.assert_array_equal(found[0].states, found[1].states)
    assert (found[0].after - found[1].after == 0).all()
    other = check(loop(make_agent(), noise=0.05, delay=1), np.inf, 80, 6)
    assert not np.array_equal(found[0].after, other.after)


def test_a_run_does_not_depend_on_what_runs_beside_it(make_agent):
    """Its noise follows its own seed, also after others have left the batch."""
    rng = np.random.default_rng(0)
    states = np.column_stack([rng.uniform(-3, 3, 40), rng.uniform(-8, 8, 40)])
    states[::3] *= 0.01  # some begin at the goal and leave early
    agent = make_agent()
    together = simulate(loop(agent, steps=12, hold=2), states, range(100, 140))
    assert 5 < (together.reached >= 0).sum() < 40
    for i in (1, 2, 38):
        alone = simulate(loop(agent, steps=12, hold=2), states[i:i + 1], [100 + i])
        np.testing.assert_allclose(alone.values[:, 0], together.values[:, i], rtol=1e-3)


def test_planning_noise_follows_the_seed(make_agent):
    states = np.tile([[2.0, 1.0]], (3, 1))
    found = simulate(loop(make_agent()), states, [1, 1, 2]).values
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-5)
    assert not np.allclose(found[:, 0], found[:, 2], rtol=1e-3)


def test_map_of_an_agent_covers_the_plane(make_agent):
    found = region_map(loop(make_agent(), None), (3, 4), 2, 0)
    assert found.success.shape == (3, 4) and len(found.states) == 24
    cells = found.states.reshape(3, 4, 2, 2)
    for i, low in enumerate(np.linspace(-np.pi, np.pi, 4)[:-1]):
        assert (cells[i, ..., 0] >= low).all() and (cells[i, ..., 0] <= low + 2 * np.pi / 3).all()
    for j, low in enumerate((-8, -4, 0, 4)):
        assert (cells[:, j, :, 1] >= low).all() and (cells[:, j, :, 1] <= low + 4).all()
    assert set(found.to_json()) >= {'edges', 'success', 'share', 'area', 'decrease'}


@pytest.mark.parametrize('what', SWEEPS)
def test_sweeps_move_one_thing(make_agent, what):
    """Each contains the nominal plant, on which all sweeps agree."""
    nominal = 0 if what in ('noise', 'delay') else 1.0
    points = sweep(what, AgentController(make_agent(), PendulumPlant().limits, None), V,
                   Conditions(8), 5, 0)
    assert [p.value for p in points] == list(SWEEPS[what])
    same = next(p for p in points if p.value == nominal)
    plain = check(loop(make_agent(), None, steps=8, hold=V.steps), np.inf, 5, 0)
    assert (same.states, same.reached) == (5, plain.reached.sum())


def test_what_is_moved():
    plant, conditions = varied('length', 1.2, Conditions(3))
    assert plant.parameters.length_m == 1.2 and conditions == Conditions(3)
    plant, conditions = varied('delay', 2, Conditions(3))
    assert plant.parameters.length_m == 1.0 and conditions == Conditions(3, delay=2)


@pytest.mark.parametrize(('reached', 'margin'), [
    ((100, 96, 50), 1), ((100, 95, 95), 2), ((94, 100, 100), -1), ((100, 90, 100), 0)])
def test_delay_margin_is_the_last_before_the_first_failure(reached, margin):
    points = [Point('delay', d, 100, r, 0.0) for d, r in enumerate(reached)]
    assert delay_margin(points[::-1]) == margin


@pytest.mark.parametrize(('latency', 'delay'), [(0.008, 0), (0.049, 0), (0.051, 1), (0.111, 2)])
def test_planning_time_is_whole_periods_of_delay(latency, delay):
    assert delay_of(latency, 0.05) == delay
