# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What does smoothing over time do to importance (arXiv 2601.19794, equation of the EMA)?

An autoencoder trains once per seed; one tracker per gamma watches the very same gradients. How far
each lags behind, how often it has groups in the wrong order, how its choice of units moves from
one look to the next, and what cutting by it costs, out.

The order that is taken as the truth is that of the raw signal averaged over a window around each
update: it looks ahead, which no EMA can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core import images
from pruning_core.autoencoder import Autoencoder, AutoencoderConfig, Watchers, train
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.crossovers import Crossover, crossovers
from pruning_core.studies.claims import lowest_of_all, spoken
from pruning_core.studies.pictures import Panel, panels
from pruning_core.studies.runner import Context, Trial
from pruning_core.studies.statistics import iqm, summary, verdict
from pruning_core.studies.study import Results, Study

Array = npt.NDArray[np.float64]
_DEFAULT = 0.9  # importance.gamma


@dataclass(frozen=True)
class Settings:
    """How large the study is.

    Attributes:
        gammas: EMA coefficients that watch the same training.
        latent: channels between encoder and decoder.
        hidden: widths of the encoder's hidden layers.
        seeds: trainings, with seeds 0, 1, ...
        epochs: of each training.
        share: of the parameters that go in the end.
        window: updates around each one that the reference is averaged over.
        every: updates between two looks at the choice of units.
        data: folder of IDX files; empty for scikit-learn's digits.
    """

    gammas: tuple[float, ...] = (0.0, 0.5, 0.9, 0.97, 0.99)
    latent: int = 64
    hidden: tuple[int, ...] = (512, 256)
    seeds: int = 10
    epochs: int = 50
    share: float = 0.5
    window: int = 101
    every: int = 10
    data: str = ''


@dataclass(frozen=True)
class TrialConfig:
    """One training; see `Settings`."""

    autoencoder: AutoencoderConfig
    gammas: tuple[float, ...]
    share: float
    window: int
    every: int
    data: str = field(default='')


def trials(settings: Settings, folder: str) -> list[Trial]:
    """One per seed."""
    return [Trial(f'{folder}/s{seed}', run, TrialConfig(
        AutoencoderConfig(settings.latent, settings.hidden, settings.epochs, seed=seed),
        settings.gammas, settings.share, settings.window, settings.every, settings.data))
        for seed in range(settings.seeds)]


def run(config: TrialConfig, context: Context) -> dict[str, Any]:
    """Train once under all trackers, then cut a copy by each."""
    data, settings = images.load(config.data), config.autoencoder
    model = Autoencoder(data.train.shape[1], settings)
    graph = model.graph()
    names = [g.name for g in graph.free]
    trackers = {gamma: ImportanceTracker(
        graph, model.components, dataclasses.replace(settings.importance, gamma=gamma))
        for gamma in (0.0, *config.gammas)}
    groups: dict[float, list[Array]] = {gamma: [] for gamma in trackers}
    chosen: dict[float, list[Array]] = {gamma: [] for gamma in trackers}

    def look(update: int) -> None:
        for gamma, tracker in trackers.items():
            groups[gamma].append(tracker.aggregated('gradient')[:len(names)])
            if update % config.every == 0:
                chosen[gamma].append(lower_half(tracker))

    train(model, data.train, settings, np.random.default_rng(settings.seed),
          Watchers(list(trackers.values()), after=look), progress=context.progress)
    dense = model.quality(data.test)
    truth = centred(np.array(groups[0.0]), config.window)
    time = np.arange(1, len(truth) + 1)
    expected = crossovers(time, truth, names)
    out = {}
    for gamma in config.gammas:
        tracker, signal = trackers[gamma], np.array(groups[gamma])
        cut = model.without(
            lowest_of_all(graph, tracker.unit_scores('combined'), config.share))
        moved = [float((a != b).mean()) for a, b in zip(chosen[gamma], chosen[gamma][1:],
                                                        strict=False)]
        found = crossovers(time, signal, names)
        out[f'{gamma:g}'] = {
            'lag': lag(signal, truth, config.window), 'misordered': misordered(signal, truth),
            'moved': float(np.mean(moved[len(moved) // 2:])) if moved else None,
            'crossovers': len(found), 'delay': delay(found, expected),
            'psnr_lost': dense.psnr - cut.quality(data.test).psnr}
    return {'seed': settings.seed, 'data': data.name, 'psnr': dense.psnr,
            'crossovers': len(expected), 'updates': len(truth), 'gammas': out}


def lower_half(tracker: ImportanceTracker) -> Array:
    """(units,) whether a unit is in the lower half of its group, as a cut by half would see it."""
    parts = [values < np.median(values) for values in tracker.unit_scores('gradient').values()]
    return np.concatenate(parts)


def centred(values: Array, window: int) -> Array:
    """(T, G) mean over a window around every row; shorter at the ends."""
    half = window // 2
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    rows = np.arange(len(values))
    first, last = np.maximum(rows - half, 0), np.minimum(rows + half + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first)[:, None])


def lag(signal: Array, truth: Array, longest: int) -> int:
    """Updates by which the truth has to be held back to look most like a signal.

    Both in logarithms, over all groups; the first `longest` rows, before smoothing has filled, are
    left out.
    """
    if len(truth) < 3 * longest:
        longest = len(truth) // 3
    a, b = np.log(np.maximum(signal, 1e-30)), np.log(np.maximum(truth, 1e-30))
    errors = [np.abs(a[longest:] - b[longest - k:len(b) - k]).mean() for k in range(longest + 1)]
    return int(np.argmin(errors))


def misordered(signal: Array, truth: Array) -> float:
    """Share of updates and pairs of groups whose order is not the true one."""
    pairs = [(i, j) for i in range(truth.shape[1]) for j in range(i)]
    wrong = [((signal[:, i] > signal[:, j]) != (truth[:, i] > truth[:, j])).mean()
             for i, j in pairs]
    return float(np.mean(wrong))


def delay(found: Sequence[Crossover], expected: Sequence[Crossover]) -> float | None:
    """Median of the updates between a true crossover and the same one as a signal shows it.

    The nearest one of the same two groups in the same direction counts; None where there is none.
    """
    late = []
    for true in expected:
        same = [c.update - true.update for c in found
                if (c.rises, c.falls) == (true.rises, true.falls)]
        if same:
            late.append(min(same, key=abs))
    return float(np.median(late)) if late else None


def summarise(settings: Settings, results: Results) -> dict[str, Any]:
    """Every figure per gamma, and what follows for the default."""
    runs = list(results.values())
    figures = ('lag', 'delay', 'misordered', 'moved', 'crossovers', 'psnr_lost')
    table = {g: {f: summary([r['gammas'][g][f] for r in runs]) for f in figures}
             for g in runs[0]['gammas']}
    default, claims = f'{_DEFAULT:g}', {}
    for g in table:
        if g == default or default not in table:
            continue
        for what, figure in (('has groups out of order less often', 'misordered'),
                             ('changes its choice of units less', 'moved'),
                             ('loses less PSNR, dB', 'psnr_lost')):
            claims[f'gamma {default} {what} than {g}'] = verdict(iqm(
                [r['gammas'][g][figure] - r['gammas'][default][figure] for r in runs]))
    return {'data': runs[0]['data'], 'seeds': sorted(r['seed'] for r in runs),
            'updates': runs[0]['updates'], 'psnr': summary([r['psnr'] for r in runs]),
            'true_crossovers': summary([float(r['crossovers']) for r in runs]),
            'gammas': table, 'claims': claims}


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """Lag, disorder, restlessness and loss over gamma."""
    table = result['gammas']
    ticks = dict(enumerate(table))

    def panel(title: str, label: str, *figures: tuple[str, str]) -> Panel:
        return Panel(title, 'gamma', label, {name: [
            (float(i), table[g][figure]) for i, g in enumerate(table)]
            for figure, name in figures}, ticks={float(k): v for k, v in ticks.items()})

    return {'ema.svg': panels([
        panel('How late', 'updates', ('lag', 'lag'), ('delay', 'delay of crossovers')),
        panel('How wrong', 'share of pairs out of order', ('misordered', 'order of groups')),
        panel('How restless', 'share of units, every 10 updates', ('moved', 'choice of units')),
        panel('What a cut costs', 'PSNR lost, dB', ('psnr_lost', 'combined score'))])}


def tell(result: Mapping[str, Any]) -> dict[str, Any]:
    """A line per gamma, then the claims."""
    return {**{f'gamma {g}': ', '.join(f'{k} {v["value"]:.3g}' for k, v in row.items() if v)
               for g, row in result['gammas'].items()}, **spoken(result['claims'])}


STUDY = Study(
    name='ema',
    question='How much does smoothing importance over updates delay, steady and improve what is '
             'pruned?',
    settings=Settings, quick={'hidden': (128, 64), 'seeds': 3, 'epochs': 12, 'window': 31},
    cost='quick 1 minute, full 30 minutes',
    trials=trials, summarise=summarise, draw=draw, tell=tell)
