# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Gradient updates after a cut: imitation of the dense agent, and the TD-MPC loss on the replay.

By themselves, either can be left out: without imitation the agent learns from the replay as in
training, without the TD-MPC loss it only learns to be what the dense agent was, which takes no
bootstrapped targets and half the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pruning_core.agent import Agent, ExtraLoss
from pruning_core.config import PruningConfig
from pruning_core.distillation import Imitation, Teacher
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.ranking import agreement
from pruning_core.progress import Progress, silent
from pruning_core.replay import Replay

_SUMMARY = 100  # updates between two summaries of the importance in the progress
_WINDOW = 50  # updates between two looks at the ranks of the units


class Recovered(NamedTuple):
    """How recovery ended.

    Attributes:
        updates: that were done.
        distance: mean squared distance of the policy's actions to the teacher's in the last
            batch, early steps weighted most; NaN without imitation.
    """

    updates: int
    distance: float


def _weighted(imitation: Imitation, weight: float) -> ExtraLoss:
    def extra() -> tuple[Tensor, Callable[[], Tensor]]:
        model, policy = imitation()
        return weight * model, lambda: weight * policy()

    return extra


def _learning_rate(settings: PruningConfig, done: float, step: float) -> float:
    """Of the next update, by the share of the updates that is done and the share that it is."""
    rise = min(1.0, (done + step) / settings.recovery_warmup) if settings.recovery_warmup else 1.0
    fall = 1 - (1 - settings.recovery_learning_rate_end) * done
    return settings.recovery_learning_rate * rise * fall


def recover(agent: Agent, replay: Replay, teacher: Teacher | None, settings: PruningConfig, *,
            updates: int, rng: np.random.Generator, importance: ImportanceTracker | None = None,
            progress: Progress = silent) -> Recovered:
    """Train a cut agent for a number of updates.

    Args:
        agent: the cut agent; changed in place.
        replay: the dense agent's episodes.
        teacher: what the dense agent said; None learns from the replay alone.
        settings: the weights of both losses, what is imitated, and the learning rate.
        updates: gradient updates.
        rng: draws the batches.
        importance: measured on the way, so that the pruned agent can be pruned again.
        progress: told after every update.

    With `settings.settle` it ends sooner, when Kendall's tau between the ranks of all units in
    one window of updates and the next comes up to that.
    """
    task, size, horizon = settings.recovery_task, agent.config.batch_size, agent.config.horizon
    imitation = None
    if teacher is not None and settings.distillation > 0:
        imitation = Imitation(agent, teacher, settings.distilled.split(','),
                              settings.distillation_rho, size, rng)
    facts: dict[str, float | str] = {}
    done = 0
    ranks: np.ndarray | None = None
    if importance is not None:
        agent.on_gradients = importance.observe
    if imitation is not None and task > 0:
        # Adam steps by the ratio of gradients, so only the ratio of the weights counts.
        agent.extra_loss = _weighted(imitation, settings.distillation / task)
    try:
        for i in range(updates):
            agent.set_learning_rate(_learning_rate(settings, i / updates, 1 / updates))
            if imitation is not None and task == 0:
                model, policy = imitation()
                agent.descend(model, policy())
            else:
                agent.update(replay.sample(rng, size, horizon))
            if importance is not None:
                importance.step()
                if i % _SUMMARY == 0:
                    facts['importance'] = importance.summary()
            done = i + 1
            progress('recover', done, updates, **facts)
            if importance is not None and settings.settle > 0 and done % _WINDOW == 0:
                before, ranks = ranks, np.concatenate(
                    list(importance.unit_scores('combined').values()))
                if before is not None and agreement(before, ranks) >= settings.settle:
                    break
    finally:
        agent.extra_loss = None
        agent.on_gradients = lambda: None
    return Recovered(done, imitation.distance if imitation is not None else float('nan'))
