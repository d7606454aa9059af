# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What does smoothing over time do to importance (arXiv 2601.19794, equation of the EMA)?

An autoencoder, or a TD-MPC agent, trains once per seed, watched with every gamma (`smoothing`).
How far each lags behind, how often it has groups in the wrong order, how its choice of units moves
from one look to the next, and what cutting by it costs, out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning_core import images
from pruning_core.autoencoder import Autoencoder, AutoencoderConfig, Watchers, train
from pruning_core.checkpoint import Run, load_run
from pruning_core.config import Config, PruningConfig
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.shrinking import shrink
from pruning_core.studies.claims import lowest_of_all, spoken
from pruning_core.studies.cuts import FOLDER, by_score, config_of, plan_by
from pruning_core.studies.pictures import Panel, panels
from pruning_core.studies.runner import Context, Trial
from pruning_core.studies.smoothing import Watch, WatchConfig
from pruning_core.studies.statistics import iqm, summary, verdict
from pruning_core.studies.study import Results, Study
from pruning_core.training import Trainer

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
        config: YAML file of the agents; empty for none.
        agents: trainings of agents, with seeds 0, 1, ...
        episodes: common seeds of every return.
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
    config: str = 'config/pendulum.yaml'
    agents: int = 5
    episodes: int = 20


@dataclass(frozen=True)
class TrialConfig:
    """One autoencoder; see `Settings`. `digest` is that of the images: others are refused."""

    autoencoder: AutoencoderConfig
    watch: WatchConfig
    share: float
    data: str = ''
    digest: str = ''


@dataclass(frozen=True)
class AgentConfig:
    """One agent; see `Settings`."""

    agent: Config
    watch: WatchConfig
    share: float
    episodes: int


def trials(settings: Settings, folder: str) -> list[Trial]:
    """One per seed of either kind."""
    watch = WatchConfig(settings.gammas, settings.window, settings.every)
    digest = images.digest(settings.data) if settings.seeds else ''
    out = [Trial(f'{folder}/s{seed}', run, TrialConfig(
        AutoencoderConfig(settings.latent, settings.hidden, settings.epochs, seed=seed),
        watch, settings.share, settings.data, digest)) for seed in range(settings.seeds)]
    if settings.config:
        out += [Trial(f'{folder}/agent_s{seed}', run_agent, AgentConfig(config_of(
            settings.config, seed, 'importance.every=1', 'importance.fisher=batch',
            'training.evaluate_every=0', 'training.keep_best=false'),
            watch, settings.share, settings.episodes), weight=6.0)
            for seed in range(settings.agents)]
    return out


def run(config: TrialConfig, context: Context) -> dict[str, Any]:
    """Train an autoencoder once under all trackers, then cut a copy by each."""
    data, settings = images.load(config.data), config.autoencoder
    model = Autoencoder(data.train.shape[1], settings)
    graph = model.graph()
    watch = Watch(graph, model.components, settings.importance, config.watch)
    train(model, data.train, settings, np.random.default_rng(settings.seed),
          Watchers(list(watch.trackers.values()), after=watch.look), progress=context.progress)
    dense, found = model.quality(data.test), watch.found()
    for gamma in config.watch.gammas:
        scores = watch.trackers[gamma].unit_scores('combined')
        cut = model.without(lowest_of_all(graph, scores, config.share))
        found['gammas'][f'{gamma:g}']['psnr_lost'] = dense.psnr - cut.quality(data.test).psnr
    return {'seed': settings.seed, 'data': data.name, 'psnr': dense.psnr, **found}


def run_agent(config: AgentConfig, context: Context) -> dict[str, Any]:
    """Train an agent once under all trackers, then cut it by each; no recovery.

    Returns are those of the policy alone. What was interrupted begins anew: trackers have no
    checkpoint.
    """
    folder = context.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    trainer = Trainer(config.agent, folder, context.progress)
    agent = trainer.agent
    watch = Watch(agent.graph(), dict(agent.components.items()), config.agent.importance,
                  config.watch)
    ours, trackers = trainer.importance, list(watch.trackers.values())

    def observe() -> None:
        for tracker in (ours, *trackers):
            tracker.observe()

    def after() -> None:
        for tracker in trackers:
            tracker.step()
        watch.look(ours.updates)

    agent.on_gradients, trainer.after_update = observe, after
    trainer.run()
    found, seed = watch.found(), config.agent.training.seed
    pruning = by_score(PruningConfig(seed=seed, sparsity=config.share, recovery_updates=0))

    def policy(run: Run) -> float:
        return evaluate(run.agent, run.config.env, evaluation_seeds(config.episodes), None,
                        context.progress).mean

    dense = policy(load_run(folder))
    for gamma in config.watch.gammas:
        smaller, scores = load_run(folder), watch.trackers[gamma].unit_scores('combined')
        shrink(smaller, plan_by(smaller, scores, pruning, pruning.score), pruning,
               context.progress)
        found['gammas'][f'{gamma:g}']['return_lost_percent'] = \
            100 * (dense - policy(smaller)) / abs(dense)
    return {'seed': seed, 'plant': config.agent.env.id, 'policy': dense, **found}


def summarise(settings: Settings, results: Results) -> dict[str, Any]:
    """Every figure per gamma, and what follows for the default; images and agents apart."""
    out: dict[str, Any] = {'claims': {}}
    pictured = [r for r in results.values() if 'psnr' in r]
    agents = [r for r in results.values() if 'policy' in r]
    if pictured:
        out |= {'data': pictured[0]['data'],
                'psnr': summary([r['psnr'] for r in pictured]),
                **_watched(pictured, 'psnr_lost', 'loses less PSNR, dB', out['claims'], '')}
    if agents:
        out['agents'] = {
            'plant': agents[0]['plant'], 'policy': summary([r['policy'] for r in agents]),
            **_watched(agents, 'return_lost_percent', 'loses less return, %', out['claims'],
                       'agents: ')}
        out.setdefault('seeds', out['agents']['seeds'])
    return out


def _watched(runs: Sequence[Mapping[str, Any]], lost: str, loses: str, claims: dict[str, Any],
             prefix: str) -> dict[str, Any]:
    """The table of one kind of network; its claims are added."""
    figures = ('lag', 'delay', 'misordered', 'moved', 'crossovers', lost)
    table = {g: {f: summary([r['gammas'][g][f] for r in runs]) for f in figures}
             for g in runs[0]['gammas']}
    default = f'{_DEFAULT:g}'
    for g in table:
        if g == default or default not in table:
            continue
        for what, figure in (('has groups out of order less often', 'misordered'),
                             ('changes its choice of units less', 'moved'), (loses, lost)):
            both = [(r['gammas'][g][figure], r['gammas'][default][figure]) for r in runs]
            if gaps := [other - ours for other, ours in both if None not in (other, ours)]:
                claims[f'{prefix}gamma {default} {what} than {g}'] = verdict(iqm(gaps))
    return {'seeds': sorted(r['seed'] for r in runs), 'updates': runs[0]['updates'],
            'true_crossovers': summary([float(r['crossovers']) for r in runs]), 'gammas': table}


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """Lag, disorder, restlessness and loss over gamma; images above, agents below."""
    parts = [(result, '', 'psnr_lost', 'PSNR lost, dB')] if 'gammas' in result else []
    if 'agents' in result:
        parts.append((result['agents'], ', agents', 'return_lost_percent', 'return lost, %'))
    content = []
    for part, of, lost, label in parts:
        table = part['gammas']
        ticks = {float(i): g for i, g in enumerate(table)}

        def panel(title: str, label: str, *figures: tuple[str, str], table: Any = table,
                  ticks: Any = ticks, of: str = of) -> Panel:
            return Panel(title + of, 'gamma', label, {name: [
                (float(i), table[g][figure]) for i, g in enumerate(table)]
                for figure, name in figures}, ticks=ticks)

        content += [
            panel('How late', 'updates', ('lag', 'lag'), ('delay', 'delay of crossovers')),
            panel('How wrong', 'share of pairs out of order',
                  ('misordered', 'order of groups')),
            panel('How restless', 'share of units, every 10 updates',
                  ('moved', 'choice of units')),
            panel('What a cut costs', label, (lost, 'combined score'))]
    return {'ema.svg': panels(content)} if content else {}


def tell(result: Mapping[str, Any]) -> dict[str, Any]:
    """A line per gamma, then the claims."""
    parts = [('', result)] * ('gammas' in result)
    parts += [('agents, ', result['agents'])] if 'agents' in result else []
    return {**{f'{of}gamma {g}': ', '.join(
        f'{k} {v["value"]:.3g}' for k, v in row.items() if v)
        for of, part in parts for g, row in part['gammas'].items()}, **spoken(result['claims'])}


STUDY = Study(
    name='ema',
    question='How much does smoothing importance over updates delay, steady and improve what is '
             'pruned?',
    settings=Settings, quick={'hidden': (128, 64), 'seeds': 3, 'epochs': 12, 'window': 31,
                              'config': 'config/pendulum_quick.yaml', 'agents': 3},
    cost='quick 2 minutes, full 2 hours',
    trials=trials, summarise=summarise, draw=draw, tell=tell)
