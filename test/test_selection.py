# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Budgets and scores in, plans out: properties over random scores, limits and budgets."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from pruning_core.budgets import Macs, Milliseconds, Parameters
from pruning_core.channels import trace
from pruning_core.config import ALLOCATIONS, COUPLINGS
from pruning_core.errors import GroupError
from pruning_core.groups import Costs
from pruning_core.plans import Plan
from pruning_core.selection import Limits, select

FREE = Limits(floor=1, multiple=1)
limits = st.builds(Limits, floor=st.integers(1, 12), multiple=st.integers(1, 8),
                   coupling_share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
                   protect=st.sampled_from([(), ('latent',), ('q1.hidden1', 'encoder.hidden1')]),
                   coupling=st.sampled_from(COUPLINGS),
                   caps=st.dictionaries(st.sampled_from(['encoder', 'q1']), st.floats(0, 1)))
sparsities = st.floats(0, 0.99)
quick = settings(deadline=None, max_examples=60)


@pytest.fixture(scope='module')
def graph():
    """An encoder and a Q net: a latent of 10 units, hidden groups of 20, 24 and 24."""
    net = {'encoder': nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 10)),
           'q1': nn.Sequential(nn.Linear(10, 24), nn.LayerNorm(24), nn.Tanh(), nn.Linear(24, 24),
                               nn.ELU(), nn.Linear(24, 1))}
    return trace(net, lambda: [net['q1'](net['encoder'](torch.zeros(2, 3)))])


def scores_for(graph, seed=0, levels=0):
    """Random scores; from a few levels only, so that there are ties."""
    rng = np.random.default_rng(seed)
    return {g.name: rng.integers(levels, size=g.size).astype(float) if levels
            else rng.gamma(2.0, size=g.size) for g in graph.free}


def choose(graph, scores, share, *limits, **options):
    """A plan that removes a share of the parameters."""
    return select(graph.groups, scores, Parameters(share), *limits, **options)


def removed_counts(plan):
    return {name: len(units) for name, units in plan.removed.items()}


@quick
@given(sparsities, limits, st.sampled_from(ALLOCATIONS), st.integers(0, 99))
def test_what_every_plan_respects(graph, sparsity, limits, allocation, seed):
    """Budget met, floors and multiples kept, protected groups whole, and the counts are true."""
    scores = scores_for(graph, seed)
    try:
        plan = choose(graph, scores, sparsity, limits, allocation=allocation)
    except GroupError as error:
        loose = choose(graph, scores, sparsity, limits, allocation=allocation, strict=False)
        assert loose.achieved < sparsity
        assert f'{loose.achieved:.1%} is what the limits leave room for' in str(error)
        plan = loose
    else:
        assert plan.achieved >= sparsity
    assert plan.requested == sparsity
    left = graph.parameters
    for group in graph.free:
        units = plan.removed[group.name]
        assert list(units) == sorted(set(units))
        assert set(units) <= set(range(group.size))
        kept = plan.kept(group.name)
        assert sorted([*units, *kept]) == list(range(group.size))
        assert len(kept) >= min(limits.floor, group.size)
        if units and group.size >= limits.multiple:
            assert len(kept) % limits.multiple == 0, group.name
        if group.name in limits.protect or group.kind == 'coupling' and (
                not limits.coupling_share or limits.coupling == 'protect'):
            assert not units, group.name
    costs = Costs(graph.groups)
    for component, cap in limits.caps.items():
        gone = 1 - costs.parameters(removed_counts(plan), component) / costs.parameters(
            {}, component)
        assert gone <= cap, component
    left = Costs(graph.groups).parameters(removed_counts(plan))
    assert plan.parameters_left == left
    assert plan.achieved == 1 - left / plan.parameters


@quick
@given(sparsities, st.sampled_from(ALLOCATIONS), st.integers(0, 99), st.sampled_from([2, 3, 0]))
def test_lowest_scores_go_first_and_ties_by_number(graph, sparsity, allocation, seed, levels):
    scores = scores_for(graph, seed, levels)
    plan = choose(graph, scores, sparsity, FREE, allocation=allocation, strict=False)
    for name, units in plan.removed.items():
        order = sorted(range(len(scores[name])), key=lambda i: (scores[name][i], i))
        assert set(units) == set(order[:len(units)])


@quick
@given(sparsities, limits, st.sampled_from(ALLOCATIONS), st.integers(0, 99))
def test_same_scores_same_plan_and_json_round_trip(graph, sparsity, limits, allocation, seed):
    plans = [choose(graph, scores_for(graph, seed), sparsity, limits, allocation=allocation,
                    score='l1', strict=False) for _ in range(2)]
    assert plans[0] == plans[1]
    assert Plan.from_json(json.loads(json.dumps(plans[0].to_json()))) == plans[0]


@quick
@given(sparsities, sparsities, limits, st.sampled_from(['uniform', 'global']),
       st.integers(0, 99))
def test_more_sparsity_removes_a_superset(graph, one, other, limits, allocation, seed):
    low, high = (choose(graph, scores_for(graph, seed), s, limits, allocation=allocation,
                        strict=False) for s in sorted((one, other)))
    for name, units in low.removed.items():
        assert set(units) <= set(high.removed[name])


@quick
@given(sparsities, limits, st.integers(0, 9))
def test_no_more_is_removed_than_needed(graph, sparsity, limits, seed):
    """Uniform: among many levels, tried one by one, none that meets the budget keeps more."""
    limits = dataclasses.replace(limits, floor=limits.multiple, coupling_share=1.0,
                                 coupling='own', caps={})
    plan = choose(graph, scores_for(graph, seed), sparsity, limits, strict=False)
    assume(plan.achieved >= sparsity)

    def removed(size, level):
        wanted = round(level * size)
        if wanted == 0:
            return 0
        kept = limits.multiple * round((size - wanted) / limits.multiple)
        return size - min(size, max(kept, limits.multiple))

    best = 0
    for level in np.linspace(0, 1, 241):
        counts = {g.name: 0 if g.name in limits.protect else removed(g.size, level)
                  for g in graph.free}
        left = Costs(graph.groups).parameters(counts)
        if 1 - left / graph.parameters >= sparsity:
            best = max(best, left)
    assert plan.parameters_left >= best


def test_counting_against_the_shapes(graph):
    """Crossings count once: without 4 latent and 6 hidden units, layer by layer."""
    def count(z, h):
        return (3 * 20 + 20 + 20 * z + z) + (z * h + h + 2 * h) + (h * 24 + 24) + 24 + 1

    assert graph.parameters == count(10, 24)
    assert Costs(graph.groups).parameters({'latent': 4, 'q1.hidden1': 6}) == count(6, 18)


def test_uniform_takes_the_same_share_everywhere(graph):
    plan = choose(graph, scores_for(graph), 0.6, FREE)
    shares = [len(u) / plan.sizes[n] for n, u in plan.removed.items()]
    assert max(shares) - min(shares) < 0.05
    assert min(shares) > 0.3


def test_global_ranks_groups_against_each_other(graph):
    """A score counts relative to its group's mean: units of two groups go, the even ones stay."""
    scores = {g.name: np.full(g.size, 5.0) for g in graph.free}
    scores['q1.hidden1'] = np.where(np.arange(24) % 2, 1e-6, 2e-6)
    scores['q1.hidden2'] = np.where(np.arange(24) < 12, 1.0, 1e-9)
    plan = choose(graph, scores, 0.35, FREE, allocation='global')
    assert plan.removed['latent'] == plan.removed['encoder.hidden1'] == ()
    assert plan.removed['q1.hidden2'] == tuple(range(12, 24))
    odd = range(1, 24, 2)
    assert plan.removed['q1.hidden1'] == tuple(odd)[:len(plan.removed['q1.hidden1'])] != ()


@pytest.mark.parametrize('allocation', ALLOCATIONS)
def test_units_that_were_never_measured_go_last(graph, allocation):
    scores = scores_for(graph)
    scores['latent'][[1, 4]] = np.nan
    scores['q1.hidden2'][:] = np.nan
    plan = choose(graph, scores, 0.4, FREE, allocation=allocation)
    assert not {1, 4} & set(plan.removed['latent'])
    if allocation == 'global':
        assert not plan.removed['q1.hidden2']


def test_nothing_asked_nothing_removed(graph):
    for allocation in ALLOCATIONS:
        plan = choose(graph, scores_for(graph), 0.0, allocation=allocation)
        assert (plan.achieved, plan.parameters_left) == (0.0, graph.parameters)
        assert not any(plan.removed.values())


def test_coupling_groups_give_their_share(graph):
    """A fifth of what the allocation wants of them; the hidden groups make up for it."""
    whole = choose(graph, scores_for(graph), 0.7, FREE)
    part = choose(graph, scores_for(graph), 0.7, dataclasses.replace(FREE, coupling_share=0.2))
    assert 0 < len(part.removed['latent']) < 0.5 * len(whole.removed['latent'])
    assert len(part.removed['q1.hidden1']) > len(whole.removed['q1.hidden1'])
    assert 'coupling share 0.2' in dict(part.skipped)['latent']
    assert whole.skipped == ()


@pytest.mark.parametrize('multiple', [1, 2, 3, 4, 8])
def test_a_share_of_zero_leaves_the_latent_whole(graph, multiple):
    """Also where its size is no multiple of the vector width."""
    plan = choose(graph, scores_for(graph), 0.5, Limits(2, multiple, coupling_share=0.0))
    assert plan.removed['latent'] == ()


def test_skips_are_named_with_their_reason(graph):
    limits = Limits(floor=20, multiple=1, protect=('latent',))
    plan = choose(graph, scores_for(graph), 0.9, limits, strict=False)
    reasons = dict(plan.skipped)
    assert reasons['latent'] == 'protected'
    assert 'floor 20' in reasons['encoder.hidden1']
    assert set(reasons) == {g.name for g in graph.free}
    assert plan.removed['encoder.hidden1'] == ()
    assert len(plan.removed['q1.hidden1']) == 4


def without(scores, name):
    return {k: v for k, v in scores.items() if k != name}


@pytest.mark.parametrize(('call', 'said'), [
    (lambda g, s: choose(g, s, 1.0), ['share of 1.0', 'from 0 to below 1']),
    (lambda g, s: choose(g, s, -0.1), ['share of -0.1']),
    (lambda g, s: choose(g, s, float('nan')), ['share of nan']),
    (lambda g, s: choose(g, s, 0.99), ['removing 99.0%', 'a floor below 8']),
    (lambda g, s: choose(g, s, 0.9, Limits(1, 1, protect=('q1.hidden1', 'latent'))),
     ['q1.hidden1, latent']),
    (lambda g, s: choose(g, without(s, 'latent'), 0.1), ["group 'latent'", '0 of 10']),
    (lambda g, s: choose(g, {**s, 'latent': np.ones(9)}, 0.1), ['9 of 10']),
    (lambda g, s: choose(g, s, 0.1, allocation='unifrom'), ['unifrom', 'uniform']),
    (lambda g, s: choose(g, s, 0.1, Limits(protect=('latnet',))), ["did you mean 'latent'?"]),
    (lambda g, s: choose(g, s, 0.1, Limits(caps={'encodr': 1})), ["did you mean 'encoder'?"]),
    (lambda g, s: choose(g, s, 0.9, Limits(1, 1, caps={'q1': 0.2})), ['higher caps (q1 0.2)']),
    (lambda g, s: choose(g, s, 0.1, Limits(coupling='max')), ["'max'", 'own, min, protect']),
    (lambda g, s: choose(g, s, 0.1, Limits(caps={'q1': 1.2})), ['caps of q1', 'from 0 to 1']),
    (lambda g, s: choose(g, s, 0.1, Limits(multiple=0)), ['multiple', '1 or more']),
    (lambda g, s: choose(g, s, 0.1, Limits(floor=-1)), ['floor', '0 or more']),
    (lambda g, s: select(g.groups, s, Macs(1.0)), ['share of 1.0 of the macs']),
    (lambda g, s: select(g.groups, s, Macs(0.99)), ['removing 99.0% of the macs']),
    (lambda g, s: select(g.groups, s, Milliseconds(0, lambda k: 1)), ['0 ms', 'above 0']),
    (lambda g, s: select(g.groups, s, Milliseconds(1, lambda k: 1)),
     ['a decision within 1 ms', '1000 ms is what the limits leave room for']),
    (lambda g, s: select(g.groups, s, Milliseconds(1, lambda k: float('nan'))),
     ["{'encoder.hidden1': 20, 'latent': 10", 'nan s', 'correct the predictor']),
], ids=['one', 'negative', 'nan', 'too much', 'protected', 'missing', 'short', 'allocation',
        'group', 'component', 'capped', 'rule', 'cap', 'multiple', 'floor', 'macs range', 'macs',
        'no time', 'too slow', 'predictor'])
def test_what_cannot_be_done_is_refused(graph, call, said, four_parts):
    with pytest.raises(GroupError) as error:
        call(graph, scores_for(graph))
    four_parts(error, *said)


def layer_macs(encoder, latent, one, two, uses=(1, 1)):
    """Multiply-accumulates written out, with so many units left."""
    return (uses[0] * (3 * encoder + encoder * latent)
            + uses[1] * (latent * one + one * two + two))


@pytest.mark.parametrize('uses', [{}, {'encoder': 1, 'q1': 50}, {'encoder': 1000}])
def test_a_budget_in_macs(graph, uses):
    """Counted layer by layer, weighted by how often each component runs."""
    weights = uses.get('encoder', 1), uses.get('q1', 1)
    assert graph.macs == layer_macs(20, 10, 24, 24)
    budget = Macs(0.6, uses)
    plan = select(graph.groups, scores_for(graph), budget, FREE)
    left = layer_macs(*(len(plan.kept(n)) for n in plan.sizes), weights)
    full = layer_macs(20, 10, 24, 24, weights)
    assert plan.achieved == pytest.approx(1 - left / full) and plan.achieved >= 0.6
    assert (plan.budget, plan.requested) == ('macs', 0.6)
    assert plan.macs_left == layer_macs(*(len(plan.kept(n)) for n in plan.sizes))


def test_a_budget_in_milliseconds(graph):
    """The predictor is asked with the units that each group keeps; the slowest plan that fits."""
    asked = []

    def predict(kept):
        asked.append(dict(kept))
        return 1e-3 + 1e-5 * sum(kept.values())

    plan = select(graph.groups, scores_for(graph), Milliseconds(1.5, predict), FREE)
    kept = {n: len(plan.kept(n)) for n in plan.sizes}
    assert plan.budget == 'milliseconds' and plan.requested == 1.5
    assert plan.achieved == pytest.approx(1e3 * predict(kept)) and plan.achieved <= 1.5
    assert 46 <= sum(kept.values()) <= 50  # one level of uniform removal moves several groups
    assert asked[0] == {g.name: g.size for g in graph.free}
    whole = select(graph.groups, scores_for(graph), Milliseconds(2.0, predict), FREE)
    assert not any(whole.removed.values())
    loose = select(graph.groups, scores_for(graph), Milliseconds(0.5, predict), FREE, strict=False)
    assert loose.achieved > 0.5 and all(len(loose.kept(n)) == 1 for n in loose.sizes)


def test_coupling_rules(graph):
    """Global: half of the latent's units are worth little, the encoder's are all alike."""
    scores = {g.name: np.linspace(0.9, 1.1, g.size) for g in graph.free}
    scores['latent'][:5] = 1e-6
    scores['q1.hidden1'][:20] = 1e-6

    def cut(rule):
        plan = choose(graph, scores, 0.75, dataclasses.replace(FREE, coupling=rule),
                      allocation='global')
        return removed_counts(plan), dict(plan.skipped)

    (own, _), (least, why), (none, protected) = cut('own'), cut('min'), cut('protect')
    assert own['latent'] >= 5 and none['latent'] == 0
    assert protected['latent'] == 'coupling groups are protected'
    # The encoder gives a smaller share than q1, the other owner.
    assert least['latent'] == round(10 * least['encoder.hidden1'] / 20) < 5
    assert least['latent'] < 10 * (least['q1.hidden1'] + least['q1.hidden2']) / 48
    assert 'rule min' in why['latent']


def test_caps_hold_exactly_and_the_others_make_up_for_it(graph):
    free = choose(graph, scores_for(graph), 0.5, FREE)
    capped = choose(graph, scores_for(graph), 0.5,
                    dataclasses.replace(FREE, caps={'encoder': 0.1}))
    costs = Costs(graph.groups)

    def lost(plan, component):
        return 1 - costs.parameters(removed_counts(plan), component) / costs.parameters(
            {}, component)

    assert lost(free, 'encoder') > 0.4 and 0 < lost(capped, 'encoder') <= 0.1
    assert lost(capped, 'q1') > lost(free, 'q1') and capped.achieved >= 0.5
    assert 'cap 0.1 of encoder' in dict(capped.skipped)['encoder.hidden1']
    assert 'cap 0.1 of encoder' in dict(capped.skipped)['latent']


@pytest.mark.parametrize('change', [
    lambda v: v.pop('removed'), lambda v: v.pop('sizes'), lambda v: v.update(extra=1),
    lambda v: v.update(removed=[1, 2]), lambda v: v.update(removed={'latent': ['x']}),
    lambda v: v.update(skipped=[['latent']]), lambda v: v.update(skipped=None),
    lambda v: v.update(schema=1), lambda v: v.update(slices={'no.weight': {'0': [1]}}),
    lambda v: v.update(removed={'no': [1]}), lambda v: v['shapes'].update({'q1.0.bias': 3}),
], ids=['removed', 'sizes', 'unknown', 'list', 'text', 'half', 'none', 'schema', 'slices', 'group',
        'shape'])
def test_broken_plans_are_refused(graph, change, four_parts):
    values = json.loads(json.dumps(choose(graph, scores_for(graph), 0.5).to_json()))
    change(values)
    with pytest.raises(GroupError) as error:
        Plan.from_json(values)
    four_parts(error, 'a plan was read')
