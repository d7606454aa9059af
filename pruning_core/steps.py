# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Pruning in several steps, each of which cuts, refits and recovers; interrupted, it goes on.

Every step removes the same share of what the one before left, so that the last one arrives at
what was asked for. Importance for the next cut is what was measured while recovering from the
last. What recovery imitates throughout is the dense agent, not the step before.

After each step but the last, its agent lies in a numbered run folder of its own; the same call
with the same settings takes up the last of them, and ends with the same weights as one that was
never interrupted.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

from pruning_core import checkpoint as files
from pruning_core.checkpoint import Run
from pruning_core.config import PruningConfig
from pruning_core.errors import AgentError, explain
from pruning_core.plans import Plan
from pruning_core.progress import Progress, silent
from pruning_core.shrinking import CutDown, Dense, choose, shrink, shrink_until_stable

_BEGUN, _STEP = 'begun.json', 'step.json'


def shrink_in_steps(run: Run, settings: PruningConfig, folder: Path,
                    progress: Progress = silent) -> tuple[CutDown, list[dict[str, Any]]]:
    """Cut the agent of a run down in `settings.steps` steps.

    Args:
        run: the dense agent, with its importance and its replay.
        settings: what to remove in all, and how many updates recovery may take in all.
        folder: of the intermediate agents; made when the first of them is done.
        progress: told of every phase.

    Returns:
        The agent after the last step, with one plan for all steps together, and one record per
        step: the share that was gone then, and the updates taken.

    Raises:
        GroupError: the budget cannot be met, or a cut does not verify.
        AgentError: the folder was begun with other settings, or for another agent.
    """
    dense = Dense(copy.deepcopy(dict(run.agent.components.items())))
    whole: Plan | None = None
    records: list[dict[str, Any]] = []
    identity = _identity(run, settings) if settings.steps > 1 else {}
    _check_begun(identity, folder)
    for step in range(1, settings.steps):
        place = folder / str(step)
        if (place / _STEP).is_file():
            run, plan, record = _taken_up(run, place)
        else:
            now = _settings(settings, step, whole, records)
            plan = choose(run, now, progress)
            shrunk = shrink(run, plan, now, progress, _before(dense, whole))
            run = dataclasses.replace(run, importance=shrunk.importance)
            record = {'updates': shrunk.updates}
            _keep(run, identity, place, plan, record)
        whole = plan if whole is None else whole.then(plan)
        records.append({**record, 'achieved': whole.achieved})
    now = _settings(settings, settings.steps, whole, records)
    plan = choose(run, now, progress)
    last = shrink_until_stable(run, plan, now, progress, _before(dense, whole))
    if whole is not None:
        joined = whole.then(last.plan)
        last = dataclasses.replace(
            last, plan=dataclasses.replace(joined, requested=settings.sparsity))
    records.append({'updates': last.shrunk.updates, 'achieved': last.plan.achieved})
    return last, records


def _settings(settings: PruningConfig, step: int, whole: Plan | None,
              records: list[dict[str, Any]]) -> PruningConfig:
    """Settings of one step: its share of what is left, and of the updates that are left."""
    keep = (1 - settings.sparsity) ** (step / settings.steps)
    left = 1.0 if whole is None else whole.parameters_left / whole.parameters
    updates = settings.recovery_updates - sum(r['updates'] for r in records)
    return dataclasses.replace(
        settings, sparsity=max(0.0, 1 - keep / left), seed=settings.seed + step - 1,
        recovery_updates=updates // (settings.steps - step + 1),
        settle=settings.settle if step < settings.steps else 0.0)


def _before(dense: Dense, whole: Plan | None) -> Dense:
    """The dense agent, and which of its latent channels are still there."""
    return dense if whole is None else dense._replace(kept=whole.kept('latent'))


def _identity(run: Run, settings: PruningConfig) -> dict[str, Any]:
    return {'agent': files.weights_hash(run.folder), 'settings': dataclasses.asdict(settings)}


def _check_begun(asked: dict[str, Any], folder: Path) -> None:
    if not (folder / _BEGUN).is_file():
        return
    begun = json.loads((folder / _BEGUN).read_text())
    if begun == asked:
        return
    names = [n for n, v in asked['settings'].items() if begun['settings'].get(n) != v]
    raise AgentError(
        explain(f"pruning was to go on from the steps in '{folder}'",
                'they were made ' + (f'with other settings ({", ".join(names)})' if names
                                     else 'of another agent'),
                'the same agent and the same settings',
                'give them again, give another --out, or remove that folder'))


def _keep(run: Run, identity: dict[str, Any], place: Path, plan: Plan, record: dict[str, Any]
          ) -> None:
    """Write one step; it counts from its last file on."""
    place.mkdir(parents=True, exist_ok=True)
    files.write_json(place.parent / _BEGUN, identity)
    files.save_run(place, run.config, run.agent, run.importance, None,
                   identity['settings']['carry_optimizer'])
    files.write_json(place / files.PLAN, plan.to_json())
    files.write_json(place / _STEP, record)


def _taken_up(run: Run, place: Path) -> tuple[Run, Plan, dict[str, Any]]:
    found = files.load_run(place)
    return (dataclasses.replace(run, agent=found.agent, importance=found.importance),
            Plan.from_json(json.loads((place / files.PLAN).read_text())),
            json.loads((place / _STEP).read_text()))
