# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Does a pruned agent still stabilise, and does stability-aware importance help?

Agents in; for each of them, each sparsity and each score the return, the share of states from
which the decrease test fails with its bound, the margin, the region of attraction and the delay
margin out (method section 5). All on common states, seeds and noise. Every part of a row is kept
as soon as it is measured; starting again goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pruning_core import checkpoint as files
from pruning_core import zoo
from pruning_core.checkpoint import Run
from pruning_core.closed_loop import AgentController, Conditions, Workers
from pruning_core.decrease import check, reference_level
from pruning_core.errors import ConfigError, explain
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.export import export
from pruning_core.networks import count_parameters
from pruning_core.pruner import measure_latency
from pruning_core.region import region_map
from pruning_core.robustness import Point, delay_margin, delay_of, sweep
from pruning_core.shrinking import choose, shrink
from pruning_core.stability_gate import closed_loop, require_plant
from pruning_core.studies.claims import spoken
from pruning_core.studies.cuts import FOLDER, hash_of, planning_plainly
from pruning_core.studies.runner import Context, Trial
from pruning_core.studies.statistics import iqm, known, verdict
from pruning_core.studies.study import Study

SCORES = {'task': 0.0, 'stability-aware': 0.5}  # name -> pruning.stability_weight
PASSING = 0.05  # violation bound up to which a sparsity counts as safe


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Attributes:
        policy: the policy acts alone, which is a thousand times cheaper to simulate.
        samples: plans per refinement, and `iterations` refinements, of every planner.
        cells: rows and columns of the map, one run each.
        local_states: states of the test below the reference level.
        delay_states: states of each point of the delay sweep.
        delays: periods of delay.
        periods: longest run.
        episodes: of the return.
        recovery_updates: after each cut.
        seed: of states, noise and recovery.
    """

    policy: bool = False
    samples: int = 64
    iterations: int = 2
    cells: tuple[int, int] = (12, 12)
    local_states: int = 100
    delay_states: int = 24
    delays: tuple[int, ...] = (0, 1, 2, 3)
    periods: int = 100
    episodes: int = 10
    recovery_updates: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Settings(Size):
    """What is measured of which agents.

    Attributes:
        sparsities: shares of the parameters to remove; 0 is the dense agent itself.
        latency: time full plans of every agent, too, at the end.
        agent: run folders or names of shipped agents; more than one gives intervals.
    """

    sparsities: tuple[float, ...] = (0.95, 0.9, 0.0, 0.7, 0.5, 0.3)
    latency: bool = True
    agent: tuple[str, ...] = ('pendulum_dense',)


@dataclass(frozen=True)
class RowConfig:
    """One agent, pruned in one way.

    Attributes:
        agent: run folder or shipped agent.
        sparsity: share of the parameters to remove; 0 is the dense agent itself.
        score: a key of `SCORES`.
        size: of what is measured.
        hash: SHA-256 of the weights: another agent in its place is another trial.
    """

    agent: str
    sparsity: float
    score: str
    size: Size
    hash: str


@dataclass(frozen=True)
class LatencyConfig:
    """Times the agent of a row.

    Attributes:
        agent: run folder or shipped agent that the row was made of.
        sparsity: of the row.
        hash: of its weights.
    """

    agent: str
    sparsity: float
    hash: str


def trials(settings: Settings, folder: str) -> list[Trial]:
    """One per agent, sparsity and score; and the times last, so that they stand side by side.

    Raises:
        ConfigError: no agents.
    """
    if not settings.agent:
        raise ConfigError(explain('a study was asked for', 'no agents', '1 or more',
                                  'name a run folder or a shipped agent'))
    size = Size(**{f.name: getattr(settings, f.name) for f in dataclasses.fields(Size)})
    out = []
    for agent in settings.agent:
        weights = hash_of(agent)
        for sparsity in settings.sparsities:
            for score in SCORES if sparsity else ('task',):
                name = row_name(folder, agent, sparsity, score)
                out.append(Trial(name, row, RowConfig(
                    agent, sparsity, score, size, weights),
                                 weight=1 / (1.2 - sparsity)))
                if settings.latency:
                    out.append(Trial(f'{name}_latency', latency, LatencyConfig(
                        agent, sparsity, weights),
                                     (name,), 0.1, last=True))
    return out


def row_name(folder: str, agent: str, sparsity: float, score: str) -> str:
    """Name of a row's trial."""
    return f'{folder}/{name_of(agent)}/{1000 * sparsity:03g}_{score}'


def name_of(agent: str) -> str:
    """What an agent goes by in rows: its folder's name, or that around the folder `agent`."""
    folder = zoo.find(agent)
    return (folder.resolve().parent if folder.name == FOLDER else folder).name


def summarise(settings: Settings, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Rows in the order of measuring, the table over agents, and the largest safe sparsities."""
    rows = []
    for name, found in results.items():
        if not name.endswith('_latency'):
            timed = results.get(f'{name}_latency')
            rows.append({**found, **({'latency': timed} if timed else {})})
    return {'agents': [name_of(a) for a in settings.agent], 'rows': rows,
            'table': table(rows), 'claims': claims(rows), 'largest_safe_sparsity': {
                score: largest_safe(rows, score) for score in SCORES}}


def row(config: RowConfig, context: Context) -> dict[str, Any]:
    """Prune and measure one agent; the pruned agent is kept in the trial's folder."""
    source, size = zoo.find(config.agent), config.size
    run = planning_plainly(source)
    achieved, dense = 0.0, count_parameters(run.agent.components)
    if config.sparsity:
        if not (context.folder / files.AGENT).is_file():
            changed = dataclasses.replace(
                run.config.pruning, sparsity=config.sparsity,
                stability_weight=SCORES[config.score], seed=size.seed,
                recovery_updates=size.recovery_updates)
            plan = choose(run, changed, context.progress)
            shrunk = shrink(run, plan, changed, context.progress)
            files.save_run(context.folder, dataclasses.replace(run.config, pruning=changed),
                           run.agent, shrunk.importance, None)
        run = planning_plainly(context.folder)
        achieved = 1 - count_parameters(run.agent.components) / dense
    return {'agent': name_of(config.agent), 'sparsity': config.sparsity, 'score': config.score,
            'achieved': achieved, **_measure(run, size, context)}


def latency(config: LatencyConfig, context: Context) -> dict[str, Any]:
    """Planning time of an agent's bundle with its own, full planner, and the delay it means."""
    run = planning_plainly(context.needs[0] if config.sparsity else zoo.find(config.agent))
    with tempfile.TemporaryDirectory() as scratch:
        bundle, _ = export(run, Path(scratch) / 'bundle')
        found = measure_latency(bundle, 1.0, context.progress)
    p = run.config.planner
    return {'p50_s': found['p50_s'], 'p99_s': found['p99_s'], 'samples': p.samples,
            'iterations': p.iterations, 'delay': delay_of(found['p50_s'], found['period_s'])}


def _measure(run: Run, settings: Size, context: Context) -> dict[str, Any]:
    """Everything that the study asks of one agent; each part is kept as soon as it is there."""
    env, kept = run.config.env, context.folder / 'parts.json'
    judged = require_plant(run.config, 'a stability study')
    lyapunov = judged.lyapunov
    planner = None if settings.policy else run.config.planner.scaled(
        settings.samples, settings.iterations)
    conditions = Conditions(settings.periods)

    def workers(phase: str) -> Workers:
        return Workers(1, context.progress, phase)

    def returned() -> Any:
        seeds = evaluation_seeds(settings.episodes)
        found = evaluate(run.agent, env, seeds, planner, context.progress)
        return {'mean': found.mean, 'interval': found.interval()}

    def local() -> Any:
        loop = closed_loop(run.agent, judged, planner, Conditions(lyapunov.steps))
        level = reference_level(judged.plant, lyapunov, progress=context.progress)
        return check(loop, level, settings.local_states, settings.seed,
                     workers('local')).decrease.to_json()

    def region() -> Any:
        return region_map(closed_loop(run.agent, judged, planner, conditions), settings.cells, 1,
                          settings.seed, workers('region')).to_json()

    def delay(periods: int) -> Any:
        controller = AgentController(run.agent, judged.plant.limits, planner)
        return sweep('delay', controller, lyapunov, conditions, settings.delay_states,
                     settings.seed, values=(periods,), action_repeat=env.action_repeat,
                     workers=workers(f'delay {periods}'))[0].to_json()

    parts: dict[str, Callable[[], Any]] = {
        'return': returned, 'region': region, 'local': local,
        **{f'delay {d}': partial(delay, d) for d in settings.delays}}
    measured = json.loads(kept.read_text()) if kept.is_file() else {}
    for name, part in parts.items():
        if name not in measured:
            measured[name] = json.loads(json.dumps(part()))
            files.write_json(kept, measured)
    return {'parameters': count_parameters(run.agent.components), **measured}


def _delay_margin(row: dict[str, Any]) -> int:
    points = [Point(**{k: v for k, v in part.items() if k != 'share'})
              for name, part in row.items() if name.startswith('delay ')]
    return delay_margin(points)


FIGURES: dict[str, Callable[[dict[str, Any]], float]] = {
    'return': lambda r: r['return']['mean'],
    'violation share': lambda r: r['region']['decrease']['share'],
    'violation bound': lambda r: r['region']['decrease']['bound'],
    'margin': lambda r: r['region']['decrease']['margin'],
    'local bound': lambda r: r['local']['bound'],
    'local margin': lambda r: r['local']['margin'],
    'region area': lambda r: r['region']['area'],
    'delay margin': _delay_margin,
    'delay of full planning': lambda r: r['latency']['delay'],
    'planning p50 ms': lambda r: 1e3 * r['latency']['p50_s'],
}

def _delays(rows: Sequence[dict[str, Any]]) -> dict[str, Callable[[dict[str, Any]], float]]:
    """Share of runs that reach the goal, for each delay that all rows have."""
    return {f"reached, {name.removeprefix('delay ')} late": partial(_reached, name)
            for name in rows[0] if name.startswith('delay ')}


def _reached(name: str, row: dict[str, Any]) -> float:
    return float(row[name]['reached'] / row[name]['states'])


_TIMED = ('delay of full planning', 'planning p50 ms')


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
            for name, figure in {**FIGURES, **_delays(mine)}.items():
                if name in _TIMED and any('latency' not in r for r in mine):
                    continue
                values = np.array([figure(r) for r in mine], float)
                line[name] = float(values.mean())
                if len(values) > 1:
                    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
                    line[f'{name} interval'] = [line[name] - half, line[name] + half]
            out.append(line)
    return out


def claims(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether stability-aware importance is better, paired by agent; higher is better in all."""
    out: dict[str, Any] = {}
    first, second = SCORES
    for sparsity in sorted({r['sparsity'] for r in rows} - {0.0}):
        by_score = {score: {r['agent']: r for r in rows
                            if (r['sparsity'], r['score']) == (sparsity, score)}
                    for score in SCORES}
        agents = [a for a in by_score[first] if a in by_score[second]]
        if not agents:
            continue
        figures = {name: FIGURES[name] for name in ('return', 'local margin', 'region area')}
        for name, figure in {**figures, **_delays([by_score[first][agents[0]]])}.items():
            # NaN where one is not finite, as a margin of runs that blew up.
            gaps = known(list(np.array([figure(by_score[second][a]) for a in agents], float)
                              - np.array([figure(by_score[first][a]) for a in agents], float)))
            if gaps:
                out[f'{100 * sparsity:g}% removed, {second} better than by the {first}: {name}'] \
                    = verdict(iqm(gaps))
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


def draw(result: Mapping[str, Any]) -> dict[str, str]:
    """Two maps side by side, and the figures over sparsity."""
    from pruning_core import stability_figures as figures

    return {
        'stability_maps.svg': figures.regions(_two_maps(result['rows'])),
        'stability_table.svg': figures.tradeoff(result['table'], (
            ('return', 'return'),
            *((key, f'{key.split()[1]} periods late: reach the goal')
              for key in result['table'][0] if key.endswith(' late'))))}


def tell(result: Mapping[str, Any]) -> dict[str, Any]:
    """The table in words."""
    keys = ('return', 'violation bound', 'local margin', 'region area', 'delay margin')
    return {'agents': ', '.join(result['agents']),
            **{f"{line['sparsity']:.0%} {line['score']}": ', '.join(
                f'{k} ' + ('unknown' if line[k] is None else f'{line[k]:.4g}') for k in keys)
               for line in result['table']},
            'largest safe sparsity': result['largest_safe_sparsity'],
            **spoken(result['claims'])}


def _two_maps(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The dense agent's map and that of the smallest task-scored one, of the first agent."""
    first = [r for r in rows if r['agent'] == rows[0]['agent'] and r['score'] == 'task']
    ends = (min(first, key=lambda r: r['sparsity']), max(first, key=lambda r: r['sparsity']))
    return {f"{r['sparsity']:.0%} removed" if r['sparsity'] else 'dense': r['region']
            for r in ends}


STUDY = Study(
    name='stability',
    question='Does a pruned agent still stabilise, and does stability-aware importance help?',
    settings=Settings,
    quick={'policy': True, 'sparsities': (0.95, 0.5, 0.0), 'recovery_updates': 300,
           'local_states': 50, 'delays': (0, 1)},
    cost='quick 3 minutes, full 6 hours',
    trials=trials, summarise=summarise, draw=draw, tell=tell)
