# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""When should the cut be made (arXiv 2601.19794, open question 2)?

Autoencoders cut at four points of a training of fixed length, at once, in five steps that end
there, or when the ranks of the units have settled; and TD-MPC agents cut at four points of their
episodes, at once or in steps (`cut_in_training`). Every way has as many updates in all, but for
agents cut after the last episode, which are given those of recovery. Out: what is left in the end,
against never cutting.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core import images
from pruning_core.autoencoder import Autoencoder, AutoencoderConfig, Watchers, train
from pruning_core.config import ImportanceConfig, PruningConfig
from pruning_core.errors import ConfigError, explain
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.ranking import agreement
from pruning_core.studies.claims import lowest_of_all, spoken
from pruning_core.studies.cut_in_training import (
    IN_STEPS,
    NEVER,
    ONCE,
    CutInTrainingConfig,
    cuts_of,
)
from pruning_core.studies.cut_in_training import run as cut_in_training
from pruning_core.studies.cuts import config_of
from pruning_core.studies.pictures import Panel, panels
from pruning_core.studies.runner import Context, Trial
from pruning_core.studies.statistics import iqm, summary, verdict
from pruning_core.studies.study import Results, Study

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
        agents: trainings of agents, with seeds 0, 1, ...
        ways: in which agents are cut: `once`, or in `steps`.
        sparsity: share of an agent's parameters that go.
        recovery_updates: of an agent that is cut after the last episode.
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
    agents: int = 5
    ways: tuple[str, ...] = (ONCE, IN_STEPS)
    sparsity: float = 0.9
    recovery_updates: int = 300
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
        digest: of the images there, so that others are refused.
    """

    autoencoder: AutoencoderConfig
    share: float
    data: str = ''
    digest: str = ''


def trials(settings: Settings, folder: str) -> list[Trial]:
    """An autoencoder per seed, and an agent per seed; each is cut in every way.

    Raises:
        ConfigError: agents whose training does not end by its episodes.
    """
    measured = ImportanceConfig(warmup=settings.warmup)
    digest = images.digest(settings.data) if settings.seeds else ''
    out = [Trial(f'{folder}/s{seed}', run, TrialConfig(
        AutoencoderConfig(settings.latent, settings.hidden, settings.epochs, seed=seed,
                          importance=measured),
        settings.share, settings.data, digest), weight=8.0) for seed in range(settings.seeds)]
    if not settings.config:
        return out
    made = [config_of(settings.config, seed) for seed in range(settings.agents)]
    if any(agent.training.decisions for agent in made):
        raise ConfigError(
            explain(f"agents of '{settings.config}' were to be cut on the way",
                    'training.decisions ends their training, wherever its episodes are then',
                    'a training that ends by training.episodes, as the points are shares of them',
                    'set training.decisions to 0 in a copy of that file'))
    # What they are cut from is their own training, so that they share no agents with others.
    return out + [Trial(f'{folder}/agent_s{seed}', cut_in_training, CutInTrainingConfig(
        agent, PruningConfig(seed=seed, sparsity=settings.sparsity,
                                    recovery_updates=settings.recovery_updates),
        settings.ways, POINTS, settings.episodes, 64, 2), weight=40.0)
        for seed, agent in enumerate(made)]


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
    return [(way, point, cuts_of(way, max(1, round(point * epochs)), share))
            for point in POINTS for way in (ONCE, IN_STEPS)]


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
    """What is left in the end by way and point, and which is best."""
    runs = [way for r in results.values() for way in r['ways']]
    subjects = {of: [r for r in runs if ('psnr' in r) == (of == 'autoencoder')]
                for of in ('autoencoder', 'agents')}
    claims = _claims('autoencoder', 'dB', subjects['autoencoder'], 'psnr')
    for kind in ('planned', 'policy'):
        claims |= _claims(f'agents, {kind}', 'return', subjects['agents'], kind)
    return {'data': next((r['data'] for r in runs if 'data' in r), ''),
            'seeds': sorted({r['seed'] for r in runs}),
            'autoencoder': _table(subjects['autoencoder'], ('psnr', 'removed')),
            'agents': _table(subjects['agents'], ('planned', 'policy', 'removed', 'updates')),
            'claims': claims}


def _table(runs: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> dict[str, Any]:
    """By way and point: every measure over seeds, and when each seed was cut."""
    table: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for r in runs:
        table.setdefault(r['way'], {}).setdefault(f"{r['point']:g}", []).append(r)
    return {way: {point: {**{m: summary([r[m] for r in mine]) for m in measures},
                          'cuts': [r['cuts'] for r in mine]} for point, mine in points.items()}
            for way, points in table.items()}


def _claims(subject: str, unit: str, runs: Sequence[Mapping[str, Any]], measure: str
            ) -> dict[str, Any]:
    """Which of two ways ends better, paired by seed; more of the measure is better."""
    by: dict[tuple[str, float], dict[int, float]] = {}
    for r in runs:
        by.setdefault((r['way'], r['point']), {})[r['seed']] = r[measure]
    first, last = POINTS[0], POINTS[-1]
    once, steps, never = ({p: (way, p) for p in POINTS} for way in (ONCE, IN_STEPS, NEVER))
    pairs = [
        *((f'cutting at {p:g} ends better than at {first:g}', once[p], once[first])
          for p in POINTS[1:]),
        *((f'cutting at {last:g} ends better than at {p:g}', once[last], once[p])
          for p in POINTS[1:-1]),
        *((f'five steps end better than one cut at {p:g}', steps[p], once[p]) for p in POINTS),
        *((f'{told.format(p)} better than never cutting', of[p], never[last])
          for p in POINTS for told, of in (('one cut at {:g} ends', once),
                                           ('five steps to {:g} end', steps))),
        (f'cutting when ranks settle ends better than at {POINTS[1]:g}', ('settled', last),
         once[POINTS[1]])]
    out = {}
    for told, better, worse in pairs:
        a, b = by.get(better, {}), by.get(worse, {})
        if both := [a[seed] - b[seed] for seed in a if seed in b]:
            out[f'{subject}: {told}, {unit}'] = verdict(iqm(both))
    return out


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """What is left in the end over the time of the cut."""
    content = [
        Panel(title, f'share of the {rounds} before the (last) cut', label, _lines(
            result[of], measure))
        for of, measure, title, rounds, label in (
            ('autoencoder', 'psnr', 'Autoencoder', 'epochs', 'PSNR in the end, dB'),
            ('agents', 'policy', 'Agents, policy', 'episodes', 'return'),
            ('agents', 'planned', 'Agents, planned', 'episodes', 'return')) if result[of]]
    return {'timing.svg': panels(content, 3, 10.5, 3.1)}


def _lines(ways: Mapping[str, Any], measure: str) -> dict[str, list[tuple[float, Any]]]:
    """Ways that have a point as lines over it, the others as level ones."""
    lines = {way: [(float(p), v[measure]) for p, v in ways[way].items()]
             for way in (ONCE, IN_STEPS) if way in ways}
    for way in (NEVER, 'settled'):
        if way in ways:
            value = ways[way][f'{POINTS[-1]:g}'][measure]['value']
            lines[way] = [(POINTS[0], value), (POINTS[-1], value)]
    return lines


def tell(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every claim in a line."""
    return {'data': result['data'], **spoken(result['claims'])}


STUDY = Study(
    name='timing',
    question='When should the cut be made: early, late, in steps, or when ranks have settled?',
    settings=Settings,
    quick={'latent': 128, 'hidden': (128, 64), 'seeds': 3, 'epochs': 12, 'episodes': 5,
           'config': 'config/pendulum_quick.yaml', 'agents': 3, 'sparsity': 0.7, 'warmup': 5},
    cost='quick 5 minutes, full 2 hours',
    trials=trials, summarise=summarise, draw=draw, tell=tell)

