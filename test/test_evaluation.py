# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Returns on fixed seeds: the same for everyone, paired, with honest intervals."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from pruning_core import evaluation
from pruning_core.config import EnvConfig, PlannerConfig
from pruning_core.env import ScaledEnv
from pruning_core.errors import ConfigError
from pruning_core.evaluation import (
    Evaluation,
    budget_of,
    compare,
    evaluate,
    evaluate_random,
    evaluation_seeds,
)
from pruning_core.planner import SeededNoise

ENV = EnvConfig(max_episode_steps=10)


@pytest.fixture
def agent(make_agent):
    return make_agent()


@pytest.fixture
def planner(tiny):
    return tiny().planner


def test_seeds_are_fixed():
    assert evaluation_seeds(3) == (1000, 1001, 1002)


@pytest.mark.parametrize('planned', [True, False])
def test_returns_against_a_loop(agent, planner, planned):
    """One episode at a time: environment and noise have the episode's own seed."""
    seeds = evaluation_seeds(12)  # more than are planned together
    found = evaluate(agent, ENV, seeds, planner if planned else None)
    expected = []
    for seed in seeds:
        env = ScaledEnv(ENV)
        act = agent.planner(planner, SeededNoise([seed])).plan if planned else agent.policy
        observation, total, done = env.reset(seed), 0.0, False
        while not done:
            action = act(torch.from_numpy(observation)[None])[0].numpy()
            observation, reward, terminated, truncated = env.step(action)
            total, done = total + reward, terminated or truncated
        expected.append(total)
    np.testing.assert_allclose(found.returns, expected, rtol=1e-3)
    assert found.seeds == seeds
    assert found.planner == ({'horizon': 2, 'samples': 16, 'iterations': 2} if planned else None)
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-3)


@pytest.mark.parametrize('actions', [1, 2])
def test_chatter_is_the_mean_change_of_the_command_over_its_range(actions):
    """Episodes of 4 and 2 decisions, of which the first is no change; beyond a limit is at it."""
    commands = iter([[[0.0] * actions, [1.0] * actions], [[1.0] * actions, [-9.0] * actions],
                     [[0.0] * actions, [9.0] * actions], [[9.0] * actions, [0.0] * actions]])
    lengths = {7: 4, 8: 2}

    class Plant:
        def __init__(self, config):
            self.spec = ScaledEnv(ENV).spec

        def reset(self, seed):
            self.left = lengths[seed]
            return np.zeros(3, 'f4')

        def step(self, action):
            self.left -= 1
            return np.zeros(3, 'f4'), -1.0, False, self.left == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('pruning_core.evaluation.ScaledEnv', Plant)
        returns, chatter = evaluation._episodes(
            ENV, (7, 8), lambda _: np.array(next(commands)), lambda _: None)
    assert returns == [-4.0, -2.0]
    assert chatter == pytest.approx([(0.5 + 0.5 + 0.5) / 3, 1.0])


def test_chatter_is_told_of_plans_policies_and_chance(agent, planner):
    planned, policy = evaluate(agent, ENV, (1000,), planner), evaluate(agent, ENV, (1000,), None)
    chance = evaluate_random(ENV, (1000, 1001, 1002))
    assert 0 <= policy.chatter < planned.chatter < 1
    assert chance.chatter == pytest.approx(1 / 3, abs=0.1), 'of two uniform numbers'
    assert planned.to_json()['chatter'] == planned.chatter


def test_random_actions_against_a_loop():
    """Uniform over the whole range, each episode with its own seed."""
    found = evaluate_random(ENV, (1003, 1000))
    env, rng = ScaledEnv(ENV), np.random.default_rng(1000)
    env.reset(1000)
    total = sum(env.step(rng.uniform(-1, 1, 1))[1] for _ in range(10))
    assert found.returns[1] == pytest.approx(total) and found.planner is None
    with pytest.raises(ConfigError, match='zero episodes'):
        evaluate_random(ENV, ())


def test_same_seeds_same_returns(agent, planner):
    """Whichever seeds run beside it, and again."""
    one = evaluate(agent, ENV, (1000, 1001, 1002), planner)
    assert one == evaluate(agent, ENV, (1000, 1001, 1002), planner)
    other = evaluate(agent, ENV, (1002,), planner)
    assert other.returns[0] == pytest.approx(one.returns[2], rel=1e-3)


def test_returns_are_in_the_plants_units(agent):
    """No reward scale, and the rewards of repeated actions summed."""
    plain = evaluate(agent, ENV, (1000,), None)
    scaled = evaluate(agent, EnvConfig(max_episode_steps=10, reward_scale=7.0), (1000,), None)
    assert plain.returns == scaled.returns
    assert -16.3 * 10 <= plain.mean < 0


@pytest.mark.parametrize(('planner', 'phase'), [
    (None, 'evaluate policy'), (PlannerConfig(samples=8, elites=4, iterations=1), 'evaluate')],
    ids=['policy', 'planned'])
def test_progress_ends_whole_and_once(agent, planner, phase):
    seen = []
    evaluate(agent, ENV, evaluation_seeds(11), planner, lambda *a, **f: seen.append((a, f)))
    done = [a[1] for a, _ in seen]
    assert done == sorted(done) and {a[2] for a, _ in seen} == {1100}
    assert done.count(1100) == 1, 'a second end would open a second bar'
    assert seen[-1][0] == (phase, 1100, 1100) and 'mean' in seen[-1][1]


def test_interval_is_students():
    returns = (-3.0, -1.0, -2.0, -6.0)
    low, high = Evaluation((0, 1, 2, 3), returns, None).interval()
    expected = stats.t.interval(0.95, 3, np.mean(returns), np.std(returns, ddof=1) / 2)
    assert (low, high) == pytest.approx(expected)
    wider = Evaluation((0, 1, 2, 3), returns, None).interval(0.99)
    assert wider[0] < low < high < wider[1]


def test_one_episode_has_no_spread():
    assert Evaluation((0,), (-4.0,), None).interval() == (-4.0, -4.0)


def test_json_says_the_rest():
    values = Evaluation((0, 1), (-2.0, -4.0), {'samples': 8}).to_json()
    assert json.loads(json.dumps(values))['returns'] == [-2.0, -4.0]
    assert (values['mean'], values['worst'], values['std']) == (-3.0, -4.0, 1.0)
    assert values['low'] < -3 < values['high']


def test_pairing_removes_what_seeds_share():
    """Differences -1, -2 and -3 around returns that vary by hundreds."""
    dense = Evaluation((0, 1, 2), (-100.0, -500.0, -900.0), None)
    pruned = Evaluation((0, 1, 2), (-101.0, -502.0, -903.0), None)
    found = compare(pruned, dense)
    half = 1 / math.sqrt(3) * stats.t.ppf(0.975, 2)
    assert (found.difference, found.low, found.high) == pytest.approx((-2, -2 - half, -2 + half))
    assert found.loss == pytest.approx(2 / 500)
    assert compare(dense, pruned).loss < 0
    assert compare(dense, dense).loss == 0


@pytest.mark.parametrize('reference', [-200.0, 200.0])
def test_a_loss_is_positive_for_rewards_of_either_sign(reference):
    """Worse by 50 of 200 is a quarter, be returns costs or gains."""
    found = compare(*(Evaluation((0,), (r,), None) for r in (reference - 50, reference)))
    assert found.loss == pytest.approx(0.25)


def test_what_cannot_be_compared_or_evaluated(agent, four_parts):
    with pytest.raises(ConfigError) as error:
        compare(Evaluation((0,), (1.0,), None), Evaluation((1,), (1.0,), None))
    four_parts(error, 'their seeds differ')
    with pytest.raises(ConfigError) as error:
        evaluate(agent, ENV, (), None)
    four_parts(error, 'zero episodes')


def test_what_is_kept_of_a_planner_tells_which_returns_may_be_compared():
    """Of pushes, their margin too; nothing where there are none, as of before there were any."""
    plain = PlannerConfig(horizon=4, samples=64, iterations=2, push_margin=0.5)
    assert budget_of(plain) == {'horizon': 4, 'samples': 64, 'iterations': 2}
    pushing = dataclasses.replace(plain, pushes=2)
    assert budget_of(pushing) == {**budget_of(plain), 'pushes': 2, 'push_margin': 0.5}
    judging = dataclasses.replace(plain, policy_margin=0.1)
    assert budget_of(judging) == {**budget_of(plain), 'policy_margin': 0.1}
