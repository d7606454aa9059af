# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Score -> select -> cut -> refit -> recover -> gate: a dense agent in, its small bundle out.

The result appears whole or not at all: everything is written into a temporary folder beside the
target and renamed at the end. An agent that fails a gate is kept in the run folder, with its
figures, but no bundle of it is written.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning_core import checkpoint as files
from pruning_core import config as configuration
from pruning_core.agent import Agent
from pruning_core.backoff import copy_of, give_back
from pruning_core.budgets import Budget, Parameters
from pruning_core.checkpoint import Run
from pruning_core.compensation import Refit, compensate_agent
from pruning_core.config import PlannerConfig, PruningConfig
from pruning_core.decrease import Tested
from pruning_core.distillation import Teacher, record
from pruning_core.errors import AgentError, GateError, explain
from pruning_core.evaluation import Evaluation, compare, evaluate, evaluation_seeds
from pruning_core.export import prepare
from pruning_core.groups import UnitGraph
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.baselines import BASELINES, NEED_DATA, Subject
from pruning_core.importance.baselines import score as baseline
from pruning_core.latency import plan_within
from pruning_core.networks import count_parameters, count_plan_macs
from pruning_core.plans import Plan
from pruning_core.progress import Progress, silent
from pruning_core.recovery import recover
from pruning_core.runtime.bundle import MANIFEST, Bundle, open_bundle, write
from pruning_core.runtime.metrics import JsonlWriter
from pruning_core.runtime.planner import Planner
from pruning_core.selection import Limits, select
from pruning_core.stability_gate import TABLE as FAILING_STATES
from pruning_core.stability_gate import gate, leave_failures, require_plant
from pruning_core.stability_loss import StabilityScores, mix, stability_scores
from pruning_core.subset import representatives
from pruning_core.surgery import apply
from pruning_core.task_loss import Windows, task_loss
from pruning_core.visits import Visits, visit

BUNDLE, PLAN = 'bundle', 'plan.json'
_WINDOWS = 128  # of the replay, on which a loss is measured for scores that need one
_TAUGHT = 20_000  # situations at most that recovery imitates the dense agent in
_LATENCY_PLANS = 200  # the 99 % quantile is then the third slowest


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What pruning produced.

    Attributes:
        folder: the run folder, with agent, plan, evaluation and bundle.
        bundle: the published bundle.
        plan: what was cut.
        gates: what was checked, with figures.
        seconds: time taken.
    """

    folder: Path
    bundle: Bundle
    plan: Plan
    gates: Mapping[str, Any]
    seconds: float


def scores_of(run: Run, graph: UnitGraph, score: str, seed: int,
              progress: Progress = silent) -> dict[str, np.ndarray]:
    """Scores per unit under one of `config.SCORES`.

    Args:
        run: the agent, with its importance and its replay.
        graph: its structure.
        score: which.
        seed: of random scores, and of the replayed windows that some are measured on.
        progress: told after every unit of an ablation.

    Raises:
        AgentError: the score needs what the folder does not have: importance gathered in
            training, enough of it, or a replay.
    """
    if score in BASELINES:
        rng = np.random.default_rng(seed)
        loss = None
        if score in NEED_DATA:
            if run.replay is None:
                raise AgentError(
                    explain(f"score '{score}' was asked for", f"'{run.folder}' has no replay",
                            'a score of weights alone for such an agent: l1, l2 or lamp',
                            'choose one, or train with this package')
                )
            windows = Windows.of(run.replay.sample(rng, _WINDOWS, run.agent.config.horizon))

            def loss() -> Tensor:
                return task_loss(run.agent, windows)

        return baseline(score, Subject(graph, dict(run.agent.components.items()), rng, loss,
                                       progress))
    if run.importance is None:
        raise AgentError(
            explain(f"score '{score}' was asked for", f"'{run.folder}' has no importance",
                    'l1 or random for such an agent', 'choose one, or train with this package')
        )
    scores = run.importance.unit_scores(score)
    empty = [name for name, values in scores.items() if not np.isfinite(values).any()]
    if empty:
        raise AgentError(
            explain(f"score '{score}' was asked for",
                    f'nothing was measured yet for {", ".join(empty)}',
                    'an agent trained for more updates than importance.warmup',
                    'train longer, or choose l1 or random')
        )
    return scores


def cut(agent: Agent, plan: Plan) -> float:
    """Cut an agent, its targets and its optimisers, and prove the cut; returns the difference."""
    generator = torch.Generator().manual_seed(0)
    probe = 2 * torch.rand(8, agent.widths.observations, generator=generator) - 1

    def run(components: Mapping[str, nn.Module]) -> list[Tensor]:
        shell = copy.copy(agent)
        shell.components = nn.ModuleDict(dict(components))
        return shell.rollout(probe)

    receipt = apply(plan, dict(agent.components.items()),
                    optimizer=(agent.model_optimizer, agent.policy_optimizer),
                    mirrors=(dict(agent.targets.items()),), run=run)
    return float(receipt.difference or 0.0)


def choose(run: Run, settings: PruningConfig, progress: Progress = silent) -> Plan:
    """Score the units of an agent, and plan what goes.

    Raises:
        GroupError: the budget cannot be met.
        AgentError: what the score needs was not gathered in training.
    """
    progress('score', 0, 1)
    graph = run.agent.graph()
    scores = _scores(run, graph, settings, progress)

    def within(budget: Budget) -> Plan:
        return select(graph.groups, scores, budget,
                      Limits(settings.floor, settings.multiple, settings.coupling,
                             settings.coupling_share),
                      allocation=settings.allocation, score=settings.score)

    plan = plan_within(run, graph.groups, settings.latency_ms, within, progress) \
        if settings.latency_ms else within(Parameters(settings.sparsity))
    return _members(run, graph, plan, scores, settings)


def _scores(run: Run, graph: UnitGraph, settings: PruningConfig, progress: Progress
            ) -> dict[str, np.ndarray]:
    scores = scores_of(run, graph, settings.score, settings.seed, progress)
    if settings.stability_weight > 0:
        scores = mix(scores, stability_scores_of(run, settings, progress).units,
                     settings.stability_weight)
    return scores


def _members(run: Run, graph: UnitGraph, plan: Plan, scores: Mapping[str, np.ndarray],
             settings: PruningConfig) -> Plan:
    """Choose the members of each group again, where representatives are asked for."""
    visits = _visits(run, settings)
    if settings.members != 'representative' or visits is None:
        return plan
    return representatives(graph.groups, dict(run.agent.components.items()), plan, visits, scores)


def _visits(run: Run, settings: PruningConfig) -> Visits | None:
    """Situations to fit to; None where there is no replay to start from."""
    if run.replay is None:
        return None
    return visit(dict(run.agent.components.items()), run.replay,
                 np.random.default_rng(settings.seed))


def stability_scores_of(run: Run, settings: PruningConfig, progress: Progress = silent
                        ) -> StabilityScores:
    """How much each unit matters for V to fall along model rollouts; see `stability_loss`.

    Raises:
        AgentError: the plant has no known goal, or the folder no replay to roll out from.
    """
    judged = require_plant(run.config, 'stability-aware importance')
    if run.replay is None:
        raise AgentError(
            explain('stability-aware importance was asked for', f"'{run.folder}' has no replay",
                    'an agent with its replay', 'set pruning.stability_weight=0')
        )
    return stability_scores(run.agent, run.replay, judged.lyapunov,
                            judged.plant.limits.observation_scale, run.config.importance,
                            batches=settings.stability_batches,
                            rng=np.random.default_rng(settings.seed), progress=progress)


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """What was measured while an agent was cut and recovered.

    Attributes:
        difference: between the cut agent and the masked one.
        importance: gathered in recovery.
        refits: error of each layer's outputs before and after the closed-form refit.
    """

    difference: float
    importance: ImportanceTracker
    refits: tuple[Refit, ...] = ()


def shrink(run: Run, plan: Plan, settings: PruningConfig, progress: Progress = silent) -> Shrunk:
    """Cut the agent of a run by a plan, in place, and let it recover on the run's replay.

    Raises:
        GroupError: the cut does not verify; the agent is as it was.
    """
    agent = run.agent
    progress('cut', 0, 1)
    teacher = _teacher(run, plan, settings)
    visits = _visits(run, settings) if settings.compensation > 0 else None
    dense = copy.deepcopy(dict(agent.components.items())) if visits is not None else {}
    agent.restart_optimizers(settings.recovery_learning_rate)
    difference = cut(agent, plan)
    refits: Sequence[Refit] = ()
    if visits is not None:
        refits = compensate_agent(dense, agent, plan, visits, settings.compensation)
    progress('cut', 1, 1, parameters=float(count_parameters(agent.components)))
    importance = ImportanceTracker(
        agent.graph(), dict(agent.components.items()), run.config.importance)
    if run.replay is not None:
        recover(agent, run.replay, teacher, settings, updates=settings.recovery_updates,
                rng=np.random.default_rng(settings.seed), importance=importance,
                progress=progress)
    return Shrunk(difference, importance, tuple(refits))


def _teacher(run: Run, plan: Plan, settings: PruningConfig) -> Teacher | None:
    """What the dense agent says, where recovery will ask for it."""
    if run.replay is None or settings.distillation == 0 or settings.recovery_updates == 0:
        return None
    components = dict(run.agent.components.items())
    # Other draws than those that the weights are refitted on.
    visits = visit(components, run.replay, np.random.default_rng([settings.seed, 1]),
                   rows=_TAUGHT, horizon=settings.distillation_horizon or 1,
                   replayed=settings.distillation_horizon == 0)
    return record(components, visits, plan.kept('latent'))


@dataclasses.dataclass(frozen=True)
class CutDown:
    """The last cut that was tried.

    Attributes:
        agent: after cut and recovery.
        plan: what was cut.
        shrunk: what was measured meanwhile.
        tested: by the stability gate; None without one.
        figures: of that test.
        rounds: one record per cut that was tried: its size, its test, and what was given back.
    """

    agent: Agent
    plan: Plan
    shrunk: Shrunk
    tested: Tested | None
    figures: dict[str, Any]
    rounds: list[dict[str, Any]]


def shrink_until_stable(run: Run, plan: Plan, settings: PruningConfig,
                        progress: Progress = silent) -> CutDown:
    """Cut and recover; where the stability gate refuses the agent, back off and cut anew.

    Args:
        run: the agent is cut in place; further rounds cut copies of it.
        plan: the first one to try.
        settings: `gate_rounds` limits how often.
        progress: told of every phase.

    Raises:
        GroupError: a cut does not verify.
    """
    spare = copy_of(run.agent) if settings.gate_rounds > 1 else None
    rounds: list[dict[str, Any]] = []
    while True:
        shrunk = shrink(run, plan, settings, progress)
        outcome = gate(run.agent, run.config, settings, progress)
        if outcome is None:
            return CutDown(run.agent, plan, shrunk, None, {}, rounds)
        tested, figures = outcome
        rounds.append({'achieved': plan.achieved, 'violations': figures['violations'],
                       'bound': figures['bound'], 'margin': figures['margin']})
        last = CutDown(run.agent, plan, shrunk, tested, figures, rounds)
        if (figures['bound'] <= settings.gate_violation or spare is None
                or len(rounds) >= settings.gate_rounds):
            return last
        run = dataclasses.replace(run, agent=copy_of(spare))
        graph = run.agent.graph()
        scores = _scores(run, graph, settings, progress)
        step = give_back(graph.groups, plan, stability_scores_of(run, settings, progress).units,
                         scores, settings.multiple)
        if step is None:
            return last
        rounds[-1]['gave_back'] = step.to_json()
        plan = _members(run, graph, step.plan, scores, settings)


def prune(run: Run, settings: PruningConfig, folder: Path, *, parent: str | None = None,
          progress: Progress = silent) -> Pruned:
    """Prune an agent to a share of its parameters.

    Args:
        run: the agent, with its replay; cut in place.
        settings: budget, score, recovery and gates.
        folder: the new run folder; must not exist yet.
        parent: hash of the bundle that the pruned one replaces; None takes the agent folder's own
            bundle, if there is one.
        progress: told of every phase.

    Raises:
        GroupError: the budget cannot be met, or the cut does not verify.
        GateError: the pruned agent is not good enough; the folder holds it without a bundle.
        AgentError: the target exists, or the source has no replay to recover on.
    """
    began = time.perf_counter()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AgentError(
            explain(f"pruning into '{folder}' was asked for", 'something is there already',
                    'a new or empty folder', 'give another --out')
        )
    if run.replay is None and settings.recovery_updates:
        raise AgentError(
            explain(f"recovery of '{run.folder}' was asked for", 'it has no replay',
                    f'{files.REPLAY} in the folder, or recovery_updates=0',
                    'set pruning.recovery_updates=0, or train with this package')
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}.'))
    try:
        try:
            result = _prune(run, settings, work, parent, progress, began)
        except GateError:
            _publish(work, folder)
            raise
        _publish(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)  # gone already where it was published
    return dataclasses.replace(
        result, folder=folder,
        bundle=dataclasses.replace(result.bundle, path=folder / BUNDLE))


def _publish(work: Path, folder: Path) -> None:
    work.chmod(0o755)
    try:
        if folder.is_dir():
            folder.rmdir()
        work.rename(folder)
    except OSError as error:
        raise AgentError(
            explain(f"the pruned agent was to be put into '{folder}'",
                    f'something has come there meanwhile ({error.strerror})',
                    'a new or empty folder', 'prune again with another --out')
        ) from error


def _prune(run: Run, settings: PruningConfig, folder: Path, parent: str | None,
           progress: Progress, began: float) -> Pruned:
    if parent is None and (run.folder / BUNDLE / MANIFEST).is_file():
        parent = open_bundle(run.folder / BUNDLE).hash
    agent, config = run.agent, dataclasses.replace(run.config, pruning=settings)
    p = config.planner
    seeds = evaluation_seeds(settings.gate_seeds)
    gate_planner = p.scaled(settings.gate_samples, settings.gate_iterations)
    dense = _dense_facts(run)
    dense_return = _reference(run, seeds, gate_planner, progress)

    cut_down = shrink_until_stable(run, choose(run, settings, progress), settings, progress)
    agent, plan, shrunk = cut_down.agent, cut_down.plan, cut_down.shrunk

    pruned_return = evaluate(agent, config.env, seeds, gate_planner, progress)
    loss = compare(pruned_return, dense_return)
    gates: dict[str, Any] = {
        'mask_equivalence': shrunk.difference,
        'return': {'dense': dense_return.mean, 'pruned': pruned_return.mean,
                   'difference': loss.difference, 'low': loss.low, 'high': loss.high,
                   'loss': loss.loss, 'allowed_loss': settings.gate_return_loss,
                   'seeds': len(seeds)},
    }
    files.save_run(folder, config, agent, shrunk.importance, run.replay)
    files.write_json(folder / PLAN, plan.to_json())
    if cut_down.tested is not None:
        gates['stability'] = {**cut_down.figures, 'rounds': cut_down.rounds}
        leave_failures(folder, require_plant(config, 'a picture'), cut_down.tested)
    files.write_json(folder / files.EVALUATION,
                     {'gate': pruned_return.to_json(), 'dense': dense_return.to_json()})
    smaller = dataclasses.replace(run, agent=agent, config=config,
                                  lineage={'parent': parent, 'dense': dense})
    graphs, manifest, parity = prepare(smaller)
    gates['parity'] = parity.worst
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        candidate = write(Path(scratch) / BUNDLE, manifest, graphs)
        gates['latency'] = measure_latency(candidate, settings.gate_latency_share, progress)
        if settings.latency_ms:
            gates['latency']['allowed_p50_s'] = 1e-3 * settings.latency_ms
    failed = _failures(gates)
    files.write_json(folder / files.LINEAGE, {
        'parent': parent, 'dense': dense, 'gates': gates, 'failed': failed})
    metrics = JsonlWriter(folder / files.METRICS)
    metrics.write({'event': 'pruned', 'achieved': plan.achieved, 'gates': gates,
                   'refits': [refit._asdict() for refit in shrunk.refits],
                   'failed': list(failed), 'seconds': round(time.perf_counter() - began, 2)})
    metrics.close()
    if failed:
        raise GateError(
            explain('a pruned agent was to be published', '; '.join(failed),
                    'the limits in the pruning section of the configuration',
                    'prune less, recover longer, or loosen the gate; the agent is kept, with its '
                    'figures and without a bundle')
        )
    bundle = write(folder / BUNDLE, dataclasses.replace(manifest, gates=gates), graphs)
    return Pruned(folder, bundle, plan, gates, time.perf_counter() - began)


def _dense_facts(run: Run) -> dict[str, int]:
    """Size before the first cut: an agent may be pruned again."""
    known: dict[str, int] = run.lineage.get('dense', {})
    if known:
        return known
    p = run.config.planner
    return {'parameters': count_parameters(run.agent.components),
            'macs': count_plan_macs(run.agent.widths, p.horizon, p.samples, p.policy_samples,
                                    p.iterations)}


def _reference(run: Run, seeds: tuple[int, ...], planner: PlannerConfig, progress: Progress
               ) -> Evaluation:
    """The dense agent's returns on the gate's seeds: as evaluated before, or evaluated now."""
    stored = run.evaluation.get('planned')
    budget = {'horizon': planner.horizon, 'samples': planner.samples,
              'iterations': planner.iterations}
    before = configuration.load(run.folder / files.CONFIG) if stored else run.config
    same = (before.env, before.planner) == (run.config.env, run.config.planner)
    if stored and same and stored.get('planner') == budget and seeds == tuple(
            stored['seeds'][:len(seeds)]):
        return Evaluation(seeds, tuple(stored['returns'][:len(seeds)]), budget)

    def relabelled(_phase: str, done: int, total: int, /, **facts: float | str) -> None:
        progress('reference', done, total, **facts)

    return evaluate(run.agent, run.config.env, seeds, planner, relabelled)


def measure_latency(bundle: Bundle, share: float, progress: Progress = silent) -> dict[str, float]:
    """Time full plans of a bundle on this machine.

    Args:
        bundle: what to time.
        share: part of the period that the 99 % quantile may take; kept in the result.
        progress: told after every plan.

    Returns:
        Median and 99 % quantile in seconds, the period, and `share`.
    """
    planner = Planner(bundle)
    planner.warm_up()
    rng = np.random.default_rng(0)
    signal = bundle.manifest.observation
    low = np.maximum(signal.low, -10.0)
    high = np.minimum(signal.high, 10.0)
    times = []
    for i in range(_LATENCY_PLANS):
        times.append(planner.plan(rng.uniform(low, high)).compute_s)
        progress('latency', i + 1, _LATENCY_PLANS)
    return {'p50_s': float(np.quantile(times, 0.5)), 'p99_s': float(np.quantile(times, 0.99)),
            'period_s': bundle.manifest.period_s, 'allowed_share': share}


def _failures(gates: Mapping[str, Any]) -> list[str]:
    failed = []
    ret, latency = gates['return'], gates['latency']
    if not ret['loss'] <= ret['allowed_loss']:
        failed.append(f"return {ret['pruned']:.1f} against {ret['dense']:.1f} dense is a loss of "
                      f"{ret['loss']:.1%}, allowed {ret['allowed_loss']:.1%}")
    budget_s = latency.get('allowed_p50_s', float('inf'))
    if not latency['p50_s'] <= budget_s:
        failed.append(f"half of all plans take more than {latency['p50_s'] * 1e3:.1f} ms, "
                      f'the budget is {budget_s * 1e3:g} ms')
    stability = gates.get('stability')
    if stability and not stability['bound'] <= stability['allowed']:
        failed.append(
            f"from {stability['violations']} of {stability['states']} states V has not fallen "
            f"after {stability['periods']} periods: at most {stability['bound']:.1%} of all "
            f"(95 %), allowed {stability['allowed']:.1%}; {FAILING_STATES} has them, to see one: "
            'python -m pruning_core replay --agent FOLDER --state=...')
    allowed_s = latency['allowed_share'] * latency['period_s']
    if latency['allowed_share'] > 0 and not latency['p99_s'] <= allowed_s:
        failed.append(f"99 % of plans take up to {latency['p99_s'] * 1e3:.1f} ms, "
                      f'allowed {allowed_s * 1e3:.1f} ms')
    return failed
