# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Gradient updates after a cut: the TD-MPC loss on replayed data, beside the dense agent's word.

What pruning has and training from scratch has not is the dense agent. Its latents (the channels
that were kept), both values and its policy are recorded once for every replayed observation; the
pruned agent is drawn towards them while it keeps learning from the rewards themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pruning_core.agent import Agent, PolicyLoss
from pruning_core.importance import ImportanceTracker
from pruning_core.progress import Progress, silent
from pruning_core.replay import Batch, Replay

_CHUNK = 4096  # observations per forward pass of the dense agent
_SUMMARY = 100  # updates between two summaries of the importance in the progress


class Teacher(NamedTuple):
    """What the dense agent says at each replayed observation; R rows."""

    latent: Tensor  # (R, Z kept)
    action: Tensor  # (R, A) of its policy
    value: Tensor  # (R, 2) of q1 and q2 for the action that was taken


@torch.no_grad()
def record(agent: Agent, replay: Replay, kept_latent: np.ndarray) -> Teacher:
    """Record the dense agent on every replayed observation.

    Args:
        agent: the dense agent, before the cut.
        replay: where the observations and the actions taken come from.
        kept_latent: latent channels that the cut will leave.
    """
    net = agent.components
    observations, taken = replay.observations(), replay.actions()
    latents, actions, values = [], [], []
    for i in range(0, len(observations), _CHUNK):
        latent = net['encoder'](torch.from_numpy(observations[i:i + _CHUNK]))
        pair = torch.cat([latent, torch.from_numpy(taken[i:i + _CHUNK])], dim=-1)
        latents.append(latent[:, torch.from_numpy(kept_latent)])
        actions.append(net['policy'](latent))
        values.append(torch.cat([net['q1'](pair), net['q2'](pair)], dim=-1))
    return Teacher(torch.cat(latents), torch.cat(actions), torch.cat(values))


def recover(agent: Agent, replay: Replay, teacher: Teacher | None, *, updates: int,
            learning_rate: float, distillation: float, rng: np.random.Generator,
            importance: ImportanceTracker | None = None, progress: Progress = silent) -> float:
    """Train a cut agent for a number of updates.

    Args:
        agent: the cut agent; changed in place.
        replay: the dense agent's episodes.
        teacher: from `record`; None learns from the replay alone.
        updates: gradient updates; the learning rate falls to a tenth over them.
        learning_rate: Adam step size at the start.
        distillation: weight of the distance to the teacher; 0 leaves it out.
        rng: draws the batches.
        importance: measured on the way, so that the pruned agent can be pruned again.
        progress: told after every update.

    Returns:
        The mean distance of the policy's actions to the teacher's at the end (NaN without
        distillation).
    """
    last = float('nan')

    def towards_teacher(batch: Batch, latent: Tensor, pair: Tensor) -> tuple[Tensor, PolicyLoss]:
        assert teacher is not None
        rows = torch.from_numpy(batch.row)
        both = torch.cat([agent.components['q1'](pair), agent.components['q2'](pair)], dim=-1)
        loss = (functional.mse_loss(latent, teacher.latent[rows])
                + functional.mse_loss(both, teacher.value[rows[:-1]]))

        def policy_loss(action: Tensor) -> Tensor:
            nonlocal last
            distance = functional.mse_loss(action, teacher.action[rows])
            last = float(distance.detach())
            return distillation * distance

        return distillation * loss, policy_loss

    agent.extra_loss = towards_teacher if teacher is not None and distillation > 0 else None
    facts: dict[str, float | str] = {}
    if importance is not None:
        agent.on_gradients = importance.observe
    try:
        for i in range(updates):
            agent.set_learning_rate(learning_rate * (1 - 0.9 * i / updates))
            agent.update(replay.sample(rng, agent.config.batch_size, agent.config.horizon))
            if importance is not None:
                importance.step()
                if i % _SUMMARY == 0:
                    facts['importance'] = importance.summary()
            progress('recover', i + 1, updates, **facts)
    finally:
        agent.extra_loss = None
        agent.on_gradients = lambda: None
    return last
