# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Times of layers, what is predicted from them, and a budget that only a measurement can meet."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from pruning_core import latency
from pruning_core.budgets import Milliseconds
from pruning_core.config import PlannerConfig
from pruning_core.errors import GateError
from pruning_core.latency import LayerTable, layers_kept, layers_time, plan_within
from pruning_core.selection import Limits, select
from pruning_core.surgery import apply


@pytest.fixture
def table():
    """Seconds that grow with the work, and a fixed part: what interpolation must reproduce."""
    sizes = (1, 8, 16)
    return LayerTable(32, sizes, tuple(tuple(1e-3 * (i * o + 5) for o in sizes) for i in sizes))


@pytest.mark.parametrize(('inputs', 'outputs'), [(1, 1), (8, 16), (12, 3), (5, 5), (16, 16)])
def test_table_is_linear_between_what_was_measured(table, inputs, outputs):
    assert table(inputs, outputs) == pytest.approx(1e-3 * (inputs * outputs + 5))


def test_table_grows_with_the_work_beyond_what_was_measured(table):
    assert table(32, 16) == pytest.approx(2 * table(16, 16))
    assert table(32, 64) == pytest.approx(8 * table(16, 16))


LAYERS = {'encoder': [(3, 4), (4, 5)], 'dynamics': [(6, 4), (4, 4), (4, 5)],
          'reward': [(6, 4), (4, 4), (4, 1)], 'policy': [(5, 4), (4, 1)],
          'q1': [(6, 4), (4, 1)], 'q2': [(6, 4), (4, 1)]}
SETTINGS = PlannerConfig(horizon=3, samples=8, policy_samples=2, elites=2, iterations=4)


def priced(fixed):
    """A table whose seconds are products, and a fixed part."""
    sizes = (1, 64)
    return LayerTable(1, sizes, tuple(tuple(1.0 * i * o + fixed for o in sizes) for i in sizes))


def test_time_of_a_plan_counts_every_product():
    """By hand, of narrow layers: the dynamics' last matrix is multiplied into what follows."""
    first = (4 + 16) + (4 + 16 + 4)  # dynamics and reward on one latent, which costs nothing
    later = (5 * 4 + 16) + (5 * 4 + 16 + 4)  # on four hidden units and an action
    end = (4 * 4 + 4) + 2 * (5 * 4 + 4)
    proposed = (5 * 4 + 4) + 2 * (4 * 4 + 4)  # the policy at every decision
    value = first + 2 * later + end
    table = priced(0.0)
    assert layers_time(LAYERS, SETTINGS, table, table) == pytest.approx(5 * value + proposed)
    assert layers_time(LAYERS, SETTINGS, priced(1.0), table) > 5 * value + proposed + 1


def test_time_of_a_plan_of_wide_layers_counts_the_latents():
    """24 hidden units against 5 latents: there joining would cost more than it spares."""
    dynamics = 24 * 24 + 24 * 5
    first = (24 + dynamics) + (4 + 16 + 4)
    later = (6 * 24 + dynamics) + (6 * 4 + 16 + 4)
    policy = 5 * 4 + 4
    value = first + 2 * later + policy + 2 * (6 * 4 + 4)
    wide = {**LAYERS, 'dynamics': [(6, 24), (24, 24), (24, 5)]}
    table = priced(0.0)
    assert layers_time(wide, SETTINGS, table, table) == pytest.approx(5 * value + 3 * policy)


def test_a_component_of_one_layer_leaves_all_others_apart():
    layers = {**LAYERS, 'q2': [(6, 1)]}
    first = (4 + 16 + 20) + (4 + 16 + 4)
    later = (6 * 4 + 16 + 20) + (6 * 4 + 16 + 4)
    policy = 5 * 4 + 4
    value = first + 2 * later + policy + (6 * 4 + 4) + 6
    table = priced(0.0)
    assert layers_time(layers, SETTINGS, table, table) == pytest.approx(5 * value + 3 * policy)


def test_time_of_a_plan_grows_with_every_size():
    """Also where joining begins to pay: what is selected by it is looked for by halving."""
    def times(latent, hidden):
        return layers_time(
            {'encoder': [(3, latent)], 'dynamics': [(latent + 1, hidden), (hidden, latent)],
             **{name: [(latent + a, 64), (64, 1)] for name, a in (
                 ('reward', 1), ('policy', 0), ('q1', 1), ('q2', 1))}},
            SETTINGS, priced(200.0), priced(200.0))

    for hidden in (24, 48):
        found = [times(latent, hidden) for latent in range(1, 60)]
        assert found == sorted(found)
    found = [times(20, hidden) for hidden in range(1, 60)]
    assert found == sorted(found)


def test_layers_kept_are_those_of_the_cut_agent(make_agent):
    """Against surgery itself: the shapes of the cut modules, pairs with the action included."""
    agent = make_agent(actions=2)
    graph = agent.graph()
    scores = {g.name: torch.arange(g.size).numpy() * 1.0 for g in graph.free}
    budget = Milliseconds(1.0, lambda kept: 2e-3 * sum(kept.values()) / sum(
        g.size for g in graph.free))
    plan = select(graph.groups, scores, budget, Limits(1, 1))
    kept = {g.name: len(plan.kept(g.name)) for g in graph.free}
    expected = layers_kept(graph.groups, kept)
    apply(plan, dict(agent.components.items()))
    for name, module in agent.components.items():
        assert expected[name] == [(m.in_features, m.out_features) for m in module.modules()
                                  if isinstance(m, nn.Linear)]
    assert layers_kept(graph.groups, {})['dynamics'][0][0] == graph['latent'].size + 2


def test_table_is_measured_once_per_machine_and_again_where_it_is_torn(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    measured = []
    monkeypatch.setattr(latency, '_measure', lambda rows, *_: measured.append(rows) or LayerTable(
        rows, (1, 8), ((1.0, 2.0), (3.0, 4.0))))
    first = latency.layer_table(16, 8)
    assert latency.layer_table(16, 8) == first and measured == [16]
    latency.layer_table(32, 8)
    assert measured == [16, 32]
    for file in tmp_path.rglob('*.json'):
        file.write_text(file.read_text()[:-9])
    assert latency.layer_table(16, 8) == first and measured == [16, 32, 16]
    monkeypatch.setattr(latency, 'machine', lambda: {'processor': 'another'})
    latency.layer_table(16, 8)
    assert measured == [16, 32, 16, 16]


def test_measured_table_has_all_sizes(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    told = []
    found = latency.layer_table(4, 10, progress=lambda phase, done, total, **_: told.append(done))
    assert found.sizes == (1, 8, 16) and told == [1, 2, 3]
    assert all(t > 0 for line in found.seconds for t in line)


@pytest.fixture
def budgeted(run, monkeypatch, tmp_path):
    """Plan within a limit on a machine that takes `factor` times as long as was predicted."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    graph = run.agent.graph()
    scores = {g.name: torch.arange(g.size).numpy() * 1.0 for g in graph.free}

    def predict(kept):
        return 1e-5 * sum(kept.values())

    def go(limit_ms, factor, waking_s=0.0):
        tried = []

        def measure(bundle, plans=0):
            w = bundle.manifest.widths
            units = w['latent'] + sum(sum(w[n]) for n in latency.COMPONENTS)
            return factor * 1e-5 * units

        monkeypatch.setattr(latency, 'predictor', lambda *_, **__: predict)
        monkeypatch.setattr(latency, 'plan_seconds', measure)
        monkeypatch.setattr(latency, 'waking_seconds', lambda bundle: waking_s)

        def choose(budget):
            tried.append(budget.limit)
            return select(graph.groups, scores, budget, Limits(1, 1))

        return plan_within(run, graph.groups, limit_ms, choose), tried, measure

    return go


def test_prediction_that_holds_is_taken_at_once(budgeted, run):
    before = {k: v.clone() for k, v in run.agent.components.state_dict().items()}
    plan, tried, _ = budgeted(1.0, 0.9)
    assert tried == [1.0] and plan.achieved <= 1.0
    assert all(torch.equal(v, before[k]) for k, v in run.agent.components.state_dict().items())


def test_slower_than_predicted_is_cut_further(budgeted):
    plan, tried, _ = budgeted(1.0, 1.6)
    assert len(tried) > 1 and tried[1] < tried[0]
    assert plan.achieved * 1.6 <= 1.0


def test_waking_counts_in_what_a_cut_is_measured_by(budgeted):
    """In a row the first cut would do; a loop sleeps before each plan."""
    _, tried, _ = budgeted(1.0, 0.9)
    assert tried == [1.0]
    plan, tried, _ = budgeted(1.0, 0.9, waking_s=0.3e-3)
    assert len(tried) > 1 and 0.9 * plan.achieved + 0.3 <= 1.0


def test_prediction_tells_of_a_loop_where_it_is_asked_to(run, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(latency, 'plan_seconds', lambda *_: 2e-3)
    monkeypatch.setattr(latency, 'waking_seconds', lambda bundle: 5e-4)
    groups = run.agent.graph().groups
    in_a_row, in_loop = (latency.predictor(run, groups, in_loop=x)({}) for x in (False, True))
    assert in_loop - in_a_row == pytest.approx(5e-4)


def test_what_was_not_measured_is_not_promised(budgeted, monkeypatch, four_parts):
    monkeypatch.setattr(latency, '_ATTEMPTS', 1)
    with pytest.raises(GateError) as error:
        budgeted(1.0, 3.0)
    four_parts(error, 'within 1 ms', 'takes')


def test_prune_with_a_budget_ends_below_it(run, tmp_path, monkeypatch):
    """On the real clock, with a limit that even a stalled machine keeps."""
    from pruning_core.pruner import prune

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    settings = dataclasses.replace(run.config.pruning, latency_ms=1000.0, recovery_updates=2,
                                   gate_return_loss=1e6, gate_latency_share=0.0)
    result = prune(run, settings, tmp_path / 'pruned')
    assert result.plan.budget == 'milliseconds' and result.plan.requested == 1000
    gate = json.loads((tmp_path / 'pruned/lineage.json').read_text())['gates']['latency']
    assert gate['p50_s'] <= gate['allowed_p50_s'] == 1.0
    slow = dataclasses.replace(settings, latency_ms=1e-6)
    with pytest.raises(GateError, match='half of all plans take more than'):
        monkeypatch.setattr('pruning_core.shrinking.plan_within',
                            lambda run, *_: select(run.agent.graph().groups, {
                                g.name: torch.arange(g.size).numpy() * 1.0
                                for g in run.agent.graph().free}, Milliseconds(
                                    1.0, lambda kept: 0.0), Limits(1, 1)))
        prune(run, slow, tmp_path / 'slow')
