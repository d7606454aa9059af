# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One training of an agent, cut at several points of it (arXiv 2601.19794, open question 2).

Until its first cut every way is the same training. At that cut a copy of the whole run, with its
replay, its moments and its generators, branches off; it loses the units that the importance of
this very training puts lowest, and trains on to the end as the whole one does: it collects the
episodes that are left by itself, and has the updates that are left. A cut after the last episode
has none left, and is given those of recovery.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruning_core.checkpoint import AGENT, Run, write_json
from pruning_core.config import Config, PruningConfig
from pruning_core.networks import count_parameters
from pruning_core.plans import Plan
from pruning_core.progress import Progress
from pruning_core.shrinking import scores_of, shrink
from pruning_core.studies.cuts import CutConfig, by_score, measured, plan_by, planning_plainly
from pruning_core.studies.runner import Context
from pruning_core.training import Trainer

STEPS = 5
NEVER, ONCE, IN_STEPS = 'never', 'once', 'steps'
_WHOLE = 'whole'


@dataclass(frozen=True)
class CutInTrainingConfig:
    """An agent's training, and the ways to cut it.

    Attributes:
        agent: what is trained.
        pruning: share that goes, limits, and the recovery of a cut after the last episode.
        ways: of `once` and `steps`.
        points: shares of the episodes in which it learns, after which the last cut is made.
        episodes: common seeds of every return.
        samples: plans per iteration; `iterations` refinements.
        iterations: see there.
    """

    agent: Config
    pruning: PruningConfig
    ways: tuple[str, ...]
    points: tuple[float, ...]
    episodes: int
    samples: int
    iterations: int


def cuts_of(way: str, last: int, share: float) -> list[tuple[int, float]]:
    """When a way cuts, and the share of the dense parameters that is gone after each cut.

    Args:
        way: `once`, or `steps`: five that remove the same share of what is left.
        last: rounds of training (epochs, episodes) after which the last cut is made.
        share: that is gone then.
    """
    if way == ONCE:
        return [(last, share)]
    # Of steps that fall on one round the last is the cut: nothing was measured in between.
    return list({max(1, round(last * step / STEPS)): 1 - (1 - share) ** (step / STEPS)
                 for step in range(1, STEPS + 1)}.items())


def run(config: CutInTrainingConfig, context: Context) -> dict[str, Any]:
    """Train once; at the first cut of every way a copy goes on to the end that way.

    Interrupted, it goes on from the last checkpoint of the whole training, with the ways that have
    not ended begun anew.
    """
    training = config.agent.training
    # Episodes of random actions come before anything is learned, whatever follows.
    first, learning = training.random_episodes, training.episodes - training.random_episodes
    due = [(way, point, [(first + n, share) for n, share in cuts_of(
        way, max(1, round(point * learning)), config.pruning.sparsity)])
        for way in config.ways for point in config.points]
    folder = context.folder / _WHOLE
    if not (folder / AGENT).is_file():
        trainer = Trainer(config.agent, folder, context.progress)

        def branch() -> None:
            for way, point, cuts in due:
                if cuts[0][0] == trainer.episode:
                    _end(config, context, trainer, way, point, cuts)

        branch()  # a checkpoint is written before the ways that branch off there have ended
        trainer.after_episode = branch
        trainer.run()
    whole = planning_plainly(folder)
    dense = count_parameters(whole.agent.components)
    return {'ways': [_judged(config, context, whole, dense, NEVER, config.points[-1], []), *(
        json.loads((context.folder / f'{way}_{point:g}.json').read_text())
        for way, point, _ in due)]}


def _end(config: CutInTrainingConfig, context: Context, whole: Trainer, way: str, point: float,
         cuts: Sequence[tuple[int, float]]) -> None:
    """Copy the training, cut the copy, train it to the end that way, and keep what it is worth."""
    folder = context.folder / f'{way}_{point:g}'
    result = folder.with_name(f'{folder.name}.json')
    if result.is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    dense = count_parameters(whole.agent.components)
    trainer = whole.fork(folder, _renamed(context.progress, f'{way} {point:g}'))
    due, end = dict(cuts), config.agent.training.episodes

    def cut() -> None:
        if trainer.episode in due and trainer.episode < end:
            trainer.cut(_lowest(_as_run(trainer), config, due[trainer.episode], dense))

    cut()
    trainer.after_episode = cut
    trainer.run()
    run = planning_plainly(folder)
    if end in due:
        shrink(run, _lowest(run, config, due[end], dense), by_score(config.pruning),
               context.progress)
    write_json(result, _judged(config, context, run, dense, way, point, list(due)))
    shutil.rmtree(folder)


def _renamed(progress: Progress, phase: str) -> Progress:
    def told(_: str, done: int, total: int, /, **facts: float | str) -> None:
        progress(phase, done, total, **facts)
    return told


def _as_run(trainer: Trainer) -> Run:
    return Run(trainer.folder, trainer.config, trainer.agent, trainer.importance, trainer.replay,
               {})


def _lowest(run: Run, config: CutInTrainingConfig, removed: float, dense: int) -> Plan:
    """Plan to remove the lowest units until this share of the dense agent is gone."""
    left = count_parameters(run.agent.components)
    further = max(0.0, 1 - (1 - removed) * dense / left)
    settings = dataclasses.replace(config.pruning, sparsity=further)
    scores = scores_of(run, run.agent.graph(), settings.score, settings.seed)
    return plan_by(run, scores, settings, settings.score)


def _judged(config: CutInTrainingConfig, context: Context, run: Run, dense: int, way: str,
            point: float, cuts: Sequence[int]) -> dict[str, Any]:
    """The returns in the end, and what is gone."""
    size = CutConfig(way, config.pruning, config.episodes, config.samples, config.iterations, 0)
    return {'way': way, 'point': point, 'seed': config.agent.training.seed, 'cuts': list(cuts),
            'removed': 1 - count_parameters(run.agent.components) / dense,
            'updates': run.agent.updates, **measured(run, size, context)}
