# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Other ways to make the same plan: the reference's in torch, compiled torch, and plain numpy.

The reference's operations are restated from TD-MPC (Hansen et al. 2022), algorithm 1: in every
iteration the policy's plans are valued again beside the sampled ones, one step after the other,
reward and dynamics each for themselves, without gradients, on the agent's own modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning_core.checkpoint import Run
from pruning_core.config import PlannerConfig
from pruning_core.planner import SeededNoise, TorchPlanner, chosen, plan_start, plan_step
from pruning_core.runtime.pushes import push_noise

OBSERVATION = torch.tensor([[0.6, 0.8, 0.1]])  # scaled, of the pendulum


class ReferencePlan:
    """TD-MPC's own plan for one observation."""

    def __init__(self, net: nn.ModuleDict, config: PlannerConfig, discount: float,
                 policy_noise: float) -> None:
        """Take the agent's modules and the planner's settings."""
        self.net, self.c, self.discount = net, config, discount
        self.policy_noise = policy_noise
        self.rng = np.random.default_rng(0)
        self.mean: Tensor | None = None
        self.actions = [m for m in net['policy'].modules()
                        if isinstance(m, nn.Linear)][-1].out_features

    def policy(self, z: Tensor, noise: float) -> Tensor:
        """The policy's action with clipped noise."""
        action = self.net['policy'](z)
        return (action + noise * torch.randn_like(action)).clamp(-1, 1)

    def value(self, z: Tensor, actions: Tensor) -> Tensor:
        """Value of plans (H, N, A), with min(q1, q2) at the end."""
        total, discount = torch.zeros(len(z), 1), 1.0
        for action in actions:
            pair = torch.cat([z, action], dim=-1)
            total = total + discount * self.net['reward'](pair)
            z = self.net['dynamics'](pair)
            discount *= self.discount
        pair = torch.cat([z, self.policy(z, self.policy_noise)], dim=-1)
        return total + discount * torch.min(self.net['q1'](pair), self.net['q2'](pair))

    @torch.no_grad()
    def plan(self, observation: Tensor) -> Tensor:
        """Plan for one scaled observation (1, O)."""
        c, a = self.c, self.actions
        pi_actions = torch.empty(c.horizon, c.policy_samples, a)
        z = self.net['encoder'](observation).repeat(c.policy_samples, 1)
        for t in range(c.horizon):
            pi_actions[t] = self.policy(z, self.policy_noise)
            z = self.net['dynamics'](torch.cat([z, pi_actions[t]], dim=-1))
        z = self.net['encoder'](observation).repeat(c.samples + c.policy_samples, 1)
        mean = torch.zeros(c.horizon, a)
        std = torch.full((c.horizon, a), c.max_std)
        if self.mean is not None:
            mean[:-1] = self.mean[1:]
        for _ in range(c.iterations):
            sampled = (mean[:, None] + std[:, None] * torch.randn(c.horizon, c.samples, a)
                       ).clamp(-1, 1)
            actions = torch.cat([sampled, pi_actions], dim=1)
            value = self.value(z, actions).nan_to_num(0)
            index = torch.topk(value.squeeze(1), c.elites, dim=0).indices
            elite_value, elite_actions = value[index], actions[:, index]
            score = torch.exp(c.temperature * (elite_value - elite_value.max(0)[0]))
            score = score / score.sum(0)
            new = (score[None] * elite_actions).sum(1) / (score.sum(0) + 1e-9)
            std = ((score[None] * (elite_actions - new[:, None]) ** 2).sum(1)
                   / (score.sum(0) + 1e-9)).sqrt().clamp(c.min_std, c.max_std)
            mean = c.momentum * mean + (1 - c.momentum) * new
        self.mean = mean
        pick = int(self.rng.choice(len(score), p=score.squeeze(1).double().numpy()
                                   / float(score.double().sum())))
        return elite_actions[0, pick].clamp(-1, 1)


def settings_of(run: Run) -> tuple[PlannerConfig, float, float]:
    """What every planner here is made with, beside the modules."""
    return run.config.planner, run.config.agent.discount, run.config.agent.policy_noise


def reference(run: Run) -> Callable[[], Tensor]:
    """The reference's plan of an agent, with the reference's activation."""
    as_published = nn.ModuleDict({
        name: nn.Sequential(*(nn.ELU() if isinstance(m, nn.ReLU) else m for m in module))
        for name, module in run.agent.components.items()})
    planner = ReferencePlan(as_published, *settings_of(run))
    return lambda: planner.plan(OBSERVATION)


def eager(net: nn.ModuleDict, c: PlannerConfig, discount: float, policy_noise: float
          ) -> Callable[[Tensor], Tensor]:
    """This package's torch planner, for one environment."""
    planner = TorchPlanner(net, c, discount, policy_noise, SeededNoise([0]))
    return planner.plan


def compiled(net: nn.ModuleDict, c: PlannerConfig, discount: float, policy_noise: float
             ) -> Callable[[Tensor], Tensor]:
    """The same through torch.compile, static shapes; the first call compiles."""
    step: Any = torch.compile(
        lambda start, mean, std, noise: plan_step(net, start, mean, std, noise, c, discount)[:2],
        dynamic=False)
    begin: Any = torch.compile(lambda o, noise: plan_start(net, o, noise, discount), dynamic=False)
    end: Any = torch.compile(lambda start, mean: chosen(net, start, mean, c, discount),
                             dynamic=False)
    a = [m for m in net['policy'].modules() if isinstance(m, nn.Linear)][-1].out_features
    pushes = torch.from_numpy(push_noise(c.horizon, c.pushes, a))[:, None]

    @torch.no_grad()
    def plan(observation: Tensor) -> Tensor:
        drawn = policy_noise * torch.randn(c.horizon, 1, c.policy_samples, a)
        drawn[:, :, 0] = 0
        start = begin(observation, torch.cat([drawn, pushes], dim=2))
        mean, std = torch.zeros(c.horizon, 1, a), torch.full((c.horizon, 1, a), c.max_std)
        for _ in range(c.iterations):
            mean, std = step(start, mean, std, torch.randn(c.horizon, 1, c.samples, a))
        action: Tensor = end(start, mean)[0]
        return action

    return plan


class NumpyPlan:
    """The same plan in numpy, heads of all steps in one batch."""

    def __init__(self, net: nn.ModuleDict, c: PlannerConfig, discount: float, policy_noise: float
                 ) -> None:
        """Copy the agent's numbers."""
        self.c, self.discount, self.policy_noise = c, discount, policy_noise
        self.net = {name: list(module) for name, module in net.items()}
        self.numbers = {id(layer): [p.detach().numpy() for p in layer.parameters()]
                        for layers in self.net.values() for layer in layers}
        self.rng = np.random.default_rng(0)
        self.actions = self.net['policy'][-2].out_features

    def apply(self, name: str, x: np.ndarray) -> np.ndarray:
        """Run a component."""
        for layer in self.net[name]:
            numbers = self.numbers[id(layer)]
            if isinstance(layer, nn.Linear):
                x = x @ numbers[0].T
                x += numbers[1]
            elif isinstance(layer, nn.LayerNorm):
                x = x - x.mean(-1, keepdims=True)
                x /= np.sqrt((x * x).mean(-1, keepdims=True) + layer.eps)
                x *= numbers[0]
                x += numbers[1]
            elif isinstance(layer, nn.ReLU):
                np.maximum(x, 0, out=x)
            elif isinstance(layer, nn.ELU):
                x = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
            else:
                np.tanh(x, out=x)
        return x

    def value(self, z: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Value (N,) of plans (H, N, A)."""
        pairs = []
        for action in actions:
            pairs.append(np.concatenate([z, action], axis=1))
            z = self.apply('dynamics', pairs[-1])
        rewards = self.apply('reward', np.concatenate(pairs)).reshape(len(actions), -1)
        pair = np.concatenate([z, self.apply('policy', z)], axis=1)
        end = np.minimum(self.apply('q1', pair), self.apply('q2', pair))[:, 0]
        weights = (self.discount ** np.arange(len(actions))).astype(np.float32)
        total: np.ndarray = weights @ rewards + np.float32(self.discount ** len(actions)) * end
        return total

    def plan(self, observation: np.ndarray) -> np.ndarray:
        """Plan for one scaled observation (1, O)."""
        c, a = self.c, self.actions
        z = self.apply('encoder', observation)
        drawn = self.policy_noise * self.rng.standard_normal(
            (c.horizon, c.policy_samples, a), np.float32)
        drawn[:, 0] = 0
        noise = np.concatenate([drawn, push_noise(c.horizon, c.pushes, a)], axis=1)
        rolled, proposed = z.repeat(noise.shape[1], 0), []
        for added in noise:
            proposed.append(np.clip(self.apply('policy', rolled) + added, -1, 1))
            rolled = self.apply('dynamics', np.concatenate([rolled, proposed[-1]], axis=1))
        plans = np.stack(proposed)
        values = self.value(z.repeat(noise.shape[1], 0), plans)
        mean = np.zeros((c.horizon, a), np.float32)
        std = np.full((c.horizon, a), c.max_std, np.float32)
        for _ in range(c.iterations):
            noise = self.rng.standard_normal((c.horizon, c.samples, a), np.float32)
            sampled = np.clip(mean[:, None] + std[:, None] * noise, -1, 1)
            value = np.concatenate([self.value(z.repeat(c.samples, 0), sampled), values])
            actions = np.concatenate([sampled, plans], axis=1)
            best = np.argpartition(-value, c.elites)[:c.elites]
            weight = np.exp(c.temperature * (value[best] - value[best].max()))
            weight = (weight / weight.sum())[None, :, None]
            centre = (weight * actions[:, best]).sum(1)
            spread = np.sqrt((weight * (actions[:, best] - centre[:, None]) ** 2).sum(1))
            std = np.clip(spread, c.min_std, c.max_std)
            mean = c.momentum * mean + (1 - c.momentum) * centre
        return self._chosen(z, mean, plans, values)[0]

    def _chosen(self, z: np.ndarray, mean: np.ndarray, plans: np.ndarray, values: np.ndarray
                ) -> np.ndarray:
        c = self.c
        if not (c.policy_margin or c.pushes):
            return mean
        mean = np.clip(mean, -1, 1)
        value = self.value(z, mean[:, None])[0]
        if c.policy_margin and not value > values[0] + c.policy_margin:
            mean, value = plans[:, 0], values[0]
        if c.pushes:
            best = c.policy_samples + int(np.argmax(values[c.policy_samples:]))
            if values[best] > value + c.push_margin:
                mean = plans[:, best]
        return mean
