# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""When should the cut be made (arXiv 2601.19794, open question 2)?

Autoencoders cut at four points of a training of fixed length, at once, in five steps that end
there, or when the ranks of the units have settled; and TD-MPC agents that were trained for part of
their episodes, cut, and given the updates that they have not had yet. Every way has as many
updates in all. Out: what is left in the end, against never cutting.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core import config as configuration
from pruning_core import images
from pruning_core.autoencoder import Autoencoder, AutoencoderConfig, Watchers, train
from pruning_core.config import ImportanceConfig, PruningConfig
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.ranking import agreement
from pruning_core.studies.claims import lowest_of_all, spoken
from pruning_core.studies.cuts import CutConfig, RanksConfig, agents, cut, ranks
from pruning_core.studies.pictures import Panel, panels
from pruning_core.studies.runner import Context, Trial
from pruning_core.studies.statistics import iqm, summary, verdict
from pruning_core.studies.study import Results, Study

_STEPS = 5
_SETTLED = 0.9  # Kendall's tau of the units' ranks from one epoch to the next
POINTS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Settings:
    """How large the study is.

    Attributes:
        latent: channels between encoder and decoder.
        hidden: widths of the encoder's hidden layers.
        seeds: trainings of each way, with seeds 0, 1, ...
        epochs: of each training; the cut falls at a quarter, a half, three quarters or the end.
        share: of the autoencoder's parameters that go.
        config: YAML file of the agents; empty for none.
        sparsity: share of an agent's parameters that go.
        episodes: common seeds of every return.
        data: folder of IDX files; empty for scikit-learn's digits.
        warmup: updates before all signals of an autoencoder exist; fewer than between two cuts.
    """

    latent: int = 512
    hidden: tuple[int, ...] = (512, 256)
    seeds: int = 5
    epochs: int = 200
    share: float = 0.7
    config: str = 'config/pendulum.yaml'
    sparsity: float = 0.9
    episodes: int = 20
    data: str = ''
    warmup: int = 50


@dataclass(frozen=True)
class TrialConfig:
    """One autoencoder, cut in every way.

    Attributes:
        autoencoder: with its epochs.
        share: of the parameters that go.
        data: folder of IDX files.
    """

    autoencoder: AutoencoderConfig
    share: float
    data: str = field(default='')


def trials(settings: Settings, folder: str) -> list[Trial]:
    """An autoencoder per seed; agents at every point."""
    measured = ImportanceConfig(warmup=settings.warmup)
    out = [Trial(f'{folder}/s{seed}', run, TrialConfig(
        AutoencoderConfig(settings.latent, settings.hidden, settings.epochs, seed=seed,
                          importance=measured),
        settings.share, settings.data), weight=8.0) for seed in range(settings.seeds)]
    return out + (_agents(settings, folder) if settings.config else [])


def _agents(settings: Settings, folder: str) -> list[Trial]:
    out = []
    whole = agents(settings.config, settings.seeds)
    training = configuration.load(settings.config).training
    learning = training.episodes - training.random_episodes
    for point in POINTS:
        # Those of random actions come before anything is learned, whatever follows.
        episodes = training.random_episodes + max(1, round(point * learning))
        short = whole if point == 1 else agents(
            settings.config, settings.seeds, [f'training.episodes={episodes}'])
        for seed, agent in short.items():
            scored = Trial(f'{folder}/ranks_{point:g}_s{seed}', ranks,
                           RanksConfig(('combined',), seed), (agent.name,), 0.5)
            pruning = PruningConfig(seed=seed, sparsity=settings.sparsity,
                                    recovery_updates=300 if point == 1 else 0)
            out += [agent, scored, Trial(
                f'{folder}/agent_{point:g}_s{seed}', cut,
                CutConfig('combined', pruning, settings.episodes, 64, 2, 0, catch_up=point < 1),
                (agent.name, scored.name, whole[seed].name), 2.0)]
    for seed, agent in whole.items():
        out += [] if any(t.name == agent.name for t in out) else [agent]
        out.append(Trial(f'{folder}/agent_dense_s{seed}', cut, CutConfig(
            'dense', PruningConfig(seed=seed), settings.episodes, 64, 2, 0), (agent.name,)))
    return out


class _Training:
    """An autoencoder on its way to the end of a training of fixed length.

    Attributes:
        done: epochs so far.
        cuts: epochs after which it was cut.
    """

    def __init__(self, config: TrialConfig, context: Context) -> None:
        settings = config.autoencoder
        self._config, self._progress, self._phase = config, context.progress, 'train'
        self._data = images.load(config.data)
        self._rng = np.random.default_rng(settings.seed)
        self._model = Autoencoder(self._data.train.shape[1], settings)
        self._dense = self._model.graph().parameters
        self._track()
        self.done = 0
        self.cuts: list[int] = []

    def _track(self) -> None:
        self._tracker = ImportanceTracker(self._model.graph(), self._model.components,
                                          self._config.autoencoder.importance)

    def train_to(self, epoch: int, watched: bool = True) -> None:
        """Train until so many epochs are done in all; `watched` where another cut follows."""
        settings, before = self._config.autoencoder, self.done
        if epoch > before:
            train(self._model, self._data.train, settings, self._rng,
                  Watchers([self._tracker] if watched else []), epochs=epoch - before,
                  progress=lambda _, done, total, /, **facts: self._progress(
                      self._phase, before + done, settings.epochs, **facts))
            self.done = epoch

    def ranks(self) -> npt.NDArray[np.float64]:
        """Scores of all units, (units,)."""
        return np.concatenate(list(self._tracker.unit_scores('combined').values()))

    def _cut_to(self, removed: float) -> None:
        """Remove the lowest units until this share of the dense network is gone."""
        graph = self._model.graph()
        further = 1 - (1 - removed) * self._dense / graph.parameters
        self._model.cut(lowest_of_all(graph, self._tracker.unit_scores('combined'),
                                      max(further, 0.0)))
        self.cuts.append(self.done)

    def end(self, way: str, point: float, cuts: Sequence[tuple[int, float]] = ()
            ) -> dict[str, Any]:
        """Copy this training, go on with the copy to the end, and measure it.

        Args:
            way: `never`, `once`, `steps` or `settled`.
            point: share of the epochs after which the last cut is made; without a meaning for
                `never` and `settled`.
            cuts: epochs, and the share of the parameters that is gone after each; the first is
                due now.
        """
        mine = copy.copy(self)
        mine._model, mine._rng = copy.deepcopy(self._model), copy.deepcopy(self._rng)
        mine._phase, mine.cuts = f'{way} {point:g}', []
        for number, (epoch, removed) in enumerate(cuts):
            if number:  # before the first it trained under the tracker that it has
                mine._track()
                mine.train_to(epoch)
            mine._cut_to(removed)
        mine.train_to(self._config.autoencoder.epochs, watched=False)
        return {'way': way, 'point': point, 'seed': self._config.autoencoder.seed,
                'data': self._data.name, 'psnr': mine._model.quality(self._data.test).psnr,
                'cuts': mine.cuts, 'removed': 1 - mine._model.graph().parameters / self._dense}


def _due(epochs: int, share: float) -> list[tuple[str, float, list[tuple[int, float]]]]:
    """Every way of which the cuts are known beforehand: its name, point and cuts."""
    out = []
    for point in POINTS:
        last = max(1, round(point * epochs))
        # Of steps that fall on one epoch the last is the cut: nothing was measured in between.
        steps = {max(1, round(last * step / _STEPS)): 1 - (1 - share) ** (step / _STEPS)
                 for step in range(1, _STEPS + 1)}
        out += [('once', point, [(last, share)]), ('steps', point, list(steps.items()))]
    return out


def run(config: TrialConfig, context: Context) -> dict[str, Any]:
    """Train once; where a way makes its first cut, a copy goes on to the end that way.

    Until then all ways are one training, from the same weights by the same batches.
    """
    epochs = config.autoencoder.epochs
    training, due, found = _Training(config, context), _due(epochs, config.share), []
    before = None
    settled = False
    for epoch in range(1, epochs + 1):
        training.train_to(epoch)
        if not settled:
            now = training.ranks()
            settled = epoch == epochs or (
                before is not None and agreement(before, now) >= _SETTLED)
            before = now
            if settled:
                found.append(training.end('settled', POINTS[-1], [(epoch, config.share)]))
        found += [training.end(way, point, cuts) for way, point, cuts in due
                  if cuts[0][0] == epoch]
    return {'ways': [training.end('never', POINTS[-1]), *found]}


def summarise(settings: Settings, results: Results) -> dict[str, Any]:
    """PSNR and return in the end by way and point, and what is best."""
    seeds = range(settings.seeds)
    runs = [way for r in results.values() for way in r.get('ways', ())]
    table: dict[str, dict[str, Any]] = {}
    for r in runs:
        table.setdefault(r['way'], {}).setdefault(f"{r['point']:g}", []).append(r)

    def of(way: str, point: float, seed: int) -> float | None:
        found = [r for r in runs if (r['way'], r['point'], r['seed']) == (way, point, seed)]
        return float(found[0]['psnr']) if found else None

    claims: dict[str, Any] = {}

    def paired(name: str, pairs: list[tuple[float | None, float | None]]) -> None:
        both = [a - b for a, b in pairs if a is not None and b is not None]
        if both:
            claims[name] = verdict(iqm(both))

    for point in POINTS[1:]:
        paired(f'autoencoder: cutting at {point:g} ends better than at {POINTS[0]:g}, dB',
               [(of('once', point, s), of('once', POINTS[0], s)) for s in seeds])
    for point in POINTS:
        paired(f'autoencoder: five steps end better than one cut at {point:g}, dB',
               [(of('steps', point, s), of('once', point, s)) for s in seeds])
    for point in POINTS[:-1]:
        for way, told in (('once', 'one cut at {:g} ends'), ('steps', 'five steps to {:g} end')):
            paired(f'autoencoder: {told.format(point)} better than never cutting, dB',
                   [(of(way, point, s), of('never', POINTS[-1], s)) for s in seeds])
    paired(f'autoencoder: cutting when ranks settle ends better than at {POINTS[1]:g}, dB',
           [(of('settled', 1.0, s), of('once', POINTS[1], s)) for s in seeds])
    at: dict[str, Any] = {}
    for kind in ('planned', 'policy'):
        for name in ('dense', *(f'{p:g}' for p in POINTS)):
            there = [results[n][kind] for s in seeds if (n := f'agent_{name}_s{s}') in results]
            if there:
                at.setdefault(name, {})[kind] = summary(there)
        for earlier in POINTS[:-1]:
            paired(f'agents, {kind}: cutting at {POINTS[-1]:g} ends better than at {earlier:g}, '
                   'return', [tuple(results.get(f'agent_{p:g}_s{s}', {}).get(kind)  # type: ignore[misc]
                                    for p in (POINTS[-1], earlier)) for s in seeds])
    return {'data': runs[0]['data'] if runs else '', 'seeds': list(seeds),
            'autoencoder': {way: {p: {
                'psnr': summary([r['psnr'] for r in rs]), 'cuts': [r['cuts'] for r in rs],
                'removed': summary([r['removed'] for r in rs])} for p, rs in points.items()}
                for way, points in table.items()},
            'agents': at, 'claims': claims}


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """What is left in the end over the time of the cut."""
    auto = result['autoencoder']
    content = []
    if auto:
        end = POINTS[-1]
        lines = {way: [(float(p), v['psnr']) for p, v in auto[way].items()]
                 for way in ('once', 'steps') if way in auto}
        for way in ('never', 'settled'):
            if way in auto:
                value = auto[way]['1']['psnr']
                lines[way] = [(POINTS[0], value['value']), (end, value['value'])]
        content.append(Panel('Autoencoder', 'share of the training before the (last) cut',
                             'PSNR in the end, dB', lines))
    if result['agents']:
        at = result['agents']
        content += [Panel(f'Agents, {kind}', 'share of the episodes before the cut', 'return', {
            'once': [(float(p), v[kind]) for p, v in at.items() if p != 'dense'],
            **({'never': [(p, at['dense'][kind]['value']) for p in (POINTS[0], POINTS[-1])]}
               if 'dense' in at else {})}) for kind in ('policy', 'planned')]
    return {'timing.svg': panels(content, 3, 10.5, 3.1)}


def tell(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every claim in a line."""
    return {'data': result['data'], **spoken(result['claims'])}


STUDY = Study(
    name='timing',
    question='When should the cut be made: early, late, in steps, or when ranks have settled?',
    settings=Settings,
    quick={'latent': 128, 'hidden': (128, 64), 'seeds': 3, 'epochs': 12, 'episodes': 5,
           'config': 'config/pendulum_quick.yaml', 'sparsity': 0.7, 'warmup': 5},
    cost='quick 4 minutes, full 2 hours',
    trials=trials, summarise=summarise, draw=draw, tell=tell)

