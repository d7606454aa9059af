# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Plans: immutable, complete, and the same after JSON, copying and composing."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest
import torch
from torch import nn

from pruning_core.channels import trace
from pruning_core.errors import GroupError
from pruning_core.plans import Plan


@pytest.fixture(scope='module')
def graph():
    """A latent of 4 units between two Linears, and a hidden group of 5 that stays behind it."""
    net = {'a': nn.Linear(3, 4), 'b': nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))}
    x = torch.zeros(2, 3)
    return trace(net, lambda: [net['b'](net['a'](x))])


def test_a_plan_says_everything(graph):
    """Worked out by hand: one latent channel is 3 + 1 + 5 scalars, one hidden one 4 + 1 + 2."""
    plan = Plan.removing(graph.groups, {'latent': (2,), 'b.hidden1': (4, 0)}, score='mine')
    assert plan.removed == {'latent': (2,), 'b.hidden1': (0, 4)}
    assert plan.sizes == {'latent': 4, 'b.hidden1': 5}
    assert plan.slices == {
        'a.weight': {0: (2,)}, 'a.bias': {0: (2,)}, 'b.0.weight': {0: (0, 4), 1: (2,)},
        'b.0.bias': {0: (0, 4)}, 'b.2.weight': {1: (0, 4)}}
    assert (plan.parameters, plan.parameters_left) == (16 + 25 + 12, 12 + 12 + 8)
    assert (plan.macs, plan.macs_left) == (12 + 20 + 10, 9 + 9 + 6)
    assert plan.shape_after('b.0.weight') == (3, 3)
    assert plan.kept('b.hidden1').tolist() == [1, 2, 3]
    assert plan.score == 'mine'


def test_json_copies_and_pickles_are_equal(graph):
    plan = Plan.removing(graph.groups, {'latent': (2,)}, skipped=(('b.hidden1', 'why'),))
    for again in (Plan.from_json(json.loads(json.dumps(plan.to_json()))), copy.deepcopy(plan),
                  pickle.loads(pickle.dumps(plan))):
        assert again == plan


def test_nothing_of_it_can_be_changed(graph):
    plan = Plan.removing(graph.groups, {'latent': (2,)})
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.achieved = 1.0
    for mapping in (plan.removed, plan.sizes, plan.slices, plan.slices['a.bias'], plan.shapes):
        with pytest.raises(TypeError):
            mapping['x'] = ()


def test_one_after_the_other(graph):
    """Unit 1 of what is left is unit 2 of the whole, after unit 1 has gone."""
    first = Plan.removing(graph.groups, {'latent': (1,)})
    smaller = {'a': nn.Linear(3, 3), 'b': nn.Sequential(nn.Linear(3, 5), nn.Tanh(),
                                                        nn.Linear(5, 2))}
    after = trace(smaller, lambda: [smaller['b'](smaller['a'](torch.zeros(2, 3)))])
    second = Plan.removing(after.groups, {'latent': (1,), 'b.hidden1': (0,)}, requested=0.25)
    both = first.then(second)
    expected = Plan.removing(graph.groups, {'latent': (1, 2), 'b.hidden1': (0,)})
    assert (both.removed, both.slices, both.shapes) == (
        expected.removed, expected.slices, expected.shapes)
    assert (both.parameters, both.parameters_left) == (
        expected.parameters, expected.parameters_left)
    assert both.achieved == 1 - both.parameters_left / both.parameters
    assert both.requested == 0.25


def test_plans_of_different_models_do_not_compose(graph, four_parts):
    plan = Plan.removing(graph.groups, {'latent': (1,)})
    with pytest.raises(GroupError) as error:
        plan.then(plan)
    four_parts(error, "'a.bias' with (4,)", '(3,)', 'as the first leaves it')


@pytest.mark.parametrize(('units', 'said'), [
    ({'latent': range(4)}, ["all 4 units of 'latent'", 'at least one unit stays']),
    ({'latent': (4,)}, ['units 4 to 4', 'from 0 to 3']),
    ({'latent': (-1,)}, ['units -1 to -1']),
    ({'latent': (2, 2)}, ['different units']),
    ({'latnet': (2,)}, ["did you mean 'latent'?", 'latent, b.hidden1']),
    ({'a.fixed1': (0,)}, ['it must stay: a model input']),
], ids=['all', 'high', 'negative', 'twice', 'unknown', 'frozen'])
def test_units_that_are_not_there(graph, units, said, four_parts):
    with pytest.raises(GroupError) as error:
        Plan.removing(graph.groups, units)
    four_parts(error, *said)
