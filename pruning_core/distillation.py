# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What the dense agent says, and how far a smaller one is from saying the same.

What pruning has and training from scratch has not is the dense agent. It is asked once, in every
situation of a set of `visits`: replayed observations, and the latents that its own dynamics reach
from them under the actions that planning tries. A plan is valued on such latents, so that is where
the smaller agent has to agree; it follows with its own encoder and its own dynamics. Every
distance is relative to how much the dense agent's answers vary, and early steps weigh most: the
policy acts on the first alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning_core.agent import Agent
from pruning_core.config import LESSONS
from pruning_core.visits import Visits

_CHUNK = 4096  # rows per forward pass of the dense agent


class Teacher(NamedTuple):
    """What the dense agent says in N situations that are rolled out for H steps."""

    observation: Tensor  # (N, O), scaled
    action: Tensor  # (H, N, A) that were tried
    latent: Tensor  # (H+1, N, Z kept); step 0 is encoded
    reward: Tensor  # (H, N, 1)
    value: Tensor  # (H, N, 2) of q1 and q2
    policy: Tensor  # (H+1, N, A)


@torch.no_grad()
def record(components: Mapping[str, nn.Module], visits: Visits, kept_latent: np.ndarray
           ) -> Teacher:
    """Ask the dense agent.

    Args:
        components: its modules, before the cut.
        visits: the situations, rolled out by itself.
        kept_latent: latent channels that the cut leaves.
    """
    def answers(names: Sequence[str], x: Tensor) -> Tensor:
        rows = [torch.cat([components[name](part) for name in names], dim=-1)
                for part in x.flatten(0, 1).split(_CHUNK)]
        return torch.cat(rows).reshape(*x.shape[:2], -1)

    pair = torch.cat([visits.latent[:-1], visits.action], dim=-1)
    return Teacher(visits.observation, visits.action,
                   visits.latent[..., torch.from_numpy(kept_latent)],
                   answers(['reward'], pair), answers(['q1', 'q2'], pair),
                   answers(['policy'], visits.latent))


class Imitation:
    """The distance of an agent to its teacher on random situations, as two losses."""

    def __init__(self, agent: Agent, teacher: Teacher, lessons: Sequence[str], rho: float,
                 batch_size: int, rng: np.random.Generator) -> None:
        """Weigh every lesson by the variance of the teacher's answers to it.

        Args:
            agent: who imitates.
            teacher: from `record`; only read.
            lessons: of `config.LESSONS`: what is imitated.
            rho: step t of a rollout counts rho**t.
            batch_size: situations per call.
            rng: draws them.
        """
        self.agent = agent
        self.teacher = teacher
        self.lessons = frozenset(lessons) & frozenset(LESSONS)
        self.rho = rho
        self.batch_size = batch_size
        self.rng = rng
        self.distance = float('nan')  # of the policy's actions in the last batch
        self._scale = {
            lesson: 1 / max(float(answers.flatten(0, 1).var(0).mean()), 1e-12)
            for lesson, answers in (('latent', teacher.latent[:1]), ('next', teacher.latent[1:]),
                                    ('reward', teacher.reward), ('value', teacher.value),
                                    ('policy', teacher.policy))}

    def __call__(self) -> tuple[Tensor, Callable[[], Tensor]]:
        """Draw situations; return the model's distance, and a function to the policy's."""
        t, net, agent = self.teacher, self.agent.components, self.agent
        rows = torch.from_numpy(self.rng.integers(len(t.observation), size=self.batch_size))
        action = t.action[:, rows]
        latents = [agent.run(net['encoder'], t.observation[rows])]
        for tried in action:
            latents.append(agent.run(net['dynamics'], torch.cat([latents[-1], tried], dim=-1)))
        latent = torch.stack(latents)
        pair = torch.cat([latent[:-1], action], dim=-1)
        q = ('q1', 'q2')
        parts: dict[str, Callable[[], Tensor]] = {
            'latent': lambda: functional.mse_loss(latent[0], t.latent[0, rows]),
            'next': lambda: self._apart(latent[1:], t.latent[1:, rows]),
            'reward': lambda: self._apart(agent.run(net['reward'], pair), t.reward[:, rows]),
            'value': lambda: self._apart(
                torch.cat([agent.run(net[name], pair) for name in q], dim=-1), t.value[:, rows]),
        }
        model = torch.zeros(())
        for lesson, distance in parts.items():
            if lesson in self.lessons:
                model = model + self._scale[lesson] * distance()

        def policy() -> Tensor:
            if 'policy' not in self.lessons:
                return torch.zeros(())
            distance = self._apart(agent.run(net['policy'], latent.detach()), t.policy[:, rows])
            self.distance = float(distance.detach())
            return self._scale['policy'] * distance

        return model, policy

    def _apart(self, found: Tensor, taught: Tensor) -> Tensor:
        """Mean square over (steps, B, channels), step t weighted by rho**t."""
        weights = self.rho ** torch.arange(len(found), dtype=torch.float32)
        return weights @ (found - taught).square().mean((1, 2)) / weights.sum()
