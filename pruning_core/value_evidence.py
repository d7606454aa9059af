# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Plants without a goal: does the agent's value rise along its episodes, and is its model right?

V = Vmax - min(q1, q2)(z, pi(z)), with Vmax the largest value met, and the planner's one-step
prediction residual (method section 5). This is weaker evidence than a test on a plant with a goal:
the agent judges itself, by networks that pruning has changed as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pruning_core.agent import Agent, as_tensor
from pruning_core.config import EnvConfig, PlannerConfig
from pruning_core.decrease import upper_bound
from pruning_core.env import ScaledEnv
from pruning_core.errors import ConfigError, explain
from pruning_core.planner import SeededNoise
from pruning_core.progress import Progress, silent

EVIDENCE = 'weak: the agent judges itself'


@dataclass(frozen=True)
class ValueEvidence:
    """What the agent's own value and model say of its episodes.

    Attributes:
        episodes: run; `windows` of K periods in them.
        share: windows at whose end V was at most (1 - delta) times V at their start, or lower
            than a hundredth of the largest V met.
        episodes_failing: episodes that end with V above where they began; `bound` its one-sided
            95 % upper bound as a share (windows of one episode are not independent).
        residual_median: of the relative one-step prediction error; `residual_99` its 99 %
            quantile.
    """

    episodes: int
    windows: int
    share: float
    episodes_failing: int
    bound: float
    residual_median: float
    residual_99: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with what kind of evidence they are."""
        return {**asdict(self), 'evidence': EVIDENCE}


@torch.no_grad()
def value_evidence(agent: Agent, env: EnvConfig, seeds: Sequence[int],
                   planner: PlannerConfig | None, *, steps: int = 20, decrease: float = 0.1,
                   progress: Progress = silent) -> ValueEvidence:
    """Run episodes and look at V and at the residual.

    Args:
        agent: what is tested, and what judges.
        env: the plant.
        seeds: one per episode.
        planner: None for the policy alone.
        steps: K, in control periods.
        decrease: delta.
        progress: told after every episode.

    Raises:
        ConfigError: no seeds, or no episode is longer than K.
    """
    net = agent.components
    episodes, residuals = [], []
    for done, seed in enumerate(seeds):
        plant = ScaledEnv(env)
        acting = agent.planner(planner, SeededNoise([seed])).plan if planner else agent.policy
        observation = plant.reset(seed)
        latent = net['encoder'](as_tensor(observation[None]))
        values: list[float] = []
        ended, limit = False, plant.spec.max_decisions or 1000
        while not ended and len(values) < limit:
            proposed = net['policy'](latent)
            pair = torch.cat([latent, proposed], dim=-1)
            values.append(float(torch.minimum(net['q1'](pair), net['q2'](pair))))
            action = acting(as_tensor(observation[None]))
            predicted = net['dynamics'](torch.cat([latent, action], dim=-1))
            observation, _, terminated, truncated = plant.step(action[0].numpy())
            ended = terminated or truncated
            latent = net['encoder'](as_tensor(observation[None]))
            residuals.append(float((latent - predicted).norm() / latent.norm().clamp(min=1e-9)))
        episodes.append(np.array(values))
        progress('value', done + 1, len(seeds))
    if not any(len(v) > steps for v in episodes):
        raise ConfigError(
            explain('evidence from the value was asked for',
                    f'{len(episodes)} episodes, none longer than {steps} periods',
                    '1 or more episodes that are longer', 'raise env.max_episode_steps')
        )
    largest = max(float(v.max()) for v in episodes)
    v = [largest - values for values in episodes]
    ball = 0.01 * max(float(x.max()) for x in v)
    fallen = np.concatenate([x[steps:] <= np.maximum((1 - decrease) * x[:-steps], ball)
                             for x in v if len(x) > steps])
    failing = sum(bool(x[-1] > max(x[0], ball)) for x in v)
    return ValueEvidence(len(v), len(fallen), float(fallen.mean()), failing,
                         upper_bound(failing, len(v)), float(np.median(residuals)),
                         float(np.quantile(residuals, 0.99)))
