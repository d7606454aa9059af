# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The plain loss beside the agent's own update: the same numbers, the same gradients."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pruning_core.config import ImportanceConfig
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.baselines import NEED_DATA, Subject, score
from pruning_core.importance.per_sample import per_sample_squares
from pruning_core.shrinking import scores_of
from pruning_core.task_loss import Windows, task_loss


@pytest.fixture
def agent(make_agent):
    """Without exploration noise in its losses; the policy is trained at every update."""
    return make_agent('agent.policy_noise=0.0', 'agent.policy_every=1', 'agent.clip_norm=1e9')


@pytest.fixture
def batch(fill):
    return fill().sample(np.random.default_rng(0), 8, 2)


def gradients_of_update(agent, batch):
    """Of both passes, by name; the policy's pass sees the model as the first pass left it."""
    found = {}

    def keep():
        found.update({n: p.grad.clone() for n, p in agent.components.named_parameters()
                      if p.grad is not None})

    agent.set_learning_rate(0.0)
    agent.on_gradients = keep
    return agent.update(batch), found


def test_equals_the_update(agent, batch):
    loss = task_loss(agent, Windows.of(batch))
    parameters = dict(agent.components.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())),
                         strict=True))
    losses, expected = gradients_of_update(agent, batch)
    c = agent.config
    assert loss.item() == pytest.approx(
        c.consistency_weight * losses.consistency + c.reward_weight * losses.reward
        + c.value_weight * losses.value + losses.policy, rel=1e-5)
    assert set(expected) == set(parameters)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-6)


def test_a_batch_is_the_mean_of_its_samples(agent, batch):
    windows = Windows.of(batch)
    single = [task_loss(agent, Windows(*(x[b] for x in windows))) for b in range(8)]
    torch.testing.assert_close(torch.stack(single).mean(), task_loss(agent, windows))


def test_exact_fisher_of_an_agent(agent, batch):
    """torch.func against a loop over samples; and never below the batch form, for any unit."""
    windows, components = Windows.of(batch), dict(agent.components.items())
    found = per_sample_squares(components, lambda w: task_loss(agent, w), windows, chunk=3)
    parameters = dict(agent.components.named_parameters())
    assert set(found) == set(parameters)
    expected = {n: torch.zeros_like(p) for n, p in parameters.items()}
    for b in range(8):
        loss = task_loss(agent, Windows(*(x[b] for x in windows)))
        for name, g in zip(parameters, torch.autograd.grad(loss, list(parameters.values())),
                           strict=True):
            expected[name] += g.square() / 8
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)
    trackers = {f: ImportanceTracker(agent.graph(), components, ImportanceConfig(
        fisher=f, warmup=1, gamma=0.0)) for f in ('batch', 'per_sample')}
    trackers['per_sample'].observe_samples(lambda w: task_loss(agent, w), windows)
    agent.on_gradients = lambda: [t.observe() for t in trackers.values()]
    agent.update(batch)
    for tracker in trackers.values():
        tracker.step()
    exact, cheap = (trackers[f].unit_scores('fisher') for f in ('per_sample', 'batch'))
    for name, values in exact.items():
        assert (values >= cheap[name] * (1 - 1e-4)).all(), name


@pytest.mark.parametrize('name', sorted(NEED_DATA))
def test_baselines_on_an_agent(agent, batch, name):
    """Every unit of every group has a score, and the agent is as it was."""
    graph, windows = agent.graph(), Windows.of(batch)
    before = {n: p.clone() for n, p in agent.components.state_dict().items()}
    found = score(name, Subject(graph, dict(agent.components.items()), np.random.default_rng(0),
                                lambda: task_loss(agent, windows)))
    for group in graph.free:
        assert np.isfinite(found[group.name]).all() and len(found[group.name]) == group.size
    assert np.ptp(np.concatenate(list(found.values()))) > 0
    assert all(torch.equal(p, before[n]) for n, p in agent.components.state_dict().items())
    assert all(p.grad is None for p in agent.components.parameters())


@pytest.mark.parametrize('part', ['reward', 'q1', 'q2', 'policy'])
def test_with_whole_components_held_the_loss_changes_as_its_gradient_says(agent, batch, part):
    """Along any direction of a head's weights. Not so without: the values that judge the policy
    would move too."""
    agent.components.double()
    agent.targets.double()
    windows = Windows(*(x.double() for x in Windows.of(batch)))
    held = copy.deepcopy(dict(agent.components.items()))
    parameters = list(agent.components[part].parameters())
    gradients = torch.autograd.grad(task_loss(agent, windows, held), parameters)
    for own, other in zip(gradients, torch.autograd.grad(task_loss(agent, windows), parameters),
                          strict=True):
        torch.testing.assert_close(own, other)  # where nothing is changed, nothing is different
    generator = torch.Generator().manual_seed(0)
    along = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, along, strict=True))

    def moved(step, held):
        with torch.no_grad():
            for p, d in zip(parameters, along, strict=True):
                p += step * d
            loss = float(task_loss(agent, windows, held))
            for p, d in zip(parameters, along, strict=True):
                p -= step * d
        return loss

    step = 1e-6
    assert (moved(step, held) - moved(-step, held)) / (2 * step) == pytest.approx(
        expected, rel=1e-4)
    if part in ('q1', 'q2'):
        assert (moved(step, None) - moved(-step, None)) / (2 * step) != pytest.approx(
            expected, rel=1e-2)


def test_ablation_of_a_value_counts_what_it_regresses_on_alone(agent, batch):
    """Not that the policy is paid by it: else removing what lowers a value looks like a gain."""
    run = SimpleNamespace(agent=agent, replay=SimpleNamespace(sample=lambda *_: batch))
    with torch.no_grad():
        found = scores_of(run, agent.graph(), 'ablation', 0)['q1.hidden2']
    c, net, windows = agent.config, agent.components, Windows.of(batch)

    @torch.no_grad()
    def value_loss(q1):
        following = net['encoder'](windows.observation[:, 1:])
        pair = torch.cat([following, net['policy'](following)], -1)
        value = torch.minimum(agent.targets['q1'](pair), agent.targets['q2'](pair)).squeeze(-1)
        target = windows.reward + c.discount * (1 - windows.terminated) * value
        latent, total = net['encoder'](windows.observation[:, 0]), 0.0
        for t in range(c.horizon):
            pair = torch.cat([latent, windows.action[:, t]], -1)
            error = (q1(pair).squeeze(-1) - target[:, t]).square().mean()
            total += float(c.rho ** t * c.value_weight * error)
            latent = net['dynamics'](pair)
        return total

    for unit in range(len(found)):
        masked = copy.deepcopy(net['q1'])
        with torch.no_grad():
            [m for m in masked.modules() if isinstance(m, torch.nn.Linear)][-1].weight[:, unit] = 0
        assert found[unit] == pytest.approx(value_loss(masked) - value_loss(net['q1']), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('part', ['encoder', 'dynamics'])
def test_a_broken_latent_counts_for_predictions_and_actions_but_not_as_pay(agent, batch, part):
    """The policy sees the latent as it is; whole values judge its action where it should be."""
    windows, c = Windows.of(batch), agent.config
    held = copy.deepcopy(dict(agent.components.items()))
    for p in agent.components[part].parameters():
        p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))

    def latents(net):
        out = [net['encoder'](windows.observation[:, 0])]
        for t in range(c.horizon):
            out.append(net['dynamics'](torch.cat([out[t], windows.action[:, t]], -1)))
        return out

    expected = 0.0
    for t, (true, seen) in enumerate(zip(latents(held), latents(agent.components), strict=True)):
        pair = torch.cat([true, held['policy'](seen)], -1)
        expected -= float(c.rho ** t * torch.minimum(held['q1'](pair), held['q2'](pair)).mean())
    weights = ('consistency_weight', 'reward_weight', 'value_weight')
    agent.config = dataclasses.replace(c, **dict.fromkeys(weights, 0.0))
    assert float(task_loss(agent, windows, held)) == pytest.approx(expected, rel=1e-5)
    assert float(task_loss(agent, windows)) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize('name', ['activation', 'taylor'])
def test_other_scores_see_every_call_of_the_agent(agent, batch, name):
    """Copies that judge have no hooks: with them the encoder would be seen on a third of rows."""
    run = SimpleNamespace(agent=agent, replay=SimpleNamespace(sample=lambda *_: batch))
    graph, windows = agent.graph(), Windows.of(batch)
    found = scores_of(run, graph, name, 0)
    expected = score(name, Subject(graph, dict(agent.components.items()),
                                   np.random.default_rng(0), lambda: task_loss(agent, windows)))
    for group in graph.free:
        np.testing.assert_allclose(found[group.name], expected[group.name], rtol=1e-6)
