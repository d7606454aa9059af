# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Which channels can only go together: groups written down by hand for models of two layers."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pruning_core.channels import trace
from pruning_core.errors import GroupError
from pruning_core.groups import Costs, Place


def two(out=4, sizes=(3, 2), **extra):
    """Components a: 3 -> out, b: out -> 2."""
    return {'a': nn.Linear(sizes[0], out), 'b': nn.Linear(out, sizes[1]), **extra}


def free(graph):
    return {g.name: g for g in graph.free}


def slices(group, unit):
    return set(group.unit(unit))


def test_two_layers():
    """One coupling group: a row and a bias of a, a column of b; 3 + 1 + 2 parameters."""
    net = two()
    graph = trace(net, lambda: [net['b'](net['a'](torch.zeros(5, 3)))])
    (group,) = graph.free
    assert (group.name, group.kind, group.owners, group.size) == (
        'latent', 'coupling', ('a', 'b'), 4)
    assert slices(group, 2) == {('a.weight', 0, 2), ('a.bias', 0, 2), ('b.weight', 1, 2)}
    assert (group.params_per_unit, group.macs_per_unit) == (6, 5)
    assert graph.parameters == 3 * 4 + 4 + 4 * 2 + 2
    assert Costs(graph.groups).parameters({'latent': 1}) == graph.parameters - 6


def test_within_one_component():
    net = {'a': nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2))}
    (group,) = trace(net, lambda: [net['a'](torch.zeros(5, 3))]).free
    assert (group.name, group.kind) == ('a.hidden1', 'component')
    assert slices(group, 1) == {('a.0.weight', 0, 1), ('a.0.bias', 0, 1), ('a.1.weight', 0, 1),
                                ('a.1.bias', 0, 1), ('a.3.weight', 1, 1)}
    assert group.params_per_unit == 3 + 1 + 2 + 2


@pytest.mark.parametrize(('first', 'column'), [(True, 2), (False, 0)])
def test_order_inside_a_concatenation(first, column):
    """The action's two columns stand before or behind the latent's; its channels stay."""
    net = two(4)
    net['b'] = nn.Linear(6, 2)
    action = torch.zeros(5, 2)

    def run():
        z = net['a'](torch.zeros(5, 3))
        return [net['b'](torch.cat([action, z] if first else [z, action], dim=1))]

    graph = trace(net, run)
    (group,) = graph.free
    assert slices(group, 0) == {('a.weight', 0, 0), ('a.bias', 0, 0), ('b.weight', 1, column)}
    fixed = [g for g in graph.groups if g.frozen_because == 'a model input']
    columns = {i for g in fixed for u in range(g.size) for p, d, i in g.unit(u) if p == 'b.weight'}
    assert columns == ({0, 1} if first else {4, 5})


@pytest.mark.parametrize('through', [
    lambda z: z, lambda z: z.detach(), functional.elu, lambda z: torch.tanh(z) * 2 + 1,
    lambda z: z.clamp(-1, 1), lambda z: z.unsqueeze(1).expand(-1, 7, -1),
    lambda z: torch.stack([z, z]), lambda z: z.reshape(1, 5, -1), lambda z: z[1:],
    lambda z: torch.stack([z, z]).mean(0), lambda z: torch.stack([z, z]).sum(0),
    lambda z: functional.dropout(z, training=False), lambda z: torch.minimum(z, -z),
    lambda z: torch.cat([z, z], dim=0), lambda z: torch.stack([z, z]).unbind(0)[1],
], ids=range(15))
def test_operations_that_pass_channels_on(through):
    net = two()
    (group,) = trace(net, lambda: [net['b'](through(net['a'](torch.zeros(5, 3))))]).free
    assert [slices(group, i) for i in range(4)] == [
        {('a.weight', 0, i), ('a.bias', 0, i), ('b.weight', 1, i)} for i in range(4)]


@pytest.mark.parametrize(('through', 'said'), [
    (lambda z: z.softmax(-1), 'depends on all channels: torch.softmax'),
    (lambda z: z.cumsum(-1), 'depends on all channels: torch.cumsum'),
    (lambda z: z / z.norm(), 'reduced by torch.norm'),
    (lambda z: z.sort(-1)[0], 'not understood: torch.sort'),
    (lambda z: z @ torch.ones(4, 4), 'combined with what is not made of channels by torch'),
    (lambda z: z + z.mean(-1, keepdim=True), 'reduced by torch.mean'),
    (lambda z: torch.stack([z, z], -1).reshape(5, 8)[:, ::2], 'written into torch'),
    (lambda z: z.reshape(5, 2, 2).transpose(1, 2).reshape(5, 4), 'not understood: torch.reshape'),
    (lambda z: z[:, [3, 2, 1, 0]], 'a size or place is written into torch.__getitem__'),
    (lambda z: z.reshape(5, 4), 'a size or place is written into torch.reshape'),
], ids=['softmax', 'cumsum', 'norm', 'sort', 'matmul', 'mean', 'stack', 'reshape', 'list', 'size'])
def test_what_cannot_be_followed_freezes(through, said):
    """Nothing is guessed: the channels stay, and the reason names the operation and the line."""
    net = two()
    graph = trace(net, lambda: [net['b'](through(net['a'](torch.zeros(5, 3))))])
    assert graph.free == ()
    reasons = {g.frozen_because for g in graph.groups if Place('a.weight', 0) in g.places}
    assert all(said in r for r in reasons), reasons
    assert all(re.search(r' at test_channels\.py:\d+$', r) for r in reasons), reasons


@pytest.mark.parametrize('through', [
    lambda z, y: z.data + y, lambda z, y: z.T.T + y, lambda z, y: torch.tanh(input=z) + y,
    lambda z, y: z.abs() ** y, lambda z, y: z.clamp(min=y),
    lambda z, y: torch.add(z, other=y), lambda z, y: torch.cat([z, y], axis=0),
    lambda z, y: torch.where(z > 0, z, y), lambda z, y: torch.lerp(z, y, 0.5),
    lambda z, y: z.index_copy(1, torch.arange(4), y),
], ids=['data', 'T', 'input', 'pow', 'clamp', 'keyword', 'axis', 'where', 'lerp', 'index_copy'])
def test_what_is_free_can_be_cut(through):
    """However an operation is met: a unit of a takes its column of b along, or stays."""
    net = two(c=nn.Linear(3, 4))
    x = torch.zeros(5, 3)
    graph = trace(net, lambda: [net['b'](through(net['a'](x), net['c'](x)))])
    for group in graph.free:
        assert {'a.weight', 'a.bias', 'b.weight'} <= {p.parameter for p in group.places}


def test_an_average_over_channels_keeps_them():
    """Even where the batch is as long as the channels are many."""
    net = two(5)

    def run():
        z = net['a'](torch.zeros(5, 3))
        return [net['b'](z), z.mean(-1)]

    assert trace(net, run).free == ()


def test_reordered_channels_are_followed():
    """Unit i of a is column 3 - i of b."""
    net = two()
    (group,) = trace(net, lambda: [net['b'](net['a'](torch.zeros(5, 3)).flip(-1))]).free
    row, column = (group.places.index(Place(*p)) for p in (('a.weight', 0), ('b.weight', 1)))
    assert (group.indices[:, row] + group.indices[:, column]).tolist() == [3] * 4


def test_addition_unites():
    """A residual: the channels of both sums are the same channels."""
    net = two(c=nn.Linear(4, 4))

    def run():
        z = net['a'](torch.zeros(5, 3))
        return [net['b'](z + net['c'](z))]

    (group,) = trace(net, run).free
    assert slices(group, 1) == {('a.weight', 0, 1), ('a.bias', 0, 1), ('c.weight', 0, 1),
                                ('c.weight', 1, 1), ('c.bias', 0, 1), ('b.weight', 1, 1)}
    assert group.params_per_unit == 3 + 1 + (4 + 4 - 1) + 1 + 2  # the crossing counts once


def test_a_recurrent_latent_needs_two_steps():
    """What comes out of the dynamics goes back in; one step would leave that unseen."""
    net = two(f=nn.Linear(4, 4))

    def run(steps):
        z = net['a'](torch.zeros(5, 3))
        outputs = []
        for _ in range(steps):
            outputs.append(net['b'](z))
            z = net['f'](z)
        return outputs

    assert Place('f.weight', 0) not in trace(net, lambda: run(1)).free[0].places
    (group,) = trace(net, lambda: run(2)).free
    assert {Place('f.weight', 0), Place('f.weight', 1), Place('f.bias', 0)} <= set(group.places)


def test_tied_parameters_are_one():
    """A layer used as encoder and, transposed by hand, nowhere: b and c share one weight."""
    net = two(c=nn.Linear(4, 2))
    net['c'].weight = net['b'].weight

    def run():
        z = net['a'](torch.zeros(5, 3))
        return [net['b'](z), net['c'](z)]

    graph = trace(net, run)
    (group,) = graph.free
    assert slices(group, 0) == {('a.weight', 0, 0), ('a.bias', 0, 0), ('b.weight', 1, 0)}
    assert 'c.weight' not in graph.shapes
    assert graph.parameters == sum(p.numel() for p in {id(p): p for m in net.values()
                                                       for p in m.parameters()}.values())


def test_tied_layers_unite_what_flows_through_them():
    """The same layer behind two encoders: channel i of one is channel i of the other."""
    net = {'a': nn.Linear(3, 4), 'c': nn.Linear(3, 4), 'b': nn.Linear(4, 2)}
    x = torch.zeros(5, 3)
    (group,) = trace(net, lambda: [net['b'](net['a'](x)), net['b'](net['c'](x))]).free
    assert group.owners == ('a', 'c', 'b')
    assert group.params_per_unit == 3 + 1 + 3 + 1 + 2


def test_frozen_agents_are_seen(make_agent):
    """Autograd takes no part: without requires_grad the groups are the same."""
    agent = make_agent()
    expected = [str(g) for g in agent.graph().groups]
    agent.components.requires_grad_(False)
    assert [str(g) for g in agent.graph().groups] == expected
    assert not any(p.requires_grad for p in agent.components.parameters())


def test_reasons_to_stay():
    """Outputs, inputs, what was not used, and what was used by hand."""
    net = two(unused=nn.Linear(2, 2), scale=nn.ParameterList([nn.Parameter(torch.ones(4, 4))]))
    x = torch.zeros(5, 3)
    graph = trace(net, lambda: [net['b'](net['a'](x) * net['scale'][0].sum())])

    def reason(parameter, dim):
        return {g.frozen_because for g in graph.groups if Place(parameter, dim) in g.places}

    assert reason('b.weight', 0) == {'an output of the model'}
    assert reason('a.weight', 1) == {'a model input'}
    assert reason('unused.weight', 1) == {'not used while tracing'}
    (used,) = reason('scale.0', 0)
    assert used.startswith('reduced by torch.sum at test_channels.py:')


def test_buffers_go_with_their_channels():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)
            self.register_buffer('gain', torch.ones(4))

        def forward(self, x):
            return super().forward(x) * self.gain

    net = {'a': Scaled(), 'b': nn.Linear(4, 2)}
    (group,) = trace(net, lambda: [net['b'](net['a'](torch.zeros(5, 3)))]).free
    assert ('a.gain', 0, 3) in slices(group, 3)


def test_tdmpc_groups(make_agent):
    """Twelve free groups at the reference sizes; the latent's 50 channels hold 3,330 each."""
    agent = make_agent('network.latent=50', 'network.encoder_hidden=256', 'network.hidden=512')
    graph = agent.graph()
    groups = free(graph)
    assert list(groups) == [
        'encoder.hidden1', 'latent',
        *(f'{c}.hidden{k}' for c in ('dynamics', 'reward', 'q1', 'q2', 'policy') for k in (1, 2))]
    latent = groups['latent']
    assert latent.owners == ('encoder', 'dynamics', 'reward', 'q1', 'q2', 'policy')
    assert (latent.size, latent.params_per_unit) == (50, 3330)
    # a row and a bias of the encoder and the dynamics; columns of five first layers
    assert latent.params_per_unit == (256 + 1) + (512 + 1) + 5 * 512
    assert graph.parameters == 1_489_512
    share = latent.size * latent.params_per_unit / graph.parameters
    assert share == pytest.approx(0.112, abs=5e-4)
    assert groups['q1.hidden1'].params_per_unit == 51 + 1 + 2 + 512
    assert groups['dynamics.hidden1'].params_per_unit == 51 + 1 + 512
    assert groups['encoder.hidden1'].params_per_unit == 3 + 1 + 50
    assert {g.frozen_because for g in graph.groups if g not in graph.free} == {
        'a model input', 'an output of the model'}
    covered = {(p.parameter, p.dim): 0 for g in graph.groups for p in g.places}
    for group in graph.groups:
        for column, place in enumerate(group.places):
            covered[place.parameter, place.dim] += len(np.unique(group.indices[:, column]))
    assert covered == {(name, dim): size for name, shape in graph.shapes.items()
                       for dim, size in enumerate(shape)}  # each slice in exactly one unit


def test_an_unknown_group_is_named(make_agent, four_parts):
    graph = make_agent().graph()
    assert graph['latent'].size == 6
    with pytest.raises(GroupError) as error:
        graph['latnet']
    four_parts(error, "'latnet'", "did you mean 'latent'?", 'policy.hidden2')


def test_text_of_a_group():
    net = two()
    graph = trace(net, lambda: [net['b'](net['a'](torch.zeros(5, 3)))])
    assert str(graph['latent']) == (
        'latent: coupling group of a, b, 4 units, 6 parameters each\n'
        '    a.bias[i], a.weight[i], b.weight[:, i]')
    assert 'stays: an output of the model' in json.dumps([str(g) for g in graph.groups])


def test_the_whole_graph_as_text():
    net, x = two(), torch.zeros(5, 3)
    graph = trace(net, lambda: [net['b'](net['a'](x))])
    assert str(graph).count('\n') == 2 * len(graph.groups) - 1
    assert str(graph['latent']) in str(graph)


@pytest.mark.parametrize(('components', 'run', 'said'), [
    ({'a.b': nn.Linear(3, 4)}, lambda: [torch.zeros(1)], ["'a.b': Linear", 'without a dot']),
    ({'a': 3}, lambda: [torch.zeros(1)], ["'a': int", 'give modules']),
    ({'a': nn.Linear(3, 4)}, lambda: None, ['returned NoneType', 'values, reconstructions']),
], ids=['dot', 'number', 'nothing'])
def test_what_cannot_be_traced(components, run, said, four_parts):
    with pytest.raises(GroupError) as error:
        trace(components, run)
    four_parts(error, *said)


def test_a_failing_run_changes_nothing():
    """Its error comes through; modes, buffers and switches are as before."""
    net = two(n=nn.BatchNorm1d(4))

    def run():
        net['n'].running_mean += 1
        raise KeyError('mine')

    with pytest.raises(KeyError, match='mine'):
        trace(net, run)
    assert net['n'].training and not net['n'].running_mean.any()
    assert trace(net, lambda: [net['b'](net['n'](net['a'](torch.zeros(5, 3))))]).free
