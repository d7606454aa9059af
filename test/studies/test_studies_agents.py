# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Studies of agents on a tiny one: which cuts they make, and what they say of made-up ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pruning_core import config as configuration
from pruning_core.checkpoint import load_run
from pruning_core.config import PruningConfig
from pruning_core.errors import AgentError, ConfigError
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.progress import silent
from pruning_core.studies import NAMES, cuts, ema, find, scores, smoothing, stress, timing
from pruning_core.studies.runner import Context
from pruning_core.studies.study import Asked, run_study, settings_from
from pruning_core.training import Trainer

SMALL = {'seeds': 1, 'episodes': 1, 'samples': 8, 'iterations': 1, 'updates': [0, 2]}


@pytest.fixture(scope='module')
def of(here, tiny, tmp_path_factory):
    """Run a study of the tiny agent, all in one work folder, so that it is trained once."""
    work = tmp_path_factory.mktemp('work')
    (work / 'tiny.yaml').write_text(yaml.safe_dump(configuration.to_dict(tiny(
        'network.latent=16', 'network.hidden=24', 'training.episodes=8'))))

    def result(name, **changes):
        study = find(name)
        known = {'config': str(work / 'tiny.yaml'), **SMALL}
        known = {k: v for k, v in known.items() if k in study.settings.__dataclass_fields__}
        asked = Asked(work=work, overrides=[
            f'{name}.{k}={json.dumps(v)}' for k, v in {**known, **changes}.items()])
        run_study(study, settings_from(study, asked), asked, here)
        return json.loads((work / name / f'{name}.json').read_text()), work

    return result


def test_scores(of):
    found, work = of('scores', sparsities=[0.5], states=3,
                     scores=['gradient', 'combined', 'random', 'ablation'])
    cells = found['cells']
    assert {c['way'] for c in cells.values()} == {
        'gradient', 'combined', 'random', 'ablation', 'ours', 'scratch', 'scratch short'}
    # Every way leaves the same widths: what differs is which units, or which weights.
    assert len({c['macs'] for c in cells.values() if c['way'] != 'ours'}) == 1
    assert all(c['removed'] >= 0.5 for c in cells.values())
    assert all(c['violations']['n'] == 1 for c in cells.values())
    assert found['agreement']['spearman']['gradient ~ combined']['value'] > 0.5
    assert -1 <= found['agreement']['kendall']['gradient ~ random']['value'] <= 1
    assert 'combined loses less than scratch after 2 updates, % of return' in found['claims']
    trained = [p.name for p in (work / 'agents').iterdir()]
    assert trained == ['tiny_s0']


def test_coupling(of):
    found, _ = of('coupling', sparsities=[0.6], states=0)
    macs = {c['way']: c['macs'] for c in found['cells'].values()}
    assert macs['own'] == macs['view of all'] == macs['view of the policy']
    assert macs['protect'] != macs['own']  # other groups give what the latent does not
    assert 'protect loses less than own after 0 updates, % of return' in found['claims']
    planned = found['claims']['own loses less than view of all after 2 updates, '
                              '% of return, planned']
    own, view = (found['cells'][f'{name}_60_2']['planned_loss_percent']['value']
                 for name in ('own', 'view-of-all'))
    assert planned['value'] == pytest.approx(view - own), 'one seed and size'


def test_timing_of_agents(of):
    found, work = of('timing', sparsity=0.4, seeds=0, agents=3, recovery_updates=2)
    agents = found['agents']
    assert found['autoencoder'] == {} and found['seeds'] == [0, 1, 2]
    assert {way: list(points) for way, points in agents.items()} == {
        'never': ['1'], 'once': ['0.25', '0.5', '0.75', '1'],
        'steps': ['0.25', '0.5', '0.75', '1']}
    assert agents['once']['0.5']['cuts'][0] == [5] and agents['once']['1']['cuts'][0] == [8]
    assert agents['steps']['1']['cuts'][0] == [3, 4, 6, 7, 8]
    dense = agents['never']['1']
    for way in ('once', 'steps'):
        for point, there in agents[way].items():
            assert there['removed']['low'] >= 0.4
            assert there['updates']['value'] == dense['updates']['value'] + 2 * (point == '1')
    for kind in ('planned', 'policy'):  # of three seeds the middle half is the plain mean
        once, steps, never = (
            agents[way][p][kind]['value'] for way, p in
            (('once', '0.75'), ('steps', '0.75'), ('never', '1')))
        for told, value in (('five steps end better than one cut at 0.75', steps - once),
                            ('one cut at 0.75 ends better than never cutting', once - never),
                            ('five steps to 0.75 end better than never cutting', steps - never),
                            ('cutting at 0.75 ends better than at 0.25',
                             once - agents['once']['0.25'][kind]['value']),
                            ('cutting at 1 ends better than at 0.75',
                             agents['once']['1'][kind]['value'] - once)):
            assert found['claims'][f'agents, {kind}: {told}, return']['value'] == \
                pytest.approx(value), told
    assert not list((work / 'timing').glob('agent_s*/*/checkpoint*'))


@pytest.fixture(scope='module')
def scored(tiny, tmp_path_factory):
    """A tiny agent with scores, as the trials of a study leave them; and how to cut it."""
    work = tmp_path_factory.mktemp('scored')
    settings = tiny('network.latent=16', 'network.hidden=24', 'training.episodes=8')
    folders = [work / name for name in ('agent', 'ranks')]
    for folder in folders:
        folder.mkdir()
    cuts.train(settings, Context(folders[0], (), silent))
    cuts.ranks(cuts.RanksConfig(('gradient', 'l1', 'combined'), 0),
               Context(folders[1], (folders[0],), silent))

    def smaller(way, updates=0, view='', **pruning):
        """The agent that a way leaves, its record, and what its recovery was told to do."""
        config = cuts.CutConfig(way, PruningConfig(
            sparsity=0.4, recovery_updates=updates, **pruning), 2, 8, 1, 0, view)
        made = []
        with pytest.MonkeyPatch.context() as patch:
            real = cuts.measured
            patch.setattr(cuts, 'measured', lambda run, *given: made.append(run) or real(
                run, *given))
            record = cuts.cut(config, Context(work, tuple(folders), silent))
        return made[0].agent, record

    return smaller, load_run(folders[0] / cuts.FOLDER), folders[1]


def test_each_score_cuts_by_itself_and_keeps_the_weights_of_what_stays(scored):
    smaller, run, ranks = scored
    seen = {}
    for way in ('gradient', 'l1'):
        agent, _ = smaller(way, multiple=1, floor=1)
        kept = agent.components['encoder'][0].weight
        values = cuts.stored(ranks, way)['encoder.hidden1']
        best = np.sort(np.argsort(values, kind='stable')[len(values) - len(kept):])
        assert torch.equal(kept, run.agent.components['encoder'][0].weight[best])
        seen[way] = best.tolist()
    assert seen['gradient'] != seen['l1']


def test_a_view_ranks_the_latent_and_nothing_else(scored):
    smaller, run, ranks = scored
    own, seen = cuts.stored(ranks, 'gradient')['latent'], {}
    for view in ('', 'encoder->policy', 'encoder->all'):
        agent, _ = smaller('gradient', view=view, coupling_share=1.0, multiple=1)
        values = run.importance.view_unit_scores('gradient')[view] if view else own
        latent = agent.components['encoder'][-1].bias
        best = np.sort(np.argsort(values, kind='stable')[len(values) - len(latent):])
        assert torch.equal(latent, run.agent.components['encoder'][-1].bias[best])
        first = agent.components['encoder'][0].weight
        assert torch.equal(first, seen.setdefault('first', first))
        seen[view] = best.tolist()
    assert seen[''] != seen['encoder->policy'] or seen[''] != seen['encoder->all']


def test_training_from_scratch_has_the_updates_of_the_agent_and_of_its_recovery(scored):
    smaller, run, _ = scored
    pruned, _ = smaller('gradient', updates=3)
    whole, _ = smaller('scratch', updates=3)
    short, _ = smaller('scratch short', updates=3)
    assert run.agent.updates > 0
    assert (whole.updates, short.updates) == (run.agent.updates + 3, 3)
    assert whole.widths == short.widths == pruned.widths
    encoder = [a.components['encoder'][0].weight for a in (whole, short, pruned)]
    assert not torch.equal(encoder[0], encoder[1]) and not torch.equal(encoder[1], encoder[2])


def test_planned_is_planned_and_the_policy_is_the_policy(scored):
    smaller, run, _ = scored
    agent, record = smaller('dense')
    seeds, env = evaluation_seeds(2), run.config.env
    planner = run.config.with_plain_planner().planner.scaled(8, 1)
    assert record['policy'] == evaluate(agent, env, seeds, None).mean
    assert record['planned'] == evaluate(agent, env, seeds, planner).mean
    assert record['planned'] != record['policy'] and record['removed'] == 0


def test_ema_of_agents(of):
    """Watching changes nothing of a training; every gamma sees the gradients that the agent's own
    tracker does."""
    found, work = of('ema', seeds=0, agents=2, gammas=[0.0, 0.9], window=9, every=2, share=0.5)
    assert 'gammas' not in found
    agents = found['agents']
    assert found['seeds'] == agents['seeds'] == [0, 1] and agents['plant'] == 'Pendulum-v1'
    assert agents['gammas']['0.9']['lag']['low'] > 0, 'though the policy has no gradient at first'
    assert agents['gammas']['0']['return_lost_percent']['n'] == 2
    assert set(found['claims']) == {f'agents: gamma 0.9 {what} than 0' for what in (
        'has groups out of order less often', 'changes its choice of units less',
        'loses less return, %')}
    mine = work / 'ema' / 'agent_s0' / 'agent'
    alone = work / 'alone'
    Trainer(configuration.load(mine / 'config.yaml'), alone).run()
    weights, unwatched = (load_run(f).agent.components.state_dict() for f in (mine, alone))
    assert all(torch.equal(weights[name], unwatched[name]) for name in weights)


def test_trackers_of_a_study_say_what_the_one_of_the_training_says(here, tiny, tmp_path):
    """With the gamma of the configuration; a raw one differs."""
    settings = tiny('training.episodes=3', 'importance.every=1')
    gamma = settings.importance.gamma
    seen = []

    class Kept(smoothing.Watch):
        def __init__(self, *given):
            super().__init__(*given)
            seen.append(self)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ema, 'Watch', Kept)
        ema.run_agent(ema.AgentConfig(settings, smoothing.WatchConfig((gamma,), 5, 2), 0.3, 1),
                      Context(tmp_path, (), lambda *a, **k: None))
    ours = load_run(tmp_path / 'agent').importance
    theirs = seen[0].trackers
    for name, mine in ours.unit_scores('combined').items():
        np.testing.assert_array_equal(mine, theirs[gamma].unit_scores('combined')[name])
    assert any((mine != theirs[0.0].unit_scores('combined')[name]).any()
               for name, mine in ours.unit_scores('combined').items())


@pytest.mark.parametrize('quick', [True, False])
@pytest.mark.parametrize('name', NAMES)
def test_every_study_can_be_begun_as_it_ships(name, quick, monkeypatch):
    """Its trials are configurations that can be trained, each under a name of its own."""
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    study = find(name)
    trials = study.trials(settings_from(study, Asked(quick=quick)), name)
    names = {trial.name for trial in trials}
    assert trials and all(set(trial.needs) <= names for trial in trials)


def test_stress(of):
    found, _ = of('stress', configs=[of('scores', sparsities=[0.5], states=3, scores=[
        'gradient', 'combined', 'random', 'ablation'])[1].joinpath('tiny.yaml').as_posix()],
        sparsities=[0.5], updates=[0])
    assert list(found['plants']) == ['tiny']
    claims = found['claims']
    assert {name for name in claims if '% of return' not in name} == {
        f'tiny: combining narrows the gap of {s}' for s in ('gradient', 'fisher', 'bayesian')}
    name = 'ours loses less than combined after 0 updates, % of return, planned'
    assert claims[f'tiny: {name}'] == found['plants']['tiny']['claims'][name]
    pictures = stress.draw(found)['stress.svg']
    for kind in ('planned', 'policy alone'):
        assert f'tiny, 0 updates, {kind}' in pictures


def test_gap_between_plants_on_made_up_results():
    settings = stress.Settings(configs=('a/easy.yaml', 'a/hard.yaml'), seeds=4, sparsities=(),
                               updates=())
    results = {}
    for plant, value in (('easy', 0.8), ('hard', 0.1)):
        for seed in range(4):
            pairs = {f'{s} ~ ablation': value + 0.01 * seed for s in scores.GRADIENT}
            if plant == 'hard':
                pairs['combined ~ ablation'] += 0.3
            results[f'{plant}/ranks_s{seed}'] = {'spearman': pairs, 'kendall': pairs}
    claims = stress.summarise(settings, results)['claims']
    assert claims['hard: the gap of fisher is wider than on easy']['verdict'] == 'holds'
    assert claims['hard: combining narrows the gap of fisher']['verdict'] == 'holds'
    assert claims['easy: combining narrows the gap of fisher']['value'] == 0


def test_claims_are_paired_by_seed():
    """A way that loses 10 % less on every seed is better, however much the seeds differ."""
    settings = scores.Settings(seeds=4, sparsities=(0.5,), updates=(0,), scores=('combined', 'l1'))
    results = {}
    for seed in range(4):
        dense = -100.0 - 50 * seed
        results[f'dense_s{seed}'] = {'planned': dense, 'policy': dense, 'macs': 1}
        for way, loss in (('combined', 0.1), ('l1', 0.2)):
            results[f'{way}_50_0_s{seed}'] = {
                'planned': dense * (1 + 2 * loss), 'policy': dense * (1 + loss), 'removed': 0.5,
                'macs': 1}
    found = scores.summarise(settings, results)
    claim = found['claims']['combined loses less than l1 after 0 updates, % of return']
    assert claim['verdict'] == 'holds' and claim['value'] == pytest.approx(10)
    planned = found['claims']['combined loses less than l1 after 0 updates, % of return, planned']
    assert planned['value'] == pytest.approx(20)
    del results['l1_50_0_s0']  # that trial failed: the others still count
    again = scores.summarise(settings, results)
    assert again['claims']['combined loses less than l1 after 0 updates, % of return']['n'] == 3
    assert again['cells']['l1_50_0']['policy_loss_percent']['n'] == 3


def test_a_seed_that_lacks_a_size_does_not_count_towards_the_claim():
    """Else its mean would be over other cuts than that of the others."""
    settings = scores.Settings(seeds=4, sparsities=(0.5, 0.975), updates=(0,),
                               scores=('combined', 'l1'))
    results = {f'dense_s{seed}': {'planned': -100.0, 'policy': -100.0, 'macs': 1}
               for seed in range(4)}
    for seed in range(4):
        for way, losses in (('combined', (10, 20)), ('l1', (0, 120))):
            for size, loss in zip(('50', '97.5'), losses, strict=True):
                results[f'{way}_{size}_0_s{seed}'] = {
                    'planned': -100.0 - loss, 'policy': -100.0 - loss, 'removed': 0.5, 'macs': 1}
    name = 'combined loses less than l1 after 0 updates, % of return'
    assert scores.summarise(settings, results)['claims'][name]['value'] == pytest.approx(45)
    for seed in range(3):
        del results[f'l1_97.5_0_s{seed}']
    found = scores.summarise(settings, results)['claims'][name]
    assert (found['value'], found['n']) == (pytest.approx(45), 1)


def test_correlation_is_within_groups():
    """Groups on other scales do not help: only the order inside each counts."""
    first = {'a': np.array([1.0, 2, 3]), 'b': np.array([100.0, 200, 300])}
    second = {'a': np.array([3.0, 2, 1]), 'b': np.array([900.0, 800, 700])}
    assert cuts.within(first, second) == -1.0


def test_agents_that_are_there_are_taken_as_they_are(of, tmp_path):
    """Several by `{seed}`; a shipped one counts as one training, whatever the seeds."""
    _, work = of('scores', sparsities=[0.5], states=3,
                 scores=['gradient', 'combined', 'random', 'ablation'])
    trained = work / 'agents' / 'tiny_s0' / 'agent'
    for seed in (0, 1):
        (tmp_path / f'mine_{seed}').symlink_to(trained)
    found, _ = of('coupling', config=str(tmp_path / 'mine_{seed}'), seeds=2, sparsities=[0.6],
                  updates=[0], states=0)
    assert found['dense']['policy']['n'] == 2
    assert found['cells']['own_60_0']['policy_loss_percent']['low'] == \
        found['cells']['own_60_0']['policy_loss_percent']['high'], 'the same agent twice'
    assert {p.name for p in (work / 'agents').iterdir()} >= {'mine_there_s0', 'mine_there_s1'}
    assert len(cuts.agents('pendulum_dense', 5)) == 1
    assert cuts.stem('runs/x/dense_{seed}') == 'dense'
    assert cuts.stem('runs/agents/pendulum_s{seed}/agent') == 'pendulum_s'


def test_agents_that_are_not_there_or_cannot_be_trained_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    with pytest.raises(AgentError, match='pendulum_dense'):
        cuts.agents('pendulum_dens', 1)
    with pytest.raises(ConfigError, match='decisions ends their training'):
        find('timing').trials(timing.Settings(
            seeds=0, config='config/inverted_double_pendulum.yaml'), 'timing')
    with pytest.raises(ConfigError, match='pendulum_dense'):
        find('timing').trials(timing.Settings(seeds=0, config='pendulum_dense'), 'timing')
    (tmp_path / 'begun').mkdir()
    with pytest.raises(AgentError, match='holds no agent.safetensors'):
        cuts.agents(str(tmp_path / 'begun'), 1)
    with pytest.raises(ConfigError, match='two go by one name'):
        stress.plants(stress.Settings(configs=('a/one.yaml', 'b/one.yaml')))
