# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Does a pruned agent still stabilise, and does stability-aware importance help?

Agents in; for each of them, each sparsity and each score the return, the share of states from
which the decrease test fails with its bound, the margin, the region of attraction and the delay
margin out (method section 5). All on common states, seeds and noise. Every row is kept as soon as
it is measured; starting again goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pruning_core import checkpoint as files
from pruning_core import zoo
from pruning_core.agent import Agent
from pruning_core.checkpoint import Run, load_run
from pruning_core.closed_loop import AgentController, Conditions, Loop, Workers
from pruning_core.decrease import check, reference_level
from pruning_core.env import describe, make_raw
from pruning_core.errors import ConfigError, explain
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.networks import count_parameters
from pruning_core.plants import make_plant
from pruning_core.progress import Progress, silent
from pruning_core.pruner import choose, shrink
from pruning_core.region import Region, region_map
from pruning_core.robustness import delay_margin, sweep
from pruning_core.stability import candidate

SCORES = {'task': 0.0, 'stability-aware': 0.5}  # name -> pruning.stability_weight
PASSING = 0.05  # violation bound up to which a sparsity counts as safe


@dataclass(frozen=True)
class Settings:
    """How large the study is.

    Attributes:
        sparsities: shares of the parameters to remove, in the order of measuring: small agents are
            quick; 0 is the dense agent itself.
        samples: plans per refinement, and `iterations` refinements, of every planner.
        cells: rows and columns of the map, one run each.
        local_states: states of the test below the reference level.
        delay_states: states of each point of the delay sweep.
        delays: periods of delay.
        periods: longest run.
        episodes: of the return.
        recovery_updates: after each cut; -1 takes the agent's own setting.
        seed: of states, noise and recovery.
    """

    sparsities: tuple[float, ...] = (0.95, 0.9, 0.7, 0.5, 0.3, 0.0)
    samples: int = 64
    iterations: int = 2
    cells: tuple[int, int] = (12, 12)
    local_states: int = 200
    delay_states: int = 48
    delays: tuple[int, ...] = (0, 1, 2, 3)
    periods: int = 100
    episodes: int = 20
    recovery_updates: int = -1
    seed: int = 0


def study(folder: Path, agents: Sequence[str], settings: Settings, processes: int = 1,
          progress: Progress = silent) -> dict[str, Any]:
    """Run what is missing of the study, and return its result.

    Args:
        folder: where rows and pruned agents are kept, one folder per agent.
        agents: run folders or names of shipped agents; more than one gives intervals.
        settings: its size; a folder that was begun with others is refused.
        processes: for closed-loop runs.
        progress: told of every phase.

    Raises:
        ConfigError: no agents, or a folder begun with other settings.
        AgentError: an agent cannot be opened, or its plant has no goal.
    """
    if not agents:
        raise ConfigError(explain('a study was asked for', 'no agents', '1 or more',
                                  'name a run folder or a shipped agent'))
    folder.mkdir(parents=True, exist_ok=True)
    _keep_settings(folder / 'settings.json', json.loads(json.dumps(asdict(settings))))
    rows = []
    for name in agents:
        source = zoo.find(name)
        for sparsity in settings.sparsities:
            for score in SCORES if sparsity else ('task',):
                row = folder / source.name / f'{round(1000 * sparsity):03d}_{score}.json'
                row.parent.mkdir(exist_ok=True)
                if not row.is_file():
                    measured = _row(source, sparsity, score, settings, row.with_suffix(''),
                                    processes, progress)
                    files.write_json(row, measured)
                rows.append(json.loads(row.read_text()))
    return {'study': 'stability', 'agents': [zoo.find(a).name for a in agents],
            'settings': json.loads(json.dumps(asdict(settings))), 'rows': rows,
            'table': table(rows), 'largest_safe_sparsity': {
                score: largest_safe(rows, score) for score in SCORES}}


def _keep_settings(path: Path, wanted: dict[str, Any]) -> None:
    if path.is_file() and json.loads(path.read_text()) != wanted:
        raise ConfigError(
            explain(f"a study in '{path.parent}' was asked for",
                    'it was begun there with other settings', f'those in {path.name}',
                    'give another --work, or the same settings')
        )
    files.write_json(path, wanted)


def _row(source: Path, sparsity: float, score: str, settings: Settings, folder: Path,
         processes: int, progress: Progress) -> dict[str, Any]:
    """Prune and measure one agent; the pruned agent is kept in `folder`."""
    run = load_run(source)
    label = f'{source.name} {sparsity:.0%} {score}'
    achieved, dense = 0.0, count_parameters(run.agent.components)
    if sparsity:
        if not (folder / files.AGENT).is_file():
            updates = settings.recovery_updates
            changed = dataclasses.replace(
                run.config.pruning, sparsity=sparsity, stability_weight=SCORES[score],
                seed=settings.seed,
                recovery_updates=run.config.pruning.recovery_updates if updates < 0 else updates)
            told = _labelled(progress, label)
            plan = choose(run, changed, told)
            shrunk = shrink(run, plan, changed, told)
            config = dataclasses.replace(run.config, pruning=changed)
            files.save_run(folder, config, run.agent, shrunk.importance, None)
        run = dataclasses.replace(load_run(folder), folder=folder)
        achieved = 1 - count_parameters(run.agent.components) / dense
    return {'agent': source.name, 'sparsity': sparsity, 'score': score, 'achieved': achieved,
            **measure_agent(run, settings, processes, _labelled(progress, label))}


def _labelled(progress: Progress, label: str) -> Progress:
    def told(phase: str, done: int, total: int, /, **facts: float | str) -> None:
        progress(f'{label}: {phase}', done, total, **facts)

    return told


def measure_agent(run: Run, settings: Settings, processes: int, progress: Progress
                  ) -> dict[str, Any]:
    """Everything that the study asks of one agent."""
    env = run.config.env
    plant = make_plant(env)
    spec = describe(make_raw(env.id), env)
    lyapunov = candidate(env.id, spec.period_s, env.action_repeat)
    if lyapunov is None:
        raise ConfigError(explain(f"a stability study on '{env.id}' was asked for",
                                  'it has no known goal', 'Pendulum-v1, or a plant that declares '
                                  'one (docs/stability.md)', 'choose another agent'))
    planner = run.config.planner.scaled(settings.samples, settings.iterations)
    controller = AgentController(run.agent, plant.limits, planner)
    conditions = Conditions(settings.periods)

    def workers(phase: str) -> Workers:
        return Workers(processes, progress, phase)

    returned = evaluate(run.agent, env, evaluation_seeds(settings.episodes), planner, progress)
    level = reference_level(plant, lyapunov)
    local = check(Loop(plant, controller, lyapunov, Conditions(lyapunov.steps)), level,
                  settings.local_states, settings.seed, workers('local'))
    region: Region = region_map(Loop(plant, controller, lyapunov, conditions), settings.cells, 1,
                                settings.seed, workers('region'))
    delays = sweep('delay', controller, lyapunov, conditions, settings.delay_states,
                   settings.seed, values=settings.delays, action_repeat=env.action_repeat,
                   workers=workers('delay'))
    return {'parameters': count_parameters(run.agent.components),
            'return': returned.mean, 'return_interval': list(returned.interval()),
            'local': local.decrease.to_json(), 'region': region.to_json(),
            'delays': [p.to_json() for p in delays], 'delay_margin': delay_margin(delays)}


FIGURES: dict[str, Callable[[dict[str, Any]], float]] = {
    'return': lambda r: r['return'],
    'violation share': lambda r: r['region']['decrease']['share'],
    'violation bound': lambda r: r['region']['decrease']['bound'],
    'margin': lambda r: r['region']['decrease']['margin'],
    'local bound': lambda r: r['local']['bound'],
    'local margin': lambda r: r['local']['margin'],
    'region area': lambda r: r['region']['area'],
    'delay margin': lambda r: r['delay_margin'],
}


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over agents of every figure, with a Student 95 % interval where there are several."""
    out = []
    for sparsity in sorted({r['sparsity'] for r in rows}):
        for score in SCORES:
            mine = [r for r in rows if r['sparsity'] == sparsity and
                    (r['score'] == score or sparsity == 0)]
            if not mine:
                continue
            line: dict[str, Any] = {'sparsity': sparsity, 'score': score, 'agents': len(mine)}
            for name, figure in FIGURES.items():
                values = np.array([figure(r) for r in mine], float)
                line[name] = float(values.mean())
                if len(values) > 1:
                    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
                    line[f'{name} interval'] = [line[name] - half, line[name] + half]
            out.append(line)
    return out


def largest_safe(rows: Sequence[dict[str, Any]], score: str) -> float | None:
    """The largest sparsity such that it and every smaller tested one pass, for every agent.

    One passes where its violation bound is at most `PASSING`; None where the dense agent fails.
    """
    safe = None
    for sparsity in sorted({r['sparsity'] for r in rows}):
        mine = [r for r in rows if r['sparsity'] == sparsity and
                (r['score'] == score or sparsity == 0)]
        if not mine or any(r['region']['decrease']['bound'] > PASSING for r in mine):
            break
        safe = sparsity
    return safe


def agent_of(folder: Path) -> Agent:
    """The pruned agent that a row was measured on."""
    return load_run(folder).agent
