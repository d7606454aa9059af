# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Units that represent the others: known answers, widths kept, importance as a weight."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.budgets import Parameters
from pruning_core.importance.baselines import Subject
from pruning_core.importance.baselines import score as baseline
from pruning_core.plans import Plan
from pruning_core.selection import Limits, select
from pruning_core.subset import curves, greedy, representatives
from pruning_core.visits import visit


def test_of_repeated_columns_one_is_chosen_and_strong_ones_come_first():
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.linalg.qr(torch.randn(60, 3, generator=generator))[0].T
    x = torch.stack([a, 2 * a, b, c, -b], dim=1)
    y = (5 * a + 3 * b + c)[:, None]
    chosen = greedy(x, y, 3).columns
    assert {frozenset({0, 1}) & {i} != frozenset() for i in chosen[:1]} == {True}
    assert chosen[1] in (2, 4) and chosen[2] == 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_the_first_choice_is_the_best_single_column(seed, columns):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((50, columns)))
    y = torch.from_numpy(rng.standard_normal((50, 2)))

    def error(column):
        xc, yc = (v - v.mean(0) for v in (x[:, [column]], y))
        return float((yc - xc @ torch.linalg.lstsq(xc, yc).solution).square().sum())

    assert error(greedy(x, y, 1).columns[0]) <= min(map(error, range(columns))) + 0.05


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_close_to_the_best_subset_of_all(seed):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((80, 6)) @ rng.standard_normal((6, 6)))
    y = torch.from_numpy(rng.standard_normal((80, 6)) * 0.05) + x @ torch.from_numpy(
        rng.standard_normal((6, 4)) @ np.diag([1, 1, 1, 1])) @ torch.ones(4, 6).double() * 0.3
    xc, yc = x - x.mean(0), y - y.mean(0)

    def error(subset):
        part = xc[:, list(subset)]
        return float((yc - part @ torch.linalg.lstsq(part, yc).solution).square().sum())

    errors = sorted(error(s) for s in itertools.combinations(range(6), 3))
    assert error(greedy(x, y, 3).columns) <= np.median(errors)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_choices_are_different_and_repeatable(seed, count):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(np.repeat(rng.standard_normal((30, 6)), 2, axis=1))
    y = torch.from_numpy(rng.standard_normal((30, 3)))
    chosen = greedy(x, y, count).columns
    assert len(set(chosen)) == count and chosen == greedy(x, y, count).columns


def planned(agent, sparsity=0.5):
    graph = agent.graph()
    scores = baseline('random', Subject(graph, dict(agent.components.items()),
                                        np.random.default_rng(0)))
    return graph.groups, scores, select(graph.groups, scores, Parameters(sparsity), Limits(2, 1))


def test_widths_and_budget_stay_and_members_change(make_agent, fill):
    agent = make_agent()
    groups, scores, plan = planned(agent)
    visits = visit(agent.components, fill(), np.random.default_rng(0))
    other = representatives(groups, dict(agent.components.items()), plan, visits, scores)
    assert {n: len(u) for n, u in other.removed.items()} == {
        n: len(u) for n, u in plan.removed.items()}
    assert other.removed != plan.removed
    for name in ('parameters_left', 'macs_left', 'requested', 'achieved', 'score', 'budget'):
        assert getattr(other, name) == getattr(plan, name)
    assert Plan.from_json(other.to_json()) == other
    again = representatives(groups, dict(agent.components.items()), plan, visits, scores)
    assert again == other


def test_repeated_units_are_the_ones_that_go(make_agent, fill):
    """Eight units of reward.hidden2 repeat the other eight; one of each pair is enough."""
    agent = make_agent()
    second, last = agent.components['reward'][2], agent.components['reward'][4]
    with torch.no_grad():
        second.weight[8:], second.bias[8:] = second.weight[:8], second.bias[:8]
        second.bias += 5.0  # all of them active, so that no unit is zero everywhere
        last.weight[:, :8] = last.weight[:, 8:] = torch.linspace(1, 2, 8)
    groups = agent.graph().groups
    plan = Plan.removing(groups, {'reward.hidden2': range(8, 16)})
    visits = visit(agent.components, fill(episodes=30), np.random.default_rng(0))
    other = representatives(groups, dict(agent.components.items()), plan, visits)
    kept = other.kept('reward.hidden2') % 8
    assert len(set(kept.tolist())) == 8


def test_what_an_important_unit_receives_counts_more(make_agent, fill):
    """reward.hidden1 feeds two units of hidden2 alone; the heavier one decides who stays."""
    agent = make_agent()
    second = agent.components['reward'][2]
    with torch.no_grad():
        second.weight.zero_()
        second.weight[0, 0] = second.weight[1, 1] = 1.0
        agent.components['reward'][0].bias += 5.0
    groups = agent.graph().groups
    visits = visit(agent.components, fill(episodes=30), np.random.default_rng(0))
    plan = Plan.removing(groups, {'reward.hidden1': range(1, 16)})
    scores = {g.name: np.ones(g.size) for g in groups}
    for heavy in (0, 1):
        scores['reward.hidden2'] = np.where(np.arange(16) == heavy, 100.0, 1e-3)
        other = representatives(groups, dict(agent.components.items()), plan, visits, scores)
        assert other.kept('reward.hidden1').tolist() == [heavy]


def test_scores_that_were_never_measured_weigh_nothing_special(make_agent, fill):
    agent = make_agent()
    groups, scores, plan = planned(agent)
    visits = visit(agent.components, fill(), np.random.default_rng(0))
    nothing = {name: np.full(len(values), np.nan) for name, values in scores.items()}
    assert representatives(groups, dict(agent.components.items()), plan, visits, nothing) \
        == representatives(groups, dict(agent.components.items()), plan, visits)


def test_what_is_lost_as_units_go(make_agent, fill):
    """From nothing to the group's whole importance; repeated units cost nothing."""
    agent = make_agent()
    second, last = agent.components['reward'][2], agent.components['reward'][4]
    with torch.no_grad():
        second.weight[8:], second.bias[8:] = second.weight[:8], second.bias[:8]
        second.bias += 5.0
        last.weight[:] = 1.0
    graph = agent.graph()
    scores = {g.name: np.full(g.size, 3.0 if g.name == 'reward.hidden2' else 1.0)
              for g in graph.free}
    visits = visit(agent.components, fill(episodes=30), np.random.default_rng(0))
    lost = curves(graph.free, dict(agent.components.items()), visits, scores)
    assert {n: len(v) for n, v in lost.items()} == {g.name: g.size + 1 for g in graph.free}
    for name, values in lost.items():
        assert values[0] < 0.01 and values[-1] == (3.0 if name == 'reward.hidden2' else 1.0)
        assert (np.diff(values) >= -1e-9).all()
    assert lost['reward.hidden2'][8] < 0.01  # the other eight explain them
    assert lost['q1.hidden2'][15] > 10 * lost['q1.hidden2'][4]


def test_knapsack_gives_to_the_groups_that_cannot_spare(make_agent, fill):
    """A group whose units repeat each other becomes narrower than its equals."""
    agent = make_agent()
    second, last = agent.components['reward'][2], agent.components['reward'][4]
    with torch.no_grad():
        second.weight[:], second.bias[:] = second.weight[:1].clone(), 5.0
        last.weight[:] = 1.0
    graph = agent.graph()
    scores = {g.name: np.ones(g.size) for g in graph.free}
    visits = visit(agent.components, fill(episodes=30), np.random.default_rng(0))
    plan = select(graph.groups, scores, Parameters(0.5), Limits(1, 1), allocation='knapsack',
                  lost=curves(graph.free, dict(agent.components.items()), visits, scores))
    assert len(plan.kept('reward.hidden2')) < len(plan.kept('q1.hidden2'))
