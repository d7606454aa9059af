# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""torch-pruning 1.6.1 as an oracle where it is right, and its failures as cases of ours."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pruning_core.budgets import Parameters
from pruning_core.channels import trace
from pruning_core.errors import GroupError
from pruning_core.plans import Plan
from pruning_core.selection import Limits, select
from pruning_core.surgery import apply

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


class Told(nn.Module):
    """The reference's task-oriented latent dynamics: its structure, layer by layer.

    As upstream, one activation object may serve all layers, and there is no `forward`.
    """

    def __init__(self, latent=50, encoder=256, hidden=512, actions=1):
        super().__init__()
        act = nn.ELU()
        self._encoder = nn.Sequential(nn.Linear(3, encoder), act, nn.Linear(encoder, latent))
        self._dynamics = self.mlp(latent + actions, hidden, latent, act)
        self._reward = self.mlp(latent + actions, hidden, 1, act)
        self._pi = self.mlp(latent, hidden, actions, act)
        self._Q1, self._Q2 = (nn.Sequential(
            nn.Linear(latent + actions, hidden), nn.LayerNorm(hidden), nn.Tanh(),
            nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, 1)) for _ in range(2))

    @staticmethod
    def mlp(fan_in, hidden, fan_out, act):
        return nn.Sequential(nn.Linear(fan_in, hidden), act, nn.Linear(hidden, hidden), act,
                             nn.Linear(hidden, fan_out))

    def h(self, observation):
        return self._encoder(observation)

    def next(self, z, a):
        pair = torch.cat([z, a], dim=-1)
        return self._dynamics(pair), self._reward(pair)

    def pi(self, z):
        return torch.tanh(self._pi(z))

    def Q(self, z, a):
        pair = torch.cat([z, a], dim=-1)
        return self._Q1(pair), self._Q2(pair)


def rollout(told, steps=2):
    z, outputs = told.h(X), []
    for _ in range(steps):
        a = told.pi(z)
        outputs += [a, *told.Q(z, a)]
        z, reward = told.next(z, a)
        outputs.append(reward)
    return outputs


def components(told):
    return {'encoder': told._encoder, 'dynamics': told._dynamics, 'reward': told._reward,
            'q1': told._Q1, 'q2': told._Q2, 'policy': told._pi}


@pytest.fixture(scope='module')
def tp():
    """torch-pruning, which the package itself does not need."""
    return pytest.importorskip('torch_pruning', reason='torch-pruning is not installed')


def theirs(tp, model, layer, units, *, forward, prune, ignored=()):
    """Slices that torch-pruning removes along with output channels of a layer."""
    graph = tp.DependencyGraph().build_dependency(
        model, example_inputs=(X,), forward_fn=forward, ignored_params=list(ignored))
    group = graph.get_pruning_group(layer, prune, idxs=list(units))
    names = {id(m): n for n, m in model.named_modules()}
    removed = set()
    for dependency, indices in group:
        module, name = dependency.target.module, names.get(id(dependency.target.module))
        if name is None or not list(module.parameters(recurse=False)):
            continue
        into = dependency.handler in (tp.prune_linear_in_channels, tp.prune_conv_in_channels)
        for i in indices:
            removed.add((f'{name}.weight', int(into), int(i)))
            if not into and getattr(module, 'bias', None) is not None:
                removed.add((f'{name}.bias', 0, int(i)))
    return graph, group, removed


def ours(group, units, names):
    """The same from a group, under the model's own parameter names."""
    return {(names[p.split('.')[0]] + '.' + p.split('.', 1)[1], d, i)
            for u in units for p, d, i in group.unit(u)}


NAMES = {'encoder': '_encoder', 'dynamics': '_dynamics', 'reward': '_reward', 'q1': '_Q1',
         'q2': '_Q2', 'policy': '_pi'}
ROOTS = {'latent': ('_encoder', 2), 'encoder.hidden1': ('_encoder', 0),
         **{f'{ours}.hidden{k + 1}': (name, layer) for ours, name in NAMES.items()
            if ours != 'encoder'
            for k, layer in enumerate((0, 3) if ours in ('q1', 'q2') else (0, 2))}}


def test_the_reference_structure():
    """Twelve groups; 3,330 of 1,489,512 parameters in each of 50 latent channels."""
    told = Told()
    graph = trace(components(told), lambda: rollout(told))
    assert len(graph.free) == 12 and {g.name for g in graph.free} == set(ROOTS)
    latent = graph['latent']
    assert (latent.size, latent.params_per_unit, graph.parameters) == (50, 3330, 1_489_512)
    assert set(latent.owners) == set(NAMES)
    assert latent.params_per_unit == (256 + 1) + (512 + 1) + 5 * 512


@pytest.mark.parametrize('name', ROOTS)
def test_same_groups_and_same_cut(tp, name):
    """Wired as torch-pruning needs it (z first, actions from the policy, two steps)."""
    torch.manual_seed(0)
    told = Told(latent=8, encoder=12, hidden=10)
    graph = trace(components(told), lambda: rollout(told))
    units = (1, 4)
    module, layer = ROOTS[name]
    cut = copy.deepcopy(told)
    other = copy.deepcopy(told)
    _, group, removed = theirs(tp, other, getattr(other, module)[layer], units,
                               forward=lambda m, x: rollout(m),
                               prune=tp.prune_linear_out_channels)
    assert removed == ours(graph[name], units, NAMES)
    group.prune()
    apply(Plan.removing(graph.groups, {name: units}), components(cut), run=lambda c: rollout(
        shell(c)))
    ours_after, theirs_after = cut.state_dict(), other.state_dict()
    assert {k: v.shape for k, v in ours_after.items()} == {
        k: v.shape for k, v in theirs_after.items()}
    assert all(torch.equal(v, theirs_after[k]) for k, v in ours_after.items())


def shell(parts):
    """A TOLD around the components of another one."""
    told = Told.__new__(Told)
    nn.Module.__init__(told)
    for name, attribute in NAMES.items():
        setattr(told, attribute, parts[name])
    return told


def test_same_cut_of_a_convolutional_encoder(tp):
    """Convolutions, batch normalisation and the flattening before the first Linear."""
    torch.manual_seed(0)
    image = torch.randn(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2),
                          nn.Flatten(), nn.Linear(32, 5))
    cut = copy.deepcopy(model)
    for layer, units in ((0, [0, 3]), (3, [2])):
        tp.DependencyGraph().build_dependency(model, example_inputs=(image,)).get_pruning_group(
            model[layer], tp.prune_conv_out_channels, idxs=units).prune()
    graph = trace({'net': cut}, lambda: [cut(image)])
    apply(Plan.removing(graph.groups, {'net.hidden1': [0, 3], 'net.hidden2': [2]}), {'net': cut},
          run=lambda n: [n['net'](image)])
    for (name, one), other in zip(cut.state_dict().items(), model.state_dict().values(),
                                  strict=True):
        assert torch.equal(one, other), name
    assert (cut[0].out_channels, cut[1].num_features, cut[3].in_channels, cut[5].in_features) == (
        model[0].out_channels, model[1].num_features, model[3].in_channels, model[5].in_features)


# The wirings that break it: for each, ours must be right. `run` is the agent's rollout.

def small():
    torch.manual_seed(0)
    return {'encoder': nn.Linear(3, 8), 'dynamics': nn.Linear(10, 8), 'reward': nn.Linear(10, 1),
            'policy': nn.Linear(8, 2)}


ACTIONS = torch.randn(6, 2, generator=torch.Generator().manual_seed(2))


def agent(order, *, given=True, steps=2, detach=False, wide=False, embedded=False):
    """A rollout of the small agent under one wiring."""
    def run(n):
        z, out = torch.tanh(n['encoder'](X)), []
        if wide:
            z = z.unsqueeze(1)
        for _ in range(steps):
            own = torch.tanh(n['policy'](z.detach() if detach else z))
            action = ACTIONS if given else own
            action = action.unsqueeze(1) if wide and action.dim() == 2 else action
            dim = 2 if wide else -1
            parts = {'z': z, 'a': action, 'e': X[:, :2]}
            pair = torch.cat([parts[k] for k in order], dim)
            out += [own, n['reward'](pair)]
            z = torch.tanh(n['dynamics'](pair))
        return [*out, z] if steps == 1 else out

    def build():
        net = small()
        if embedded:
            net['dynamics'], net['reward'] = nn.Linear(12, 8), nn.Linear(12, 1)
        return net

    return build, run


# The wiring, and the reward's first column that reads the latent.
WIRINGS = {
    'z first, actions given': (agent('za'), 0),
    'a first, actions given': (agent('az'), 2),
    'a first, from the policy': (agent('az', given=False), 2),
    'embedding, z, a': (agent('eza', embedded=True), 2),
    'three dimensions, dim=2': (agent('za', given=False, wide=True), 0),
    'policy behind detach': (agent('za', detach=True), 0),
    'three steps': (agent('az', steps=3), 2),
}


@pytest.mark.parametrize('name', WIRINGS)
@pytest.mark.parametrize('frozen', [(), ('encoder',), ('encoder', 'dynamics', 'reward', 'policy')],
                         ids=['trainable', 'frozen encoder', 'frozen'])
def test_wirings(name, frozen):
    """One latent group of all components; no action column moves; requires_grad is kept."""
    (build, run), first = WIRINGS[name]
    net = build()
    for component in frozen:
        net[component].requires_grad_(False)
    graph = trace(net, lambda: run(net))
    (latent,) = graph.free
    assert latent.owners == ('encoder', 'dynamics', 'reward', 'policy')
    assert latent.params_per_unit == (3 + 1) + (net['dynamics'].in_features + 1) + (8 - 1) + 1 + 2
    columns = {i for unit in latent.units for p, d, i in unit if p == 'reward.weight' and d == 1}
    assert columns == set(range(first, first + 8))
    receipt = apply(Plan.removing(graph.groups, {'latent': [0, 3, 7]}), net, run=run)
    assert receipt.difference < 1e-6
    assert {c for c, m in net.items() if not any(p.requires_grad for p in m.parameters())} == set(
        frozen)


def test_one_step_whose_next_latent_is_only_returned():
    """The dynamics' outputs are outputs of the model, and stay; nothing is cut beside them."""
    build, run = agent('za', steps=1)
    net = build()
    graph = trace(net, lambda: run(net))
    (latent,) = graph.free
    assert 'dynamics' in latent.owners  # its columns read the latent
    assert not any(p == 'dynamics.weight' and d == 0 for p, d, _ in latent.unit(0))
    rows = [g for g in graph.groups if ('dynamics.weight', 0) in g.places]
    assert {g.frozen_because for g in rows} == {'an output of the model'}
    assert apply(Plan.removing(graph.groups, {'latent': [0]}), net, run=run).difference < 1e-6


def test_one_step_whose_next_latent_is_dropped():
    """Cut alone, the dynamics would no longer fit into the next step: its outputs stay."""
    build, run = agent('za', steps=1)
    net = build()
    graph = trace(net, lambda: run(net)[:-1])
    rows = [g for g in graph.groups if ('dynamics.weight', 0) in g.places]
    assert all('roll out one step more' in g.frozen_because for g in rows)


def test_under_no_grad_and_with_a_batch_of_one():
    net, x = small(), torch.randn(1, 3)

    def run():
        with torch.no_grad():
            return [net['policy'](net['encoder'](x))]

    assert [(g.name, g.size) for g in trace(net, run).free] == [('latent', 8)]


def test_vmap_ensembles_are_refused():
    """Stacked members under vmap: nothing is cut, and the reason says so."""
    net = {'encoder': nn.Linear(3, 8), 'q': nn.ModuleList(nn.Linear(8, 1) for _ in range(3))}
    stacked, _ = torch.func.stack_module_state(list(net['q']))

    def run():
        z = net['encoder'](X)
        return [torch.vmap(lambda p: torch.func.functional_call(net['q'][0], p, (z,)))(stacked)]

    graph = trace(net, run)
    assert graph.free == ()
    (latent,) = [g for g in graph.groups if ('encoder.bias', 0) in g.places]
    assert latent.frozen_because


def test_nothing_to_cut_is_said(four_parts):
    """All scores tied, a share of everything: either a plan or an error, never silence."""
    net = small()
    run = agent('za')[1]
    groups = trace(net, lambda: run(net)).groups
    tied = {'latent': torch.ones(8).numpy()}
    plan = select(groups, tied, Parameters(0.3), Limits(1, 1))
    assert plan.achieved >= 0.3 and plan.removed['latent'] == tuple(
        range(len(plan.removed['latent'])))
    with pytest.raises(GroupError) as error:
        select(groups, tied, Parameters(0.99), Limits(1, 1))
    four_parts(error, 'is what the limits leave room for')
    frozen = trace(net, lambda: [net['encoder'](X)]).groups
    with pytest.raises(GroupError) as error:
        select(frozen, {}, Parameters(0.5))
    four_parts(error, 'every group must stay', 'an output of the model')
