# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Gradient updates after a cut: imitation of the dense agent, and the TD-MPC loss on the replay.

By themselves, either can be left out: without imitation the agent learns from the replay as in
training, without the TD-MPC loss it only learns to be what the dense agent was, which takes no
bootstrapped targets and half the time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from pruning_core.agent import Agent, ExtraLoss
from pruning_core.config import PruningConfig
from pruning_core.distillation import Imitation, Teacher
from pruning_core.importance import ImportanceTracker
from pruning_core.progress import Progress, silent
from pruning_core.replay import Replay

_SUMMARY = 100  # updates between two summaries of the importance in the progress


def _weighted(imitation: Imitation, weight: float) -> ExtraLoss:
    def extra() -> tuple[Tensor, Callable[[], Tensor]]:
        model, policy = imitation()
        return weight * model, lambda: weight * policy()

    return extra


def recover(agent: Agent, replay: Replay, teacher: Teacher | None, settings: PruningConfig, *,
            updates: int, rng: np.random.Generator, importance: ImportanceTracker | None = None,
            progress: Progress = silent) -> float:
    """Train a cut agent for a number of updates.

    Args:
        agent: the cut agent; changed in place.
        replay: the dense agent's episodes.
        teacher: what the dense agent said; None learns from the replay alone.
        settings: the weights of both losses, what is imitated, and the learning rate at the start,
            which falls linearly to a tenth.
        updates: gradient updates.
        rng: draws the batches.
        importance: measured on the way, so that the pruned agent can be pruned again.
        progress: told after every update.

    Returns:
        The mean squared distance of the policy's actions to the teacher's in the last batch (NaN
        without imitation).
    """
    task, imitated = settings.recovery_task, teacher is not None and settings.distillation > 0
    size, horizon = agent.config.batch_size, agent.config.horizon
    imitation = None
    if teacher is not None and imitated:
        imitation = Imitation(agent, teacher, settings.distilled.split(','), size, rng)
    facts: dict[str, float | str] = {}
    if importance is not None:
        agent.on_gradients = importance.observe
    if imitation is not None and task > 0:
        # Adam steps by the ratio of gradients, so only the ratio of the weights counts.
        agent.extra_loss = _weighted(imitation, settings.distillation / task)
    try:
        for i in range(updates):
            agent.set_learning_rate(settings.recovery_learning_rate * (1 - 0.9 * i / updates))
            if imitation is not None and task == 0:
                model, policy = imitation()
                agent.descend(model, policy())
            else:
                agent.update(replay.sample(rng, size, horizon))
            if importance is not None:
                importance.step()
                if i % _SUMMARY == 0:
                    facts['importance'] = importance.summary()
            progress('recover', i + 1, updates, **facts)
    finally:
        agent.extra_loss = None
        agent.on_gradients = lambda: None
    return imitation.distance if imitation is not None else float('nan')
