# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How much can go, with how much recovery: pruned agents against what else a user could do.

    python benchmarks/frontier.py                      # the shipped agent, 100 common seeds
    python benchmarks/frontier.py --agents runs/a runs/b --episodes 20

Each cell of the table is an agent, a share of the parameters, a number of recovery updates and a
way to get there; it is kept as soon as it is measured, so that an interrupted run goes on. Ways:

    ours         widths by importance, members that represent the others, weights refitted in
                 closed form, then recovery beside the dense agent
    importance   the units of highest importance, no refit, then the same recovery
    l1, random   the same with other scores
    scratch      the same widths, fresh weights, as many updates on the same replay
    scratch x4   with four times the updates

Returns are paired with the dense agent's on common seeds; with several agents the intervals are
Student's t over agents (95 %), with one over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats

from pruning_core import zoo
from pruning_core.agent import Agent
from pruning_core.checkpoint import Run, load_run, write_atomically, write_json
from pruning_core.evaluation import Evaluation, compare, evaluate, evaluation_seeds
from pruning_core.networks import count_parameters
from pruning_core.recovery import recover
from pruning_core.shrinking import choose, shrink

ROWS = ((50, 0), (80, 0), (95, 300), (98, 1000), (99, 4000))  # % removed, recovery updates
TARGETS = {'50:0': 2, '80:0': 5, '95:300': 2, '98:1000': 2, '99:4000': 5}  # % of loss
WAYS = {
    'ours': {},
    'importance': {'members': 'score', 'compensation': 0.0},
    'l1': {'score': 'l1', 'members': 'score', 'compensation': 0.0},
    'random': {'score': 'random', 'members': 'score', 'compensation': 0.0},
}
SCRATCH = {'scratch': 1, 'scratch x4': 4}
BUDGET = (128, 3)  # samples x iterations of every planner


def measure(agent: str, removed: int, updates: int, way: str, episodes: int) -> dict:
    """One cell: returns on the seeds, planned and of the policy alone."""
    torch.set_num_threads(1)
    run = load_run(zoo.find(agent))
    dense = count_parameters(run.agent.components)
    if way != 'dense':
        settings = dataclasses.replace(run.config.pruning, sparsity=removed / 100,
                                       recovery_updates=updates, **WAYS.get(way, {}))
        plan = choose(run, settings)
        if way in SCRATCH:
            shrink(run, plan, dataclasses.replace(settings, recovery_updates=0))
            fresh = Agent(run.agent.widths, run.config.agent, torch.Generator().manual_seed(0))
            alone = dataclasses.replace(settings, distillation=0.0, recovery_task=1.0)
            recover(fresh, run.replay, None, alone, updates=updates * SCRATCH[way],
                    rng=np.random.default_rng(settings.seed))
            run = dataclasses.replace(run, agent=fresh)
        else:
            shrink(run, plan, settings)
    seeds = evaluation_seeds(episodes)
    if way == 'dense' and (known := shipped(run, seeds)):
        return {'removed': 0.0, **known}
    planned = evaluate(run.agent, run.config.env, seeds, run.config.planner.scaled(*BUDGET))
    policy = evaluate(run.agent, run.config.env, seeds, None)
    return {'removed': 1 - count_parameters(run.agent.components) / dense,
            'planned': planned.returns, 'policy': policy.returns}


def shipped(run: Run, seeds: tuple[int, ...]) -> dict | None:
    """Returns of the dense agent as they were evaluated before, on these seeds and budget."""
    found = {kind: run.evaluation.get(kind, {}) for kind in ('planned', 'policy')}
    budget = found['planned'].get('planner', {})
    if (budget.get('samples'), budget.get('iterations')) != BUDGET or any(
            tuple(e.get('seeds', ())[:len(seeds)]) != seeds for e in found.values()):
        return None
    return {kind: tuple(e['returns'][:len(seeds)]) for kind, e in found.items()}


def cells(agents: list[str]) -> list[tuple[str, int, int, str]]:
    """Everything that is to be measured, the quick ones first."""
    wanted = [(a, 0, 0, 'dense') for a in agents]
    for a in agents:
        for removed, updates in ROWS:
            wanted += [(a, removed, updates, way) for way in WAYS]
            wanted += [(a, removed, updates, way) for way in SCRATCH if updates]
    return sorted(wanted, key=lambda c: -c[1])


def losses(folder: Path, agents: list[str], removed: int, updates: int, way: str, kind: str
           ) -> tuple[float, float, float] | None:
    """Loss against the dense agent in percent of its return, with the 95 % interval."""
    per_agent = []
    for agent in agents:
        try:
            cut, dense = (json.loads(place(folder, agent, *c).read_text())[kind]
                          for c in ((removed, updates, way), (0, 0, 'dense')))
        except FileNotFoundError:
            return None
        seeds = evaluation_seeds(len(dense))
        per_agent.append(compare(*(Evaluation(seeds, tuple(r), None) for r in (cut, dense))))
    if len(per_agent) == 1:
        (one,) = per_agent
        scale = 100 * one.loss / -one.difference if one.difference else 0.0
        return 100 * one.loss, -scale * one.high, -scale * one.low
    values = 100 * np.array([c.loss for c in per_agent])
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def place(folder: Path, agent: str, removed: int, updates: int, way: str) -> Path:
    """File of one cell."""
    return folder / 'cells' / f'{zoo.find(agent).name}_{removed}_{updates}_{way}.json'


def result(folder: Path, agents: list[str], episodes: int) -> dict:
    """Everything measured so far, as it goes into result.json."""
    ways = [*WAYS, *SCRATCH]
    found: dict = {'agents': [zoo.find(a).name for a in agents], 'episodes': episodes,
                   'targets_percent': TARGETS, 'loss_percent': {}, 'interval_percent': {},
                   'policy_loss_percent': {}, 'policy_interval_percent': {},
                   'controls': {w: {'loss_percent': {}, 'policy_loss_percent': {}}
                                for w in ways if w != 'ours'}}
    for removed, updates in ROWS:
        key = f'{removed}:{updates}'
        for way in ways:
            for kind, prefix in (('planned', ''), ('policy', 'policy_')):
                loss = losses(folder, agents, removed, updates, way, kind)
                if loss is None:
                    continue
                if way == 'ours':
                    found[f'{prefix}loss_percent'][key] = loss[0]
                    found[f'{prefix}interval_percent'][key] = loss[1:]
                else:
                    found['controls'][way][f'{prefix}loss_percent'][key] = loss[0]
    return found


def table(found: dict) -> str:
    """Loss in percent, planned / policy alone."""
    ways = ['ours', *found['controls']]
    lines = [f'loss of return against dense, %: planned / policy alone; '
             f'{", ".join(found["agents"])}, {found["episodes"]} common seeds',
             f'{"removed":>8} {"updates":>8} {"target":>7} ' + ' '.join(f'{w:>15}' for w in ways)]
    for removed, updates in ROWS:
        key = f'{removed}:{updates}'
        shown = []
        for way in ways:
            part = found if way == 'ours' else found['controls'][way]
            pair = [part[f'{p}loss_percent'].get(key) for p in ('', 'policy_')]
            shown.append(' / '.join('-' if v is None else f'{v:.1f}' for v in pair))
        lines.append(f'{removed:>6} % {updates:>8} {"<= " + str(TARGETS[key]):>7} '
                     + ' '.join(f'{s:>15}' for s in shown))
    return '\n'.join(lines)


def draw(found: dict, path: Path) -> None:
    """Loss against sparsity, one line a way; ours with its interval."""
    figure = Figure(figsize=(7.2, 3.8), layout='constrained')
    axes = figure.subplots()
    labels = [f'{r} %\n{u} updates' for r, u in ROWS]
    for way in ('ours', *found['controls']):
        part = found if way == 'ours' else found['controls'][way]
        points = [(i, part['loss_percent'][k]) for i, k in enumerate(TARGETS)
                  if k in part['loss_percent']]
        if points:
            axes.plot(*zip(*points, strict=True), 'o-', ms=4, label=way,
                      lw=2 if way == 'ours' else 1, zorder=3 if way == 'ours' else 2)
    axes.plot(range(len(TARGETS)), list(TARGETS.values()), 'k_', ms=18, label='target')
    axes.set_yscale('symlog', linthresh=10)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(xlabel='parameters removed', ylabel='loss of planned return, %',
             title='What pruning costs')
    axes.legend(frameon=False, fontsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    write_atomically(path, lambda p: figure.savefig(p, format='svg'))


def main() -> int:
    """Measure what is missing, print the table, write result.json and the picture."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--agents', nargs='+', default=['pendulum_dense'],
                        help='dense agents of different training seeds (default: %(default)s)')
    parser.add_argument('--episodes', type=int, default=100, help='common seeds')
    parser.add_argument('--quick', action='store_true', help='20 common seeds')
    parser.add_argument('--out', type=Path, default=Path('runs/frontier'))
    parser.add_argument('--processes', type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    episodes = 20 if options.quick else options.episodes
    folder = options.out / f'{episodes}_seeds'
    (folder / 'cells').mkdir(parents=True, exist_ok=True)
    missing = [c for c in cells(options.agents) if not place(folder, *c).is_file()]
    with ProcessPoolExecutor(options.processes) as pool:
        waiting = {pool.submit(measure, *cell, episodes): cell for cell in missing}
        for done, future in enumerate(as_completed(waiting), 1):
            write_json(place(folder, *waiting[future]), future.result())
            print(f'{done} of {len(missing)}: {" ".join(map(str, waiting[future]))}',
                  file=sys.stderr, flush=True)
    found = result(folder, options.agents, episodes)
    write_json(options.out / 'result.json', found)
    draw(found, options.out / 'frontier.svg')
    print(table(found))
    print(f'result   {options.out / "result.json"}\npicture  {options.out / "frontier.svg"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
