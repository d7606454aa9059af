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
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pruning_core import checkpoint as files
from pruning_core import zoo
from pruning_core.checkpoint import Run, load_run
from pruning_core.closed_loop import AgentController, Conditions, Workers
from pruning_core.config import override
from pruning_core.decrease import check, reference_level
from pruning_core.errors import ConfigError, MissingExtra, explain
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.export import export
from pruning_core.networks import count_parameters
from pruning_core.progress import Progress, silent
from pruning_core.pruner import measure_latency
from pruning_core.region import region_map
from pruning_core.robustness import Point, delay_margin, delay_of, sweep
from pruning_core.shrinking import choose, shrink
from pruning_core.stability_gate import closed_loop, require_plant

SCORES = {'task': 0.0, 'stability-aware': 0.5}  # name -> pruning.stability_weight
PASSING = 0.05  # violation bound up to which a sparsity counts as safe


@dataclass(frozen=True)
class Settings:
    """How large the study is.

    Attributes:
        sparsities: shares of the parameters to remove, in the order of measuring: small agents are
            quick; 0 is the dense agent itself.
        policy: the policy acts alone, which is a thousand times cheaper to simulate.
        samples: plans per refinement, and `iterations` refinements, of every planner.
        cells: rows and columns of the map, one run each.
        local_states: states of the test below the reference level.
        delay_states: states of each point of the delay sweep.
        delays: periods of delay.
        periods: longest run.
        episodes: of the return.
        recovery_updates: after each cut.
        latency: time full plans of every agent, too, at the end.
        seed: of states, noise and recovery.
    """

    sparsities: tuple[float, ...] = (0.95, 0.9, 0.0, 0.7, 0.5, 0.3)
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
    latency: bool = True
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
    _keep_settings(folder / 'settings.json', settings)
    rows, places = [], []
    for name in agents:
        source = zoo.find(name)
        for sparsity in settings.sparsities:
            for score in SCORES if sparsity else ('task',):
                row = folder / source.name / f'{round(1000 * sparsity):03d}_{score}.json'
                row.parent.mkdir(exist_ok=True)
                if not row.is_file():
                    files.write_json(row, _row(source, sparsity, score, settings,
                                               row.with_suffix(''), processes, progress))
                rows.append(json.loads(row.read_text()))
                place = row.with_suffix('')
                places.append((place, place if sparsity else source))
    # Last and in one go, so that the times stand side by side.
    for measured, (place, agent) in zip(rows, places, strict=True) if settings.latency else ():
        measured['latency'] = _latency(place, agent, progress)
    return {'study': 'stability', 'agents': [zoo.find(a).name for a in agents],
            'settings': json.loads(json.dumps(asdict(settings))), 'rows': rows,
            'table': table(rows), 'largest_safe_sparsity': {
                score: largest_safe(rows, score) for score in SCORES}}


def _keep_settings(path: Path, settings: Settings) -> None:
    """Rows of one folder belong together; only which there are, and timing them, may change."""
    wanted = {k: v for k, v in json.loads(json.dumps(asdict(settings))).items()
              if k not in ('sparsities', 'latency')}
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
            changed = dataclasses.replace(
                run.config.pruning, sparsity=sparsity, stability_weight=SCORES[score],
                seed=settings.seed, recovery_updates=settings.recovery_updates)
            told = _labelled(progress, label)
            plan = choose(run, changed, told)
            shrunk = shrink(run, plan, changed, told)
            config = dataclasses.replace(run.config, pruning=changed)
            files.save_run(folder, config, run.agent, shrunk.importance, None)
        run = dataclasses.replace(load_run(folder), folder=folder)
        achieved = 1 - count_parameters(run.agent.components) / dense
    return {'agent': source.name, 'sparsity': sparsity, 'score': score, 'achieved': achieved,
            **_measure(run, settings, folder.with_suffix('.parts'), processes,
                       _labelled(progress, label))}


def _latency(place: Path, agent: Path, progress: Progress) -> dict[str, Any]:
    """Planning time of an agent's bundle with its own, full planner, and the delay it amounts to.

    Args:
        place: of the row; the result is kept beside it.
        agent: run folder.
        progress: told after every plan.
    """
    kept = place.with_suffix('.latency')
    if not kept.is_file():
        run = load_run(agent)
        with tempfile.TemporaryDirectory() as scratch:
            bundle, _ = export(run, Path(scratch) / 'bundle')
            found = measure_latency(bundle, 1.0, _labelled(progress, place.name))
        p = run.config.planner
        files.write_json(kept, {
            'p50_s': found['p50_s'], 'p99_s': found['p99_s'], 'samples': p.samples,
            'iterations': p.iterations, 'delay': delay_of(found['p50_s'], found['period_s'])})
    measured: dict[str, Any] = json.loads(kept.read_text())
    return measured


def _labelled(progress: Progress, label: str) -> Progress:
    def told(phase: str, done: int, total: int, /, **facts: float | str) -> None:
        progress(f'{label}: {phase}', done, total, **facts)

    return told


def _measure(run: Run, settings: Settings, kept: Path, processes: int, progress: Progress
             ) -> dict[str, Any]:
    """Everything that the study asks of one agent; each part is kept as soon as it is there."""
    env = run.config.env
    judged = require_plant(run.config, 'a stability study')
    lyapunov = judged.lyapunov
    planner = None if settings.policy else run.config.planner.scaled(
        settings.samples, settings.iterations)
    conditions = Conditions(settings.periods)

    def workers(phase: str) -> Workers:
        return Workers(processes, progress, phase)

    def returned() -> Any:
        seeds = evaluation_seeds(settings.episodes)
        found = evaluate(run.agent, env, seeds, planner, progress)
        return {'mean': found.mean, 'interval': found.interval()}

    def local() -> Any:
        loop = closed_loop(run.agent, judged, planner, Conditions(lyapunov.steps))
        level = reference_level(judged.plant, lyapunov)
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
                if name in _TIMED and 'latency' not in mine[0]:
                    continue
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


def settings_from(overrides: Sequence[str]) -> Settings:
    """Read `stability.KEY=VALUE` overrides; values are YAML.

    Raises:
        ConfigError: an unknown key, or a value of another kind.
    """
    values = asdict(Settings())
    for name, value in override({'stability': {}}, overrides).items():
        unknown = set(value) - set(values) if name == 'stability' else {name}
        if unknown:
            raise ConfigError(
                explain(f'{", ".join(sorted(unknown))} was to be set', 'it is not known',
                        ', '.join(f'stability.{k}' for k in values), 'correct --set')
            )
        for key, given in value.items():
            kind = type(values[key])
            given = tuple(given) if kind is tuple and isinstance(given, list) else given
            if type(given) is not kind:
                raise ConfigError(
                    explain(f'stability.{key} was set to {given!r}',
                            f'a {type(given).__name__}', f'a {kind.__name__}', 'correct --set'))
            values[key] = given
    return Settings(**values)


def publish(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the result and its pictures.

    Returns:
        What a person wants to read first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / 'stability.json', result)
    try:
        from pruning_core import stability_figures as figures

        pictures = {
            'stability_maps.svg': figures.regions(_two_maps(result['rows'])),
            'stability_table.svg': figures.tradeoff(result['table'], (
                ('return', 'return'),
                *((key, f'{key.split()[1]} periods late: reach the goal')
                  for key in result['table'][0] if key.endswith(' late'))))}
        for name, text in pictures.items():
            files.write_atomically(folder / name, partial(Path.write_text, data=text))
    except MissingExtra:
        pictures = {}
    keys = ('return', 'violation bound', 'local margin', 'region area', 'delay margin')
    return {'result': str(folder / 'stability.json'), 'pictures': ', '.join(pictures) or 'none',
            'agents': ', '.join(result['agents']),
            **{f"{line['sparsity']:.0%} {line['score']}": ', '.join(
                f'{k} {line[k]:.4g}' for k in keys) for line in result['table']},
            'largest safe sparsity': result['largest_safe_sparsity']}


def _two_maps(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The dense agent's map and that of the smallest task-scored one, of the first agent."""
    first = [r for r in rows if r['agent'] == rows[0]['agent'] and r['score'] == 'task']
    ends = (min(first, key=lambda r: r['sparsity']), max(first, key=lambda r: r['sparsity']))
    return {f"{r['sparsity']:.0%} removed" if r['sparsity'] else 'dense': r['region']
            for r in ends}
