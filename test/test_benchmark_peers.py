# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The planners that ours is timed against do the same work: the same plan on the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning_core.config import NetworkConfig, PlannerConfig
from pruning_core.networks import Widths, build
from pruning_core.planner import TorchPlanner

DISCOUNT = 0.9


class Drawn:
    """The same numbers for a planner in numpy and one in torch."""

    def __init__(self):
        self.rng = np.random.default_rng(3)

    def standard_normal(self, shape, dtype):
        return self.rng.standard_normal(shape, dtype)

    def __call__(self, horizon, plans, actions):
        drawn = self.rng.standard_normal((horizon, plans, actions), np.float32)
        return torch.from_numpy(drawn[:, None])


@pytest.mark.parametrize('margin', [0.0, 0.01])
@pytest.mark.parametrize('pushes', [0, 3])
@pytest.mark.parametrize('actions', [1, 2])
def test_numpy_plans_as_torch_does(load_benchmark, pushes, actions, margin):
    """One policy plan, without noise: there alone the two differ, torch's first has none."""
    peers = load_benchmark('peers')
    torch.manual_seed(1)
    net = build(Widths.dense(NetworkConfig(latent=6, encoder_hidden=16, hidden=16), 3, actions))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5)
    config = PlannerConfig(horizon=4, samples=24, policy_samples=1, elites=6, iterations=2,
                           pushes=pushes, push_margin=0.0, policy_margin=margin)
    rival = peers.NumpyPlan(net, config, DISCOUNT, 0.0)
    rival.rng = Drawn()
    pushed = 0
    for seed in range(12):
        observation = torch.from_numpy(
            np.random.default_rng(seed).uniform(-1, 1, (1, 3)).astype('f4'))
        ours = TorchPlanner(net, config, DISCOUNT, 0.0, Drawn())
        rival.rng = Drawn()
        found, expected = rival.plan(observation.numpy()), ours.plan(observation)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)
        pushed += bool((np.abs(expected) == 1).any())
    assert bool(pushed) == bool(pushes)
