# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The TD-MPC agent: replay batches in, updated components out; observations in, actions out.

Losses follow TD-MPC (Hansen et al. 2022): a latent rollout of H steps with consistency, reward
and value losses, weighted rho**t, and a separate policy loss on detached latents. Heads are
evaluated once over the whole rollout, not step by step; see `forward` for how.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning_core.channels import trace
from pruning_core.config import AgentConfig, PlannerConfig
from pruning_core.forward import forward
from pruning_core.groups import UnitGraph
from pruning_core.networks import TARGETS, Widths, build, initialise
from pruning_core.planner import SeededNoise, TorchPlanner
from pruning_core.replay import Batch

MODEL = ('encoder', 'dynamics', 'reward', 'q1', 'q2')

ExtraLoss = Callable[[], tuple[Tensor, Callable[[], Tensor]]]


class Losses(NamedTuple):
    """Losses of one update; `policy` is NaN where the policy was not updated."""

    consistency: float
    reward: float
    value: float
    policy: float
    gradient_norm: float


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Keep gradients out of the modules' own parameters (they still pass through)."""
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


class Agent:
    """Components, their targets and their optimisers.

    Attributes:
        components: the six modules by name.
        targets: slowly following copies of encoder, q1 and q2.
        model_optimizer: Adam over encoder, dynamics, reward, q1 and q2.
        policy_optimizer: Adam over the policy.
        updates: updates done so far.
        on_gradients: called after each backward pass, before clipping and the optimiser step;
            this is where importance is measured.
        extra_loss: None in ordinary training. Recovery adds its distillation here: called once an
            update, it returns a further model loss, and a function to a further policy loss.
    """

    def __init__(self, widths: Widths, config: AgentConfig, generator: torch.Generator) -> None:
        """Build an agent with fresh weights drawn from `generator`."""
        self.config = config
        self.activation = widths.activation
        self.generator = generator
        self.components = build(widths)
        initialise(self.components, generator)
        self.targets = nn.ModuleDict(
            {name: copy.deepcopy(self.components[name]) for name in TARGETS}).requires_grad_(False)
        self.restart_optimizers(config.learning_rate)
        self.updates = 0
        self._wide = getattr(torch, config.precision)
        self.on_gradients: Callable[[], None] = lambda: None
        self.extra_loss: ExtraLoss | None = None

    @property
    def widths(self) -> Widths:
        """The present sizes."""
        return Widths.of(dict(self.components.items()), self.activation)

    def restart_optimizers(self, learning_rate: float) -> None:
        """Start both optimisers afresh at a learning rate."""
        model = [p for name in MODEL for p in self.components[name].parameters()]
        self.model_optimizer = torch.optim.Adam(model, lr=learning_rate, fused=True)
        self.policy_optimizer = torch.optim.Adam(
            list(self.components['policy'].parameters()), lr=learning_rate, fused=True)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the step size of both optimisers; their state stays."""
        for optimizer in (self.model_optimizer, self.policy_optimizer):
            for group in optimizer.param_groups:
                group['lr'] = learning_rate

    def sync_targets(self) -> None:
        """Copy the online weights into the targets."""
        for name, target in self.targets.items():
            target.load_state_dict(self.components[name].state_dict())

    def planner(self, config: PlannerConfig, noise: SeededNoise) -> TorchPlanner:
        """Return a planner on this agent's components."""
        return TorchPlanner(self.components, config, self.config.discount,
                            self.config.policy_noise, noise)

    def rollout(self, observation: Tensor, steps: int = 2) -> list[Tensor]:
        """Run every component over a latent rollout of the policy's own actions.

        This is what the structure is traced with: two steps or more, so that what comes out of the
        dynamics goes back in.

        Args:
            observation: (B, O), scaled.
            steps: decisions to roll out.

        Returns:
            Per step the action, the reward and both values: what must keep its channels.
        """
        net, outputs = self.components, []
        latent = net['encoder'](observation)
        for _ in range(steps):
            action = net['policy'](latent)
            pair = torch.cat([latent, action], dim=-1)
            outputs += [action, net['reward'](pair), net['q1'](pair), net['q2'](pair)]
            latent = net['dynamics'](pair)
        return outputs

    def graph(self) -> UnitGraph:
        """Trace the present structure."""
        probe = torch.zeros(2, self.widths.observations)
        return trace(dict(self.components.items()), lambda: self.rollout(probe))

    @torch.no_grad()
    def policy(self, observation: Tensor) -> Tensor:
        """Act without planning: (E, O) scaled observations -> (E, A) in [-1, 1]."""
        action: Tensor = self.components['policy'](self.components['encoder'](observation))
        return action

    def update(self, batch: Batch) -> Losses:
        """Do one gradient update of the model and, every `policy_every` updates, the policy.

        Args:
            batch: windows of H decisions; see `replay.Batch` for the shapes.

        Returns:
            The losses before the update.
        """
        c, net = self.config, self.components
        observation, action, reward, terminated = (torch.from_numpy(x) for x in batch[:4])
        horizon = len(action)
        rho = c.rho ** torch.arange(horizon + 1, dtype=torch.float32)

        with torch.no_grad():
            target_latent = self.run(self.targets['encoder'], observation[1:])
            target_value = self._bootstrap(
                self.run(net['encoder'], observation[1:]), reward, terminated)

        latents = [self.run(net['encoder'], observation[0])]
        for t in range(horizon):
            latents.append(
                self.run(net['dynamics'], torch.cat([latents[t], action[t]], dim=-1)))
        latent = torch.stack(latents)  # (H+1, B, Z)
        pair = torch.cat([latent[:-1], action], dim=-1)  # (H, B, Z+A)
        # (H,) means over batch and channels, so that loss weights do not depend on the widths.
        consistency = functional.mse_loss(latent[1:], target_latent, reduction='none').mean((1, 2))
        reward_loss = functional.mse_loss(
            self.run(net['reward'], pair).squeeze(-1), reward, reduction='none').mean(1)
        value_loss = sum(
            functional.mse_loss(
                self.run(net[q], pair).squeeze(-1), target_value, reduction='none').mean(1)
            for q in ('q1', 'q2'))
        weights = rho[:horizon]
        parts = [(weights * part).sum() for part in (consistency, reward_loss, value_loss)]
        loss = (c.consistency_weight * parts[0] + c.reward_weight * parts[1]
                + c.value_weight * parts[2])
        policy_extra = None
        if self.extra_loss is not None:
            extra, policy_extra = self.extra_loss()
            loss = loss + extra
        loss.backward()
        self.on_gradients()
        norm = self._step(self.model_optimizer)

        self.updates += 1
        policy_loss = float('nan')
        if self.updates % c.policy_every == 0:
            policy_loss = self._update_policy(latent.detach(), rho, policy_extra)
            self._follow_targets()
        model_losses = [float(p.detach()) for p in parts]
        return Losses(model_losses[0], model_losses[1], model_losses[2], policy_loss, norm)

    def run(self, component: nn.Module, x: Tensor) -> Tensor:
        """Evaluate a component for a gradient update: (..., channels in) -> (..., out)."""
        return forward(component, x, self._wide)

    def _bootstrap(self, latent: Tensor, reward: Tensor, terminated: Tensor) -> Tensor:
        """One-step TD targets r + gamma (1 - done) min Q'(z', pi(z'))."""
        action = self.run(self.components['policy'], latent)
        noise = self.config.policy_noise * torch.randn(
            action.shape, generator=self.generator)
        pair = torch.cat([latent, (action + noise).clamp(-1, 1)], dim=-1)
        q1, q2 = (self.run(self.targets[q], pair) for q in ('q1', 'q2'))
        value = torch.minimum(q1, q2).squeeze(-1)
        return reward + self.config.discount * (1 - terminated) * value

    def _update_policy(self, latent: Tensor, rho: Tensor,
                       extra: Callable[[], Tensor] | None) -> float:
        net = self.components
        with frozen(net['q1'], net['q2']):
            action = self.run(net['policy'], latent)
            pair = torch.cat([latent, action], dim=-1)
            q1, q2 = (self.run(net[q], pair) for q in ('q1', 'q2'))
            value = torch.minimum(q1, q2).squeeze(-1).mean(1)  # (H+1,)
            loss = -(rho * value).sum()
            if extra is not None:
                loss = loss + extra()
            loss.backward()
        self.on_gradients()
        self._step(self.policy_optimizer)
        return float(loss.detach())

    def descend(self, model_loss: Tensor, policy_loss: Tensor) -> None:
        """Do one gradient update on other losses than those of TD-MPC.

        Args:
            model_loss: reaches encoder, dynamics, reward and values.
            policy_loss: reaches the policy alone.
        """
        (model_loss + policy_loss).backward()
        self.on_gradients()
        for optimizer in (self.model_optimizer, self.policy_optimizer):
            self._step(optimizer)
        self.updates += 1
        self._follow_targets()

    def _step(self, optimizer: torch.optim.Adam) -> float:
        norm = nn.utils.clip_grad_norm_(
            [p for g in optimizer.param_groups for p in g['params']], self.config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(norm)

    @torch.no_grad()
    def _follow_targets(self) -> None:
        online: list[Tensor] = [
            p for name in TARGETS for p in self.components[name].parameters()]
        slow: list[Tensor] = [p for name in TARGETS for p in self.targets[name].parameters()]
        torch._foreach_lerp_(slow, online, self.config.tau)


def as_tensor(observation: np.ndarray) -> Tensor:
    """Return observations as a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(observation, np.float32))
