# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Random agents of several components: what is free can be cut, and computes the masked model."""

from __future__ import annotations

import copy
import json

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning_core.channels import trace
from pruning_core.groups import Costs
from pruning_core.plans import Plan
from pruning_core.surgery import apply

OBSERVATIONS, ACTIONS = 3, 2


class Normaliser(nn.Module):
    """A running normaliser whose statistics are buffers."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('scale', torch.ones(width))

    def forward(self, x):
        return (x - self.mean) * self.scale


class Sparse(nn.Module):
    """LayerNorm or RMSNorm over the channels where `keep` is 1, in plain sums."""

    def __init__(self, norm, gone):
        super().__init__()
        self.norm = norm
        self.keep = torch.ones(len(norm.weight), dtype=torch.double)
        self.keep[list(gone)] = 0

    def forward(self, x):
        n = self.keep.sum()
        if isinstance(self.norm, nn.RMSNorm):
            eps = torch.finfo(x.dtype).eps
            return x / ((x ** 2 * self.keep).sum(-1, keepdim=True) / n + eps).sqrt() \
                * self.norm.weight
        mean = (x * self.keep).sum(-1, keepdim=True) / n
        var = ((x - mean) ** 2 * self.keep).sum(-1, keepdim=True) / n
        return (x - mean) / (var + self.norm.eps).sqrt() * self.norm.weight + self.norm.bias


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Simplices(nn.Module):
    def forward(self, x):
        return x.view(*x.shape[:-1], -1, 2).softmax(-1).view(x.shape)


def block(fan_in, fan_out, kind):
    act = {'elu': nn.ELU(), 'tanh': nn.Tanh(), 'mish': nn.Mish()}.get(kind, nn.SiLU())
    between = {'layer': nn.LayerNorm, 'rms': nn.RMSNorm, 'batch': nn.BatchNorm1d,
               'running': Normaliser}.get(kind)
    layers = [nn.Linear(fan_in, fan_out), *([between(fan_out)] if between else []), act]
    if kind == 'residual':
        layers.append(Residual(nn.Sequential(nn.Linear(fan_out, 4), nn.Tanh(),
                                             nn.Linear(4, fan_out))))
    return layers


KINDS = ('elu', 'tanh', 'mish', 'layer', 'rms', 'batch', 'running', 'residual')
hidden = st.lists(st.tuples(st.integers(2, 7), st.sampled_from(KINDS)), max_size=3)


def mlp(fan_in, hidden, fan_out):
    layers = []
    for width, kind in hidden:
        layers += block(fan_in, width, kind)
        fan_in = width
    return nn.Sequential(*layers, nn.Linear(fan_in, fan_out))


@st.composite
def models(draw):
    """Components and a rollout that uses them."""
    z = 2 * draw(st.integers(1, 4))
    simplices, action_first, residual = (draw(st.booleans()) for _ in range(3))
    steps, heads = draw(st.integers(2, 3)), draw(st.integers(1, 3))
    net = {'encoder': mlp(OBSERVATIONS, draw(hidden), z),
           'policy': mlp(z, draw(hidden), ACTIONS), 'dynamics': mlp(z + ACTIONS, draw(hidden), z)}
    for i in range(heads):
        net[f'q{i}'] = mlp(z + ACTIONS, draw(hidden), 1)
    tie = draw(st.sampled_from(['none', 'weight', 'module']))
    if tie != 'none' and heads > 1:
        first, second = net['q0'][0], net['q1'][0]
        if tie == 'module':
            net['q1'] = net['q0']
        elif first.weight.shape == second.weight.shape:
            second.weight = first.weight
    if draw(st.booleans()):
        net['encoder'].append(Normaliser(z))
    order = draw(st.permutations(list(net)))
    net = {name: net[name] for name in order}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for module in net.values():
        module.double()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.double)
                tensor.data.copy_(values.abs() + 0.5 if 'var' in name else 0.6 * values)
    x = torch.randn(5, OBSERVATIONS, generator=generator, dtype=torch.double)

    def run(n):
        squash = Simplices() if simplices else torch.tanh
        latent, outputs = squash(n['encoder'](x)), []
        for _ in range(steps):
            action = torch.tanh(n['policy'](latent.detach()))
            pair = torch.cat([action, latent] if action_first else [latent, action], -1)
            values = torch.stack([n[f'q{i}'](pair) for i in range(heads)])
            outputs += [action, values.min(0)[0]]
            following = squash(n['dynamics'](pair))
            latent = latent + following if residual else following
        return outputs

    return net, run


def masked(net, plan):
    """Zero each removed slice on a copy, and normalise over what is left."""
    net = copy.deepcopy(net)
    named = {f'{c}.{n}': t for c, m in net.items()
             for n, t in [*m.named_parameters(), *m.named_buffers()]}
    with torch.no_grad():
        for name, dims in plan.slices.items():
            for dim, at in dims.items():
                for i in at:
                    named[name].select(dim, i).zero_()
    done = set()
    for component, root in net.items():
        root.eval()
        for path, module in list(root.named_modules()) if id(root) not in done else ():
            done.add(id(module))
            if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                gone = plan.slices.get(f'{component}.{path}.weight', {}).get(0, ())
                root.set_submodule(path, Sparse(module, gone))
    return net


def random_plan(graph, seed):
    rng = np.random.default_rng(seed)
    return Plan.removing(graph.groups, {
        g.name: rng.choice(g.size, rng.integers(0, g.size), replace=False) for g in graph.free})


@settings(deadline=None, max_examples=60)
@given(models(), st.integers(0, 99))
def test_what_is_free_can_be_cut(model, seed):
    """Against an oracle of plain sums; sizes, costs and a second trace agree."""
    net, run = model
    graph = trace(net, lambda: run(net))
    latent = [g for g in graph.free if {'encoder', 'dynamics', 'policy'} <= set(g.owners)]
    assert len(latent) == 1
    plan = random_plan(graph, seed)
    with torch.no_grad():
        expected = run(masked(net, plan))
    receipt = apply(plan, net, run=run)
    for module in net.values():
        module.eval()
    with torch.no_grad():
        for one, other in zip(expected, run(net), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-7, atol=1e-7)
    again = trace(net, lambda: run(net))
    assert {g.name: g.size for g in again.free} == {n: len(plan.kept(n)) for n in plan.sizes}
    assert receipt.parameters_after == plan.parameters_left == again.parameters
    assert again.macs == plan.macs_left
    assert again.shapes == {n: plan.shape_after(n) for n in plan.shapes}


@settings(deadline=None, max_examples=25)
@given(models())
def test_each_slice_is_in_one_unit(model):
    """Every index of every axis of every tensor, once; a unit costs what removing it saves."""
    net, run = model
    graph = trace(net, lambda: run(net))
    seen = {}
    for group in graph.groups:
        for unit in group.units:
            for part in unit:
                assert seen.setdefault(part, group.name) == group.name
    assert len(seen) == sum(len(g.places) * g.size for g in graph.groups)
    assert set(seen) == {(name, dim, i) for name, shape in graph.shapes.items()
                         for dim, size in enumerate(shape) for i in range(size)}
    costs = Costs(graph.groups)
    for group in graph.free:
        one = {group.name: 1}
        assert costs.parameters() - costs.parameters(one) == group.params_per_unit
        assert costs.macs() - costs.macs(one) == group.macs_per_unit


@settings(deadline=None, max_examples=25)
@given(models(), st.integers(0, 99))
def test_plans_compose(model, seed):
    """Two cuts one after the other are the cut of the composed plan, through JSON too."""
    net, run = model
    once = copy.deepcopy(net)
    first = random_plan(trace(net, lambda: run(net)), seed)
    apply(first, net)
    second = random_plan(trace(net, lambda: run(net)), seed + 1)
    apply(second, net)
    both = first.then(second)
    assert both == Plan.from_json(json.loads(json.dumps(both.to_json())))
    receipt = apply(both, once)
    assert receipt.parameters_after == both.parameters_left
    for component, module in net.items():
        other = once[component].state_dict()
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, other[name]), (component, name)
