# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Score -> select -> cut -> refit -> recover -> gate: a dense agent in, its small bundle out.

The result appears whole or not at all: everything is written into a temporary folder beside the
target and renamed at the end. An agent that fails a gate is kept in the run folder, with its
figures, but no bundle of it is written. Where pruning takes several steps, what was reached waits
beside the target, too, and the same call goes on from there.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pruning_core import checkpoint as files
from pruning_core import config as configuration
from pruning_core.checkpoint import Run
from pruning_core.config import PlannerConfig, PruningConfig
from pruning_core.errors import AgentError, GateError, explain
from pruning_core.evaluation import (
    Evaluation,
    budget_of,
    compare,
    evaluate,
    evaluation_seeds,
)
from pruning_core.export import prepare
from pruning_core.networks import count_parameters, plan_macs
from pruning_core.plans import Plan
from pruning_core.progress import Progress, silent
from pruning_core.runtime.bench import probes
from pruning_core.runtime.bundle import MANIFEST, Bundle, open_bundle, write
from pruning_core.runtime.fit import asleep, waking
from pruning_core.runtime.metrics import JsonlWriter
from pruning_core.runtime.planner import Planner
from pruning_core.stability_gate import TABLE as FAILING_STATES
from pruning_core.stability_gate import leave_failures, require_plant
from pruning_core.steps import shrink_in_steps

BUNDLE, STEPS = 'bundle', 'steps'
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
    steps = folder.parent / f'.{folder.name}.{STEPS}'
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}.'))
    try:
        try:
            result = _prune(run, settings, work, folder, steps, parent, progress, began)
        except GateError:
            _publish(work, steps, folder)
            raise
        _publish(work, steps, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)  # gone already where it was published
    return dataclasses.replace(
        result, folder=folder,
        bundle=dataclasses.replace(result.bundle, path=folder / BUNDLE))


def _publish(work: Path, steps: Path, folder: Path) -> None:
    work.chmod(0o755)
    try:
        if steps.is_dir():
            steps.rename(work / STEPS)
        if folder.is_dir():
            folder.rmdir()
        work.rename(folder)
    except OSError as error:
        raise AgentError(
            explain(f"the pruned agent was to be put into '{folder}'",
                    f'something has come there meanwhile ({error.strerror})',
                    'a new or empty folder', 'prune again with another --out')
        ) from error


def _prune(run: Run, settings: PruningConfig, folder: Path, lasting: Path, steps: Path,
           parent: str | None, progress: Progress, began: float) -> Pruned:
    """Prune into a folder, which becomes the lasting one when it is complete."""
    if parent is None and (run.folder / BUNDLE / MANIFEST).is_file():
        parent = open_bundle(run.folder / BUNDLE).hash
    agent, config = run.agent, dataclasses.replace(run.config, pruning=settings)
    p = config.planner
    seeds = evaluation_seeds(settings.gate_seeds)
    gate_planner = p.scaled(settings.gate_samples, settings.gate_iterations)
    dense = _dense_facts(run)
    dense_return = _reference(run, seeds, gate_planner, progress)

    cut_down, taken = shrink_in_steps(run, settings, steps, progress)
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
    files.write_json(folder / files.PLAN, plan.to_json())
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
    failures = _failures(gates)
    failed = [failure.what for failure in failures]
    files.write_json(folder / files.LINEAGE, {
        'parent': parent, 'dense': dense, 'of': files.weights_hash(run.folder),
        'gates': gates, 'failed': failed})
    metrics = JsonlWriter(folder / files.METRICS)
    metrics.write({'event': 'pruned', 'achieved': plan.achieved, 'gates': gates,
                   'steps': taken,
                   'refits': [refit._asdict() for refit in shrunk.refits],
                   'failed': failed, 'seconds': round(time.perf_counter() - began, 2)})
    metrics.close()
    if failed:
        raise GateError(
            explain('a pruned agent was to be published', '; '.join(failed),
                    'the limits in the pruning section of the configuration',
                    ', or '.join([*dict.fromkeys(f.remedy for f in failures),
                                  'loosen the gate'])
                    + f"; the agent is kept in '{lasting}', with its figures and without a bundle")
        )
    bundle = write(folder / BUNDLE, dataclasses.replace(manifest, gates=gates), graphs)
    return Pruned(folder, bundle, plan, gates, time.perf_counter() - began)


def _dense_facts(run: Run) -> dict[str, int]:
    """Size before the first cut: an agent may be pruned again."""
    known: dict[str, int] = run.lineage.get('dense', {})
    if known:
        return known
    return {'parameters': count_parameters(run.agent.components),
            'macs': plan_macs(run.agent.widths, run.config.planner)}


def _reference(run: Run, seeds: tuple[int, ...], planner: PlannerConfig, progress: Progress
               ) -> Evaluation:
    """The dense agent's returns on the gate's seeds: as evaluated before, or evaluated now."""
    stored = run.evaluation.get('planned')
    budget = budget_of(planner)
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

    They are made in a row; what a plan takes longer after a sleep, as a control loop has it before
    each, is measured on some, and added to all.

    Args:
        bundle: what to time.
        share: part of the period that the 99 % quantile may take; kept in the result.
        progress: told after every plan.

    Returns:
        Median and 99 % quantile in seconds, of these `waking_s`, the period, and `share`.
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
    period_s = bundle.manifest.period_s
    waking_s = waking(planner, probes(bundle), asleep(period_s))
    p50_s, p99_s = (waking_s + float(np.quantile(times, q)) for q in (0.5, 0.99))
    return {'p50_s': p50_s, 'p99_s': p99_s, 'waking_s': waking_s, 'period_s': period_s,
            'allowed_share': share}


class _Failure(NamedTuple):
    """What a gate found, and what helps."""

    what: str
    remedy: str


_BETTER = 'prune less or recover longer'
_FASTER = ('prune more, plan less (planner.samples, planner.iterations), or measure on a quiet '
           'machine')


def _failures(gates: Mapping[str, Any]) -> list[_Failure]:
    failed = []
    ret, latency = gates['return'], gates['latency']
    if not ret['loss'] <= ret['allowed_loss']:
        failed.append(_Failure(
            f"return {ret['pruned']:.1f} against {ret['dense']:.1f} dense is a loss of "
            f"{ret['loss']:.1%}, allowed {ret['allowed_loss']:.1%}", _BETTER))
    budget_s = latency.get('allowed_p50_s', float('inf'))
    if not latency['p50_s'] <= budget_s:
        failed.append(_Failure(
            f"half of all plans take more than {latency['p50_s'] * 1e3:.1f} ms, "
            f'the budget is {budget_s * 1e3:g} ms', _FASTER))
    stability = gates.get('stability')
    if stability and not stability['bound'] <= stability['allowed']:
        failed.append(_Failure(
            f"from {stability['violations']} of {stability['states']} states V has not fallen "
            f"after {stability['periods']} periods: at most {stability['bound']:.1%} of all "
            f"(95 %), allowed {stability['allowed']:.1%}; {FAILING_STATES} has them, to see one: "
            'python -m pruning_core replay --agent FOLDER --state=...', _BETTER))
    allowed_s = latency['allowed_share'] * latency['period_s']
    if latency['allowed_share'] > 0 and not latency['p99_s'] <= allowed_s:
        failed.append(_Failure(
            f"99 % of plans take up to {latency['p99_s'] * 1e3:.1f} ms, "
            f'allowed {allowed_s * 1e3:.1f} ms', _FASTER))
    return failed
