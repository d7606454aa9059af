# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The planner against slow loops in numpy, and against a plant whose best plan is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pruning_core.config import PlannerConfig
from pruning_core.planner import (
    SeededNoise,
    Start,
    TorchPlanner,
    chosen,
    plan_start,
    plan_step,
    plan_values,
)

DISCOUNT = 0.9
CONFIG = PlannerConfig(horizon=3, samples=20, policy_samples=4, elites=5, iterations=2,
                       temperature=0.7, momentum=0.2, min_std=0.1, max_std=1.5)


@pytest.fixture
def net(make_agent):
    return make_agent(actions=2).components


def call(module, x):
    """One row through a module, in numpy."""
    with torch.no_grad():
        return module(torch.from_numpy(np.asarray(x, 'f4'))[None]).numpy()[0]


def value_of(net, latent, plan):
    """Sum of discounted rewards, and the smaller Q of the policy's action at the end."""
    total = 0.0
    for t, action in enumerate(plan):
        pair = np.concatenate([latent, action])
        total += DISCOUNT ** t * call(net['reward'], pair)[0]
        latent = call(net['dynamics'], pair)
    pair = np.concatenate([latent, call(net['policy'], latent)])
    return total + DISCOUNT ** len(plan) * min(call(net['q1'], pair)[0], call(net['q2'], pair)[0])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_values_against_a_loop(net):
    latent, plans = draw(7, 6), draw(4, 7, 2, seed=1).clamp(-1, 1)
    found = plan_values(net, latent, plans, DISCOUNT)
    expected = [value_of(net, latent[n].numpy(), plans[:, n].numpy()) for n in range(7)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_start_against_a_loop(net):
    """The policy's rollouts with noise added to its actions, clipped, and valued."""
    observation, noise = draw(2, 3), draw(3, 2, 4, 2, seed=1)
    start = plan_start(net, observation, noise, DISCOUNT)
    for e in range(2):
        first = call(net['encoder'], observation[e])
        np.testing.assert_allclose(start.latent[e], first, rtol=1e-5)
        for p in range(4):
            latent, plan = first, []
            for t in range(3):
                plan.append(np.clip(call(net['policy'], latent) + noise[t, e, p].numpy(), -1, 1))
                latent = call(net['dynamics'], np.concatenate([latent, plan[-1]]))
            np.testing.assert_allclose(start.policy_actions[:, e, p], plan, atol=1e-5)
            assert float(start.policy_values[e, p]) == pytest.approx(
                value_of(net, first, plan), rel=1e-4)


@torch.no_grad()
def test_step_against_a_loop(net):
    """Sample, value, keep the elites, weigh them by softmax, refit with momentum and limits."""
    c = CONFIG
    start = plan_start(net, draw(2, 3), 0.05 * draw(3, 2, 4, 2, seed=1), DISCOUNT)
    mean, std = 0.5 * draw(3, 2, 2, seed=2), draw(3, 2, 2, seed=3).abs()
    noise = draw(3, 2, 20, 2, seed=4)
    found = plan_step(net, start, mean, std, noise, c, DISCOUNT)
    for e in range(2):
        plans = [np.clip(mean[:, e].numpy() + std[:, e].numpy() * noise[:, e, n].numpy(), -1, 1)
                 for n in range(20)]
        plans += [start.policy_actions[:, e, p].numpy() for p in range(4)]
        values = np.array([value_of(net, start.latent[e].numpy(), plan) for plan in plans])
        best = np.argsort(-values)[:c.elites]
        weights = np.exp(c.temperature * (values[best] - values[best[0]]))
        weights /= weights.sum()
        for t in range(3):
            for a in range(2):
                actions = np.array([plans[i][t, a] for i in best])
                centre = (weights * actions).sum()
                spread = np.sqrt((weights * (actions - centre) ** 2).sum())
                assert float(found.mean[t, e, a]) == pytest.approx(
                    c.momentum * float(mean[t, e, a]) + (1 - c.momentum) * centre, abs=1e-5)
                assert float(found.std[t, e, a]) == pytest.approx(
                    min(max(spread, c.min_std), c.max_std), abs=1e-5)
        np.testing.assert_allclose(found.elite_values[e], values[best], rtol=1e-4)
        np.testing.assert_allclose(found.elite_actions[:, e].numpy(),
                                   np.stack([plans[i] for i in best], axis=1), atol=1e-6)


@torch.no_grad()
def test_a_plan_of_the_policy_can_win(net):
    """Policy plans compete with their own values, not with sampled ones."""
    start = plan_start(net, draw(1, 3), torch.zeros(3, 1, 4, 2), DISCOUNT)
    rich = Start(start.latent, start.policy_actions, start.policy_values + 1e6)
    c = dataclasses.replace(CONFIG, elites=4, momentum=0.0)
    found = plan_step(net, rich, torch.zeros(3, 1, 2), torch.ones(3, 1, 2), draw(3, 1, 20, 2), c,
                      DISCOUNT)
    torch.testing.assert_close(found.mean, start.policy_actions[:, :, 0])


class Fixed(nn.Module):
    """A component that is a formula of its input."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula
        self.shape = nn.Linear(1, 1)  # the planner reads the number of actions off the policy

    def forward(self, x):
        return self.formula(x)


@pytest.fixture
def line():
    """z' = z + a / 2, reward -(z' - 1)^2: from 0 the best plan is 1, 1, then 0."""
    return nn.ModuleDict({
        'encoder': Fixed(lambda o: o), 'dynamics': Fixed(lambda p: p[..., :1] + p[..., 1:] / 2),
        'reward': Fixed(lambda p: -(p[..., :1] + p[..., 1:] / 2 - 1) ** 2),
        'q1': Fixed(lambda p: 0 * p[..., :1]), 'q2': Fixed(lambda p: 0 * p[..., :1]),
        'policy': Fixed(lambda z: 0 * z)})


def test_a_plant_whose_best_plan_is_known(line):
    config = PlannerConfig(horizon=4, samples=400, elites=40, policy_samples=5, iterations=8,
                           temperature=10.0, min_std=0.01)
    planner = TorchPlanner(line, config, DISCOUNT, 0.0, SeededNoise([0, 1]))
    action = planner.plan(torch.tensor([[0.0], [1.5]]))
    np.testing.assert_allclose(action, [[1.0], [-1.0]], atol=0.05)
    np.testing.assert_allclose(planner._mean[:, 0, 0], [1, 1, 0, 0], atol=0.1)


def test_the_last_plan_is_the_next_start(line):
    """Shifted by one decision, with nothing known of the new last one; reset forgets it."""
    config = PlannerConfig(horizon=3, samples=64, elites=8, policy_samples=2, iterations=1,
                           momentum=0.5)
    planner = TorchPlanner(line, config, DISCOUNT, 0.0, SeededNoise([0]))
    planner.plan(torch.zeros(1, 1))
    kept = planner._mean
    noise = SeededNoise([0])
    noise(3, 2, 1), noise(3, 64, 1), noise(3, 2, 1)
    start = plan_start(line, torch.zeros(1, 1), torch.zeros(3, 1, 2, 1), DISCOUNT)
    shifted = torch.cat([kept[1:], torch.zeros(1, 1, 1)])
    expected = plan_step(line, start, shifted, torch.full((3, 1, 1), 2.0), noise(3, 64, 1), config,
                         DISCOUNT)
    torch.testing.assert_close(planner.plan(torch.zeros(1, 1)), expected.mean[0])
    planner.reset()
    planner.noise = SeededNoise([0])
    planner.plan(torch.zeros(1, 1))
    assert torch.equal(planner._mean, kept)


def test_a_push_is_found_without_a_single_useful_sample(line):
    """From 0 the best plan, 1, 1, then the policy's 0, is a push of two decisions."""
    config = PlannerConfig(horizon=4, samples=1, elites=1, policy_samples=1, iterations=1,
                           pushes=2)
    nothing = lambda h, n, a: torch.zeros(h, 1, n, a)  # noqa: E731
    planner = TorchPlanner(line, config, DISCOUNT, 0.0, nothing)
    assert planner.plan(torch.zeros(1, 1)).tolist() == [[1.0]]
    assert planner._mean.flatten().tolist() == [1, 1, 0, 0]
    without = TorchPlanner(line, dataclasses.replace(config, pushes=0), DISCOUNT, 0.0, nothing)
    assert without.plan(torch.zeros(1, 1)).tolist() == [[0.0]]


@pytest.mark.parametrize(('refined', 'margin', 'expected'), [
    ([0.9, 0.0], 0.0, [0.9, 0.0]),  # it ends where it should, the push 0.05 beyond
    ([0.4, 0.0], 0.0, [1.0, 0.0]),
    ([0.4, 0.0], 0.2, [0.4, 0.0]),  # the push is worth 0.114 more
    ([0.4, 0.0], 0.1, [1.0, 0.0]),
    ([9.0, 0.0], 0.0, [1.0, 0.0]),  # what it comes to
])
def test_a_push_acts_where_it_is_worth_more_by_the_margin(line, refined, margin, expected):
    """Whatever the policy's own plan is worth, which is best here."""
    plans = torch.tensor([[0.9, 0.0], [1.0, 0.0], [-1.0, 0.0]]).T[:, None, :, None]
    latent = torch.full((1, 1), 0.55)
    values = plan_values(line, latent[:, None].expand(-1, 3, -1), plans, DISCOUNT)
    config = PlannerConfig(horizon=2, policy_samples=1, pushes=1, push_margin=margin)
    found = chosen(line, Start(latent, plans, values), torch.tensor(refined)[:, None, None],
                   config, DISCOUNT)
    assert found.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(('refined', 'margin', 'expected'), [
    ([0.4, 0.0], 0.1, [0.4, 0.0]),  # the policy's is worth 0.114 less
    ([0.4, 0.0], 0.12, [0.2, 0.0]),
    ([0.2, 0.0], 0.001, [0.2, 0.0]),
    ([0.0, 0.0], 0.001, [0.2, 0.0]),
    ([float('nan'), 0.0], 0.001, [0.2, 0.0]),
])
def test_the_policy_acts_unless_the_refined_plan_is_worth_more_by_the_margin(
        line, refined, margin, expected):
    plans = torch.tensor([[0.2, 0.0], [0.45, 0.0]]).T[:, None, :, None]  # its own, and with noise
    latent = torch.full((1, 1), 0.55)
    values = plan_values(line, latent[:, None].expand(-1, 2, -1), plans, DISCOUNT)
    config = PlannerConfig(horizon=2, policy_samples=2, policy_margin=margin)
    found = chosen(line, Start(latent, plans, values), torch.tensor(refined)[:, None, None],
                   config, DISCOUNT)
    assert found.flatten().tolist() == pytest.approx(expected)


def test_a_push_is_held_against_what_would_act_else(line):
    """The refined plan is worth little more than the policy's: so the policy acts, or the push."""
    plans = torch.tensor([[0.2, 0.0], [1.0, 0.0], [-1.0, 0.0]]).T[:, None, :, None]
    latent = torch.full((1, 1), 0.55)
    values = plan_values(line, latent[:, None].expand(-1, 3, -1), plans, DISCOUNT)
    acts = [chosen(line, Start(latent, plans, values), torch.tensor([0.25, 0.0])[:, None, None],
                   PlannerConfig(horizon=2, policy_samples=1, policy_margin=0.1, pushes=1,
                                 push_margin=margin), DISCOUNT).flatten().tolist()
            for margin in (0.0, 9.0)]
    assert acts == [[1.0, 0.0], pytest.approx([0.2, 0.0])]


def test_each_environment_has_its_own_choice(line):
    """One refined plan is worth enough more, at the second the policy stays, then a push acts."""
    starts, refined = torch.tensor([[0.55], [0.95], [-2.0]]), [0.9, 0.05, 0.1]
    proposed = torch.tensor([[0.2, 0.0], [1.0, 0.0], [-1.0, 0.0]])  # the policy's own and pushes
    plans = proposed.T[:, None, :, None].expand(-1, 3, -1, -1)
    values = plan_values(line, starts[:, None].expand(-1, 3, -1), plans, DISCOUNT)
    mean = torch.tensor([refined, [0.0] * 3])[:, :, None]
    config = PlannerConfig(horizon=2, policy_samples=1, policy_margin=0.1, pushes=1,
                           push_margin=0.3)
    found = chosen(line, Start(starts, plans, values), mean, config, DISCOUNT)
    assert found[0, :, 0].tolist() == pytest.approx([0.9, 0.2, 1.0])


def test_plan_zero_is_the_policy_itself(line):
    """At the goal the policy's 0 is best; noise drives every other plan away from it."""
    shapes = []

    def noise(horizon, plans, actions):
        shapes.append((horizon, plans, actions))
        return torch.full((horizon, 1, plans, actions), -9.0)

    config = PlannerConfig(horizon=3, samples=6, policy_samples=4, elites=1, iterations=2,
                           momentum=0.0)
    planner = TorchPlanner(line, config, DISCOUNT, 5.0, noise)
    assert planner.plan(torch.ones(1, 1)).tolist() == [[0.0]]
    assert shapes == [(3, 4, 1), (3, 6, 1), (3, 6, 1)]


def test_environments_do_not_disturb_each_other(net):
    """Each has its own noise: alone or beside others, the same plan."""
    observation = draw(3, 3)
    together = TorchPlanner(net, CONFIG, DISCOUNT, 0.1, SeededNoise([5, 6, 7]))
    alone = [TorchPlanner(net, CONFIG, DISCOUNT, 0.1, SeededNoise([s])) for s in (5, 6, 7)]
    for _ in range(2):
        found = together.plan(observation)
        single = torch.cat([p.plan(observation[i:i + 1]) for i, p in enumerate(alone)])
        torch.testing.assert_close(found, single, atol=1e-4, rtol=0)


def test_same_seed_same_plan(net):
    def plan(seed):
        return TorchPlanner(net, CONFIG, DISCOUNT, 0.1, SeededNoise([seed])).plan(torch.ones(1, 3))

    assert torch.equal(plan(1), plan(1))
    assert not torch.equal(plan(1), plan(2))
    assert plan(1).abs().max() <= 1


def test_noise_is_standard_normal():
    noise = SeededNoise([0, 1])(20, 500, 2)
    assert noise.shape == (20, 2, 500, 2)
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    assert not torch.equal(noise[:, 0], noise[:, 1])
