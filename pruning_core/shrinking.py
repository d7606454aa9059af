# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Score -> select -> cut -> refit -> recover: what turns a dense agent into a small one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pruning_core import checkpoint as files
from pruning_core.agent import Agent
from pruning_core.backoff import copy_of, give_back
from pruning_core.budgets import Budget, Parameters
from pruning_core.checkpoint import Run
from pruning_core.compensation import Refit, compensate_agent
from pruning_core.config import PruningConfig
from pruning_core.decrease import Tested
from pruning_core.distillation import Teacher, record
from pruning_core.errors import AgentError, explain
from pruning_core.groups import UnitGraph
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.baselines import BASELINES, NEED_DATA, Subject
from pruning_core.importance.baselines import score as baseline
from pruning_core.latency import plan_within
from pruning_core.networks import count_parameters
from pruning_core.plans import Plan
from pruning_core.progress import Progress, silent
from pruning_core.recovery import recover
from pruning_core.selection import Limits, select
from pruning_core.stability_gate import gate, require_plant
from pruning_core.stability_loss import StabilityScores, mix, stability_scores
from pruning_core.subset import curves, representatives
from pruning_core.surgery import apply
from pruning_core.task_loss import Windows, task_loss
from pruning_core.visits import Visits, visit

_WINDOWS = 128  # of the replay, on which a loss is measured for scores that need one
_CURVES = 512  # situations for the shares of the groups; their members are chosen on all
_TAUGHT = 20_000  # situations at most that recovery imitates the dense agent in


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
            # A unit is masked in the agent, not in those that judge it. Not for the others: hooks
            # see what the agent's own components are given.
            whole = copy.deepcopy(dict(run.agent.components.items())) if (
                score == 'ablation') else None

            def loss() -> Tensor:
                return task_loss(run.agent, windows, whole)

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
                    'an agent trained for more updates than importance.warmup, or recovered for '
                    'more in the step before (pruning.steps)',
                    'train longer, or choose l1 or random; with pruning.steps, raise '
                    'pruning.recovery_updates and give another --out')
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

    lost = None
    visits = _visits(run, settings) if settings.members == 'representative' else None
    if settings.allocation == 'knapsack' and visits is not None:
        few = visits.spread(_CURVES)
        lost = curves(graph.free, dict(run.agent.components.items()), few, scores)

    def within(budget: Budget) -> Plan:
        return select(graph.groups, scores, budget,
                      Limits.of(settings),
                      allocation=settings.allocation, score=settings.score, lost=lost)

    plan = plan_within(run, graph.groups, settings.latency_ms, within, progress) \
        if settings.latency_ms else within(Parameters(settings.sparsity))
    return _members(run, graph, plan, scores, visits)


def _scores(run: Run, graph: UnitGraph, settings: PruningConfig, progress: Progress
            ) -> dict[str, np.ndarray]:
    scores = scores_of(run, graph, settings.score, settings.seed, progress)
    if settings.stability_weight > 0:
        scores = mix(scores, stability_scores_of(run, settings, progress).units,
                     settings.stability_weight)
    return scores


def _members(run: Run, graph: UnitGraph, plan: Plan, scores: Mapping[str, np.ndarray],
             visits: Visits | None) -> Plan:
    """Choose the members of each group again, where there are situations to represent."""
    if visits is None:
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
        updates: that recovery took.
    """

    difference: float
    importance: ImportanceTracker
    refits: tuple[Refit, ...] = ()
    updates: int = 0


class Dense(NamedTuple):
    """Whom recovery imitates.

    Attributes:
        components: the modules of the agent before any cut.
        kept: its latent channels that are still there before the present cut; None is all.
    """

    components: Mapping[str, nn.Module]
    kept: np.ndarray | None = None


def shrink(run: Run, plan: Plan, settings: PruningConfig, progress: Progress = silent,
           dense: Dense | None = None) -> Shrunk:
    """Cut the agent of a run by a plan, in place, and let it recover on the run's replay.

    Args:
        run: with the agent to cut.
        plan: for this agent.
        settings: of refit and recovery.
        progress: told of both.
        dense: whom to imitate; None is the agent itself before this cut.

    Raises:
        GroupError: the cut does not verify; the agent is as it was.
        AgentError: Adam's moments were to be carried over, and there are none.
    """
    agent = run.agent
    if settings.carry_optimizer and not agent.model_optimizer.state:
        raise AgentError(
            explain("Adam's moments were to be carried over the cut",
                    f"'{run.folder}' has no {files.OPTIMIZER}",
                    'an agent trained with training.keep_optimizer=true',
                    'train one, or set pruning.carry_optimizer=false')
        )
    progress('cut', 0, 1)
    teacher = _teacher(run, plan, settings, dense or Dense(dict(agent.components.items())))
    visits = _visits(run, settings) if settings.compensation > 0 else None
    before = copy.deepcopy(dict(agent.components.items())) if visits is not None else {}
    if not settings.carry_optimizer:
        agent.restart_optimizers(settings.recovery_learning_rate)
    agent.generator.manual_seed(settings.seed)
    difference = cut(agent, plan)
    refits: Sequence[Refit] = ()
    if visits is not None:
        refits = compensate_agent(before, agent, plan, visits, settings.compensation)
    progress('cut', 1, 1, parameters=float(count_parameters(agent.components)))
    importance = ImportanceTracker(
        agent.graph(), dict(agent.components.items()), run.config.importance)
    updates = 0
    if run.replay is not None:
        updates = recover(agent, run.replay, teacher, settings, updates=settings.recovery_updates,
                          rng=np.random.default_rng(settings.seed), importance=importance,
                          progress=progress).updates
    return Shrunk(difference, importance, tuple(refits), updates)


def _teacher(run: Run, plan: Plan, settings: PruningConfig, dense: Dense) -> Teacher | None:
    """What the dense agent says, where recovery will ask for it."""
    if run.replay is None or settings.distillation == 0 or settings.recovery_updates == 0:
        return None
    # Other draws than those that the weights are refitted on.
    visits = visit(dense.components, run.replay, np.random.default_rng([settings.seed, 1]),
                   rows=_TAUGHT, horizon=settings.distillation_horizon or 1,
                   replayed=settings.distillation_horizon == 0)
    kept = plan.kept('latent')
    return record(dense.components, visits, kept if dense.kept is None else dense.kept[kept])


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
                        progress: Progress = silent, dense: Dense | None = None) -> CutDown:
    """Cut and recover; where the stability gate refuses the agent, back off and cut anew.

    Args:
        run: the agent is cut in place; further rounds cut copies of it.
        plan: the first one to try.
        settings: `gate_rounds` limits how often.
        progress: told of every phase.
        dense: whom recovery imitates; None is the agent itself before the cut.

    Raises:
        GroupError: a cut does not verify.
    """
    spare = copy_of(run.agent) if settings.gate_rounds > 1 else None
    rounds: list[dict[str, Any]] = []
    while True:
        shrunk = shrink(run, plan, settings, progress, dense)
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
        visits = _visits(run, settings) if settings.members == 'representative' else None
        plan = _members(run, graph, step.plan, scores, visits)


