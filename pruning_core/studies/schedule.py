# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Does the phase-offset cosine L1 tell critical groups from others (arXiv 2601.19794, 3.3)?

Autoencoders trained under every schedule in; for each the resilience of every group, how critical
the group is when half of it is removed, how far the two agree, and what training under pressure
does to the network and to a later cut, out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning_core import images
from pruning_core.autoencoder import Autoencoder, AutoencoderConfig
from pruning_core.config import SCHEDULES, ImportanceConfig, SparsityConfig
from pruning_core.importance import SIGNALS, ImportanceTracker
from pruning_core.plans import Plan
from pruning_core.sparsity import SparsityPressure, neighbour_correlation, resiliences
from pruning_core.studies.claims import lowest, lowest_of_all, spoken, train_recorded
from pruning_core.studies.pictures import Panel, panels
from pruning_core.studies.runner import Context, Trial
from pruning_core.studies.statistics import iqm, known, spearman, summary, verdict
from pruning_core.studies.study import Results, Study


@dataclass(frozen=True)
class Settings:
    """How large the study is.

    Attributes:
        schedules: of the L1 coefficient; see `sparsity.coefficients`.
        latent: channels between encoder and decoder.
        hidden: widths of the encoder's hidden layers.
        seeds: trainings under each schedule, with seeds 0, 1, ...
        epochs: of each training.
        periods: of the schedule in a training.
        strength: lambda_max.
        share: of a group's units, and of the parameters, that go in the end.
        data: folder of IDX files; empty for scikit-learn's digits.
    """

    schedules: tuple[str, ...] = SCHEDULES
    latent: int = 64
    hidden: tuple[int, ...] = (512, 256)
    seeds: int = 5
    epochs: int = 50
    periods: float = 3.0
    strength: float = 2000.0
    share: float = 0.5
    data: str = ''


@dataclass(frozen=True)
class TrialConfig:
    """One training; see `Settings`. `digest` is that of the images, so that others are refused."""

    autoencoder: AutoencoderConfig
    schedule: str
    periods: float
    strength: float
    share: float
    data: str = ''
    digest: str = ''


def trials(settings: Settings, folder: str) -> list[Trial]:
    """One per schedule and seed."""
    digest = images.digest(settings.data)
    return [Trial(f'{folder}/{schedule}_s{seed}', run, TrialConfig(
        AutoencoderConfig(settings.latent, settings.hidden, settings.epochs, seed=seed,
                          importance=ImportanceConfig(record_every=5)),
        schedule, settings.periods, settings.strength, settings.share, settings.data, digest))
        for seed in range(settings.seeds) for schedule in settings.schedules]


def run(config: TrialConfig, context: Context) -> dict[str, Any]:
    """Train under one schedule; regress norms on pressure; cut copies."""
    data, settings = images.load(config.data), config.autoencoder
    model = Autoencoder(data.train.shape[1], settings)
    graph = model.graph()
    updates = settings.epochs * -(-len(data.train) // settings.batch_size)
    sparsity = SparsityConfig(schedule=config.schedule, lambda_max=config.strength,
                              period=max(2, round(updates / config.periods)),
                              check_every=settings.importance.record_every)
    tracker = ImportanceTracker(graph, model.components, settings.importance)
    pressure = SparsityPressure(graph, model.components, sparsity)
    history = train_recorded(model, data.train, settings, tracker, pressure, context)
    dense, scores = model.quality(data.test), tracker.unit_scores('combined')

    def lost(plan: Plan) -> float:
        return dense.psnr - model.without(plan).quality(data.test).psnr

    answers = resiliences(sparsity, history.updates, history.pressure, history.norm)
    slopes = {group: None if found is None else {
        'slope': 1e3 * found.slope, 'explained': found.explained}
        for group, found in zip(history.groups, answers, strict=True)}
    critical = {g.name: lost(lowest(graph, scores, [g.name], config.share)) for g in graph.free}
    matrices = [p.detach() for m in model.components.values() for p in m.parameters()
                if p.dim() > 1]
    small = sum(int((p.abs() < 1e-6).sum()) for p in matrices)
    return {
        'schedule': config.schedule, 'seed': settings.seed, 'data': data.name,
        'psnr': dense.psnr, 'zeros': small / sum(p.numel() for p in matrices),
        'collapsed': pressure.collapsed,
        'resilience': slopes, 'critical': critical,
        'importance': {s: tracker.group_scores(s) for s in SIGNALS},
        'psnr_lost': lost(lowest_of_all(graph, scores, config.share))}


def agreement(result: Mapping[str, Any], by: str = 'resilience') -> float:
    """Spearman over groups between being critical and a signal, or not giving way."""
    names = list(result['critical'])
    critical = [result['critical'][n] for n in names]
    if by == 'resilience':
        slopes = [(result['resilience'][n] or {}).get('slope') for n in names]
        return spearman([np.nan if s is None else s for s in slopes], critical)
    return spearman([result['importance'][by][n] for n in names], critical)


def summarise(settings: Settings, results: Results) -> dict[str, Any]:
    """Every schedule, and the paper's claims about them."""
    runs = list(results.values())
    by: dict[str, list[Mapping[str, Any]]] = {}
    for r in runs:
        by.setdefault(r['schedule'], []).append(r)
    table = {}
    for schedule, mine in by.items():
        explained = [known([(v or {}).get('explained') for v in r['resilience'].values()])
                     for r in mine]
        table[schedule] = {
            'n': len(mine), 'psnr': summary([r['psnr'] for r in mine]),
            'psnr_lost': summary([r['psnr_lost'] for r in mine]),
            'zeros': summary([r['zeros'] for r in mine]),
            'collapsed': sum(bool(r['collapsed']) for r in mine),
            'neighbours': neighbour_correlation(schedule, len(mine[0]['critical'])),
            'explained': summary([float(np.mean(e)) for e in explained if e]),
            'agreement': summary([agreement(r) for r in mine]),
            'slope': {g: summary([(r['resilience'][g] or {}).get('slope') for r in mine])
                      for g in mine[0]['critical']},
            'critical': {g: summary([r['critical'][g] for r in mine])
                         for g in mine[0]['critical']}}
    return {'data': runs[0]['data'], 'seeds': sorted({r['seed'] for r in runs}),
            'schedules': table, 'claims': _claims(by),
            'agreement_of_signals': {s: summary([agreement(r, s) for r in runs])
                                     for s in SIGNALS}}


def _claims(by: Mapping[str, list[Mapping[str, Any]]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for schedule, mine in by.items():
        agreed = known([agreement(r) for r in mine])
        if agreed:
            out[f'{schedule}: groups that do not give way are critical, Spearman over groups'] = \
                verdict(iqm(agreed))
    seeds = {s: {r['seed']: r for r in mine} for s, mine in by.items()}

    def paired(name: str, better: str, worse: str, of: Any) -> None:
        if better in seeds and worse in seeds:
            both = [of(seeds[better][k]) - of(seeds[worse][k])
                    for k in seeds[better] if k in seeds[worse]]
            if known(both):
                out[name] = verdict(iqm(known(both)))

    for rival in ('in_phase', 'frequencies'):
        paired(f'phases tell more than {rival}, Spearman', 'cosine', rival, agreement)
    for schedule in by:
        if schedule != 'none':
            paired(f'{schedule}: a cut costs less than without pressure, dB', 'none', schedule,
                   lambda r: r['psnr_lost'])
            paired(f'{schedule}: the network itself is worse than without pressure, dB', 'none',
                   schedule, lambda r: r['psnr'])
            paired(f'{schedule}: a cut leaves less than without pressure, dB', 'none', schedule,
                   lambda r: r['psnr'] - r['psnr_lost'])
    return out


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """Resilience against criticality, their agreement, and what pressure costs."""
    table = result['schedules']
    ticks = {float(i): s for i, s in enumerate(table)}

    def over(title: str, label: str, lines: Mapping[str, str], reference: float | None = None
             ) -> Panel:
        return Panel(title, '', label, {
            name: [(float(i), table[s][key]) for i, s in enumerate(table)]
            for key, name in lines.items()}, ticks=ticks, reference=reference, joined=False)

    scatter = Panel(
        'The groups under the cosine', 'PSNR lost by removing half, dB',
        'log-norm per 1,000 lambda',
        {g: [(table['cosine']['critical'][g]['value'], table['cosine']['slope'][g])]
         for g in table['cosine']['critical']} if 'cosine' in table else {}, reference=0.0,
        joined=False)
    return {'schedule.svg': panels([
        scatter, over('Does resilience tell critical groups?', 'Spearman over groups',
                      {'agreement': 'with what removal costs'}, 0.0),
        over('The network', 'PSNR, dB', {'psnr': 'before a cut'}),
        over('A cut', 'PSNR lost, dB', {'psnr_lost': 'by half of the parameters'})])}


def tell(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every claim in a line."""
    return {'data': result['data'], **spoken(result['claims'])}


STUDY = Study(
    name='schedule',
    question='Does the resilience under a phase-offset cosine tell critical groups from others, '
             'and are the phases needed?',
    settings=Settings, quick={'hidden': (128, 64), 'seeds': 3, 'epochs': 12},
    cost='quick 1 minute, full 1 hour of one core',
    trials=trials, summarise=summarise, draw=draw, tell=tell)
