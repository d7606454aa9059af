# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What pruning has to beat: the same widths with fresh weights, trained on the same replay."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from pruning_core.agent import Agent
from pruning_core.checkpoint import Run
from pruning_core.config import PruningConfig
from pruning_core.plans import Plan
from pruning_core.progress import Progress, silent
from pruning_core.recovery import recover
from pruning_core.shrinking import cut


def as_in_training(run: Run, settings: PruningConfig) -> PruningConfig:
    """Settings whose updates have the learning rates that the agent was trained with."""
    return dataclasses.replace(settings, recovery_learning_rate=run.config.agent.learning_rate,
                               recovery_learning_rate_end=run.config.training.learning_rate_end,
                               recovery_warmup=0.0)


def from_scratch(run: Run, plan: Plan, settings: PruningConfig, updates: int,
                 progress: Progress = silent) -> Run:
    """Train an agent of the widths that a plan leaves, by the TD-MPC loss alone.

    Args:
        run: with the dense agent, which is cut in place, and a replay.
        plan: whose widths.
        settings: learning rates and seed.
        updates: gradient updates.
        progress: told after every update.
    """
    assert run.replay is not None
    cut(run.agent, plan)
    fresh = Agent(run.agent.widths, run.config.agent,
                  torch.Generator().manual_seed(settings.seed))
    alone = dataclasses.replace(settings, distillation=0.0, recovery_task=1.0)
    recover(fresh, run.replay, None, alone, updates=updates,
            rng=np.random.default_rng(settings.seed), progress=progress)
    return dataclasses.replace(run, agent=fresh)
