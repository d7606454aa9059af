# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How should a group that several components share be cut, and by whose view of it?

TD-MPC agents of several seeds in; loss of return out, when they are cut to the same size under
every rule for the latent (protected, by its own scores, by the least that its owners give), at
several shares, and by the scores of either of the paper's two coupling views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning_core.config import PruningConfig
from pruning_core.studies.cuts import CutConfig, RanksConfig, agents, cut, ranks
from pruning_core.studies.pictures import panels
from pruning_core.studies.runner import Trial
from pruning_core.studies.scores import (
    cell,
    compared,
    loss_panels,
    measured,
    name_of,
    tell,
    whole,
)
from pruning_core.studies.statistics import summary
from pruning_core.studies.study import Results, Study

# Name -> rule, and the part of what it gives that is taken.
RULES = {'protect': ('protect', 1.0), 'own, a quarter': ('own', 0.25), 'own': ('own', 1.0),
         'min': ('min', 1.0)}
# Name -> the coupling view that the latent's units are ranked by, all at rule `own`.
VIEWS = {'view of the policy': 'encoder->policy', 'view of all': 'encoder->all'}
_SCORE = 'gradient'  # the signal that views have, so that rankings differ in nothing else


@dataclass(frozen=True)
class Settings:
    """How large the study is; see `scores.Settings`."""

    config: str = 'config/pendulum.yaml'
    seeds: int = 5
    sparsities: tuple[float, ...] = (0.5, 0.9)
    updates: tuple[int, ...] = (0, 1000)
    episodes: int = 20
    samples: int = 128
    iterations: int = 3
    states: int = 200


def trials(settings: Settings, folder: str) -> list[Trial]:
    """Agents, their scores, the dense return, and a cut per rule and view."""
    out = []
    size = (settings.episodes, settings.samples, settings.iterations, settings.states)
    for seed, agent in agents(settings.config, settings.seeds).items():
        scored = Trial(f'{folder}/ranks_s{seed}', ranks, RanksConfig((_SCORE,), seed),
                       (agent.name,), 0.5)
        out += [agent, scored, Trial(
            f'{folder}/dense_s{seed}', cut, CutConfig('dense', PruningConfig(seed=seed), *size),
            (agent.name,))]
        for sparsity in settings.sparsities:
            for updates in settings.updates:
                ways = {name: (rule, '') for name, rule in RULES.items()}
                ways |= {name: (RULES['own'], view) for name, view in VIEWS.items()}
                for name, ((rule, part), view) in ways.items():
                    pruning = PruningConfig(
                        seed=seed, sparsity=sparsity, recovery_updates=updates, coupling=rule,
                        coupling_share=part, score=_SCORE)
                    out.append(Trial(
                        f'{folder}/{name_of(name, sparsity, updates)}_s{seed}', cut,
                        CutConfig(_SCORE, pruning, *size, view), (agent.name, scored.name),
                        1 + updates / 1000))
    return out


def summarise(settings: Settings, results: Results) -> dict[str, Any]:
    """Every rule and view over seeds, and which is best."""
    seeds, cells = range(settings.seeds), {}
    claims: dict[str, Any] = {}
    for updates in settings.updates:
        for sparsity in settings.sparsities:
            for way in (*RULES, *VIEWS):
                name = name_of(way, sparsity, updates)
                found = cell(results, seeds, name, way, sparsity, updates)
                if found:  # how much a rule removes depends on the agent
                    there = [n for s in seeds if (n := f'{name}_s{s}') in results]
                    cells[name] = found | {'removed': summary(
                        [results[n]['removed'] for n in there])}
        for better, worse in (('protect', 'own'), ('own, a quarter', 'own'),
                              ('own, a quarter', 'protect'), ('min', 'own'),
                              ('view of all', 'view of the policy'), ('own', 'view of all'),
                              ('own', 'view of the policy')):
            claims |= compared(settings, results, better, worse, updates)
    return {'plant': settings.config, 'seeds': measured(results, seeds),
            'dense': whole(results, seeds), 'cells': cells, 'claims': claims}


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """Loss by rule and view at every size, without and with recovery."""
    return {'coupling.svg': panels(loss_panels(list(result['cells'].values())), 2, 9.0, 3.3)}


STUDY = Study(
    name='coupling',
    question='How should the latent, which all components share, be cut, and by whose view?',
    settings=Settings,
    quick={'config': 'config/pendulum_quick.yaml', 'seeds': 3, 'sparsities': (0.7,),
           'updates': (0, 200), 'episodes': 5, 'samples': 64, 'iterations': 2, 'states': 40},
    cost='quick 2 minutes, full 1 day',
    trials=trials, summarise=summarise, draw=draw, tell=tell)
