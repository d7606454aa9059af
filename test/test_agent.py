# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""TD-MPC's losses and updates against the definitions, step by step."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from pruning_core.agent import MODEL, frozen


@pytest.fixture
def batch(fill):
    return fill(episodes=4).sample(np.random.default_rng(0), 5, 2)


def tensors(batch):
    return [torch.from_numpy(x) for x in batch[:4]]


def cat(*parts):
    return torch.cat(parts, dim=-1)


def reference_losses(agent, batch, noise):
    """Consistency, reward, value and policy loss, one step of one window at a time."""
    net, slow, c = agent.components, agent.targets, agent.config
    observation, action, reward, terminated = tensors(batch)
    consistency = rewards = values = policy = 0.0
    windows = action.shape[1]
    for b in range(windows):
        z = net['encoder'](observation[0, b])
        for t in range(3):
            a = net['policy'](z)
            q = torch.minimum(net['q1'](cat(z, a)), net['q2'](cat(z, a)))
            policy = policy - c.rho ** t * q / windows
            if t == 2:
                break
            pair = cat(z, action[t, b])
            goal = net['encoder'](observation[t + 1, b])
            a = (net['policy'](goal) + c.policy_noise * noise[t, b]).clamp(-1, 1)
            bootstrap = torch.minimum(slow['q1'](cat(goal, a)), slow['q2'](cat(goal, a)))
            target = reward[t, b] + c.discount * (1 - terminated[t, b]) * bootstrap
            z = net['dynamics'](pair)
            weight = c.rho ** t / windows
            consistency += weight * ((z - slow['encoder'](observation[t + 1, b])) ** 2).mean()
            rewards += weight * (net['reward'](pair) - reward[t, b]) ** 2
            values += weight * sum((net[q](pair) - target) ** 2 for q in ('q1', 'q2'))
    return [float(x) for x in (consistency, rewards, values, policy)]


@pytest.mark.parametrize('terminal', [False, True])
def test_losses_by_hand(make_agent, batch, terminal):
    """Also where an episode ended for good: nothing is bootstrapped then."""
    if terminal:
        batch = batch._replace(terminated=np.ones_like(batch.terminated))
    # a step size of nothing: the policy loss sees the same Q nets
    agent = make_agent('agent.policy_every=1', 'agent.learning_rate=1e-30')
    with torch.no_grad():
        for target in agent.targets.parameters():
            target.add_(0.1)
    generator = torch.Generator()
    generator.set_state(agent.generator.get_state())
    noise = torch.randn(2, 5, 1, generator=generator)
    with torch.no_grad():
        expected = reference_losses(agent, batch, noise)
    np.testing.assert_allclose(agent.update(batch)[:4], expected, rtol=1e-4)


def gradients_of(agent, batch):
    """Gradients of each backward pass of an update."""
    seen = []
    agent.on_gradients = lambda: seen.append(
        {n: p.grad.clone() for n, p in agent.components.named_parameters() if p.grad is not None})
    losses = agent.update(batch)
    return seen, losses


def test_two_separate_passes(make_agent, batch):
    """The model's leaves the policy alone; the policy's, on detached latents, all others."""
    (model, policy), _ = gradients_of(make_agent('agent.policy_every=1'), batch)
    assert {n.split('.')[0] for n in model} == set(MODEL)
    assert {n.split('.')[0] for n in policy} == {'policy'}
    assert all(g.abs().sum() > 0 for n, g in {**model, **policy}.items() if 'weight' in n)


def test_loss_weights_and_clipping(make_agent, batch):
    """The norm is that before clipping; the weights multiply their losses' gradients."""
    parts = [gradients_of(make_agent(*(f'agent.{name}_weight={float(name == one)}'
                                       for name in ('consistency', 'reward', 'value'))), batch)
             for one in ('consistency', 'reward', 'value')]
    seen, losses = gradients_of(
        make_agent('agent.consistency_weight=2', 'agent.reward_weight=3', 'agent.value_weight=5',
                   'agent.clip_norm=1e-3'), batch)
    for name, gradient in seen[0].items():
        expected = sum(w * p[0][0][name] for w, p in zip((2, 3, 5), parts, strict=True))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    norm = torch.cat([g.flatten() for g in seen[0].values()]).norm()
    assert losses.gradient_norm == pytest.approx(float(norm), rel=1e-5)


def test_policy_and_targets_follow_every_second_update(make_agent, batch):
    agent = make_agent('agent.policy_every=2', 'agent.tau=0.25')
    policy = copy.deepcopy(agent.components['policy'].state_dict())
    slow = copy.deepcopy(agent.targets.state_dict())
    assert math.isnan(agent.update(batch).policy)
    for module, before in ((agent.components['policy'], policy), (agent.targets, slow)):
        assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert math.isfinite(agent.update(batch).policy)
    online = agent.components.state_dict()
    for name, value in agent.targets.state_dict().items():
        torch.testing.assert_close(value, 0.75 * slow[name] + 0.25 * online[name])
    assert not torch.equal(agent.components['policy'][0].weight, policy['0.weight'])


def test_learning_lowers_the_losses(make_agent, batch):
    agent = make_agent('agent.learning_rate=0.003')
    first = agent.update(batch)
    for _ in range(150):
        last = agent.update(batch)
    assert last.reward < 0.2 * first.reward
    assert last.consistency < 0.5 * first.consistency


def test_same_seed_same_agent(make_agent, batch):
    one, other = make_agent(seed=3), make_agent(seed=3)
    for agent in (one, other):
        for _ in range(4):
            agent.update(batch)
    assert all(torch.equal(p, q) for p, q in zip(
        one.components.parameters(), other.components.parameters(), strict=True))


def test_extra_losses_join_both_passes(make_agent, batch):
    """Each reaches what it is meant for."""
    plain = gradients_of(make_agent('agent.policy_every=1'), batch)[0]
    agent = make_agent('agent.policy_every=1')

    def extra():
        return (1000 * agent.components['encoder'](torch.ones(1, 3)).sum(),
                lambda: 1000 * agent.components['policy'](torch.ones(1, 6)).sum())

    agent.extra_loss = extra
    found = gradients_of(agent, batch)[0]
    for i, name in enumerate(('encoder.0.weight', 'policy.0.weight')):
        assert found[i][name].norm() > 10 * plain[i][name].norm()


def test_descending_on_other_losses(make_agent):
    """Both optimisers step, gradients are seen once and clipped, targets follow."""
    agent, seen = make_agent('agent.clip_norm=1.0'), []
    net = agent.components
    before = {name: net[name][0].weight.detach().clone() for name in ('encoder', 'policy', 'q1')}
    slow = agent.targets['encoder'][0].weight.clone()
    agent.on_gradients = lambda: seen.append(float(net['encoder'][0].weight.grad.norm()))
    agent.descend(1000 * net['encoder'](torch.ones(1, 3)).square().sum(),
                  net['policy'](torch.ones(1, 6)).square().sum())
    assert len(seen) == 1 and seen[0] > 1 and agent.updates == 1
    assert not torch.equal(net['encoder'][0].weight, before['encoder'])
    assert not torch.equal(net['policy'][0].weight, before['policy'])
    assert torch.equal(net['q1'][0].weight, before['q1'])  # neither loss reaches it
    assert not torch.equal(agent.targets['encoder'][0].weight, slow)
    assert all(p.grad is None for p in net.parameters())


def test_frozen_gives_back_what_it_took():
    learning, fixed = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(RuntimeError, match='inside'), frozen(learning, fixed):
        assert not any(p.requires_grad for p in learning.parameters())
        raise RuntimeError('inside')
    assert all(p.requires_grad for p in learning.parameters())
    assert not any(p.requires_grad for p in fixed.parameters())


def test_acting_without_a_plan(make_agent):
    agent = make_agent(actions=2)
    action = agent.policy(torch.rand(4, 3))
    assert action.shape == (4, 2) and not action.requires_grad and action.abs().max() <= 1
