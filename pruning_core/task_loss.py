# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The TD-MPC loss as one plain function of an agent and its data.

`Agent.update` computes the same loss fast, in two backward passes; here it stands as it is
defined, through nothing but the components' own calls, so that it can be differentiated for every
sample by itself, watched by hooks, or asked again with a unit masked. The policy's exploration
noise is left out: the same data always give the same loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pruning_core.agent import Agent
from pruning_core.replay import Batch


class Windows(NamedTuple):
    """Replayed windows of H decisions, batch first; a sample of it lacks the batch axis."""

    observation: Tensor  # (B, H+1, O)
    action: Tensor  # (B, H, A)
    reward: Tensor  # (B, H)
    terminated: Tensor  # (B, H)

    @classmethod
    def of(cls, batch: Batch) -> Windows:
        """Turn a replay batch, which has time first, round."""
        return cls(*(torch.from_numpy(x).transpose(0, 1) for x in batch[:4]))


def task_loss(agent: Agent, windows: Windows, held: Mapping[str, nn.Module] | None = None
              ) -> Tensor:
    """Model loss plus policy loss, each reaching only the parameters that it trains.

    Args:
        agent: whose components, targets and loss weights.
        windows: a batch, or one sample of it.
        held: components that stand in targets, and that judge what the policy does: values, and
            the latents that they see. The agent's own where there are none. With a copy of them, a
            unit that is masked counts for what it does to predictions and to actions; otherwise
            one of the values also changes what the policy is paid, and removing it may look like
            a gain.

    Returns:
        A scalar: the mean over the batch of the samples' losses.
    """
    c, net = agent.config, agent.components
    fixed = net if held is None else held
    observation, action, reward, terminated = windows
    rho = c.rho ** torch.arange(action.shape[-2] + 1, dtype=torch.float32)
    with torch.no_grad():
        target_latent = agent.targets['encoder'](observation[..., 1:, :])
        following = fixed['encoder'](observation[..., 1:, :])
        pair = torch.cat([following, fixed['policy'](following)], dim=-1)
        value = torch.minimum(agent.targets['q1'](pair), agent.targets['q2'](pair)).squeeze(-1)
        target_value = reward + c.discount * (1 - terminated) * value
    latent = _latents(net, observation, action)
    pair = torch.cat([latent[..., :-1, :], action], dim=-1)
    loss = (c.consistency_weight * (latent[..., 1:, :] - target_latent).square().mean(-1)
            + c.reward_weight * (net['reward'](pair).squeeze(-1) - reward).square())
    for q in ('q1', 'q2'):
        loss = loss + c.value_weight * (net[q](pair).squeeze(-1) - target_value).square()
    judged = seen = latent.detach()
    if held is not None:
        with torch.no_grad():
            judged = _latents(held, observation, action)
    pair = torch.cat([judged, net['policy'](seen)], dim=-1)
    value = torch.minimum(*(_fixed(fixed[q], pair) for q in ('q1', 'q2'))).squeeze(-1)
    total: Tensor = (rho[:-1] * loss).sum(-1).mean() - (rho * value).sum(-1).mean()
    return total


def _latents(net: Mapping[str, nn.Module] | nn.ModuleDict, observation: Tensor, action: Tensor
             ) -> Tensor:
    """Encode the first observation, and follow the actions: (..., H+1, Z)."""
    latents = [net['encoder'](observation[..., 0, :])]
    for t in range(action.shape[-2]):
        latents.append(net['dynamics'](torch.cat([latents[t], action[..., t, :]], dim=-1)))
    return torch.stack(latents, dim=-2)


def _fixed(module: nn.Module, x: Tensor) -> Tensor:
    """Call a module so that gradients pass through it, but not into its parameters."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    out: Tensor = functional_call(module, parameters, (x,))
    return out
