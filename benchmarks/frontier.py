# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How much can go, with how much recovery: pruned agents against what else a user could do.

    python benchmarks/frontier.py --quick       # two dense agents, the first compared with others
    python benchmarks/frontier.py               # five, the first two compared with others
    python benchmarks/frontier.py --parts       # what each part of recovery and selection gives

The first dense agent is the one that ships; the others are trained with other seeds, once. Each
cell of the table is an agent, a share of the parameters, a number of recovery updates and a way to
get there; it is kept as soon as it is measured, so that an interrupted run goes on. Ways:

    ours         widths by importance, members that represent the others, weights refitted in
                 closed form, then recovery beside the dense agent
    importance   the units of highest importance, no refit, then the TD-MPC loss on the replay
    l1, random   the same with other scores
    torch-pruning   the same with its GroupMagnitudeImportance, where it is installed
    scratch      the same widths, fresh weights, as many updates on the same replay
    scratch x4   with four times the updates

What ours is compared with recovers at the learning rates of the agent's own training. Returns are
paired with the dense agent's on common seeds: a hundred for ours, the first twenty of them for
what it is compared with (40 and 10 with --quick). With several agents the intervals are Student's
t over agents (95 %), with one over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from pruning_core import config as configuration
from pruning_core import zoo
from pruning_core.agent import Agent
from pruning_core.budgets import Parameters
from pruning_core.checkpoint import AGENT, CONFIG, load_run, write_atomically, write_json
from pruning_core.config import LESSONS
from pruning_core.errors import PruningError
from pruning_core.evaluation import Evaluation, compare, evaluate, evaluation_seeds
from pruning_core.networks import count_parameters
from pruning_core.scratch import as_in_training, from_scratch
from pruning_core.selection import Limits, select
from pruning_core.shrinking import choose, shrink
from pruning_core.steps import shrink_in_steps
from pruning_core.studies.runner import Pool
from pruning_core.training import Trainer

Rows = Sequence[tuple[int, int]]
ROWS: Rows = ((50, 0), (80, 0), (95, 300), (98, 1000), (99, 4000))  # % removed, recovery updates
TARGETS = {'50:0': 2, '80:0': 5, '95:300': 2, '98:1000': 2, '99:4000': 5}  # % of loss
_PLAIN: dict = {'members': 'score', 'compensation': 0.0, 'distillation': 0.0, 'recovery_task': 1.0}
WAYS: dict[str, dict] = {
    'ours': {},
    'importance': _PLAIN,
    'l1': {**_PLAIN, 'score': 'l1'},
    'random': {**_PLAIN, 'score': 'random'},
}
THEIRS = 'torch-pruning'
if importlib.util.find_spec('torch_pruning'):
    WAYS[THEIRS] = _PLAIN
SCRATCH = {'scratch': 1, 'scratch x4': 4}
PARTS_ROW = (98, 1000)
PARTS: dict[str, dict] = {
    'ours': {},
    'no refit': {'compensation': 0.0},
    'refit alone': {'recovery_updates': 0},
    'members by score': {'members': 'score'},
    'TD-MPC loss alone': {'distillation': 0.0, 'recovery_task': 1.0},
    'imitation alone': {'recovery_task': 0.0},
    'both alike': {'recovery_task': 1.0},
    'replayed states only': {'distillation_horizon': 0},
    'all steps alike': {'distillation_rho': 1.0},
    **{f'without {lesson}': {'distilled': ','.join(x for x in LESSONS if x != lesson)}
       for lesson in LESSONS},
    'no warm-up': {'recovery_warmup': 0.0},
    'learning rate 1e-3': {'recovery_learning_rate': 1e-3},
    'learning rate 1e-4': {'recovery_learning_rate': 1e-4},
    'score l1': {'score': 'l1'},
    'score random': {'score': 'random'},
    'importance alone, our learning rate': _PLAIN,
    'one global threshold': {'allocation': 'global'},
    'knapsack': {'allocation': 'knapsack'},
    'in 5 steps': {'steps': 5},
    'when ranks settle': {'steps': 5, 'settle': 0.95},
}
OUR_RATE = 'from scratch, our learning rate'
SEARCH: dict[str, dict] = {'from scratch': {}, OUR_RATE: {},
                           # A plan of these takes as many multiply-adds as one of the uniform.
                           'from scratch, knapsack widths': {'allocation': 'knapsack',
                                                             'sparsity': 0.982}}
# Adam's moments of training, which the shipped agent did not keep, are carried over in another.
OTHER: dict[str, dict] = {'ours': {}, 'moments carried over': {'carry_optimizer': True}}
CONTROLS = {*WAYS, *SCRATCH, *SEARCH} - {'ours', OUR_RATE}  # learning rates as in training
TRAINED = 'dense_'  # folders of agents that are trained here
CONFIGURED = Path(__file__).parents[1] / 'config' / 'pendulum.yaml'
BUDGET = (64, 2)  # samples x iterations of every planner
EPISODES, FEWER = 100, 20  # common seeds: of ours and the dense agent, and of the controls
QUICK = (40, 10)  # the same


def measure(agent: str, removed: int, updates: int, way: str, episodes: int) -> dict:
    """One cell: returns on the seeds, planned and of the policy alone."""
    run = load_run(zoo.find(agent))
    dense = count_parameters(run.agent.components)
    began = time.perf_counter()
    if way != 'dense':
        settings = dataclasses.replace(
            run.config.pruning,
            **{'sparsity': removed / 100, 'recovery_updates': updates,
               **{**WAYS, **PARTS, **SEARCH, **OTHER}.get(way, {})})
        if way in CONTROLS:
            settings = as_in_training(run, settings)
        if way in SCRATCH or way in SEARCH:
            run = from_scratch(run, choose(run, settings), settings,
                               updates * SCRATCH.get(way, 1))
        elif way == THEIRS:
            graph = run.agent.graph()
            shrink(run, select(graph.groups, torch_pruning_scores(run.agent),
                               Parameters(settings.sparsity), Limits.of(settings)), settings)
        else:
            with tempfile.TemporaryDirectory() as steps:
                last, _ = shrink_in_steps(run, settings, Path(steps))
            run = dataclasses.replace(run, agent=last.agent)
    seconds = time.perf_counter() - began
    seeds = evaluation_seeds(episodes)
    # TD-MPC's own planner, as in the studies.
    planner = run.config.with_plain_planner().planner.scaled(*BUDGET)
    planned = evaluate(run.agent, run.config.env, seeds, planner)
    policy = evaluate(run.agent, run.config.env, seeds, None)
    return {'removed': 1 - count_parameters(run.agent.components) / dense,
            'widths': run.agent.widths.to_json(), 'seconds': round(seconds, 1),
            'planned': planned.returns, 'policy': policy.returns}


def torch_pruning_scores(agent: Agent) -> dict[str, np.ndarray]:
    """Importance of every unit as torch-pruning's group magnitude (L2) tells it."""
    import torch_pruning

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.components = agent.components

        def forward(self, observation: torch.Tensor) -> list[torch.Tensor]:
            return agent.rollout(observation)

    graph = torch_pruning.DependencyGraph().build_dependency(
        Whole(), example_inputs=torch.zeros(2, agent.widths.observations))
    measure_group = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    made_by = {place.parameter: (group, column) for group in agent.graph().free
               for column, place in enumerate(group.places) if place.dim == 0}
    scores: dict[str, np.ndarray] = {}
    for name, module in agent.components.named_modules():
        if isinstance(module, nn.Linear) and f'{name}.weight' in made_by:
            group, column = made_by[f'{name}.weight']
            if group.name not in scores:
                found = measure_group(graph.get_pruning_group(
                    module, torch_pruning.prune_linear_out_channels,
                    idxs=list(range(module.out_features))))
                scores[group.name] = found.detach().double().numpy()[group.indices[:, column]]
    return scores


def dense_agents(count: int, folder: Path) -> list[str]:
    """The shipped agent, and the folders of others by the same command with other seeds."""
    return ['pendulum_dense', *(str(folder / f'{TRAINED}{seed}') for seed in range(1, count))]


def to_train(agents: list[str]) -> list[str]:
    """Those of `dense_agents` that are not there yet."""
    return [a for a in agents[1:] if not (Path(a) / AGENT).is_file()]


def train(folder: str) -> None:
    """Train a dense agent, or go on with it; the name of its folder has its seed."""
    seed = int(Path(folder).name.removeprefix(TRAINED))
    Trainer(configuration.load(CONFIGURED, [
        f'training.seed={seed}', 'training.keep_optimizer=true']), Path(folder)).run()


def cells(agents: list[str], compared: list[str], rows: Rows = ROWS,
          seeds: tuple[int, int] = (EPISODES, FEWER)) -> list[tuple[str, int, int, str, int]]:
    """What is to be measured: the dense agents, ours, then the controls on those `compared`."""
    many, fewer = seeds
    wanted = [(a, 0, 0, 'dense', many) for a in agents]
    for a in agents:
        wanted += [(a, *row, 'ours', many) for row in reversed(rows)]
    for a in compared:
        for removed, updates in reversed(rows):
            wanted += [(a, removed, updates, way, fewer) for way in WAYS if way != 'ours']
            wanted += [(a, removed, updates, way, fewer) for way in SCRATCH if updates]
    return wanted


def losses(folder: Path, agents: list[str], removed: int, updates: int, way: str, kind: str
           ) -> tuple[float, float, float] | None:
    """Loss against the dense agent in percent of its return, with the 95 % interval."""
    per_agent = []
    for agent in agents:
        try:
            cut, dense = (json.loads(place(folder, agent, *c).read_text())[kind]
                          for c in ((removed, updates, way), (0, 0, 'dense')))
        except FileNotFoundError:
            continue
        seeds = evaluation_seeds(len(cut))
        dense = dense[:len(cut)]
        per_agent.append(compare(*(Evaluation(seeds, tuple(r), None) for r in (cut, dense))))
    if not per_agent:
        return None
    if len(per_agent) == 1:
        (one,) = per_agent
        scale = 100 * one.loss / -one.difference if one.difference else 0.0
        return 100 * one.loss, -scale * one.high, -scale * one.low
    values = 100 * np.array([c.loss for c in per_agent])
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def place(folder: Path, agent: str, removed: int, updates: int, way: str) -> Path:
    """File of one cell in the folder of cells."""
    return folder / f'{Path(agent).name}_{removed}_{updates}_{way}.json'


def _targets(agents: list[str]) -> dict[str, int]:
    """What was to be reached, which was settled for the pendulum alone."""
    plants = {configuration.load(zoo.find(a) / CONFIG).env.id for a in agents}
    return TARGETS if plants == {'Pendulum-v1'} else {}


def result(folder: Path, agents: list[str], rows: Rows = ROWS,
           seeds: tuple[int, int] = (EPISODES, FEWER)) -> dict:
    """Everything measured so far, as it goes into result.json."""
    ways = [*WAYS, *SCRATCH]
    found: dict = {'agents': [Path(a).name for a in agents],
                   'episodes': dict(zip(('ours', 'controls'), seeds, strict=True)),
                   'planner': dict(zip(('samples', 'iterations'), BUDGET, strict=True)),
                   'targets_percent': _targets(agents), 'measured_on': {},
                   'loss_percent': {}, 'interval_percent': {},
                   'policy_loss_percent': {}, 'policy_interval_percent': {},
                   'controls': {w: {'loss_percent': {}, 'policy_loss_percent': {}}
                                for w in ways if w != 'ours'}}
    for removed, updates in rows:
        key = f'{removed}:{updates}'
        found['measured_on'][key] = {  # dense agents
            way: n for way in ways if (n := sum(
                place(folder, a, removed, updates, way).is_file() for a in agents))}
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
    lines = [f'loss of return against dense, %: planned / policy alone; {len(found["agents"])} '
             f'dense agents, {found["episodes"]["ours"]} common seeds '
             f'({found["episodes"]["controls"]} for controls)',
             f'{"removed":>8} {"updates":>8} {"target":>7} ' + ' '.join(f'{w:>15}' for w in ways)]
    for key in found['measured_on']:
        removed, updates = key.split(':')
        shown = []
        for way in ways:
            part = found if way == 'ours' else found['controls'][way]
            pair = [part[f'{p}loss_percent'].get(key) for p in ('', 'policy_')]
            shown.append(' / '.join('-' if v is None else f'{v:.1f}' for v in pair))
        target = found['targets_percent'].get(key)
        lines.append(f'{removed:>6} % {updates:>8} {f"<= {target}" if target else "":>7} '
                     + ' '.join(f'{s:>15}' for s in shown))
    return '\n'.join(lines)


def draw(found: dict, path: Path) -> None:
    """Loss against sparsity, one line a way; ours with its interval."""
    figure = Figure(figsize=(7.2, 3.8), layout='constrained')
    axes = figure.subplots()
    keys = list(found['measured_on'])
    labels = ['{} %\n{} updates'.format(*key.split(':')) for key in keys]
    for way in ('ours', *found['controls']):
        part = found if way == 'ours' else found['controls'][way]
        points = [(i, part['loss_percent'][k]) for i, k in enumerate(keys)
                  if k in part['loss_percent']]
        if points:
            axes.plot(*zip(*points, strict=True), 'o-', ms=4, label=way,
                      lw=2 if way == 'ours' else 1, zorder=3 if way == 'ours' else 2)
    if found['targets_percent']:
        targets = [found['targets_percent'].get(k, np.nan) for k in keys]
        axes.plot(range(len(keys)), targets, 'k_', ms=18, label='target')
    axes.set_yscale('symlog', linthresh=10)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(xlabel='parameters removed', ylabel='loss of planned return, %',
             title='What pruning costs')
    figure.legend(frameon=False, fontsize=8, loc='outside right upper')
    axes.spines[['top', 'right']].set_visible(False)
    write_atomically(path, lambda p: figure.savefig(p, format='svg'))


def part_cells(agents: list[str]) -> list[tuple[str, int, int, str, int]]:
    """Everything that is measured with one thing changed, and the dense agents."""
    shipped, other = agents
    return [*((a, 0, 0, 'dense', EPISODES) for a in agents),
            *((shipped, *PARTS_ROW, way, EPISODES) for way in PARTS),
            *((shipped, *PARTS_ROW, way, FEWER) for way in SEARCH),
            *((other, *PARTS_ROW, way, EPISODES) for way in OTHER)]


def parts(folder: Path, agents: list[str]) -> dict:
    """Losses at one row, with one thing changed at a time."""
    found = {}
    for agent, removed, updates, way, _ in part_cells(agents):
        pair = [losses(folder, [agent], removed, updates, way, k) for k in ('planned', 'policy')]
        if way == 'dense' or pair[0] is None or pair[1] is None:
            continue
        cell = json.loads(place(folder, agent, removed, updates, way).read_text())
        found[way if agent == agents[0] else f'{way}, another agent'] = {
            'loss_percent': pair[0][0], 'interval_percent': pair[0][1:],
            'policy_loss_percent': pair[1][0], 'policy_interval_percent': pair[1][1:],
            'seconds': cell['seconds']}
    return found


def parts_table(found: dict) -> str:
    """One line per thing that was changed."""
    lines = [f'{PARTS_ROW[0]} % removed, {PARTS_ROW[1]} updates, pendulum_dense, {EPISODES} '
             f'common seeds ({FEWER} from scratch); loss in %, 95 % interval over seeds',
             f'{"":<36} {"planned":>8} {"":>16} {"policy":>8} {"":>16} {"took":>6}']
    for way, row in found.items():
        shown = [f'{row[k + "loss_percent"]:8.1f} ({row[k + "interval_percent"][0]:6.1f} '
                 f'to {row[k + "interval_percent"][1]:5.1f})' for k in ('', 'policy_')]
        lines.append(f'{way:<36} {shown[0]:>25} {shown[1]:>25} {row["seconds"]:4.0f} s')
    return '\n'.join(lines)


def fill(folder: Path, missing: list[tuple[str, int, int, str, int]], pool: Pool,
         untrained: Sequence[str] = ()) -> None:
    """Measure cells side by side, and keep each as soon as it is done.

    The `untrained` agents are trained beside them; their cells come after.
    """
    executor = pool.open()
    try:
        training = {executor.submit(train, agent): agent for agent in untrained}
        waiting = {executor.submit(measure, *cell): cell for cell in missing
                   if cell[0] not in untrained}
        done = 0
        while training or waiting:
            for future in wait([*training, *waiting], return_when=FIRST_COMPLETED).done:
                if future in training:
                    agent = training.pop(future)
                    future.result()
                    print(f'trained: {agent}', file=sys.stderr, flush=True)
                    waiting |= {executor.submit(measure, *cell): cell for cell in missing
                                if cell[0] == agent}
                    continue
                cell, done = waiting.pop(future), done + 1
                print(f'{done} of {len(missing)}: {" ".join(map(str, cell))}', file=sys.stderr,
                      flush=True)
                try:
                    write_json(place(folder, *cell[:4]), future.result())
                except PruningError as error:  # small agents leave no room for 99 %
                    print(f'left out: {error}', file=sys.stderr, flush=True)
    finally:
        pool.end(executor)


def row(text: str) -> tuple[int, int]:
    """A row as the command line has it."""
    removed, _, updates = text.partition(':')
    if not (removed.isdecimal() and updates.isdecimal() and 0 < int(removed) < 100):
        raise argparse.ArgumentTypeError(
            f"'{text}' was asked for; allowed: the percentage to remove, 1 to 99, and the updates "
            'of recovery, such as 80:1000')
    return int(removed), int(updates)


def main() -> int:
    """Measure what is missing, print the table, write result.json and the picture."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--agents', nargs='+', help='dense agents of different training seeds, '
                        'instead of the shipped one and those that are trained')
    parser.add_argument('--quick', action='store_true',
                        help='two dense agents instead of five, the first compared with others, '
                        'and {} and {} seeds'.format(*QUICK))
    parser.add_argument('--parts', action='store_true',
                        help='change one thing at a time; of --agents it takes two')
    parser.add_argument('--rows', nargs='+', type=row, default=ROWS, metavar='REMOVED:UPDATES',
                        help='other rows than those of the table, such as 80:1000')
    parser.add_argument('--out', type=Path, default=Path('runs/frontier'))
    parser.add_argument('--processes', type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.parts and options.agents and len(options.agents) != 2:
        parser.error(f'--parts --agents names {len(options.agents)}; allowed: two, the one that '
                     'is looked at and one that kept its optimizer')
    try:
        pool = Pool(options.processes)
        for agent in options.agents or ():
            zoo.find(agent)
    except PruningError as error:
        parser.error(str(error))
    folder: Path = options.out
    kept = folder / ('cells_quick' if options.quick else 'cells')
    kept.mkdir(parents=True, exist_ok=True)
    seeds = QUICK if options.quick else (EPISODES, FEWER)
    agents = options.agents or dense_agents(2 if options.quick or options.parts else 5, folder)
    wanted = part_cells(agents) if options.parts \
        else cells(agents, agents[:1 if options.quick else 2], options.rows, seeds)
    missing = [c for c in wanted if not place(kept, *c[:4]).is_file()]
    try:
        fill(kept, missing, pool, () if options.agents else to_train(agents))
    except PruningError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print('interrupted; every cell that was done is kept, the same command goes on',
              file=sys.stderr)
        return 130
    if options.parts:
        changed = parts(kept, agents)
        write_json(folder / 'parts.json', changed)
        print(f'{parts_table(changed)}\nresult   {folder / "parts.json"}')
        return 0
    found = result(kept, agents, options.rows, seeds)
    write_json(folder / 'result.json', found)
    draw(found, folder / 'frontier.svg')
    print(table(found))
    print(f'result   {folder / "result.json"}\npicture  {folder / "frontier.svg"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
