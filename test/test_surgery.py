# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A cut model is the masked model; everything is cut alike, or nothing is changed."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning_core.budgets import Parameters
from pruning_core.channels import trace
from pruning_core.errors import GroupError
from pruning_core.plans import Plan
from pruning_core.selection import Limits, select
from pruning_core.surgery import apply, rebuild, save, verify

FREE = Limits(floor=1, multiple=1)
TARGETS = ('encoder', 'q1', 'q2')


def random_plan(graph, sparsity=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return select(graph.groups, {g.name: rng.random(g.size) for g in graph.free},
                  Parameters(sparsity), FREE)


def by_hand(graph, removed):
    """A plan that removes exactly these units."""
    return Plan.removing(graph.groups, removed)


def slices_of(graph, plan):
    """Every removed (parameter, dim, index)."""
    return [s for name, units in plan.removed.items() for u in units for s in graph[name].unit(u)]


def masked(components, graph, plan):
    """A copy with every removed slice set to zero, one by one; LayerNorm over what is left."""
    components = copy.deepcopy(components)
    named = {f'{c}.{n}': p for c, m in components.items() for n, p in m.named_parameters()}
    with torch.no_grad():
        for name, dim, index in slices_of(graph, plan):
            named[name].select(dim, index).zero_()
    return components


class SparseNorm(nn.Module):
    """LayerNorm over the channels where `keep` is 1, in plain sums."""

    def __init__(self, norm, keep):
        super().__init__()
        self.norm, self.keep = norm, keep

    def forward(self, x):
        n = self.keep.sum()
        mean = (x * self.keep).sum(-1, keepdim=True) / n
        var = ((x - mean) ** 2 * self.keep).sum(-1, keepdim=True) / n
        return (x - mean) / (var + self.norm.eps).sqrt() * self.norm.weight + self.norm.bias


def outputs(agent, components, observation):
    shell = copy.copy(agent)
    shell.components = components
    with torch.no_grad():
        return torch.cat([t.flatten() for t in shell.rollout(observation, steps=3)])


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 0.9), st.integers(0, 999), st.sampled_from(['relu', 'elu']))
def test_cut_equals_masked(make_agent, sparsity, seed, activation):
    """For random weights and plans; sigma of a LayerNorm sees the kept channels only."""
    agent = make_agent(f'network.activation={activation}', seed=seed)
    graph = agent.graph()
    plan = random_plan(graph, sparsity, seed)
    full = masked(agent.components, graph, plan)
    for q in ('q1', 'q2'):
        gone = list(plan.removed[f'{q}.hidden1'])
        keep = torch.ones(16).index_fill(0, torch.tensor(gone, dtype=torch.long), 0.0)
        full[q][1] = SparseNorm(full[q][1], keep)
    observation = torch.rand(7, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    expected = outputs(agent, full, observation)
    apply(plan, dict(agent.components.items()))
    found = outputs(agent, agent.components, observation)
    assert float((expected - found).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert sum(p.numel() for p in agent.components.parameters()) == plan.parameters_left


def test_sizes_and_receipt(make_agent):
    """Modules state the sizes that they have; the receipt counts scalars."""
    agent = make_agent()
    graph = agent.graph()
    plan = by_hand(graph, {'latent': (0, 5), 'q1.hidden1': (2,), 'policy.hidden2': (1, 3)})
    receipt = apply(plan, dict(agent.components.items()))
    widths = agent.widths
    assert (widths.latent, widths.q1, widths.policy) == (4, (15, 16), (16, 14))
    for module in agent.components.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.LayerNorm):
            assert module.weight.shape == module.normalized_shape
    assert receipt.parameters_before == graph.parameters
    assert receipt.parameters_after == sum(p.numel() for p in agent.components.parameters())
    assert plan.slices['encoder.2.weight'] == {0: (0, 5)}
    assert plan.slices['q1.0.weight'] == {1: (0, 5), 0: (2,)}  # the action's column 6 stays
    again = agent.graph()
    assert {g.name: g.size for g in again.free} == {
        g.name: g.size - len(plan.removed[g.name]) for g in graph.free}


def learned(make_agent, fill):
    """An agent with optimiser state and gradients, and its plan."""
    agent = make_agent('agent.policy_every=1')
    rng = np.random.default_rng(0)
    for _ in range(3):
        agent.update(fill().sample(rng, 8, 2))
    agent.components['reward'](torch.rand(4, 7)).sum().backward()
    graph = agent.graph()
    return agent, graph, random_plan(graph)


def cut_all(agent, graph, plan):
    return apply(plan, dict(agent.components.items()),
                 optimizer=(agent.model_optimizer, agent.policy_optimizer),
                 mirrors=(dict(agent.targets.items()),))


def test_optimiser_targets_and_gradients_are_cut_alike(make_agent, fill):
    """Each tensor keeps exactly the slices that its parameter keeps; step counters stay."""
    agent, graph, plan = learned(make_agent, fill)

    def everything():
        found = {}
        for name, p in agent.components.named_parameters():
            optimizer = agent.policy_optimizer if name.startswith('policy') \
                else agent.model_optimizer
            found[name] = {'value': p.detach(), **optimizer.state[p]}
            if p.grad is not None:
                found[name]['grad'] = p.grad
        for name, p in agent.targets.named_parameters():
            found[name]['target'] = p
        return {n: {k: v.detach().clone() for k, v in vs.items()} for n, vs in found.items()}

    before = everything()
    gone = {}
    for name, dim, index in slices_of(graph, plan):
        gone.setdefault(name, {}).setdefault(dim, set()).add(index)
    cut_all(agent, graph, plan)
    after = everything()
    for name, tensors in before.items():
        assert set(tensors) == set(after[name])
        for key, tensor in tensors.items():
            if key != 'step':
                for dim, indices in gone.get(name, {}).items():
                    kept = [i for i in range(tensor.shape[dim]) if i not in indices]
                    tensor = torch.index_select(tensor, dim, torch.tensor(kept))
            assert torch.equal(tensor, after[name][key]), (name, key)
    assert 'exp_avg' in after['q1.0.weight'] and 'target' in after['q1.0.weight']
    assert 'grad' in after['reward.0.weight'] and int(after['q1.0.weight']['step']) == 3


def test_training_goes_on_after_the_cut(make_agent, fill):
    """The optimisers hold the cut parameters, and only those; an update moves all of them."""
    agent, graph, plan = learned(make_agent, fill)
    cut_all(agent, graph, plan)
    agent.model_optimizer.zero_grad()
    held = {id(p) for o in (agent.model_optimizer, agent.policy_optimizer)
            for g in o.param_groups for p in g['params']}
    assert held == {id(p) for p in agent.components.parameters()}
    before = {n: p.detach().clone() for n, p in agent.components.named_parameters()}
    target = agent.targets['q1'][0].weight.clone()
    agent.update(fill().sample(np.random.default_rng(1), 8, 2))
    assert all(not torch.equal(before[n], p) for n, p in agent.components.named_parameters()
               if n.endswith('weight'))
    assert not torch.equal(target, agent.targets['q1'][0].weight)


def test_switches_stay(make_agent):
    """requires_grad, and train or eval, per module."""
    agent = make_agent()
    agent.components['encoder'].requires_grad_(False)
    agent.components['q1'].eval()
    graph = agent.graph()
    apply(random_plan(graph), dict(agent.components.items()))
    assert not any(p.requires_grad for p in agent.components['encoder'].parameters())
    assert all(p.requires_grad for p in agent.components['policy'].parameters())
    assert not agent.components['q1'].training and agent.components['q2'].training


def snapshot(agent):
    return [(id(p), p.detach().clone()) for m in (agent.components, agent.targets)
            for p in m.parameters()] + [
        (id(k), v['exp_avg'].clone()) for k, v in agent.model_optimizer.state.items()]


def mirror_of_another_size(agent, graph, plan):
    agent.targets['q2'][3] = nn.Linear(5, 16)


@pytest.mark.parametrize(('spoil', 'said'), [
    (lambda a, g, p: dataclasses.replace(p, shapes={**p.shapes, 'q1.0.bias': (17,)}),
     ["'q1.0.bias'", '(16,)', '(17,)', 'trace the model again']),
    (lambda a, g, p: dataclasses.replace(p, shapes={**p.shapes, 'q3.weight': (17,)}),
     ["'q3.weight'", 'nothing']),
    (lambda a, g, p: a.components['policy'].append(nn.Linear(1, 1)),
     ["'policy.6.bias'", 'nothing of this name']),
    (lambda a, g, p: a.components['policy'].__setitem__(4, nn.Linear(3, 1)),
     ["'policy.4.weight'", '(1, 3)', 'trace the model again']),
    (mirror_of_another_size, ["mirror parameter 'q2.3.weight'", '(16, 5)']),
], ids=['shape', 'missing', 'more', 'retrace', 'mirror'])
def test_a_plan_that_does_not_fit_changes_nothing(make_agent, fill, four_parts, spoil, said):
    agent, graph, plan = learned(make_agent, fill)
    changed = spoil(agent, graph, plan)
    plan = changed if isinstance(changed, Plan) else plan
    before = snapshot(agent)
    with pytest.raises(GroupError) as error:
        cut_all(agent, graph, plan)
    four_parts(error, *said)
    for (i, old), (j, new) in zip(before, snapshot(agent), strict=True):
        assert i == j and torch.equal(old, new)


def test_ties_stay_and_buffers_are_cut():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)
            self.register_buffer('gain', torch.arange(4.0))

        def forward(self, x):
            return super().forward(x) * self.gain

    net = {'a': Scaled(), 'b': nn.Linear(4, 2), 'c': nn.Linear(4, 2)}
    net['c'].weight = net['b'].weight

    def run(n):
        z = n['a'](torch.ones(5, 3))
        return [n['b'](z), n['c'](z)]

    graph = trace(net, lambda: run(net))
    before, mirror = copy.deepcopy(net), copy.deepcopy(net)
    receipt = apply(by_hand(graph, {'latent': (1,)}), net, mirrors=(mirror,))
    for n in (net, mirror):
        assert n['c'].weight is n['b'].weight
        assert n['b'].weight.shape == (2, 3) and n['a'].gain.tolist() == [0, 2, 3]
    assert verify(before, net, by_hand(graph, {'latent': (1,)}), run) < 1e-6
    assert receipt.parameters_before - receipt.parameters_after == 3 + 1 + 2


def test_mirrors_need_no_ties():
    """Online b and c share a weight, their targets each have their own: both are cut."""
    net = {'a': nn.Linear(3, 4), 'b': nn.Linear(4, 2), 'c': nn.Linear(4, 2)}
    net['c'].weight = net['b'].weight

    def run(n):
        z = n['a'](torch.ones(5, 3))
        return [n['b'](z), n['c'](z)]

    graph = trace(net, lambda: run(net))
    mirror = {name: copy.deepcopy(module) for name, module in net.items()}
    apply(by_hand(graph, {'latent': (1,)}), net, mirrors=(mirror,))
    assert mirror['b'].weight.shape == mirror['c'].weight.shape == (2, 3)


def test_verify_tells_a_wrong_cut(make_agent, four_parts):
    """The neighbour's weights in the place of the kept ones."""
    agent = make_agent()
    graph = agent.graph()
    plan = by_hand(graph, {'latent': (2,)})
    before = copy.deepcopy(dict(agent.components.items()))
    apply(plan, dict(agent.components.items()))

    def run(components):
        shell = copy.copy(agent)
        shell.components = nn.ModuleDict(dict(components))
        return shell.rollout(torch.ones(4, 3))

    after = dict(agent.components.items())
    assert verify(before, after, plan, run) < 1e-5
    assert before['encoder'][2].out_features == 6
    with torch.no_grad():
        after['encoder'][2].weight.copy_(after['encoder'][2].weight.roll(1, 0))
    with pytest.raises(GroupError) as error:
        verify(before, after, plan, run)
    four_parts(error, 'outputs differ', '1e-04')
    with torch.no_grad():
        after['encoder'][2].weight.fill_(torch.nan)
    with pytest.raises(GroupError, match='nan'):
        verify(before, after, plan, run)


def small(drop=()):
    """a: 3 -> 8, b: 8 -> 2 with a LayerNorm between; `drop` leaves channels out."""
    generator = torch.Generator().manual_seed(5)
    full = {'a.weight': (8, 3), 'a.bias': (8,), 'n.weight': (8,), 'n.bias': (8,),
            'b.weight': (2, 8), 'b.bias': (2,)}
    axis = {'a.weight': 0, 'a.bias': 0, 'n.weight': 0, 'n.bias': 0, 'b.weight': 1}
    kept = torch.tensor([i for i in range(8) if i not in drop])
    width = len(kept)
    net = {'a': nn.Linear(3, width), 'n': nn.LayerNorm(width), 'b': nn.Linear(width, 2)}
    with torch.no_grad():
        for name, shape in full.items():
            value = torch.randn(shape, generator=generator)
            component, attribute = name.split('.')
            if name in axis:
                value = value.index_select(axis[name], kept)
            getattr(net[component], attribute).copy_(value)
    return net, kept, axis


def forward(net, x):
    return net['b'](torch.tanh(net['n'](net['a'](x))))


OPTIMISERS = {
    'adam': lambda p: torch.optim.Adam(p, lr=0.1),
    'adam fused': lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    'adamw amsgrad': lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True, weight_decay=0.1),
    'sgd momentum': lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    'sgd': lambda p: torch.optim.SGD(p, lr=0.1),
    'rmsprop': lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True, momentum=0.9),
    'nadam': lambda p: torch.optim.NAdam(p, lr=0.1),
    'adagrad': lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def parameters(net):
    return [p for m in net.values() for p in m.parameters()]


@pytest.mark.parametrize('name', OPTIMISERS)
def test_the_next_step_is_that_of_a_model_built_small(name):
    """Cut in the middle of training = a small model with the same weights, gradients and state."""
    net, _, _ = small()
    optimizer = OPTIMISERS[name](parameters(net))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        optimizer.zero_grad()
        forward(net, torch.randn(16, 3, generator=generator)).square().mean().backward()
        optimizer.step()
    probe = torch.randn(16, 3, generator=generator)
    pending = forward(net, probe).square().mean()  # its graph holds the old tensors
    graph = trace(net, lambda: [forward(net, probe)])
    drop = (1, 6)
    plan = Plan.removing(graph.groups, {'latent': drop})

    built, kept, axis = small(drop)
    other = OPTIMISERS[name](parameters(built))
    index = {id(p): i for i, p in enumerate(parameters(net))}
    names = [f'{c}.{n}' for c, m in net.items() for n, _ in m.named_parameters()]
    state = {}
    with torch.no_grad():
        for old, new, full in zip(parameters(net), parameters(built), names, strict=True):
            def cut(t, full=full):
                return t.index_select(axis[full], kept) if full in axis else t.clone()

            new.copy_(cut(old))
            new.grad = cut(old.grad)
            state[index[id(old)]] = {
                k: cut(v) if isinstance(v, torch.Tensor) and v.shape == old.shape
                else copy.deepcopy(v) for k, v in optimizer.state.get(old, {}).items()}
    groups = optimizer.state_dict()['param_groups']
    other.load_state_dict({'state': state if optimizer.state else {}, 'param_groups': groups})

    apply(plan, net, optimizer)
    assert float(pending.detach()) > 0
    for step in range(3):  # the first one with the gradients from before the cut
        for model, o in ((net, optimizer), (built, other)):
            if step:
                o.zero_grad()
                forward(model, probe).square().mean().backward()
            o.step()
        for one, two in zip(parameters(net), parameters(built), strict=True):
            assert torch.equal(one, two), step


def test_state_that_cannot_be_sliced_is_refused(four_parts):
    """Adafactor keeps row and column sums; LBFGS one long vector. Nothing is changed."""
    for make in (lambda p: torch.optim.Adafactor(p, lr=0.1),
                 lambda p: torch.optim.LBFGS(p, lr=0.1)):
        net, _, _ = small()
        optimizer = make(parameters(net))
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))

        def closure(net=net, optimizer=optimizer, x=x):
            optimizer.zero_grad()
            loss = forward(net, x).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        before = [(id(p), p.shape) for p in parameters(net)]
        plan = Plan.removing(trace(net, lambda net=net, x=x: [forward(net, x)]).groups,
                             {'latent': (1,)})
        with pytest.raises(GroupError) as error:
            apply(plan, net, optimizer)
        four_parts(error, 'was to be cut', 'start the optimiser afresh')
        assert [(id(p), p.shape) for p in parameters(net)] == before


def test_a_cut_that_does_not_verify_is_taken_back(four_parts):
    """The plan takes other rows than columns: weights, sizes and optimiser are as before."""
    net, _, _ = small()
    optimizer = torch.optim.Adam(parameters(net))
    x = torch.randn(16, 3)
    forward(net, x).sum().backward()
    optimizer.step()
    plan = Plan.removing(trace(net, lambda: [forward(net, x)]).groups, {'latent': (1,)})
    wrong = dataclasses.replace(plan, slices={**plan.slices, 'b.weight': {1: (2,)}})
    before = [(id(p), p.grad.clone(), {k: v.clone() for k, v in optimizer.state[p].items()})
              for p in parameters(net)]
    with pytest.raises(GroupError) as error:
        apply(wrong, net, optimizer, run=lambda n: [forward(n, x)])
    four_parts(error, 'outputs differ')
    assert (net['a'].out_features, net['n'].normalized_shape, net['b'].in_features) == (8, (8,), 8)
    for (i, grad, state), p in zip(before, optimizer.param_groups[0]['params'], strict=True):
        assert id(p) == i and torch.equal(p.grad, grad)
        assert all(torch.equal(v, optimizer.state[p][k]) for k, v in state.items())
    assert [id(p) for p in parameters(net)] == [i for i, _, _ in before]


def test_a_cut_model_that_does_not_run_is_taken_back(four_parts):
    """A width that stands in the code, where no trace sees it."""
    class Picky(nn.Linear):
        def forward(self, x):
            if int(x.shape[-1]) != 8:
                raise ValueError('8 channels, please')
            return super().forward(x)

    net = {'a': nn.Linear(3, 8), 'b': Picky(8, 2)}
    x = torch.randn(4, 3)
    plan = Plan.removing(trace(net, lambda: [net['b'](net['a'](x))]).groups, {'latent': (0,)})
    with pytest.raises(GroupError) as error:
        apply(plan, net, run=lambda n: [n['b'](n['a'](x))])
    four_parts(error, 'does not run (8 channels, please)')
    assert net['a'].weight.shape == (8, 3)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_types_hooks_and_attributes_stay(dtype):
    net, _, _ = small()
    for module in net.values():
        module.to(dtype)
    seen = []
    net['a'].weight.register_hook(lambda g: seen.append(tuple(g.shape)))
    net['a'].bias.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.shape)))
    net['a'].weight.mine = 'kept'
    x = torch.randn(16, 3, dtype=dtype)
    plan = Plan.removing(trace(net, lambda: [forward(net, x)]).groups, {'latent': (1, 2, 3)})
    apply(plan, net, run=lambda n: [forward(n, x)])
    assert {p.dtype for p in parameters(net)} == {dtype}
    assert net['a'].weight.mine == 'kept'
    forward(net, x).float().sum().backward()
    assert sorted(seen) == [(5,), (5, 3)]


def test_the_device_stays():
    """Also where there are no values to compare."""
    net, _, _ = small()
    plan = Plan.removing(trace(net, lambda: [forward(net, torch.zeros(2, 3))]).groups,
                         {'latent': (1, 2, 3)})
    for module in net.values():
        module.to('meta')
    apply(plan, net)
    assert {p.device.type for p in parameters(net)} == {'meta'}
    assert net['a'].weight.shape == (5, 3)


def test_verify_wants_the_models_of_its_plan(four_parts):
    net, _, _ = small()
    x = torch.randn(4, 3)
    plan = Plan.removing(trace(net, lambda: [forward(net, x)]).groups, {'latent': (1,)})
    before = copy.deepcopy(net)
    apply(plan, net)
    for models in ((net, net), (before, before)):
        with pytest.raises(GroupError) as error:
            verify(*models, plan, lambda n: [forward(n, x)])
        four_parts(error, "parameter 'a.bias'", '(8,)', '(7,)')
    assert verify(before, net, plan, lambda n: [forward(n, x)]) < 1e-6


def test_mirrors_of_some_components_and_within_the_model(make_agent):
    """Two targets at once, one of them a part; a mirror that shares a module is cut once."""
    agent = make_agent()
    own = dict(agent.components.items())
    part = {'q1': copy.deepcopy(own['q1']), 'encoder': own['encoder']}
    plan = random_plan(agent.graph())
    apply(plan, own, mirrors=(agent.targets, part))
    for mirror in (agent.targets, part):
        for name, module in mirror.items():
            assert {n: p.shape for n, p in module.named_parameters()} == {
                n: p.shape for n, p in own[name].named_parameters()}


def build_agent_like():
    """Tied heads, buffers, and normalisations with and without parameters of their own."""
    net = {'a': nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6),
                              nn.LayerNorm(6, elementwise_affine=False)),
           'b': nn.Linear(6, 2), 'c': nn.Linear(6, 2)}
    net['c'].weight = net['b'].weight
    return net


def test_rebuilt_from_plans_and_weights(tmp_path, four_parts):
    """Constructor, plans as JSON and a safetensors file give the cut model back, ties included."""
    x = torch.randn(5, 3)

    def run(n):
        z = n['a'](x)
        return [n['b'](z), n['c'](z)]

    net, plans = build_agent_like(), []
    for units in ({'a.hidden1': [0, 3], 'latent': [5]}, {'latent': [0, 1]}):
        plans.append(Plan.removing(trace(net, lambda: run(net)).groups, units))
        apply(plans[-1], net, run=run)
    save(net, tmp_path / 'weights.safetensors')
    plans = [Plan.from_json(json.loads(json.dumps(p.to_json()))) for p in plans]
    assert plans[0].slices['a.4.normalized_shape'] == {0: (5,)}
    for cuts in (plans, [plans[0].then(plans[1])]):
        again = rebuild(build_agent_like, cuts, tmp_path / 'weights.safetensors')
        assert again['c'].weight is again['b'].weight
        assert again['a'][4].normalized_shape == (3,) and again['a'][1].num_features == 6
        for module in (*net.values(), *again.values()):
            module.eval()
        for one, other in zip(run(net), run(again), strict=True):
            assert torch.equal(one, other)
    with pytest.raises(GroupError) as error:
        rebuild(build_agent_like, plans[:1], tmp_path / 'weights.safetensors')
    four_parts(error, "the weight 'a.3.bias'", '(3,)', '(5,)')
    with pytest.raises(GroupError) as error:
        rebuild(build_agent_like, plans[1:])
    four_parts(error, 'trace the model again')
    (tmp_path / 'weights.safetensors').write_bytes(b'nothing')
    with pytest.raises(GroupError) as error:
        rebuild(build_agent_like, plans, tmp_path / 'weights.safetensors')
    four_parts(error, 'weights.safetensors', 'surgery.save')


def test_autoencoder():
    """The paper's second testbed: one latent group of both components, hidden groups of each."""
    def mlp(*sizes):
        layers = []
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    torch.manual_seed(0)
    net = {'encoder': mlp(20, 16, 12, 6), 'decoder': mlp(6, 12, 16, 20)}
    x = torch.randn(4, 20)

    def run(n):
        return [n['decoder'](n['encoder'](x))]

    graph = trace(net, lambda: run(net))
    assert [(g.name, g.size, g.owners) for g in graph.free] == [
        ('encoder.hidden1', 16, ('encoder',)), ('encoder.hidden2', 12, ('encoder',)),
        ('latent', 6, ('encoder', 'decoder')), ('decoder.hidden1', 12, ('decoder',)),
        ('decoder.hidden2', 16, ('decoder',))]
    assert graph['latent'].params_per_unit == 12 + 1 + 12
    assert graph.macs == 2 * (20 * 16 + 16 * 12 + 12 * 6)
    receipt = apply(random_plan(graph, 0.8), net, run=run)
    assert receipt.difference < 1e-6 and receipt.parameters_after < 0.2 * receipt.parameters_before
