# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Bounds of networks: exact where they are, and never broken by a sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning_core.errors import AgentError
from pruning_core.policy_bounds import (
    Box,
    compare_lipschitz,
    interval_bounds,
    lipschitz_bound,
    pendulum_box,
)


def network(seed, width=8, last=nn.Tanh):
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ELU(),
              nn.Linear(width, 2), last()]
    for layer in layers:
        for p in layer.parameters():
            p.data = torch.randn(p.shape, generator=generator)
    return nn.Sequential(*layers)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def test_by_hand():
    """y = relu(2 a - b + 1) over a in [0, 1], b in [-1, 3]; the norm of (2, -1)."""
    net = [nn.Sequential(linear([[2.0, -1.0]], [1.0]), nn.ReLU())]
    low, high = interval_bounds(net, Box(np.array([0.0, -1.0]), np.array([1.0, 3.0])))
    assert (low.item(), high.item()) == (0.0, 4.0)
    assert lipschitz_bound(net) == pytest.approx(np.sqrt(5))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 2.0))
def test_no_sample_leaves_the_interval(seed, half):
    net, rng = network(seed), np.random.default_rng(seed)
    middle = rng.normal(size=3)
    box = Box(middle - half, middle + half)
    low, high = interval_bounds([net], box)
    x = rng.uniform(box.low, box.high, (500, 3))
    with torch.no_grad():
        y = net.double()(torch.from_numpy(x)).numpy()
    assert (low - 1e-9 <= y).all() and (y <= high + 1e-9).all()


@pytest.mark.parametrize('seed', range(5))
def test_no_pair_is_steeper_than_the_norm_product(seed):
    box = Box(-np.ones(3), np.ones(3))
    proven, sampled = compare_lipschitz([network(seed)], box, 2000, np.random.default_rng(0))
    assert 0 < sampled <= proven


def test_a_linear_network_has_the_bound_that_samples_find():
    proven, sampled = compare_lipschitz([nn.Sequential(linear([[3.0, 0.0], [0.0, 1.0]],
                                                              [0.0, 0.0]))],
                                        Box(-np.ones(2), np.ones(2)), 2000,
                                        np.random.default_rng(0))
    assert proven == pytest.approx(3.0) and sampled == pytest.approx(3.0, rel=1e-3)


def test_a_box_around_the_upright_pendulum_holds_its_states():
    box = pendulum_box(0.3, 2.0)
    rng = np.random.default_rng(0)
    angle, speed = rng.uniform(-0.3, 0.3, 500), rng.uniform(-2, 2, 500)
    seen = np.column_stack([np.cos(angle), np.sin(angle), speed / 8])
    assert (box.low <= seen).all() and (seen <= box.high).all()
    np.testing.assert_allclose(box.high, [1, np.sin(0.3), 0.25])


@pytest.mark.parametrize('layer', [nn.LayerNorm(3), nn.ELU(alpha=2.0), nn.Softmax(0)])
def test_layers_without_a_bound(layer, four_parts):
    with pytest.raises(AgentError) as error:
        lipschitz_bound([nn.Sequential(nn.Linear(3, 3), layer)])
    four_parts(error, type(layer).__name__)


def test_agents_policy_has_both(make_agent):
    agent = make_agent()
    networks = [agent.components['encoder'], agent.components['policy']]
    low, high = interval_bounds(networks, pendulum_box(0.1, 0.5))
    assert -1 <= low.item() < high.item() <= 1
