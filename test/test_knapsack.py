# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Knapsack allocation against trying every combination of widths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from pruning_core.budgets import Macs, Parameters
from pruning_core.channels import trace
from pruning_core.groups import Costs
from pruning_core.knapsack import Packing, importance_lost
from pruning_core.selection import Limits, select


def chain(widths):
    """Groups of a chain of linear layers with these hidden widths."""
    sizes = [3, *widths, 2]
    model = nn.Sequential(*(m for a, b in itertools.pairwise(sizes)
                            for m in (nn.Linear(a, b), nn.ReLU())))
    return trace({'net': model}, lambda: [model(torch.zeros(1, 3))])


def sums(scores):
    return {name: importance_lost(values) for name, values in scores.items()}


def best_of_all(groups, scores, budget, block):
    """Most importance kept, over every combination of widths within the budget."""
    costs, sizes = Costs(groups), {g.name: g.size for g in groups}
    packing = Packing(groups, sums(scores), block, lambda removed: 0.0)
    options = [[g.size - kept for kept in range(block, g.size + 1, block)] for g in groups]
    lost = [packing.lost(removed) for combination in itertools.product(*options)
            if budget.met(budget.achieved(costs, sizes, removed := dict(zip(
                sizes, combination, strict=True))))]
    return min(lost)


@pytest.mark.parametrize('budget', [Parameters, Macs])
@pytest.mark.parametrize('share', [0.3, 0.6, 0.8])
def test_against_brute_force(budget, share):
    """Never better, which would be wrong; mostly the same, and never much worse."""
    ratios = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        graph = chain(rng.choice([12, 16, 20], size=3))
        scores = {g.name: rng.gamma(1.0, rng.uniform(0.2, 3.0), g.size) for g in graph.free}
        limits = Limits(floor=2, multiple=2)
        plan = select(graph.groups, scores, budget(share), limits, allocation='knapsack')
        packing = Packing(graph.free, sums(scores), 2, lambda removed: 0.0)
        found = packing.lost({name: len(gone) for name, gone in plan.removed.items()})
        least = best_of_all(graph.free, scores, budget(share), 2)
        assert plan.achieved >= share and found >= least - 1e-9
        ratios.append(found / least)
    assert np.mean(np.array(ratios) < 1 + 1e-9) >= 0.5 and np.mean(ratios) < 1.06


def test_where_costs_are_equal_the_least_important_go():
    """Two layers alike, one of them worth ten times as much: the other gives."""
    graph = chain([16, 4, 16])
    cheap, _, dear = (g.name for g in graph.free)
    scores = {g.name: np.full(g.size, 10.0 if g.name == dear else 1.0) for g in graph.free}
    plan = select(graph.groups, scores, Parameters(0.3), Limits(floor=1, multiple=1,
                  protect=(graph.free[1].name,)), allocation='knapsack')
    assert len(plan.removed[cheap]) > 4 and not plan.removed[dear]


def test_importance_is_weighed_against_what_is_saved():
    """Of units worth the same, those go that many weights hang on."""
    graph = chain([32, 8, 4])
    scores = {g.name: np.ones(g.size) for g in graph.free}
    plan = select(graph.groups, scores, Parameters(0.3), Limits(floor=1, multiple=1),
                  allocation='knapsack')
    gone = [len(plan.removed[g.name]) / g.size for g in graph.free]
    uniform = select(graph.groups, scores, Parameters(0.3), Limits(floor=1, multiple=1))
    assert sum(map(len, plan.removed.values())) < sum(map(len, uniform.removed.values()))
    assert gone[1] > gone[0]


def test_units_never_measured_are_worth_the_best():
    np.testing.assert_array_equal(
        importance_lost(np.array([1.0, np.nan, 3.0, 2.0])), [0, 1, 3, 6, 9])


def test_blocks_leave_multiples_and_never_nothing():
    graph = chain([10, 3])
    packing = Packing(graph.free, {g.name: np.arange(g.size + 1.0) for g in graph.free}, 4,
                      lambda removed: -float(sum(removed.values())))
    wide, narrow = (g.name for g in graph.free)
    at = packing.order()
    assert {10 - at(level)[wide] for level in np.linspace(0, 1, 50)} == {10, 8, 4}
    assert at(0.0) == {wide: 0, narrow: 0} and at(1.0) == {wide: 6, narrow: 0}
