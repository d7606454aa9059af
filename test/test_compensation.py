# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Weights behind a cut, refitted: exact where the units that stay can tell, never worse."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning_core.channels import trace
from pruning_core.compensation import compensate, compensate_agent
from pruning_core.plans import Plan
from pruning_core.shrinking import cut
from pruning_core.surgery import apply
from pruning_core.visits import visit


def mlp(*sizes, seed=0, normalised=False, bias=True):
    torch.manual_seed(seed)
    layers = []
    for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers.append(nn.Linear(a, b, bias=bias))
        if i < len(sizes) - 2:
            layers += [nn.LayerNorm(b), nn.Tanh()] if normalised and i == 0 else [nn.ReLU()]
    return nn.Sequential(*layers)


def removed(module, units, seed=1):
    """A cut copy of a component, the plan, and a batch of inputs."""
    x = torch.randn(200, module[0].in_features, generator=torch.Generator().manual_seed(seed))
    small = copy.deepcopy(module)
    graph = trace({'m': small}, lambda: [small(x[:2])])
    plan = Plan.removing(graph.groups, units)
    apply(plan, {'m': small})
    return small, plan, x


@pytest.mark.parametrize('bias', [True, False])
def test_exact_where_a_removed_unit_is_a_combination_of_others(bias):
    full = mlp(4, 6, 3, bias=bias)
    with torch.no_grad():  # unit 5 repeats unit 2, three times as strong
        full[0].weight[5] = 3 * full[0].weight[2]
        if bias:
            full[0].bias[5] = 3 * full[0].bias[2]
    small, plan, x = removed(full, {'m.hidden1': [5]})
    with torch.no_grad():
        before = float((full(x) - small(x)).abs().max())
    (refit,) = compensate('m', full, small, plan, x, x, ridge=1e-9)
    assert before > 0.1 and refit.before > 0.1
    assert torch.allclose(full(x), small(x), atol=1e-4) and refit.after < 1e-4
    assert refit.layer == 'm.2'


def test_a_constant_unit_goes_into_the_bias():
    full = mlp(4, 6, 3)
    with torch.no_grad():
        full[0].weight[1] = 0
        full[0].bias[1] = 2.0
    small, plan, x = removed(full, {'m.hidden1': [1]})
    compensate('m', full, small, plan, x, x)
    assert torch.allclose(full(x), small(x), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7), st.booleans(), st.sampled_from([1e-6, 1e-3, 1.0]))
def test_the_first_refitted_layer_is_never_worse_on_what_it_was_fitted_to(
        seed, gone, normalised, ridge):
    full = mlp(3, 8, 8, 2, seed=seed, normalised=normalised)
    units = np.random.default_rng(seed).choice(8, gone, replace=False)
    small, plan, x = removed(full, {'m.hidden1': units, 'm.hidden2': units}, seed=seed + 1)
    refits = compensate('m', full, small, plan, x, x, ridge=ridge)
    assert [r.layer for r in refits] == [f'm.{i}' for i in ((3, 5) if normalised else (2, 4))]
    assert refits[0].after <= refits[0].before + 1e-6
    assert all(np.isfinite(r.after) for r in refits)


def test_a_large_ridge_leaves_the_weights_of_the_cut_alone():
    full = mlp(4, 6, 3)
    small, plan, x = removed(full, {'m.hidden1': [0, 3]})
    weight = small[2].weight.clone()
    compensate('m', full, small, plan, x, x, ridge=1e9)
    assert torch.allclose(small[2].weight, weight, atol=1e-6)


def test_what_lost_nothing_is_left_alone():
    full = mlp(4, 6, 5, 3)
    small, plan, x = removed(full, {'m.hidden2': [1]})
    first = copy.deepcopy(small[:3].state_dict())
    (refit,) = compensate('m', full, small, plan, x, x)
    assert refit.layer == 'm.4'
    kept = [0, 2, 3, 4]
    assert torch.equal(first['0.weight'], full[0].weight)
    assert torch.equal(small[2].weight, full[2].weight[kept])


def test_an_agent_follows_the_dense_one_and_its_targets_follow_it(make_agent, fill):
    agent, replay = make_agent('network.hidden=32', 'network.encoder_hidden=32'), fill(episodes=40)
    dense = copy.deepcopy(dict(agent.components.items()))
    visits = visit(dense, replay, np.random.default_rng(0))
    groups = agent.graph().groups
    rng = np.random.default_rng(1)
    plan = Plan.removing(groups, {g.name: rng.choice(g.size, g.size // 4, replace=False)
                                  for g in groups if g.frozen_because is None})
    cut(agent, plan)

    def gap():
        z, z_cut = (net['encoder'](visits.observation) for net in (dense, agent.components))
        return float((dense['policy'](z) - agent.components['policy'](z_cut)).abs().mean())

    with torch.no_grad():
        before = gap()
        refits = compensate_agent(dense, agent, plan, visits)
        assert gap() < 0.7 * before
    assert {r.layer.split('.')[0] for r in refits} == set(agent.components)
    for name, target in agent.targets.items():
        for own, slow in zip(agent.components[name].parameters(), target.parameters(),
                             strict=True):
            assert torch.equal(own, slow)
    assert all(p.requires_grad for p in agent.components.parameters())
