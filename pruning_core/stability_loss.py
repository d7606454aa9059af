# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Stability-aware importance: how much each unit matters for V to fall along model rollouts.

The same gradient signals as in training, but of the loss mean relu(V(t+K) - (1 - delta) V(t)) over
rollouts of policy and dynamics from replayed observations (method section 5). The latent model has
no decoder, so that V is read off the latent by a linear readout, fitted to the replay by ridge
regression; its R2 says how far that can be trusted.

Reward and values take no part in such rollouts: their units get no stability score, and keep the
one of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pruning_core.agent import Agent, frozen
from pruning_core.config import ImportanceConfig
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.ranking import normalised_ranks
from pruning_core.progress import Progress, silent
from pruning_core.replay import Replay
from pruning_core.runtime.errormap import Lyapunov, read_term

Array = npt.NDArray[np.float64]
_RIDGE = 1e-4  # relative to the mean square of the latent channels
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    'cos': torch.cos, 'sin': torch.sin, 'atan2': torch.atan2}


@dataclass(frozen=True, eq=False)
class Readout:
    """Observation = weight latent + bias, in the plant's units.

    Attributes:
        weight: (O, Z), and `bias` (O,).
        r2: (O,) share of each observation's variance that it explains.
    """

    weight: Tensor
    bias: Tensor
    r2: tuple[float, ...]

    def __call__(self, latent: Tensor) -> Tensor:
        """(..., Z) -> (..., O)."""
        return latent @ self.weight.T + self.bias


@torch.no_grad()
def fit_readout(agent: Agent, replay: Replay, scale: Array) -> Readout:
    """Fit the readout to every replayed observation.

    Args:
        agent: whose encoder makes the latents.
        replay: scaled observations.
        scale: (O,) what they were multiplied with.
    """
    scaled = torch.from_numpy(replay.observations())
    latent = agent.components['encoder'](scaled).double()
    target = scaled.double() / torch.from_numpy(np.asarray(scale, float))
    z, y = latent - latent.mean(0), target - target.mean(0)
    gram = z.T @ z
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, z.T @ y).T  # (O, Z)
    rest = (y - z @ weight.T).square().sum(0)
    r2 = 1 - rest / y.square().sum(0).clamp(min=1e-12)
    bias = target.mean(0) - weight @ latent.mean(0)
    return Readout(weight.float(), bias.float(), tuple(float(v) for v in r2))


def value_of(lyapunov: Lyapunov, observation: Tensor) -> Tensor:
    """V of (B, O) observations, differentiable: (B,)."""
    channels = observation.T
    error = torch.stack([read_term(t, _FUNCTIONS)[0](channels) for t in lyapunov.terms], dim=1)
    p = torch.as_tensor(lyapunov.P.tolist(), dtype=error.dtype)
    return torch.einsum('be,ef,bf->b', error, p, error)


def stability_loss(agent: Agent, readout: Readout, lyapunov: Lyapunov, observation: Tensor,
                   scale: Tensor) -> Tensor:
    """Mean relu(V(t+K) - (1 - delta) V(t)) along rollouts of the policy in the model.

    Args:
        agent: its encoder, policy and dynamics are differentiated.
        readout: from latents to observations.
        lyapunov: V, K and delta.
        observation: (B, O), scaled, where the rollouts start.
        scale: (O,) what it was multiplied with.

    Returns:
        The loss, in units of V.
    """
    net = agent.components
    before = value_of(lyapunov, observation / scale)
    latent = net['encoder'](observation)
    for _ in range(lyapunov.steps):
        latent = net['dynamics'](torch.cat([latent, net['policy'](latent)], dim=-1))
    after = value_of(lyapunov, readout(latent))
    return torch.relu(after - (1 - lyapunov.decrease) * before).mean()


@dataclass(frozen=True, eq=False)
class StabilityScores:
    """What was measured.

    Attributes:
        units: (units,) per group name; NaN where a unit takes no part in the rollouts.
        r2: (O,) of the readout.
        loss: mean over the batches.
    """

    units: dict[str, Array]
    r2: tuple[float, ...]
    loss: float


def stability_scores(agent: Agent, replay: Replay, lyapunov: Lyapunov, scale: Array,
                     config: ImportanceConfig, *, batches: int, rng: np.random.Generator,
                     signal: str = 'combined', progress: Progress = silent) -> StabilityScores:
    """Measure the importance of every unit for the decrease of V; the agent is left as it is.

    Args:
        agent: the agent before the cut.
        replay: where rollouts start.
        lyapunov: V, K and delta.
        scale: (O,) factors of the scaled observations.
        config: smoothing and warm-up of the signals.
        batches: gradients taken, each over `agent.config.batch_size` rollouts.
        rng: draws the starts.
        signal: which of the tracker's scores.
        progress: told after every batch.
    """
    readout = fit_readout(agent, replay, scale)
    tracker = ImportanceTracker(agent.graph(), dict(agent.components.items()), config)
    divisor = torch.from_numpy(np.asarray(scale, np.float32))
    total = 0.0
    parts = [agent.components[name] for name in ('reward', 'q1', 'q2')]
    with frozen(*parts):
        for i in range(batches):
            batch = replay.sample(rng, agent.config.batch_size, 1)
            loss = stability_loss(agent, readout, lyapunov,
                                  torch.from_numpy(batch.observation[0]), divisor)
            loss.backward()
            total += float(loss.detach())
            tracker.observe()
            tracker.step()
            agent.components.zero_grad()
            progress('stability score', i + 1, batches, loss=float(loss.detach()))
    return StabilityScores(tracker.unit_scores(signal), readout.r2, total / max(1, batches))


def mix(task: Mapping[str, Array], stability: Mapping[str, Array], weight: float
        ) -> dict[str, Array]:
    """(1 - weight) task + weight stability, both as normalised ranks over all units.

    Units without a stability score keep their task rank; NaN in the task score stays.
    """
    names = list(task)
    ranks = normalised_ranks(np.concatenate([task[n] for n in names]))
    other = normalised_ranks(np.concatenate([stability[n] for n in names]))
    mixed = np.where(np.isnan(other), ranks, (1 - weight) * ranks + weight * other)
    ends = np.cumsum([len(task[n]) for n in names])
    return dict(zip(names, np.split(mixed, ends[:-1]), strict=True))
