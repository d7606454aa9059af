# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What studies of agents share: an agent per seed, its scores, and one cut of it.

Trials of three kinds. An agent's folder lies below `agents/`, so that studies that need the same
one train it once; one that is there already, such as a shipped one, is copied. Its scores are kept
as arrays and compared with each other and with ablation. Each cut is measured on the same seeds,
planned and of the policy alone, and for stability.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning_core import config as configuration
from pruning_core import zoo
from pruning_core.budgets import Parameters
from pruning_core.checkpoint import AGENT, Run, load_run, weights_hash, write_atomically
from pruning_core.closed_loop import Conditions
from pruning_core.config import Config, PruningConfig
from pruning_core.decrease import check
from pruning_core.errors import AgentError, explain
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.networks import count_parameters, plan_macs
from pruning_core.plans import Plan
from pruning_core.scratch import as_in_training, from_scratch
from pruning_core.selection import Limits, select
from pruning_core.shrinking import choose, scores_of, shrink
from pruning_core.stability_gate import closed_loop, plant_of
from pruning_core.studies.runner import Context, Trial
from pruning_core.studies.statistics import kendall, spearman
from pruning_core.training import Trainer

SCORES_FILE, FOLDER = 'scores.npz', 'agent'
OURS, SCRATCH, SCRATCH_SHORT = 'ours', 'scratch', 'scratch short'


def config_of(path: str, seed: int, *overrides: str) -> Config:
    """Configuration of one training of an agent, on one thread, so that it can be made again."""
    return configuration.load(path, [f'training.seed={seed}', 'training.threads=1', *overrides])


def agents(path: str, seeds: int) -> dict[int, Trial]:
    """One training per seed, or agents that are there.

    Args:
        path: YAML file of the agent; or a shipped agent or run folder, which counts as one
            training; `{seed}` in it stands for 0, 1, ...
        seeds: how many, with seeds 0, 1, ...

    Raises:
        AgentError: an agent that should be there is not.
    """
    if Path(path).suffix not in ('.yaml', '.yml'):
        each = {seed: path.replace('{seed}', str(seed))
                for seed in range(seeds if '{seed}' in path else 1)}
        return {seed: Trial(f'agents/{stem(path)}_there_s{seed}', adopt, AdoptConfig(
            name, hash_of(name)), weight=0.1) for seed, name in each.items()}
    return {seed: Trial(f'agents/{Path(path).stem}_s{seed}', train, config_of(path, seed),
                        weight=6.0) for seed in range(seeds)}


def hash_of(agent: str) -> str:
    """SHA-256 of the weights of a shipped agent, or of that in a run folder.

    Raises:
        AgentError: it is not there.
    """
    folder = zoo.find(agent)
    if not (folder / AGENT).is_file():
        raise AgentError(
            explain(f"agent '{folder}' was to be studied", f'it holds no {AGENT}',
                    'the folder of a training that has ended',
                    'let it end, or name another one'))
    return weights_hash(folder)


def stem(path: str) -> str:
    """Name that an agent goes by in tables: without folder, ending and seed."""
    place = Path(path.replace('{seed}', ''))
    return (place.parent if place.name == FOLDER else place).stem.rstrip('_')


@dataclass(frozen=True)
class AdoptConfig:
    """An agent that is there.

    Attributes:
        agent: name of a shipped one, or run folder.
        hash: SHA-256 of its weights: another agent in its place is another trial.
    """

    agent: str
    hash: str


def adopt(config: AdoptConfig, context: Context) -> dict[str, Any]:
    """Copy an agent to where those that were trained lie."""
    folder = context.folder / FOLDER
    shutil.copytree(zoo.find(config.agent), folder, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns('bundle', '*.html', '*.svg'))
    run = load_run(folder)
    return {'seed': run.config.training.seed, 'updates': run.agent.updates,
            'parameters': count_parameters(run.agent.components)}


def train(config: Config, context: Context) -> dict[str, Any]:
    """Train an agent; an interrupted training goes on where it stopped."""
    folder = context.folder / FOLDER
    if not (folder / AGENT).is_file():
        Trainer(config, folder, context.progress).run()
    run = load_run(folder)
    return {'seed': config.training.seed, 'updates': run.agent.updates,
            'parameters': count_parameters(run.agent.components)}


@dataclass(frozen=True)
class RanksConfig:
    """Which scores of an agent.

    Attributes:
        scores: names; see `config.SCORES`.
        seed: of the windows that some are measured on.
    """

    scores: tuple[str, ...]
    seed: int


def ranks(config: RanksConfig, context: Context) -> dict[str, Any]:
    """Score every unit in all ways, keep the arrays, and compare them pair by pair."""
    run = load_run(context.needs[0] / FOLDER)
    graph = run.agent.graph()
    names = [g.name for g in graph.free]
    found = {s: scores_of(run, graph, s, config.seed, context.progress) for s in config.scores}
    arrays = {f'{s}/{g}': found[s][g] for s in config.scores for g in names}

    def save(path: Path) -> None:
        with path.open('wb') as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_atomically(context.folder / SCORES_FILE, save)
    ordered = sorted(config.scores, key=lambda s: s == 'ablation')  # what others are held against
    pairs = [(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1:]]
    return {'spearman': {f'{a} ~ {b}': within(found[a], found[b]) for a, b in pairs},
            'kendall': {f'{a} ~ {b}': within(found[a], found[b], kendall) for a, b in pairs},
            'groups': {s: {g: float(np.nanmean(found[s][g])) for g in names}
                       for s in config.scores}}


def within(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray],
           correlation: Any = spearman) -> float:
    """Mean over groups of the correlation over their units: what a cut of each group rests on."""
    values = [correlation(first[g], second[g]) for g in first]
    values = [v for v in values if np.isfinite(v)]
    return float(np.mean(values)) if values else float('nan')


def stored(folder: Path, score: str = '') -> dict[str, np.ndarray]:
    """Scores per group, as `ranks` kept them; any of them where none is named."""
    with np.load(folder / SCORES_FILE) as arrays:
        score = score or arrays.files[0].partition('/')[0]
        return {name.partition('/')[2]: arrays[name] for name in arrays.files
                if name.partition('/')[0] == score}


@dataclass(frozen=True)
class CutConfig:
    """One way to make an agent smaller, and how it is measured.

    Attributes:
        way: a score, whose highest units stay as they are; `ours` as `prune` does it; `scratch`,
            the same widths trained anew on the same replay with as many updates as the agent and
            its recovery had together; `scratch short` with the recovery's alone; `dense`.
        pruning: sparsity, limits and recovery.
        episodes: common seeds.
        samples: plans per iteration; `iterations` refinements.
        iterations: see there.
        states: random states of the stability test of the policy alone; 0 for none.
        view: coupling view that the latent is cut by instead; empty for none.
    """

    way: str
    pruning: PruningConfig
    episodes: int
    samples: int
    iterations: int
    states: int
    view: str = ''


def planning_plainly(folder: Path) -> Run:
    """An agent that plans as TD-MPC does: nothing is to hide what a cut costs."""
    run = load_run(folder)
    return dataclasses.replace(run, config=run.config.with_plain_planner())


def cut(config: CutConfig, context: Context) -> dict[str, Any]:
    """Prune and measure; the second folder that it needs has the scores."""
    torch.set_num_threads(1)
    run = planning_plainly(context.needs[0] / FOLDER)
    dense = count_parameters(run.agent.components)
    if config.way != 'dense':
        run = _smaller(run, config, context)
    return {'removed': 1 - count_parameters(run.agent.components) / dense,
            'macs': plan_macs(run.agent.widths, run.config.planner),
            **measured(run, config, context)}


def measured(run: Run, config: CutConfig, context: Context) -> dict[str, Any]:
    """Returns on common seeds, and from how many states V does not fall."""
    seeds, env = evaluation_seeds(config.episodes), run.config.env
    planner = run.config.planner.scaled(config.samples, config.iterations)
    planned = evaluate(run.agent, env, seeds, planner, context.progress)
    policy = evaluate(run.agent, env, seeds, None, context.progress)
    out: dict[str, Any] = {'planned': planned.mean, 'policy': policy.mean}
    judged = plant_of(run.config) if config.states else None
    if judged is not None:
        loop = closed_loop(run.agent, judged, None, Conditions(100, hold=judged.lyapunov.steps))
        out['violations'] = check(loop, np.inf, config.states,
                                  config.pruning.seed).decrease.to_json()['share']
    return out


def by_score(settings: PruningConfig) -> PruningConfig:
    """The same cut with nothing but the score: its highest units stay, with their weights."""
    return dataclasses.replace(settings, members='score', compensation=0.0)


def plan_by(run: Run, scores: Mapping[str, np.ndarray], settings: PruningConfig, score: str
            ) -> Plan:
    """What to remove by given scores; `score` is their name."""
    return select(run.agent.graph().groups, scores, Parameters(settings.sparsity),
                  Limits.of(settings), allocation=settings.allocation, score=score)


def _smaller(run: Run, config: CutConfig, context: Context) -> Run:
    settings = config.pruning
    if config.way == OURS:
        plan = choose(run, settings, context.progress)
    else:
        settings = by_score(settings)
        # From scratch any score will do: all of them leave the same widths.
        score = '' if config.way.startswith(SCRATCH) else config.way
        scores = stored(context.needs[1], score)
        if config.view:
            assert run.importance is not None
            scores['latent'] = run.importance.view_unit_scores('gradient')[config.view]
        plan = plan_by(run, scores, settings, score)
    if not config.way.startswith(SCRATCH):
        shrink(run, plan, settings, context.progress)
        return run
    updates = settings.recovery_updates
    if config.way == SCRATCH:
        updates += run.agent.updates
    return from_scratch(run, plan, as_in_training(run, settings), updates, context.progress)
