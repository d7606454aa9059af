# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Baselines by hand on two layers, and beside torch-pruning's on three."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pruning_core.channels import trace
from pruning_core.config import SCORES
from pruning_core.errors import GroupError
from pruning_core.importance.baselines import BASELINES, NEED_DATA, Subject, score
from pruning_core.importance.tracker import GATHERED

UNITS = 3
X = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 0.8], [1.5, 1.5]])


def subject_of(net, loss=True, seed=0):
    return Subject(net.graph, net.components, np.random.default_rng(seed),
                   (lambda: (net(X) - 1).square().mean()) if loss else None)


def values_of(net):
    return {n: p.detach().numpy() for n, p in net.parameters.items()}


def test_names_are_those_that_can_be_configured():
    assert set(SCORES) == {*GATHERED, *BASELINES}


def test_weights_by_hand(net):
    w = values_of(net)
    units = np.array([net.of_unit(w, i) for i in range(UNITS)])
    subject = subject_of(net, loss=False)
    np.testing.assert_allclose(score('l1', subject)['latent'], np.abs(units).mean(1), rtol=1e-6)
    square = (units**2).mean(1)
    np.testing.assert_allclose(score('l2', subject)['latent'], np.sqrt(square), rtol=1e-6)
    lamp = [s / square[square >= s].sum() for s in square]
    np.testing.assert_allclose(score('lamp', subject)['latent'], lamp, rtol=1e-6)
    assert max(lamp) == 1


def test_taylor_by_hand(net):
    net.set_gradients({'a.weight': np.full((UNITS, 2), 7.0)})
    found = score('taylor', subject_of(net))['latent']
    assert (net.parameters['a.weight'].grad == 7).all()  # the training's own stay
    (net(X) - 1).square().mean().backward()
    (net.parameters['a.weight'].grad).sub_(7)
    product = {n: np.abs(w * net.parameters[n].grad.numpy()) for n, w in values_of(net).items()}
    np.testing.assert_allclose(found, [net.of_unit(product, i).mean() for i in range(UNITS)],
                               rtol=1e-5)


def test_activation_by_hand(net):
    hidden = torch.tanh(net.components['a'](X)).abs().mean(0).detach()
    np.testing.assert_allclose(score('activation', subject_of(net))['latent'], hidden, rtol=1e-6)
    assert not any(m._forward_pre_hooks for m in net.components.values())


def test_ablation_by_hand(net):
    subject = subject_of(net)
    before = {n: p.clone() for n, p in net.parameters.items()}
    found = score('ablation', subject)['latent']
    assert all(torch.equal(p, before[n]) for n, p in net.parameters.items())
    whole, expected = subject.loss().item(), []
    for i in range(UNITS):
        hidden = torch.tanh(net.components['a'](X))
        hidden[:, i] = 0
        expected.append((net.components['b'](hidden) - 1).square().mean().item() - whole)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_ablation_puts_weights_back_when_interrupted(net):
    before = {n: p.clone() for n, p in net.parameters.items()}
    calls = iter(range(3))

    def loss():
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return net(X).sum()

    with pytest.raises(KeyboardInterrupt):
        score('ablation', Subject(net.graph, net.components, np.random.default_rng(0), loss))
    assert all(torch.equal(p, before[n]) for n, p in net.parameters.items())


def test_random_follows_its_generator(net):
    one, same, other = (score('random', subject_of(net, seed=s))['latent'] for s in (0, 0, 1))
    assert one.shape == (UNITS,)
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()


@pytest.mark.parametrize('name', sorted(NEED_DATA))
def test_without_a_loss(net, name, four_parts):
    with pytest.raises(GroupError) as error:
        score(name, subject_of(net, loss=False))
    four_parts(error, f"'{name}'", 'no loss', 'random, l1, l2, lamp')


def test_unknown_baseline(net, four_parts):
    with pytest.raises(GroupError) as error:
        score('tailor', subject_of(net))
    four_parts(error, "did you mean 'taylor'?")


@pytest.mark.parametrize(('name', 'make'), [
    ('l1', lambda tp: tp.importance.GroupMagnitudeImportance(
        p=1, group_reduction='sum', normalizer=None, bias=True)),
    ('l2', lambda tp: tp.importance.GroupMagnitudeImportance(
        p=2, group_reduction='sum', normalizer=None, bias=True)),
    ('lamp', lambda tp: tp.importance.LAMPImportance(
        p=2, group_reduction='sum', normalizer='lamp', bias=True)),
    ('taylor', lambda tp: tp.importance.GroupTaylorImportance(
        group_reduction='sum', normalizer=None, bias=True)),
])
def test_equal_to_torch_pruning(name, make):
    """On a plain chain, which it handles: the same numbers, up to the count of scalars."""
    tp = pytest.importorskip('torch_pruning')
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(32, 4)
    components = {'net': model}
    graph = trace(components, lambda: [model(x)])
    ours = score(name, Subject(graph, components, np.random.default_rng(0),
                               lambda: model(x).square().mean()))
    model(x).square().mean().backward()
    dependencies = tp.DependencyGraph().build_dependency(model, example_inputs=(x,))
    for group, layer in zip(graph.free, (model[0], model[2]), strict=True):
        theirs = make(tp)(dependencies.get_pruning_group(
            layer, tp.prune_linear_out_channels, list(range(group.size))))
        scale = {'l1': group.params_per_unit, 'l2': group.params_per_unit, 'lamp': 1,
                 'taylor': group.params_per_unit}[name]
        mine = ours[group.name] ** (2 if name == 'l2' else 1) * scale
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-4)
