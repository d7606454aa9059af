# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Does the gradient-causal gap open on harder tasks, and does combining close it?

The study of the scores on several plants, from the pendulum to MuJoCo's HalfCheetah-v5. The gap is
how far a gradient's ranks are from those of ablation, 1 - Spearman within groups (arXiv 2602.01442
found correlations from 0.73 down to -0.11).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning_core.errors import ConfigError, explain
from pruning_core.studies import scores
from pruning_core.studies.claims import spoken
from pruning_core.studies.cuts import stem
from pruning_core.studies.pictures import Panel, panels
from pruning_core.studies.runner import Trial
from pruning_core.studies.statistics import iqm, verdict
from pruning_core.studies.study import Results, Study


@dataclass(frozen=True)
class Settings:
    """How large the study is; see `scores.Settings`.

    Attributes:
        configs: YAML files of the agents, or agents that are there (see `cuts.agents`), the
            reference first; plants of MuJoCo need [mujoco].
    """

    configs: tuple[str, ...] = ('config/pendulum.yaml', 'config/inverted_double_pendulum.yaml',
                                'config/half_cheetah.yaml')
    seeds: int = 5
    scores: tuple[str, ...] = (*scores.GRADIENT, 'random', 'l1', 'ablation')
    sparsities: tuple[float, ...] = (0.5, 0.9)
    updates: tuple[int, ...] = (0, 1000)
    episodes: int = 10
    samples: int = 128
    iterations: int = 3
    states: int = 0
    coupling_share: float = 0.25


def plants(settings: Settings) -> dict[str, scores.Settings]:
    """The study of the scores on each plant, by the name of its configuration.

    Raises:
        ConfigError: two have the same name.
    """
    shared = {f.name: getattr(settings, f.name) for f in dataclasses.fields(scores.Settings)
              if f.name != 'config'}
    names = [stem(path) for path in settings.configs]
    if len(set(names)) < len(names):
        raise ConfigError(
            explain('plants were to be compared', f'two go by one name ({", ".join(names)})',
                    'files or folders of different names', 'rename one'))
    return {name: scores.Settings(config=path, **shared)
            for name, path in zip(names, settings.configs, strict=True)}


def trials(settings: Settings, folder: str) -> list[Trial]:
    """Those of every plant."""
    return [t for plant, of in plants(settings).items()
            for t in scores.trials(of, f'{folder}/{plant}')]


def summarise(settings: Settings, results: Results) -> dict[str, Any]:
    """Every plant by itself, and how the gap changes from the reference to the others.

    Claims are those of the gap, and by plant what the study of the scores claims of returns.
    """
    each: dict[str, Any] = {}
    gaps: dict[str, dict[str, list[float]]] = {}
    for plant, of in plants(settings).items():
        mine = {n.removeprefix(f'{plant}/'): r for n, r in results.items()
                if n.startswith(f'{plant}/')}
        if not any(n.startswith('ranks_') for n in mine):
            continue
        each[plant] = scores.summarise(of, mine)
        gaps[plant] = {s: [1 - r['spearman'][f'{s} ~ ablation'] for n, r in mine.items()
                           if n.startswith('ranks_')]
                       for s in scores.GRADIENT if {s, 'ablation'} <= set(settings.scores)}
    claims: dict[str, Any] = {}
    names = list(gaps)
    for plant in names[1:]:
        for signal in gaps[plant]:
            # Seeds of two plants have nothing in common: any pairing is as good as another.
            claims[f'{plant}: the gap of {signal} is wider than on {names[0]}'] = verdict(iqm(
                [a - b for a, b in zip(gaps[plant][signal], gaps[names[0]][signal],
                                       strict=False)]))
    for plant in names:
        combined = gaps[plant].pop('combined', [])
        for signal, gap in gaps[plant].items() if combined else ():
            claims[f'{plant}: combining narrows the gap of {signal}'] = verdict(iqm(
                [a - b for a, b in zip(gap, combined, strict=True)]))
    for plant, found in each.items():
        claims |= {f'{plant}: {name}': value for name, value in found['claims'].items()
                   if '% of return' in name}
    return {'seeds': list(range(settings.seeds)), 'plants': each, 'claims': claims}


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """What cuts cost on each plant, and agreement with ablation."""
    found = result['plants']
    if not found:
        return {}
    signals = [p.removesuffix(' ~ ablation') for p in
               next(iter(found.values()))['agreement']['spearman'] if p.endswith('~ ablation')]
    ticks = {float(i): s for i, s in enumerate(signals)}
    content = [panel for plant, v in found.items()
               for panel in scores.loss_panels(list(v['cells'].values()), plant)]
    content.append(Panel('Agreement with ablation, within groups', '', 'Spearman', {
        plant: [(float(i), v['agreement']['spearman'][f'{s} ~ ablation'])
                for i, s in enumerate(signals)] for plant, v in found.items()},
        ticks=ticks, reference=0.0, joined=False))
    return {'stress.svg': panels(content, 2, 9.5, 3.3)}


def tell(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every claim in a line."""
    return {'plants': ', '.join(result['plants']), **spoken(result['claims'])}


STUDY = Study(
    name='stress',
    question='Does the gap between gradients and removal open on harder tasks, and does the '
             'combination close it?',
    settings=Settings,
    quick={'configs': ('config/pendulum_quick.yaml', 'config/cartpole.yaml'), 'seeds': 3,
           'sparsities': (0.5,), 'updates': (0,), 'episodes': 3, 'samples': 64, 'iterations': 2},
    cost='quick 4 minutes, full 6 hours',
    trials=trials, summarise=summarise, draw=draw, tell=tell)
