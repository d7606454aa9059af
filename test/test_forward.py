# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The fast forward pass is the module's own, forwards and backwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pruning_core.forward import WIDE, forward

COMPONENTS = ('encoder', 'dynamics', 'reward', 'q1', 'q2', 'policy')


def gradients(output, x, component):
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    return torch.autograd.grad((weights * output).sum(), [x, *component.parameters()])


@pytest.mark.parametrize('activation', ['relu', 'elu'])
@pytest.mark.parametrize('name', COMPONENTS)
def test_output_and_gradients_are_those_of_the_module(make_agent, name, activation):
    component = make_agent(f'network.activation={activation}').components[name]
    x = torch.randn(2, 5, component[0].in_features, requires_grad=True)
    output, expected = forward(component, x), component(x)
    assert output.shape == expected.shape
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    for found, right in zip(gradients(output, x, component), gradients(expected, x, component),
                            strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


def test_inputs_and_unknown_layers_are_left_as_they_are():
    """Nothing in place on the input, nor on what a layer may still need for its gradient."""
    x = torch.linspace(-2, 2, 8).reshape(2, 4)
    before = x.clone()
    forward(nn.Sequential(nn.ReLU(), nn.Linear(4, 3, bias=False)), x)
    assert torch.equal(x, before)
    odd = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.ReLU(), nn.Softmax(-1), nn.ELU())
    x.requires_grad_(True)
    for found, right in zip(gradients(forward(odd, x), x, odd), gradients(odd(x), x, odd),
                            strict=True):
        torch.testing.assert_close(found, right)


def test_bfloat16_rounds_wide_layers_alone():
    torch.manual_seed(0)
    narrow = nn.Sequential(nn.Linear(WIDE - 1, WIDE), nn.ReLU(), nn.Linear(WIDE, 1))
    x = torch.randn(16, WIDE - 1)
    assert torch.equal(forward(narrow, x, torch.bfloat16), forward(narrow, x))
    wide = nn.Sequential(nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, 3))
    x = torch.randn(16, WIDE, requires_grad=True)
    exact, rounded = forward(wide, x), forward(wide, x, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert 1e-5 < (exact - rounded).abs().max() < 0.02
    for found, right in zip(gradients(rounded, x, wide), gradients(exact, x, wide), strict=True):
        assert found.dtype == torch.float32
        assert (found - right).norm() < 0.1 * right.norm()  # units at the edge of ReLU flip


def test_an_agent_learns_in_bfloat16(make_agent, fill):
    batch = fill(episodes=4).sample(np.random.default_rng(0), 5, 2)
    agent = make_agent('network.hidden=256', 'agent.precision=bfloat16')
    first = agent.update(batch)
    for _ in range(60):
        last = agent.update(batch)
    assert last.reward < 0.2 * first.reward
    assert all(p.dtype == torch.float32 for p in agent.components.parameters())
