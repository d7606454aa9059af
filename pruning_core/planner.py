# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""MPPI over the latent model in torch: the reference planner, for many environments at once.

Observations of E environments in, E actions out. It is what training collects with, what
evaluation runs, and what the exported graphs are proven against: `plan_start` and `plan_step` are
the same two functions that `runtime.planner` runs as ONNX, with the noise passed in.

Letters: E environments, H horizon, N sampled plans, P plans of the policy, K elites, A actions,
Z latent channels.

Deviations: TD-MPC acts with the first action of one elite drawn by weight; here the weighted mean
acts, which is what the mean converges to and leaves no second source of noise in a control loop.
With `planner.policy_margin` that mean acts only where it is worth clearly more than the policy's
own plan, and with `planner.pushes` plans that push (`runtime.pushes`) where they are: `chosen`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pruning_core.config import PlannerConfig
from pruning_core.runtime.pushes import push_noise


class Start(NamedTuple):
    """What is known before the first iteration."""

    latent: Tensor  # (E, Z)
    policy_actions: Tensor  # (H, E, P, A); plan 0 is the policy without noise
    policy_values: Tensor  # (E, P)


class Step(NamedTuple):
    """The refined sampling distribution."""

    mean: Tensor  # (H, E, A)
    std: Tensor  # (H, E, A)
    elite_actions: Tensor  # (H, E, K, A), best first
    elite_values: Tensor  # (E, K), best first


def _min_q(components: nn.ModuleDict, pair: Tensor) -> Tensor:
    return torch.minimum(components['q1'](pair), components['q2'](pair))


def plan_values(components: nn.ModuleDict, latent: Tensor, actions: Tensor, discount: float
                ) -> Tensor:
    """Discounted model return of each plan, bootstrapped with min(q1, q2) at the horizon.

    Args:
        components: the agent's modules.
        latent: (..., Z) start of each plan.
        actions: (H, ..., A) in [-1, 1].
        discount: per-decision factor in [0, 1).

    Returns:
        (...) values.
    """
    pairs = []
    for action in actions:
        pair = torch.cat([latent, action], dim=-1)
        pairs.append(pair)
        latent = components['dynamics'](pair)
    rewards = components['reward'](torch.stack(pairs)).squeeze(-1)  # (H, ...)
    weights = discount ** torch.arange(len(actions), dtype=rewards.dtype)
    end = torch.cat([latent, components['policy'](latent)], dim=-1)
    value: Tensor = torch.tensordot(weights, rewards, dims=1)
    return value + discount ** len(actions) * _min_q(components, end).squeeze(-1)


def plan_start(components: nn.ModuleDict, observation: Tensor, noise: Tensor, discount: float
               ) -> Start:
    """Encode, and let the policy propose plans.

    Args:
        components: the agent's modules.
        observation: (E, O), scaled.
        noise: (H, E, P, A) added to the policy's actions, already scaled.
        discount: per-decision factor.
    """
    latent = components['encoder'](observation)
    rolled = latent.unsqueeze(1).expand(-1, noise.shape[2], -1)  # (E, P, Z)
    start, actions = rolled, []
    for t in range(len(noise)):
        action = (components['policy'](rolled) + noise[t]).clamp(-1, 1)
        actions.append(action)
        rolled = components['dynamics'](torch.cat([rolled, action], dim=-1))
    policy_actions = torch.stack(actions)
    return Start(latent, policy_actions,
                 plan_values(components, start, policy_actions, discount))


def plan_step(components: nn.ModuleDict, start: Start, mean: Tensor, std: Tensor, noise: Tensor,
              config: PlannerConfig, discount: float) -> Step:
    """One MPPI iteration: sample, value, keep the elites, refit (TD-MPC, algorithm 1).

    Args:
        components: the agent's modules.
        start: from `plan_start`.
        mean: (H, E, A) centre of the sampling distribution.
        std: (H, E, A) its standard deviation.
        noise: (H, E, N, A) standard normal.
        config: elites, temperature, momentum and limits.
        discount: per-decision factor.
    """
    actions = (mean.unsqueeze(2) + std.unsqueeze(2) * noise).clamp(-1, 1)
    latent = start.latent.unsqueeze(1).expand(-1, noise.shape[2], -1)  # (E, N, Z)
    values = plan_values(components, latent, actions, discount)  # (E, N)
    values = torch.cat([values, start.policy_values], dim=1)
    actions = torch.cat([actions, start.policy_actions], dim=2)
    best, index = values.topk(config.elites, dim=1)  # (E, K)
    elites = actions.gather(
        2, index[None, :, :, None].expand(len(actions), -1, -1, actions.shape[-1]))
    weight = torch.softmax(config.temperature * (best - best[:, :1]), dim=1)[None, :, :, None]
    centre = (weight * elites).sum(2)
    spread = (weight * (elites - centre.unsqueeze(2)) ** 2).sum(2).sqrt()
    return Step(config.momentum * mean + (1 - config.momentum) * centre,
                spread.clamp(config.min_std, config.max_std), elites, best)


def chosen(components: nn.ModuleDict, start: Start, mean: Tensor, config: PlannerConfig,
           discount: float) -> Tensor:
    """What acts: the policy, the refined plan or a push, by what each is worth.

    Beside the goal nearly all plans are worth the same, and the mean of the best few of many
    sampled ones trembles: there the policy acts, unless the refined plan is worth more by
    `config.policy_margin`. The best push acts where it is worth more than that by
    `config.push_margin`.

    Args:
        components: the agent's modules.
        start: from `plan_start`; its first proposal is the policy's plan, its last are pushes.
        mean: (H, E, A) the refined plans.
        config: number of the policy's plans, and the margins.
        discount: per-decision factor.

    Returns:
        (H, E, A); the refined plans as they are, where neither margin nor pushes are asked for.
    """
    if not (config.policy_margin or config.pushes):
        return mean
    plan = mean.clamp(-1, 1)
    value = plan_values(components, start.latent.unsqueeze(1), plan.unsqueeze(2), discount)[:, 0]
    if config.policy_margin:
        own = start.policy_values[:, 0]
        stays = own.isfinite() & ~(value > own + config.policy_margin)
        plan = torch.where(stays[None, :, None], start.policy_actions[:, :, 0], plan)
        value = torch.where(stays, own, value)
    if config.pushes:
        best, index = start.policy_values[:, config.policy_samples:].max(1)
        index = (config.policy_samples + index)[None, :, None, None].expand(
            len(plan), -1, 1, plan.shape[-1])
        push = start.policy_actions.gather(2, index).squeeze(2)
        worth = best.isfinite() & (best > value + config.push_margin)
        plan = torch.where(worth[None, :, None], push, plan)
    return plan


class SeededNoise:
    """Standard normal numbers from one generator per environment.

    Each environment has its own stream, so that its episode is the same whatever else runs in the
    batch: two agents evaluated on the same seeds meet the same numbers (common random numbers).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        """Seed one generator per environment."""
        self.generators = [torch.Generator().manual_seed(int(s)) for s in seeds]

    def __call__(self, horizon: int, plans: int, actions: int) -> Tensor:
        """Draw (H, E, N, A) numbers."""
        return torch.stack([torch.randn(horizon, plans, actions, generator=g)
                            for g in self.generators], dim=1)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on for these environments only."""
        self.generators = [self.generators[i] for i in rows]


class TorchPlanner:
    """Plans for E environments in one batch, warm-started from the last decision."""

    def __init__(self, components: nn.ModuleDict, config: PlannerConfig, discount: float,
                 policy_noise: float, noise: SeededNoise) -> None:
        """Take the agent's modules, the planner's settings and the source of its noise."""
        self.components = components
        self.config = config
        self.discount = discount
        self.policy_noise = policy_noise
        self.noise = noise
        self._mean: Tensor | None = None
        self._actions = next(m for m in reversed(list(components['policy'].modules()))
                             if isinstance(m, nn.Linear)).out_features
        self._pushes = torch.from_numpy(
            push_noise(config.horizon, config.pushes, self._actions))[:, None]

    def reset(self) -> None:
        """Forget the last plan, as at the start of an episode."""
        self._mean = None

    def keep(self, rows: Sequence[int]) -> None:
        """Go on for these environments only, each with its own noise and warm start."""
        self.noise.keep(rows)
        if self._mean is not None:
            self._mean = self._mean[:, list(rows)]

    @torch.no_grad()
    def plan(self, observation: Tensor) -> Tensor:
        """Plan one decision.

        Args:
            observation: (E, O), scaled.

        Returns:
            (E, A) actions in [-1, 1].
        """
        c, environments, actions = self.config, len(observation), self._actions
        drawn = self.policy_noise * self.noise(c.horizon, c.policy_samples, actions)
        drawn[:, :, 0] = 0
        noise = torch.cat([drawn, self._pushes.expand(-1, environments, -1, -1)], dim=2)
        start = plan_start(self.components, observation, noise, self.discount)
        mean = torch.zeros(c.horizon, environments, actions)
        if self._mean is not None and self._mean.shape == mean.shape:
            mean[:-1] = self._mean[1:]
        std = torch.full_like(mean, c.max_std)
        for _ in range(c.iterations):
            noise = self.noise(c.horizon, c.samples, actions)
            mean, std, _, _ = plan_step(self.components, start, mean, std, noise, c, self.discount)
        self._mean = chosen(self.components, start, mean, c, self.discount)
        return self._mean[0].clone()
