# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Studies of the autoencoder on images of a few pixels, and their claims on known answers."""

from __future__ import annotations

import gzip
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from pruning_core import images
from pruning_core.autoencoder import Autoencoder, AutoencoderConfig, Watchers, train
from pruning_core.config import ImportanceConfig
from pruning_core.errors import AgentError
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.crossovers import Crossover
from pruning_core.progress import silent
from pruning_core.studies import ema, find, latent, schedule, smoothing, timing
from pruning_core.studies.claims import lowest_of_all
from pruning_core.studies.study import Asked, run_study, settings_from

TINY = {'hidden': [12, 8], 'seeds': 3, 'epochs': 2}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """IDX files of blobs on 5 x 5 pixels."""
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    at = rng.uniform(0, 4, (240, 2))
    grid = np.stack(np.meshgrid(range(5), range(5)), axis=-1)
    blobs = 255 * np.exp(-((grid[None] - at[:, None, None]) ** 2).sum(-1))
    (folder / 't10k-images-idx3-ubyte.gz').write_bytes(gzip.compress(
        struct.pack('>4I', 0x803, 240, 5, 5) + blobs.astype(np.uint8).tobytes()))
    return folder


@pytest.fixture(scope='module')
def of(folder, here, tmp_path_factory):
    """Run a study on them, and return its result."""
    def result(name, **changes):
        study, work = find(name), tmp_path_factory.mktemp(name)
        asked = Asked(given={'data': str(folder)}, work=work, overrides=[
            f'{name}.{k}={json.dumps(v)}' for k, v in {**TINY, **changes}.items()])
        told = run_study(study, settings_from(study, asked), asked, here)
        kept = json.loads((work / name / f'{name}.json').read_text())
        assert str(folder) not in json.dumps(kept) and '--data DIR' in kept['command']
        for picture in told['pictures'].split(', '):
            assert '<svg' in (work / name / picture).read_text()
        return kept

    return result


def test_latent(of):
    found = of('latent', latents=[2, 10], shares=[0.3, 0.5, 0.7], record_every=1, epochs=30)
    assert list(found['sizes']) == ['2', '10'] and found['trials'] == 6 and not found['failed']
    size = found['sizes']['10']
    assert size['n'] == 3 and size['psnr']['n'] == 3
    assert sum(size['least']['pruning'].values()) == 3
    # Without its two channels nothing passes; with half of ten more does.
    assert found['sizes']['2']['psnr_lost']['0.7']['latent']['value'] >= 0
    claim = found['claims']['the early encoder layer is least, by pruning']
    assert claim['n'] == 6 and 0 <= claim['low'] <= claim['high'] <= 1
    assert 'combined loses less than random at 0.5, log10 of the MSE' in found['claims']


def fake(latent_, seed, early, lost):
    """A result of a trial of the latent study, as far as the claims look at it."""
    groups = {'encoder.hidden1': early, 'encoder.hidden2': 2.0, 'latent': 3.0,
              'decoder.hidden1': 4.0, 'decoder.hidden2': 5.0}
    drops = {g: [0.0, 20.0 - v] for g, v in {**groups, 'latent': lost}.items()}
    kinds = {k: {'cut': [0.0, 20.0 - v], 'recovered': [0.0, 20.0]}
             for k, v in (('coupling', lost), ('component', 4.0))}
    scores = {s: {'0.5': 0.1} for s in latent.SCORES}
    scores['combined'] = {'0.5': 0.01}
    return {'latent': latent_, 'seed': seed, 'dense': [0.01, 20.0], 'pruned': {'0.5': drops},
            'kinds': {'0.5': kinds}, 'scores': scores,
            'importance': dict.fromkeys((*latent.SIGNALS, 'combined'), groups),
            'crossovers': dict.fromkeys(latent.SIGNALS, 2),
            'agreement': {'gradient-fisher': 0.5 if latent_ == 8 else 0.6}}


def test_latent_claims_on_made_up_results():
    runs = [fake(d, s, early=1.0, lost=8.0 + 0.1 * s if d == 8 else 2.0)
            for d in (8, 512) for s in range(6)]
    claims = latent.claims(runs, [8, 512], '0.5')
    said = {name: c['verdict'] for name, c in claims.items()}
    assert said['coupling loses its weight with capacity, dB of PSNR by pruning'] == 'holds'
    assert said['at d = 8 the coupling costs more than all other groups, dB, cut'] == 'holds'
    assert said['at d = 512 the coupling costs more than all other groups, dB, cut'] == 'does not'
    assert said['the early encoder layer is least, by gradient'] == 'holds'
    assert said['a decoder layer is most, by pruning'] == 'holds'
    assert said['importance is dynamic: lasting crossovers, fisher'] == 'holds'
    differ = "gradient-fisher: the signals differ, 0.95 less Kendall's tau over units"
    assert said[differ] == 'holds'
    better = claims['combined loses less than l1 at 0.5, log10 of the MSE']
    assert (better['value'], better['verdict']) == (pytest.approx(1.0), 'holds')
    turned = latent.claims([fake(d, s, early=9.0, lost=2.0) for d in (8, 512) for s in range(6)],
                           [8, 512], '0.5')
    assert turned['the early encoder layer is least, by pruning']['verdict'] == 'does not'
    capacity = turned['coupling loses its weight with capacity, dB of PSNR by pruning']
    assert capacity['verdict'] == 'not shown'


def test_ema(of):
    found = of('ema', gammas=[0.0, 0.9], latent=4, window=5, every=2, epochs=40, config='')
    assert 'agents' not in found
    assert found['gammas']['0']['moved']['value'] >= found['gammas']['0.9']['moved']['value']
    assert found['gammas']['0.9']['lag']['value'] >= found['gammas']['0']['lag']['value']
    assert set(found['claims']) == {
        'gamma 0.9 has groups out of order less often than 0',
        'gamma 0.9 changes its choice of units less than 0',
        'gamma 0.9 loses less PSNR, dB than 0'}


def test_updates_before_all_groups_have_a_gradient_are_left_out():
    """One missing value would be carried through all sums, and every lag would come out as 0."""
    rows = np.ones((9, 3))
    assert smoothing.all_known(rows) == 0
    rows[:2, 1] = np.nan
    assert smoothing.all_known(rows) == 2
    rows[5, 0] = np.nan
    with pytest.raises(AgentError, match='1 of 9 updates'):
        smoothing.all_known(rows)
    with pytest.raises(AgentError, match='9 of 9 updates'):
        smoothing.all_known(np.full((9, 3), np.nan))


def test_lag_of_a_shifted_signal():
    truth = np.exp(np.sin(np.arange(200)[:, None] / 9 + np.arange(3)))
    late = np.roll(truth, 7, axis=0)
    assert smoothing.lag(late, truth, 30) == 7 and smoothing.lag(truth, truth, 30) == 0


def test_order_and_delay():
    truth = np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 2.0], [3.0, 2.0]])
    assert smoothing.misordered(truth, truth) == 0
    assert smoothing.misordered(truth[[0, 0, 0, 2]], truth) == 0.25
    expected = [Crossover(10.0, 'a', 'b', 1.0), Crossover(50.0, 'b', 'a', 1.0)]
    found = [Crossover(14.0, 'a', 'b', 1.0), Crossover(52.0, 'b', 'a', 1.0),
             Crossover(90.0, 'a', 'b', 1.0)]
    assert smoothing.delay(found, expected) == 3.0
    assert smoothing.delay([], expected) is None


def test_centred_mean():
    values = np.arange(7.0)[:, None]
    np.testing.assert_allclose(smoothing.centred(values, 3)[:, 0], [0.5, 1, 2, 3, 4, 5, 5.5])


def test_schedule(of):
    found = of('schedule', schedules=['none', 'cosine', 'in_phase'], latent=4, epochs=30,
               periods=2.0)
    table = found['schedules']
    assert table['none']['agreement'] is None and table['none']['slope']['latent'] is None
    assert table['cosine']['agreement']['n'] == 3
    assert (table['in_phase']['neighbours'], table['none']['neighbours']) == (1.0, 0.0)
    # Pressure makes the network no better at what it is trained for.
    assert table['cosine']['psnr']['value'] <= table['none']['psnr']['value'] + 0.5
    assert 'phases tell more than in_phase, Spearman' in found['claims']


def test_agreement_of_resilience_with_removal():
    result = {'critical': {'a': 3.0, 'b': 2.0, 'c': 1.0},
              'resilience': {'a': {'slope': -0.1}, 'b': {'slope': -0.5}, 'c': {'slope': -0.9}},
              'importance': {'gradient': {'a': 1.0, 'b': 2.0, 'c': 3.0}}}
    assert schedule.agreement(result) == 1.0
    assert schedule.agreement(result, 'gradient') == -1.0


def pressed(name, seed, slopes, critical, psnr, lost):
    """A result of a trial of the schedule study."""
    groups = dict(zip(('encoder.hidden1', 'latent', 'decoder.hidden1', 'decoder.hidden2'),
                      zip(slopes, critical, strict=True), strict=True))
    return {'schedule': name, 'seed': seed, 'data': '', 'psnr': psnr, 'psnr_lost': lost,
            'zeros': 0.0, 'collapsed': {}, 'importance': {
                s: {g: c for g, (_, c) in groups.items()} for s in latent.SIGNALS},
            'resilience': {g: {'slope': s, 'explained': 1.0} for g, (s, _) in groups.items()},
            'critical': {g: c for g, (_, c) in groups.items()}}


def test_schedule_claims_on_made_up_results():
    """Under the cosine those that do not give way are critical; without phases it is turned."""
    runs = {}
    for seed in range(4):
        off = 0.01 * seed
        for name, slopes, psnr, lost in (
                ('none', (0, 0, 0, 0), 20.0 + off, 5.0), ('cosine', (-4, -3, -2, -1), 21.0, 7.0),
                ('in_phase', (-1, -2, -3, -4), 18.0, 1.0)):
            runs[f'{name}_s{seed}'] = pressed(name, seed, slopes, (1, 2, 3, 4), psnr, lost)
    found = schedule.summarise(None, runs)
    claims = {name: (c['value'], c['verdict']) for name, c in found['claims'].items()}
    told = 'groups that do not give way are critical, Spearman over groups'
    assert claims[f'cosine: {told}'] == (pytest.approx(1), 'holds')
    assert claims[f'in_phase: {told}'] == (pytest.approx(-1), 'does not')
    assert f'none: {told}' not in claims, 'nobody gave way'
    assert claims['phases tell more than in_phase, Spearman'] == (pytest.approx(2), 'holds')
    for what, cosine, in_phase in (
            ('a cut costs less than without pressure, dB', -2, 4),
            ('the network itself is worse than without pressure, dB', -1, 2),
            ('a cut leaves less than without pressure, dB', 1, -2)):
        for name, value in (('cosine', cosine), ('in_phase', in_phase)):
            said = claims[f'{name}: {what}']
            assert said == (pytest.approx(value, abs=0.1), 'holds' if value > 0 else 'does not')
    assert schedule.STUDY.tell(found) and '<svg' in schedule.draw(found)['schedule.svg']


def kept_in(made):
    """The autoencoder, with every one that is made put into a list."""
    class Kept(Autoencoder):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)
    return Kept


def test_zeros_are_a_share_of_all_weights(folder):
    """A small matrix of zeros beside a large one without is a small share."""
    settings = AutoencoderConfig(2, (40, 3), epochs=12, seed=0,
                                 importance=ImportanceConfig(warmup=1, record_every=1))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, 'Autoencoder', kept_in(made))
        found = schedule.run(schedule.TrialConfig(settings, 'constant', 2.0, 3e4, 0.5,
                                                  str(folder)),
                             SimpleNamespace(progress=silent, folder=folder))
    weights = np.concatenate([p.detach().abs().numpy().ravel() for m in made[0].components.values()
                              for p in m.parameters() if p.dim() > 1])
    assert found['zeros'] == pytest.approx((weights < 1e-6).mean()) and 0 < found['zeros'] < 1


def test_ema_claims_on_made_up_results():
    """0.9 is better than 0 by all figures and worse than 0.99; who lacks a figure is left out."""
    def one(seed, moved=1.0):
        figures = {g: {'lag': v, 'delay': None, 'misordered': v, 'crossovers': 1,
                       'moved': v * moved if moved else None, 'psnr_lost': 3 * v}
                   for g, v in (('0', 0.3), ('0.9', 0.2), ('0.99', 0.1))}
        return {'seed': seed, 'psnr': 1.0, 'data': '', 'updates': 9, 'crossovers': 1,
                'gammas': figures}
    found = ema.summarise(None, {f's{seed}': one(seed) for seed in range(4)})
    for what, scale in (('has groups out of order less often', 1),
                        ('changes its choice of units less', 1), ('loses less PSNR, dB', 3)):
        for other, value in (('0', 0.1), ('0.99', -0.1)):
            claim = found['claims'][f'gamma 0.9 {what} than {other}']
            assert claim['value'] == pytest.approx(scale * value)
            assert claim['verdict'] == ('holds' if value > 0 else 'does not')
    again = ema.summarise(None, {f's{seed}': one(seed, moved=seed > 0) for seed in range(4)})
    assert again['claims']['gamma 0.9 changes its choice of units less than 0']['n'] == 3
    none = ema.summarise(None, {'s0': one(0, moved=0)})
    assert 'gamma 0.9 changes its choice of units less than 0' not in none['claims']
    assert ema.STUDY.tell(none)


def test_what_the_latent_study_measures(folder):
    """Recovery trains, each score cuts by itself, and a group's cut leaves the others alone."""
    settings = AutoencoderConfig(4, (12, 8), epochs=30, seed=1,
                                 importance=ImportanceConfig(warmup=1, record_every=1))
    config = latent.TrialConfig(settings, (0.5,), 2, str(folder))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent, 'Autoencoder', kept_in(made))
        patch.setattr(latent, 'ImportanceTracker', lambda *given: made.append(
            ImportanceTracker(*given)) or made[-1])
        found = latent.run(config, SimpleNamespace(progress=silent, folder=folder))
    model, tracker = made[0], made[1]
    data, graph = images.load(str(folder)), model.graph()
    for name in ('gradient', 'fisher', 'bayesian', 'combined'):
        cut = model.without(lowest_of_all(graph, tracker.unit_scores(name), 0.5))
        assert found['scores'][name]['0.5'] == pytest.approx(cut.quality(data.test).mse)
    whole = tracker.unit_scores('combined')
    for group, left in found['pruned']['0.5'].items():
        cut = model.without(latent.lowest(graph, whole, [group], 0.5))
        assert left[1] == pytest.approx(cut.quality(data.test).psnr)
    for kind, left in found['kinds']['0.5'].items():
        names = [g.name for g in graph.free if g.kind == kind]
        cut = model.without(latent.lowest(graph, whole, names, 0.5))
        assert left['cut'][1] == pytest.approx(cut.quality(data.test).psnr)
        train(cut, data.train, settings, np.random.default_rng(1), epochs=2)
        assert left['recovered'][1] == pytest.approx(cut.quality(data.test).psnr)
        assert left['recovered'][1] != left['cut'][1]


def test_a_cut_by_scores_that_are_not_there_is_refused():
    """It would be one by the number of the unit."""
    model = Autoencoder(25, AutoencoderConfig(4, (12, 8)))
    tracker = ImportanceTracker(model.graph(), model.components, ImportanceConfig())
    with pytest.raises(AgentError, match=r'(?s)50%.*nothing was measured yet.*latent.*warm-up'):
        lowest_of_all(model.graph(), tracker.unit_scores('combined'), 0.5)


def test_steps_that_fall_on_one_epoch_are_one_cut():
    steps = {point: cuts for way, point, cuts in timing._due(3, 0.5) if way == 'steps'}
    assert [epoch for epoch, _ in steps[0.25]] == [1]
    assert [epoch for epoch, _ in steps[1.0]] == [1, 2, 3]
    assert all(cuts[-1] == (round(3 * p) or 1, pytest.approx(0.5)) for p, cuts in steps.items())


def test_ranks_that_settle_are_cut_then(folder):
    """Hardly any learning: the order of one epoch is that of the next."""
    settings = AutoencoderConfig(4, (12, 8), epochs=4, seed=0, learning_rate=1e-9,
                                 importance=ImportanceConfig(warmup=1, gamma=0.99))
    ways = timing.run(timing.TrialConfig(settings, 0.5, str(folder)),
                      SimpleNamespace(progress=silent))['ways']
    assert next(w for w in ways if w['way'] == 'settled')['cuts'][0] < 4


def test_timing_of_an_autoencoder(of):
    found = of('timing', latent=4, epochs=5, share=0.5, config='', warmup=1)
    for points in found['autoencoder'].values():
        for way in points.values():
            assert way['psnr']['n'] == 3
    cuts = {way: points['1']['cuts'][0] for way, points in found['autoencoder'].items()}
    assert cuts['never'] == [] and cuts['once'] == [5] and cuts['steps'] == [1, 2, 3, 4, 5]
    assert 1 <= cuts['settled'][0] <= 5
    for way in ('once', 'steps', 'settled'):
        assert found['autoencoder'][way]['1']['removed']['low'] >= 0.5
    assert len(timing.STUDY.tell(found)) > 5
    ends = {way: points[point]['psnr']['value'] for way, point in (
        ('never', '1'), ('once', '0.75'), ('steps', '0.5'))
        for points in [found['autoencoder'][way]]}
    assert found['agents'] == {}
    steps = found['autoencoder']['steps']['0.75']['psnr']['value']
    assert found['claims']['autoencoder: five steps end better than one cut at 0.75, dB'][
        'value'] == pytest.approx(steps - ends['once'])
    for way, claim in (('once', 'one cut at 0.75 ends'), ('steps', 'five steps to 0.5 end')):
        value = found['claims'][f'autoencoder: {claim} better than never cutting, dB']['value']
        assert value == pytest.approx(ends[way] - ends['never'])  # of three, the plain mean


@pytest.mark.parametrize(('way', 'cuts'), [
    ('once', [(2, 0.6)]),
    ('steps', [(k, 1 - 0.4 ** (k / 5)) for k in (1, 2, 3, 4, 5)])])
def test_a_way_that_branches_off_is_a_training_of_its_own(folder, way, cuts):
    """Copies share weights, batches and moments with the trunk, and leave it as it was."""
    settings = AutoencoderConfig(4, (12, 8), epochs=5, seed=3,
                                 importance=ImportanceConfig(warmup=1))
    ways = timing.run(timing.TrialConfig(settings, 0.6, str(folder)),
                      SimpleNamespace(progress=silent))['ways']
    data, rng = images.load(str(folder)), np.random.default_rng(3)
    model = Autoencoder(25, settings)
    dense, done = model.graph().parameters, 0
    for epoch, removed in cuts:
        tracker = ImportanceTracker(model.graph(), model.components, settings.importance)
        train(model, data.train, settings, rng, Watchers([tracker]), epochs=epoch - done)
        graph, done = model.graph(), epoch
        model.cut(lowest_of_all(graph, tracker.unit_scores('combined'),
                                1 - (1 - removed) * dense / graph.parameters))
    train(model, data.train, settings, rng, epochs=5 - done)
    point = {'once': 0.5, 'steps': 1.0}[way]
    found = next(w for w in ways if (w['way'], w['point']) == (way, point))
    assert found['cuts'] == [epoch for epoch, _ in cuts]
    assert found['psnr'] == model.quality(data.test).psnr
    alone = Autoencoder(25, settings)
    train(alone, data.train, settings, np.random.default_rng(3))
    assert next(w for w in ways if w['way'] == 'never')['psnr'] == alone.quality(data.test).psnr
