# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Which importance chooses best (arXiv 2601.19794, open question 3)?

TD-MPC agents of several seeds in; cut to several sizes by every score and baseline, and held
against a small network trained from scratch, with and without recovery. Out: loss of return,
planned and of the policy alone, the share of states from which V does not fall, and how far the
scores agree with each other and with ablation (the gradient-causal gap).

Within each group the units that a score puts lowest go; every group gives the same share, so that
all ways leave the same widths, and the same time per plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning_core.config import PruningConfig
from pruning_core.studies.claims import spoken
from pruning_core.studies.cuts import (
    OURS,
    SCRATCH,
    SCRATCH_SHORT,
    CutConfig,
    RanksConfig,
    agents,
    cut,
    ranks,
)
from pruning_core.studies.pictures import Panel, panels
from pruning_core.studies.runner import Trial
from pruning_core.studies.statistics import iqm, summary, verdict
from pruning_core.studies.study import Results, Study

GRADIENT = ('gradient', 'fisher', 'bayesian', 'combined')
BASELINES = ('random', 'l1', 'l2', 'lamp', 'taylor', 'activation', 'ablation')


@dataclass(frozen=True)
class Settings:
    """How large the study is.

    Attributes:
        config: YAML file of the agents, or agents that are there; see `cuts.agents`.
        seeds: trainings, with seeds 0, 1, ...
        scores: that choose units; `ours` and training from scratch come on top.
        sparsities: shares of the parameters to remove.
        updates: of recovery.
        episodes: common seeds of every return.
        samples: plans per iteration.
        iterations: refinements.
        states: of the stability test of the policy alone; 0 for none.
        coupling_share: that coupling groups give of what the others do.
    """

    config: str = 'config/pendulum.yaml'
    seeds: int = 5
    scores: tuple[str, ...] = (*GRADIENT, *BASELINES)
    sparsities: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
    updates: tuple[int, ...] = (0, 300, 1000, 4000)
    episodes: int = 20
    samples: int = 128
    iterations: int = 3
    states: int = 200
    coupling_share: float = 0.25


QUICK = {'config': 'config/pendulum_quick.yaml', 'seeds': 3, 'sparsities': (0.8,),
         'updates': (0, 200), 'episodes': 5, 'samples': 64, 'iterations': 2, 'states': 40,
         'scores': (*GRADIENT, 'random', 'l1', 'taylor', 'ablation')}


def trials(settings: Any, folder: str) -> list[Trial]:
    """Agents, their scores, the dense return, and every cut."""
    out = []
    for seed, agent in agents(settings.config, settings.seeds).items():
        scored = Trial(f'{folder}/ranks_s{seed}', ranks, RanksConfig(settings.scores, seed),
                       (agent.name,), 2.0)
        pruning = PruningConfig(seed=seed, coupling_share=settings.coupling_share)
        size = (settings.episodes, settings.samples, settings.iterations, settings.states)
        out += [agent, scored, Trial(f'{folder}/dense_s{seed}', cut,
                                     CutConfig('dense', pruning, *size), (agent.name,), 0.8)]
        for sparsity in settings.sparsities:
            for updates in settings.updates:
                wanted = dataclasses.replace(pruning, sparsity=sparsity, recovery_updates=updates)
                ways = [*settings.scores, OURS]
                ways += [SCRATCH, SCRATCH_SHORT] if updates else []
                out += [Trial(f'{folder}/{name_of(way, sparsity, updates)}_s{seed}', cut,
                              CutConfig(way, wanted, *size), (agent.name, scored.name),
                              1 + updates / 1000 + 2 * (way == SCRATCH)) for way in ways]
    return out


def name_of(way: str, sparsity: float, updates: int) -> str:
    """Name of a cut, without its seed."""
    return f'{way.replace(", ", "-").replace(" ", "-")}_{100 * sparsity:g}_{updates}'


def losses(results: Results, seeds: Sequence[int], name: str, kind: str) -> dict[int, float]:
    """Loss of return in percent of the dense agent's, by seed, where both are there."""
    out = {}
    for seed in seeds:
        small, dense = results.get(f'{name}_s{seed}'), results.get(f'dense_s{seed}')
        if small and dense:
            out[seed] = 100 * (dense[kind] - small[kind]) / abs(dense[kind])
    return out


def cell(results: Results, seeds: Sequence[int], name: str, way: str, sparsity: float,
         updates: int) -> dict[str, Any] | None:
    """One cut over seeds: its losses, violations and size; None where no seed has it."""
    there = [results[f'{name}_s{s}'] for s in seeds if f'{name}_s{s}' in results]
    if not there:
        return None
    return {'way': way, 'sparsity': sparsity, 'updates': updates,
            **{f'{kind}_loss_percent': summary(list(losses(results, seeds, name, kind).values()))
               for kind in ('planned', 'policy')},
            'violations': summary([r.get('violations') for r in there]),
            'removed': there[0]['removed'], 'macs': there[0]['macs']}


def saved(results: Results, seeds: Sequence[int], pairs: Sequence[tuple[str, str]],
          kind: str) -> dict[str, Any] | None:
    """Whether the first cut of each pair loses less than the second: the policy, or planned.

    That is the mean over pairs per seed, in percent of the return, of the seeds that have all of
    them, so that each mean is over the same cuts; None where no seed has.
    """
    lost = [tuple(losses(results, seeds, name, kind) for name in names) for names in pairs]
    whole = [s for s in seeds if all(s in one for both in lost for one in both)]
    return verdict(iqm([sum(b[s] - a[s] for a, b in lost) / len(lost) for s in whole])) \
        if whole and lost else None


def compared(settings: Any, results: Results, better: str, worse: str, updates: int
             ) -> dict[str, Any]:
    """Claims that one way loses less than another over all sizes: by the policy, and planned."""
    pairs = [(name_of(better, s, updates), name_of(worse, s, updates))
             for s in settings.sparsities]
    return {f'{better} loses less than {worse} after {updates} updates, % of return{told}': found
            for kind, told in (('policy', ''), ('planned', ', planned'))
            if (found := saved(results, range(settings.seeds), pairs, kind))}


def measured(results: Results, seeds: Sequence[int]) -> list[int]:
    """The seeds of which there is a dense agent."""
    return [s for s in seeds if f'dense_s{s}' in results]


def whole(results: Results, seeds: Sequence[int]) -> dict[str, Any]:
    """The dense agents over seeds."""
    dense = [results[f'dense_s{s}'] for s in measured(results, seeds)]
    return {k: summary([r.get(k) for r in dense]) for k in ('planned', 'policy', 'violations')} | {
        'macs': dense[0]['macs'] if dense else None}


def loss_panels(cells: Sequence[Mapping[str, Any]], of: str = '') -> list[Panel]:
    """Loss by way at every size, without and with recovery; `of` names the agents in titles."""
    ways = list(dict.fromkeys(c['way'] for c in cells))
    return [Panel(
        f'{of}, {updates} updates, {label}' if of else f'{updates} updates of recovery, {label}',
        '', 'return lost, %',
        {f'{s:.0%} removed': [(float(ways.index(c['way'])), c[f'{kind}_loss_percent'])
                              for c in cells if (c['updates'], c['sparsity']) == (updates, s)]
         for s in sorted({c['sparsity'] for c in cells})},
        ticks={float(i): w for i, w in enumerate(ways)}, reference=0.0, joined=False)
        for updates in sorted({c['updates'] for c in cells})
        for kind, label in (('policy', 'policy alone'), ('planned', 'planned'))]


def summarise(settings: Settings, results: Results) -> dict[str, Any]:
    """Every cell over seeds, agreement of the scores, and the claims."""
    seeds = range(settings.seeds)
    ways = [*settings.scores, OURS, SCRATCH, SCRATCH_SHORT]
    cells = {}
    for sparsity in settings.sparsities:
        for updates in settings.updates:
            for way in ways:
                name = name_of(way, sparsity, updates)
                found = cell(results, seeds, name, way, sparsity, updates)
                if found:
                    cells[name] = found
    ranked = [results[f'ranks_s{s}'] for s in seeds if f'ranks_s{s}' in results]
    agreement = {of: {pair: summary([r[of][pair] for r in ranked]) for pair in ranked[0][of]}
                 for of in ('spearman', 'kendall')} if ranked else {}
    return {'plant': settings.config, 'seeds': measured(results, seeds),
            'dense': whole(results, seeds), 'cells': cells, 'agreement': agreement,
            'claims': claims(settings, results, agreement)}


def claims(settings: Settings, results: Results, agreement: Mapping[str, Any]) -> dict[str, Any]:
    """Paired by seed, over all cells of a number of updates together."""
    out: dict[str, Any] = {}

    for updates in settings.updates:
        pairs = [('combined', rival) for rival in (
            *GRADIENT[:3], *(s for s in settings.scores if s not in GRADIENT))]
        pairs.append((OURS, 'combined'))
        if updates:
            pairs += [(way, rival) for way in ('combined', OURS)
                      for rival in (SCRATCH, SCRATCH_SHORT)]
        for better, worse in pairs:
            out |= compared(settings, results, better, worse, updates)
    for pair, value in agreement.get('spearman', {}).items():
        if pair.endswith('~ ablation') and value:
            out[f'ranks agree with removal, Spearman: {pair}'] = verdict(
                iqm([r['spearman'][pair] for n, r in results.items() if n.startswith('ranks_')]))
    return out


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """Loss by way at every size, without and with recovery; agreement with ablation."""
    content = loss_panels(list(result['cells'].values()))
    pairs = {p.removesuffix(' ~ ablation'): v for p, v in
             result['agreement'].get('spearman', {}).items() if p.endswith('~ ablation')}
    among = {p: v for p, v in result['agreement'].get('spearman', {}).items()
             if all(x in GRADIENT for x in p.split(' ~ '))}
    for title, values in (('Agreement with ablation, within groups', pairs),
                          ('Agreement of the signals, within groups', among)):
        if values:
            content.append(Panel(title, '', 'Spearman', {
                '': [(float(i), v) for i, v in enumerate(values.values())]},
                ticks={float(i): n for i, n in enumerate(values)}, reference=0.0, joined=False))
    return {f'{result["study"]}.svg': panels(content, 2, 10.0, 3.3)}


def tell(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every claim in a line."""
    return {'agents': f"{result['plant']}, {len(result['seeds'])} seeds",
            **spoken(result['claims'])}


STUDY = Study(
    name='scores',
    question='Which importance chooses best, and is a pruned agent better than a small one '
             'trained from scratch?',
    settings=Settings, quick=QUICK, cost='quick 3 minutes, full 3 days',
    trials=trials, summarise=summarise, draw=draw, tell=tell)
