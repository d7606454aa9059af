# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Pruning as a whole: reproducible, gated, and whole or not at all."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pruning_core import pruner
from pruning_core.channels import trace
from pruning_core.checkpoint import (
    AGENT,
    EVALUATION,
    LINEAGE,
    METRICS,
    PLAN,
    REPLAY,
    load_run,
    write_json,
)
from pruning_core.config import SCORES
from pruning_core.errors import AgentError, ConfigError, GateError, GroupError, PruningError
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.baselines import NEED_DATA
from pruning_core.networks import count_parameters
from pruning_core.plans import Plan
from pruning_core.pruner import BUNDLE, measure_latency, prune
from pruning_core.runtime.bundle import open_bundle
from pruning_core.runtime.planner import Planner
from pruning_core.shrinking import scores_of

PHASES = ('reference', 'score', 'cut', 'recover', 'evaluate', 'latency')
FILES = {AGENT, EVALUATION, LINEAGE, METRICS, PLAN, REPLAY, BUNDLE, 'config.yaml',
         'importance.safetensors'}



@pytest.fixture
def pruned(run, tmp_path):
    """Prune with some settings changed."""
    def go(name='pruned', run=run, progress=None, parent=None, **settings):
        return prune(run, dataclasses.replace(run.config.pruning, **settings), tmp_path / name,
                     parent=parent, **({'progress': progress} if progress else {}))

    return go


def test_what_pruning_leaves(pruned, trained, contents, tmp_path):
    """A run folder that opens, of the size that the plan says, with its bundle; nothing else."""
    before = contents(trained)
    result = pruned(parent='ab' * 32)
    assert [p.name for p in tmp_path.iterdir()] == ['pruned']
    assert {p.name for p in result.folder.iterdir()} == FILES
    again = load_run(result.folder)
    assert count_parameters(again.agent.components) == result.plan.parameters_left
    assert result.plan.achieved >= result.plan.requested == 0.5
    assert Plan.from_json(json.loads((result.folder / PLAN).read_text())) == result.plan
    assert {g.name: g.size for g in again.agent.graph().free} == {
        n: len(result.plan.kept(n)) for n in result.plan.sizes}
    bundle = open_bundle(result.folder / BUNDLE, result.bundle.hash)
    assert bundle.path == result.bundle.path
    m = bundle.manifest
    assert (m.parameters, m.dense_parameters) == (result.plan.parameters_left, 2384)
    assert m.macs < m.dense_macs and m.parent == 'ab' * 32
    assert m.seeds == {'training': 0, 'pruning': 0}
    assert m.gates == result.gates == json.loads(
        (result.folder / METRICS).read_text())['gates']
    assert m.gates['mask_equivalence'] <= 1e-5 and m.gates['parity'] <= 1e-4
    assert again.importance.updates == 4
    assert contents(trained) == before


def test_reproducible(pruned, trained):
    """The same plan, weights, gates and bundle, but for what the clock says."""
    results = [pruned(name, run=load_run(trained)) for name in ('one', 'other')]
    assert results[0].plan == results[1].plan
    assert results[0].gates['return'] == results[1].gates['return']
    weights = [load_file(r.folder / AGENT) for r in results]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    assert results[0].bundle.graphs == results[1].bundle.graphs


@pytest.mark.parametrize('score', SCORES)
def test_the_score_decides_which_units_go(pruned, run, score):
    graph = run.agent.graph()
    scores = scores_of(run, graph, score, seed=0)
    plan = pruned(score=score, members='score').plan
    assert plan.score == score
    for name, units in plan.removed.items():
        order = np.argsort(np.where(np.isnan(scores[name]), np.inf, scores[name]), kind='stable')
        assert set(units) == set(order[:len(units)].tolist()), name


def test_random_scores_follow_the_seed(pruned, trained):
    plans = [pruned(f'{i}', run=load_run(trained), score='random', seed=s).plan
             for i, s in enumerate((3, 3, 4))]
    assert plans[0] == plans[1] != plans[2]


def test_gate_figures(pruned, run, trained):
    """Dense and pruned on the same seeds with the same planner, as if evaluated by hand."""
    dense = load_run(trained)
    planner = run.config.planner.scaled(8, 1)
    reference = evaluate(dense.agent, run.config.env, evaluation_seeds(2), planner)
    result = pruned()
    again = load_run(result.folder)
    found = evaluate(again.agent, run.config.env, evaluation_seeds(2), planner)
    gate = result.gates['return']
    assert gate['dense'] == pytest.approx(reference.mean, rel=1e-5)
    assert gate['pruned'] == pytest.approx(found.mean, rel=1e-5)
    assert gate['loss'] == pytest.approx((reference.mean - found.mean) / abs(reference.mean))
    stored = again.evaluation
    assert stored['gate']['seeds'] == stored['dense']['seeds'] == [1000, 1001]
    assert stored['gate']['planner'] == stored['dense']['planner'] == {
        'horizon': 2, 'samples': 8, 'iterations': 1}


def stored(samples, seeds, returns=(-1.0, -3.0, -99.0), **pushes):
    return {'planned': {'seeds': list(seeds), 'returns': list(returns)[:len(seeds)], 'planner': {
        'horizon': 2, 'samples': samples, 'iterations': 1, **pushes}}}


@pytest.mark.parametrize(('evaluation', 'used'), [
    (stored(8, (1000, 1001, 1002)), True), (stored(8, (1000,)), False),
    (stored(8, (1001, 1000)), False), (stored(9, (1000, 1001)), False),
    (stored(8, (1000, 1001), pushes=3), False), ({}, False),
], ids=['same', 'fewer', 'others', 'planner', 'pushes', 'none'])
def test_an_earlier_evaluation_counts_if_it_is_the_same(copied, pruned, evaluation, used):
    write_json(copied / EVALUATION, evaluation)
    phases = []
    result = pruned(run=load_run(copied), progress=lambda phase, *a, **f: phases.append(phase))
    assert (result.gates['return']['dense'] == -2.0) == used
    assert ('reference' in phases) != used


def test_an_evaluation_on_another_plant_does_not_count(copied, pruned):
    """The episodes are shorter now: the dense agent has to be evaluated anew."""
    write_json(copied / EVALUATION, stored(8, (1000, 1001)))
    run = load_run(copied)
    config = dataclasses.replace(
        run.config, env=dataclasses.replace(run.config.env, max_episode_steps=3))
    expected = evaluate(run.agent, config.env, (1000, 1001), config.planner.scaled(8, 1)).mean
    result = pruned(run=dataclasses.replace(run, config=config))
    assert result.gates['return']['dense'] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('exists', [False, True], ids=['new', 'empty'])
def test_a_failure_leaves_nothing(pruned, trained, contents, tmp_path, phase, error, exists):
    """Whatever phase it strikes: no folder, no temporary one, the source as it was."""
    before = contents(trained)
    if exists:
        (tmp_path / 'pruned').mkdir()

    def strike(now, done, total, **facts):
        if now == phase and (done == total or phase == 'score'):
            raise error('struck')

    with pytest.raises(error):
        pruned(progress=strike)
    assert [list(p.iterdir()) for p in tmp_path.iterdir()] == [[]] * exists
    assert contents(trained) == before


def test_every_phase_is_reported(pruned):
    seen = []
    pruned(progress=lambda phase, *a, **f: seen.append(phase))
    assert [p for i, p in enumerate(seen) if p not in seen[:i]] == list(PHASES)


def test_a_folder_that_appears_meanwhile_is_left_alone(pruned, tmp_path):
    """Two jobs into one folder: the later one fails and leaves nothing of its own."""
    def appear(phase, *args, **facts):
        (tmp_path / 'pruned').mkdir(exist_ok=True)
        (tmp_path / 'pruned' / 'mine').write_text('kept')

    with pytest.raises((OSError, PruningError)):
        pruned(progress=appear)
    assert [p.name for p in tmp_path.iterdir()] == ['pruned']
    assert [p.name for p in (tmp_path / 'pruned').iterdir()] == ['mine']


@pytest.mark.parametrize(('settings', 'said'), [
    ({'gate_return_loss': 0.1}, ['is a loss of', 'allowed 10.0%']),
    ({'gate_latency_share': 1e-9}, ['99 % of plans take up to', 'allowed 0.0 ms']),
], ids=['return', 'latency'])
def test_a_failed_gate_keeps_the_agent_but_no_bundle(pruned, run, tmp_path, settings, said,
                                                     four_parts):
    p = run.config.pruning  # a dense agent whose evaluation says that it is all but perfect
    budget = dataclasses.asdict(run.config.planner.scaled(p.gate_samples, p.gate_iterations))
    planned = {'seeds': [1000, 1001], 'returns': [-1.0, -1.0],
               'planner': {k: budget[k] for k in ('horizon', 'samples', 'iterations')}}
    with pytest.raises(GateError) as error:
        pruned(run=dataclasses.replace(run, evaluation={'planned': planned}), **settings)
    four_parts(error, *said)
    assert [p.name for p in tmp_path.iterdir()] == ['pruned']
    assert {p.name for p in (tmp_path / 'pruned').iterdir()} == FILES - {BUNDLE}
    (record,) = map(json.loads, (tmp_path / 'pruned' / METRICS).read_text().splitlines())
    assert record['event'] == 'pruned' and len(record['failed']) == 1
    assert load_run(tmp_path / 'pruned').agent.widths.latent < 6


def test_a_pruned_agent_can_be_pruned_again(pruned):
    first = pruned('one')
    second = pruned('two', run=load_run(first.folder), parent=first.bundle.hash, floor=2,
                    multiple=2)
    assert second.plan.parameters == first.plan.parameters_left
    assert second.bundle.manifest.parameters == second.plan.parameters_left
    assert second.bundle.manifest.parent == first.bundle.hash


def test_without_a_replay(copied, pruned, four_parts, tmp_path):
    """Only without recovery."""
    (copied / REPLAY).unlink()
    with pytest.raises(AgentError) as error:
        pruned(run=load_run(copied))
    four_parts(error, 'it has no replay', 'recovery_updates=0')
    assert [p.name for p in tmp_path.iterdir()] == ['agent']
    result = pruned(run=load_run(copied), recovery_updates=0)
    assert {p.name for p in result.folder.iterdir()} == FILES - {REPLAY}


@pytest.mark.parametrize(('settings', 'kind', 'said'), [
    ({'sparsity': 0.99}, GroupError, ['removing 99.0%', 'a floor below 4']),
    ({'sparsity': 1.5}, ConfigError, ['pruning.sparsity', '1.5']),
    ({'score': 'fischer'}, ConfigError, ["did you mean 'fisher'?"]),
])
def test_what_cannot_be_done(pruned, tmp_path, settings, kind, said, four_parts):
    with pytest.raises(kind) as error:
        pruned(**settings)
    four_parts(error, *said)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(pruned, copied, contents, four_parts, tmp_path):
    (tmp_path / 'file').write_text('mine')
    before = contents(tmp_path)
    for name in ('agent', 'file'):
        with pytest.raises(AgentError) as error:
            pruned(name)
        four_parts(error, name, 'something is there already')
    assert contents(tmp_path) == before


def test_scores_that_were_never_measured_are_refused(copied, pruned, run, four_parts):
    """No importance in the folder, or so little that every score is NaN: no arbitrary cut."""
    (copied / 'importance.safetensors').unlink()
    with pytest.raises(AgentError) as error:
        pruned(run=load_run(copied))
    four_parts(error, "score 'combined'", 'no importance', 'l1 or random')
    fresh = ImportanceTracker(run.agent.graph(), dict(run.agent.components.items()),
                              run.config.importance)
    for score in ('gradient', 'bayesian', 'combined'):
        with pytest.raises(PruningError):
            pruned(run=dataclasses.replace(run, importance=fresh), score=score)


@pytest.mark.parametrize('score', sorted(NEED_DATA))
def test_scores_on_data_need_a_replay(run, score, four_parts):
    with pytest.raises(AgentError) as error:
        scores_of(dataclasses.replace(run, replay=None), run.agent.graph(), score, seed=0)
    four_parts(error, f"score '{score}'", 'no replay', 'l1, l2 or lamp')


def test_latency_is_measured_on_the_bundle(pruned):
    result = pruned()
    found = measure_latency(result.bundle, 0.5)
    assert 0 < found['p50_s'] <= found['p99_s']
    assert (found['period_s'], found['allowed_share']) == (0.05, 0.5)


def test_latency_is_that_of_a_loop_which_sleeps_between_plans(pruned, monkeypatch):
    """After a sleep plans take 2 ms, in a row 1: the median and the quantile have both."""
    bundle, slept, before = pruned().bundle, [], []
    monkeypatch.setattr('pruning_core.runtime.fit.time.sleep', slept.append)
    plan = Planner.plan

    def timed(self, *args):
        after = bool(slept)
        before.extend(slept)
        slept.clear()
        return dataclasses.replace(plan(self, *args), compute_s=2e-3 if after else 1e-3)

    monkeypatch.setattr(Planner, 'plan', timed)
    found = measure_latency(bundle, 0.5)
    assert found['p50_s'] == found['p99_s'] == pytest.approx(2e-3)
    assert found['waking_s'] == pytest.approx(1e-3)
    assert set(before) == {0.05}, 'a period'


def test_a_cut_that_does_not_verify_is_refused(run, pruned, tmp_path):
    """A trace of one step leaves the dynamics' outputs unseen: nothing comes of it."""
    agent = run.agent
    probe = torch.zeros(2, 3)
    agent.graph = lambda: trace(dict(agent.components.items()), lambda: agent.rollout(probe, 1))
    with pytest.raises((GroupError, RuntimeError)):
        pruned(score='l1')
    assert list(tmp_path.iterdir()) == []


def test_what_helps_depends_on_the_gate():
    """Less is better for a return, and slower."""
    worse = {'loss': 0.5, 'allowed_loss': 0.1, 'pruned': -15.0, 'dense': -10.0}
    slow = {'p50_s': 0.1, 'p99_s': 0.2, 'period_s': 0.05, 'allowed_share': 1.0}
    fine, quick = {**worse, 'loss': 0.0}, {**slow, 'p99_s': 0.01}

    def remedies(**gates):
        return {f.remedy.partition(' or')[0].partition(',')[0] for f in pruner._failures(gates)}
    assert remedies(**{'return': fine, 'latency': quick}) == set()
    assert remedies(**{'return': worse, 'latency': quick}) == {'prune less'}
    assert remedies(**{'return': fine, 'latency': slow}) == {'prune more'}
    assert remedies(**{'return': worse, 'latency': slow}) == {'prune less', 'prune more'}
