# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The six components: sizes of the reference, initial weights, and what a plan costs."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from pruning_core.config import NetworkConfig
from pruning_core.errors import AgentError
from pruning_core.networks import (
    COMPONENTS,
    Widths,
    build,
    count_parameters,
    count_plan_macs,
    initialise,
)

REFERENCE = Widths.dense(NetworkConfig(), 3, 1)
# Every width is another number, so that none can stand in for another.
ODD = Widths(3, 2, 5, (7,), (11, 13), (17, 19), (23, 29), (31, 37), (41, 43), 'elu')


@pytest.fixture
def odd():
    components = build(ODD)
    initialise(components, torch.Generator().manual_seed(0))
    return components


def test_reference_sizes():
    """TD-MPC's own 1,489,512 parameters, counted layer by layer."""
    def mlp(*sizes):
        return sum(i * o + o for i, o in zip(sizes, sizes[1:], strict=False))

    by_hand = (mlp(3, 256, 50) + mlp(51, 512, 512, 50) + mlp(51, 512, 512, 1)
               + 2 * (mlp(51, 512, 512, 1) + 2 * 512) + mlp(50, 512, 512, 1))
    assert count_parameters(build(REFERENCE)) == by_hand == 1_489_512


@pytest.mark.parametrize(('name', 'fan_in', 'fan_out'), [
    ('encoder', 3, 5), ('dynamics', 7, 5), ('reward', 7, 1), ('q1', 7, 1), ('q2', 7, 1),
    ('policy', 5, 2)])
def test_shapes(odd, name, fan_in, fan_out):
    assert odd[name](torch.zeros(4, fan_in)).shape == (4, fan_out)
    assert list(odd) == list(COMPONENTS)


def test_layers_follow_the_reference(odd):
    """Q nets normalise and squash after their first layer; actions are squashed; ELU elsewhere."""
    def kinds(name):
        return [type(layer) for layer in odd[name]]

    assert kinds('encoder') == [nn.Linear, nn.ELU, nn.Linear]
    assert kinds('q1') == kinds('q2') == [
        nn.Linear, nn.LayerNorm, nn.Tanh, nn.Linear, nn.ELU, nn.Linear]
    assert kinds('policy') == [nn.Linear, nn.ELU, nn.Linear, nn.ELU, nn.Linear, nn.Tanh]
    plain = build(dataclasses.replace(ODD, activation='relu'))
    assert any(isinstance(m, nn.ReLU) for m in plain.modules())
    assert not any(isinstance(m, nn.ELU) for m in plain.modules())


def test_initial_weights(odd):
    """Orthogonal, no biases, and heads that say zero."""
    for name, module in odd.items():
        linears = [m for m in module if isinstance(m, nn.Linear)]
        for layer in linears:
            assert (layer.bias == 0).all()
            if layer is linears[-1] and name in ('reward', 'q1', 'q2'):
                assert (layer.weight == 0).all()
                continue
            w = layer.weight if layer.out_features <= layer.in_features else layer.weight.T
            torch.testing.assert_close(w @ w.T, torch.eye(len(w)), atol=1e-5, rtol=0)


def test_a_seed_gives_its_weights():
    def weights(seed):
        components = build(ODD)
        initialise(components, torch.Generator().manual_seed(seed))
        return nn.utils.parameters_to_vector(components.parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_widths_are_read_off_and_round_trip(odd):
    assert Widths.of(odd, 'elu') == ODD
    assert Widths.from_json(json.loads(json.dumps(ODD.to_json()))) == ODD


@pytest.mark.parametrize('change', [
    lambda v: v.pop('latent'), lambda v: v.update(extra=1), lambda v: v.update(q1='wide'),
    lambda v: v.update(q1=['a', 2]), lambda v: v.update(latent='six'),
    lambda v: v.update(policy=3),
], ids=['missing', 'unknown', 'text', 'text in list', 'text for number', 'number for list'])
def test_broken_widths_are_refused(change, four_parts):
    values = ODD.to_json()
    change(values)
    with pytest.raises(AgentError) as error:
        Widths.from_json(values)
    four_parts(error, 'networks.Widths')


def test_macs_of_a_plan():
    """Encoder once; H steps per plan; policy and two values at its end; policy plans once."""
    encoder = 3 * 7 + 7 * 5
    dynamics = 7 * 11 + 11 * 13 + 13 * 5
    reward = 7 * 17 + 17 * 19 + 19 * 1
    q1, q2 = 7 * 23 + 23 * 29 + 29, 7 * 31 + 31 * 37 + 37
    policy = 5 * 41 + 41 * 43 + 43 * 2
    plans = 4 * 10 + 3  # four iterations of ten samples, three proposals
    assert count_plan_macs(ODD, horizon=2, samples=10, proposed=3, iterations=4) == (
        encoder + plans * (2 * (dynamics + reward) + policy + q1 + q2) + 3 * 2 * policy)


def test_parameters_are_not_compute():
    """Dynamics and reward: 41 % of the reference's parameters, 78 % of a plan's work."""
    zero = dataclasses.replace(REFERENCE, dynamics=(0, 0), reward=(0, 0))

    def share(count):
        return 1 - count(zero) / count(REFERENCE)

    parameters = sum(p.numel() for name in ('dynamics', 'reward')
                     for p in build(REFERENCE)[name].parameters())
    assert parameters / 1_489_512 == pytest.approx(0.41, abs=0.01)
    assert share(lambda w: count_plan_macs(w, 5, 512, 25, 6)) == pytest.approx(0.78, abs=0.01)
