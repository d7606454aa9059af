# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Situations that a planner meets: replayed observations, and latents rolled out from them.

A plan is valued on latents that the dynamics reach under sampled actions, not only on encoded
observations. Whatever is fitted to the dense agent (which units represent the others, weights
after a cut, distillation) is fitted on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pruning_core.replay import Replay

_NOISE = 0.3  # standard deviation around the policy's actions
_CHUNK = 4096  # rows per forward pass


class Visits(NamedTuple):
    """N situations rolled out for H steps by the dense agent."""

    observation: Tensor  # (N, O), scaled
    action: Tensor  # (H, N, A), in [-1, 1]
    latent: Tensor  # (H+1, N, Z); step 0 is encoded, the rest is what the dynamics make of it

    def pairs(self) -> Tensor:
        """(H N, Z+A) inputs of dynamics, reward and values."""
        return torch.cat([self.latent[:-1], self.action], dim=-1).flatten(0, 1)

    def spread(self, count: int) -> Visits:
        """Only some of them, evenly spread over the replay."""
        rows = torch.linspace(0, len(self.observation) - 1, min(count, len(self.observation)))
        at = rows.round().long()
        return Visits(self.observation[at], self.action[:, at], self.latent[:, at])

    def latents(self) -> Tensor:
        """((H+1) N, Z) inputs of the policy."""
        return self.latent.flatten(0, 1)


@torch.no_grad()
def visit(components: Mapping[str, nn.Module], replay: Replay, rng: np.random.Generator, *,
          rows: int = 4096, horizon: int = 5, replayed: bool = False) -> Visits:
    """Roll the model out from replayed observations, under the actions that planning tries.

    The first action is the replayed one, the policy's with noise, or a uniform one, a third each;
    later ones the policy's with noise or uniform ones, as the planner samples.

    Args:
        components: the dense agent's modules.
        replay: where the observations come from.
        rng: draws rows and actions.
        rows: N, at most as many as the replay has.
        horizon: H.
        replayed: the first action is the replayed one throughout.
    """
    observations, taken = replay.observations(), replay.actions()
    chosen = np.sort(rng.choice(len(observations), min(rows, len(observations)), replace=False))
    observation = torch.from_numpy(observations[chosen])
    latents = [_chunked(components['encoder'], observation)]
    actions: list[Tensor] = []
    for step in range(horizon):
        policy = _chunked(components['policy'], latents[-1])
        noise = torch.from_numpy(rng.standard_normal(policy.shape).astype(np.float32))
        uniform = torch.from_numpy(rng.uniform(-1, 1, policy.shape).astype(np.float32))
        kind = torch.from_numpy(rng.integers(3, size=(len(policy), 1)))
        if replayed and step == 0:
            kind.zero_()
        near = (policy + _NOISE * noise).clamp(-1, 1)
        first = torch.from_numpy(taken[chosen]) if step == 0 else near
        actions.append(torch.where(kind == 0, first, torch.where(kind == 1, near, uniform)))
        latents.append(_chunked(components['dynamics'],
                                torch.cat([latents[-1], actions[-1]], dim=-1)))
    return Visits(observation, torch.stack(actions), torch.stack(latents))


def _chunked(module: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([module(part) for part in x.split(_CHUNK)])


def layer_input(module: nn.Module, layer: nn.Linear, x: Tensor) -> Tensor:
    """What comes into one linear layer of a component, (N, C), when `x` goes into the component.

    Args:
        module: the component.
        layer: one of its layers.
        x: (N, inputs of the component).
    """
    found: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _m, inputs: found.append(inputs[0]))
    try:
        _chunked(module, x)
    finally:
        hook.remove()
    return torch.cat(found)
