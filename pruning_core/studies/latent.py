# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Does the coupling matter less the more latent channels there are (arXiv 2601.19794, section 4)?

Autoencoders of several latent sizes and seeds in; for each of them importance over training by
all three signals, what removing 30, 50 and 70 % of each group does to the reconstruction, and
what each score loses at the same share of the parameters, out.

Deviation: the paper names `encoder hidden layer 1_4` without saying where it stands; here the
early encoder layer is `encoder.hidden1`, the one that reads the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning_core import images
from pruning_core.autoencoder import Autoencoder, AutoencoderConfig, train
from pruning_core.config import ImportanceConfig
from pruning_core.errors import ConfigError, explain
from pruning_core.importance import SIGNALS, ImportanceTracker
from pruning_core.importance.baselines import Subject, score
from pruning_core.importance.crossovers import crossovers
from pruning_core.importance.history import History
from pruning_core.plans import Plan
from pruning_core.sparsity import SparsityPressure
from pruning_core.studies.claims import lowest, lowest_of_all, spoken, train_recorded
from pruning_core.studies.pictures import Panel, panels
from pruning_core.studies.runner import Context, Trial
from pruning_core.studies.statistics import iqm, share, summary, verdict
from pruning_core.studies.study import Results, Study

BASELINES = ('l1', 'l2', 'lamp', 'random')
SCORES = (*SIGNALS, 'combined', *BASELINES)
_EARLY = 'encoder.hidden1'


@dataclass(frozen=True)
class Settings:
    """How large the study is.

    Attributes:
        latents: channels between encoder and decoder.
        hidden: widths of the encoder's hidden layers.
        seeds: trainings of each size, with seeds 0, 1, ...
        epochs: of each training.
        shares: of each group's units that go.
        recovery_epochs: of training after a kind of groups was cut.
        record_every: updates between two rows of the importance history.
        data: folder of IDX files; empty for scikit-learn's digits.
    """

    latents: tuple[int, ...] = (8, 64, 256, 512)
    hidden: tuple[int, ...] = (512, 256)
    seeds: int = 5
    epochs: int = 50
    shares: tuple[float, ...] = (0.3, 0.5, 0.7)
    recovery_epochs: int = 1
    record_every: int = 10
    data: str = ''


@dataclass(frozen=True)
class TrialConfig:
    """One autoencoder; see `Settings`. `digest` is that of the images: others are refused."""

    autoencoder: AutoencoderConfig
    shares: tuple[float, ...]
    recovery_epochs: int
    data: str = ''
    digest: str = ''


def trials(settings: Settings, folder: str) -> list[Trial]:
    """One per latent size and seed."""
    digest = images.digest(settings.data)
    return [
        Trial(f'{folder}/d{latent}_s{seed}', run, TrialConfig(
            AutoencoderConfig(latent, settings.hidden, settings.epochs, seed=seed,
                              importance=ImportanceConfig(record_every=settings.record_every)),
            settings.shares, settings.recovery_epochs, settings.data, digest),
            weight=1 + latent / 512)
        for seed in range(settings.seeds) for latent in settings.latents]


def run(config: TrialConfig, context: Context) -> dict[str, Any]:
    """Train, and prune copies of what came out."""
    data, settings = images.load(config.data), config.autoencoder
    model = Autoencoder(data.train.shape[1], settings)
    graph = model.graph()
    tracker = ImportanceTracker(graph, model.components, settings.importance)
    pressure = SparsityPressure(graph, model.components, settings.sparsity)
    history = train_recorded(model, data.train, settings, tracker, pressure, context)
    if not (tracker.warm and len(history.updates)):
        raise ConfigError(explain(
            f'{settings.epochs} epochs on {len(data.train)} images were asked for',
            f'{tracker.updates} updates', f'more than {settings.importance.warmup} for the '
            f'warm-up, and than {settings.importance.record_every} for the history',
            'set more latent.epochs'))
    combined = tracker.unit_scores('combined')
    dense = model.quality(data.test)

    def left(plan: Plan, epochs: int = 0) -> list[float]:
        """MSE and PSNR after a cut, and after training on."""
        cut = model.without(plan)
        if epochs:
            train(cut, data.train, settings, np.random.default_rng(settings.seed), epochs=epochs,
                  progress=context.progress)
        return list(cut.quality(data.test))

    kinds = {kind: [g.name for g in graph.free if g.kind == kind]
             for kind in ('coupling', 'component')}
    pruned = {f'{s:g}': {g.name: left(lowest(graph, combined, [g.name], s)) for g in graph.free}
              for s in config.shares}
    by_kind = {f'{s:g}': {kind: {
        'cut': left(lowest(graph, combined, names, s)),
        'recovered': left(lowest(graph, combined, names, s), config.recovery_epochs)}
        for kind, names in kinds.items()} for s in config.shares}
    subject = Subject(graph, model.components, np.random.default_rng(settings.seed))
    by_score = {name: {f'{s:g}': left(lowest_of_all(
        graph, tracker.unit_scores(name) if name not in BASELINES else score(name, subject), s))[0]
        for s in config.shares} for name in SCORES}
    return {
        'latent': settings.latent, 'seed': settings.seed, 'data': data.name,
        'parameters': graph.parameters, 'dense': list(dense), 'pruned': pruned,
        'kinds': by_kind, 'scores': by_score,
        'importance': {s: tracker.group_scores(s) for s in (*SIGNALS, 'combined')},
        'views': {s: tracker.view_scores(s) for s in SIGNALS},
        'agreement': tracker.signal_agreement(),
        'crossovers': {s: len(crossovers(history.updates, v, history.groups))
                       for s, v in history.signals.items()},
        'history': thinned(history)}


def thinned(history: History, rows: int = 40) -> dict[str, Any]:
    """A few rows of a history, for the picture."""
    at = np.unique(np.linspace(0, len(history.updates) - 1, rows).astype(int))
    return {'updates': history.updates[at].tolist(),
            'gradient': {g: [float(f'{v:.3g}') for v in history.signals['gradient'][at, i]]
                         for i, g in enumerate(history.groups)}}


def ratio(result: Mapping[str, Any], signal: str) -> float:
    """log10 of the coupling's importance over the mean of the component groups'."""
    values = result['importance'][signal]
    others = [v for name, v in values.items() if name != 'latent']
    return float(np.log10(values['latent'] / np.mean(others)))


def loss_db(result: Mapping[str, Any], group: str, share_: str) -> float:
    """PSNR that is lost when this share of a group goes."""
    return float(result['dense'][1] - result['pruned'][share_][group][1])


def least(result: Mapping[str, Any], signal: str) -> str:
    """The component group that comes out least; `pruning` is what its removal does."""
    return min(_components(result, signal), key=_components(result, signal).__getitem__)


def most(result: Mapping[str, Any], signal: str) -> str:
    """The component group that comes out most important."""
    return max(_components(result, signal), key=_components(result, signal).__getitem__)


def _components(result: Mapping[str, Any], signal: str) -> dict[str, float]:
    if signal == 'pruning':
        middle = _middle(result)
        return {g: loss_db(result, g, middle) for g in result['pruned'][middle] if g != 'latent'}
    return {g: v for g, v in result['importance'][signal].items() if g != 'latent'}


def _middle(result: Mapping[str, Any]) -> str:
    shares = sorted(result['pruned'], key=float)
    return str(shares[len(shares) // 2])


def summarise(settings: Settings, results: Results) -> dict[str, Any]:
    """Per latent size, and the paper's claims."""
    runs = list(results.values())
    sizes = sorted({r['latent'] for r in runs})
    middle = _middle(runs[0])
    judged = (*SIGNALS, 'combined', 'pruning')
    by_size = {}
    for d in sizes:
        mine = [r for r in runs if r['latent'] == d]
        by_size[str(d)] = {
            'n': len(mine), 'parameters': mine[0]['parameters'],
            'psnr': summary([r['dense'][1] for r in mine]),
            'coupling_over_components': {s: summary([ratio(r, s) for r in mine]) for s in SIGNALS},
            'psnr_lost': {s: {g: summary([loss_db(r, g, s) for r in mine])
                              for g in mine[0]['pruned'][s]} for s in mine[0]['pruned']},
            'psnr_lost_by_kind': {s: {k: {when: summary([r['dense'][1] - r['kinds'][s][k][when][1]
                                                         for r in mine])
                                          for when in ('cut', 'recovered')}
                                      for k in mine[0]['kinds'][s]} for s in mine[0]['kinds']},
            'psnr_lost_by_score': {n: {s: summary([
                r['dense'][1] - 10 * np.log10(1 / max(r['scores'][n][s], 1e-12)) for r in mine])
                for s in mine[0]['scores'][n]} for n in mine[0]['scores']},
            'least': {s: count([least(r, s) for r in mine]) for s in judged},
            'most': {s: count([most(r, s) for r in mine]) for s in judged},
            'kendall': {p: summary([r['agreement'][p] for r in mine])
                        for p in mine[0]['agreement']},
            'crossovers': {s: summary([float(r['crossovers'][s]) for r in mine]) for s in SIGNALS}}
    first = min(r['seed'] for r in runs)
    return {'data': runs[0]['data'], 'seeds': sorted({r['seed'] for r in runs}),
            'sizes': by_size, 'claims': claims(runs, sizes, middle),
            'history': {str(r['latent']): r['history'] for r in runs if r['seed'] == first}}


def count(values: Sequence[str]) -> dict[str, int]:
    """How often each stands there, most often first."""
    found = {v: list(values).count(v) for v in sorted(set(values))}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def claims(runs: Sequence[Mapping[str, Any]], sizes: Sequence[int], middle: str
           ) -> dict[str, Any]:
    """The paper's claims with estimate and verdict."""
    ends = {d: {r['seed']: r for r in runs if r['latent'] == d} for d in (sizes[0], sizes[-1])}
    pairs = [(ends[sizes[0]][s], ends[sizes[-1]][s]) for s in ends[sizes[0]]
             if s in ends[sizes[-1]]] if sizes[0] != sizes[-1] else []
    out: dict[str, Any] = {}

    def falls(name: str, of: Any) -> None:
        if pairs:
            out[name] = verdict(iqm([of(small) - of(large) for small, large in pairs]))

    falls('coupling loses its weight with capacity, dB of PSNR by pruning',
          lambda r: loss_db(r, 'latent', middle))
    falls('the same, dB after training on',
          lambda r: r['dense'][1] - r['kinds'][middle]['coupling']['recovered'][1])
    falls('the same, dB above what the component groups cost',
          lambda r: r['kinds'][middle]['component']['cut'][1]
          - r['kinds'][middle]['coupling']['cut'][1])
    for d in ends:
        mine = [r for r in runs if r['latent'] == d]
        for when in ('cut', 'recovered'):
            out[f'at d = {d} the coupling costs more than all other groups, dB, {when}'] = verdict(
                iqm([r['kinds'][middle]['component'][when][1]
                     - r['kinds'][middle]['coupling'][when][1] for r in mine]))
    for signal in SIGNALS:
        falls(f'the same, log10 of its {signal} importance over that of the others',
              lambda r, signal=signal: ratio(r, signal))
    for signal in (*SIGNALS, 'combined', 'pruning'):
        out[f'the early encoder layer is least, by {signal}'] = share(
            sum(least(r, signal) == _EARLY for r in runs), len(runs))
        out[f'a decoder layer is most, by {signal}'] = share(
            sum(most(r, signal).startswith('decoder') for r in runs), len(runs))
    for signal in SIGNALS:
        out[f'importance is dynamic: lasting crossovers, {signal}'] = verdict(
            iqm([float(r['crossovers'][signal]) for r in runs]))
    for pair in runs[0]['agreement']:
        out[f"{pair}: the signals differ, 0.95 less Kendall's tau over units"] = verdict(
            iqm([0.95 - r['agreement'][pair] for r in runs]))
    for rival in (*SIGNALS, *BASELINES):
        out[f'combined loses less than {rival} at {middle}, log10 of the MSE'] = verdict(
            iqm([np.log10(r['scores'][rival][middle] / r['scores']['combined'][middle])
                 for r in runs]))
    return out


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """What cuts do by latent size, what the signals say, and importance over training."""
    sizes = result['sizes']

    def over(pick: Any) -> list[tuple[float, Any]]:
        return [(float(d), pick(v)) for d, v in sizes.items()]

    shares = list(next(iter(sizes.values()))['psnr_lost_by_kind'])
    middle = shares[len(shares) // 2]
    lost = [Panel(
        f'{float(s):.0%} of the units gone', 'latent channels', 'PSNR lost, dB',
        {name: over(lambda v, k=kind, w=when, s=s: v['psnr_lost_by_kind'][s][k][w])
         for name, kind, when in (
             ('coupling', 'coupling', 'cut'), ('all others', 'component', 'cut'),
             ('coupling, trained on', 'coupling', 'recovered'),
             ('all others, trained on', 'component', 'recovered'))},
        logarithmic='x') for s in shares]
    told = Panel('Importance, coupling over others', 'latent channels', 'log10 of ratio',
                 {s: over(lambda v, s=s: v['coupling_over_components'][s]) for s in SIGNALS},
                 logarithmic='x', reference=0.0)
    groups = list(next(iter(sizes.values()))['psnr_lost'][middle])
    each = Panel(f'{float(middle):.0%} of one group gone', 'latent channels', 'PSNR lost, dB',
                 {g: over(lambda v, g=g: v['psnr_lost'][middle][g]) for g in groups},
                 logarithmic='x')
    scored = Panel(
        f'{float(middle):.0%} of the parameters gone', '', 'PSNR lost, dB',
        {f'd = {d}': [(float(i), v['psnr_lost_by_score'][n][middle])
                      for i, n in enumerate(SCORES)] for d, v in sizes.items()},
        ticks=dict(enumerate(SCORES)), joined=False)
    time = [Panel(f'Gradient importance, d = {d}', 'updates', '',
                  {g: list(zip(h['updates'], values, strict=True))
                   for g, values in h['gradient'].items()}, logarithmic='y')
            for d, h in result['history'].items()]
    return {'latent.svg': panels([*lost, told, each, scored], 3, 11.0),
            'latent_history.svg': panels(time, 2)}


def tell(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every claim in a line."""
    return {'data': result['data'], 'seeds': len(result['seeds']), **spoken(result['claims'])}


STUDY = Study(
    name='latent',
    question='Does the coupling matter less the more latent channels there are, which layers '
             'matter, and does the order change in training?',
    settings=Settings,
    quick={'hidden': (128, 64), 'seeds': 3, 'epochs': 12},
    cost='quick 1 minute, full 40 minutes of one core',
    trials=trials, summarise=summarise, draw=draw, tell=tell)

