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


@pytest.mark.parametrize(('margin', 'pushes', 'acting'), [
    (0.0, 0, {'refined'}), (6.0, 0, {'refined', 'policy'}), (0.0, 3, {'refined', 'push'}),
    (6.0, 3, {'refined', 'policy', 'push'})])
@pytest.mark.parametrize('actions', [1, 2])
def test_numpy_plans_as_torch_does(load_benchmark, margin, pushes, acting, actions):
    """Over observations at which each of the refined plan, the policy and a push acts."""
    peers = load_benchmark('peers')
    torch.manual_seed(1)
    net = build(Widths.dense(NetworkConfig(latent=6, encoder_hidden=16, hidden=16), 3, actions))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5)
    config = PlannerConfig(horizon=4, samples=24, policy_samples=2, elites=6, iterations=2,
                           pushes=pushes, push_margin=0.1 + 0.65 * margin, policy_margin=margin)
    rival = peers.NumpyPlan(net, config, DISCOUNT, 0.3)
    acted = set()
    for seed in range(60):
        observation = torch.from_numpy(
            np.random.default_rng(seed).uniform(-1, 1, (1, 3)).astype('f4'))
        ours = TorchPlanner(net, config, DISCOUNT, 0.3, Drawn())
        rival.rng = Drawn()
        found, expected = rival.plan(observation.numpy()), ours.plan(observation)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)
        with torch.no_grad():
            own = net['policy'](net['encoder'](observation))[0].numpy()
        acted.add('policy' if np.allclose(own, expected, atol=1e-5)
                  else 'push' if (np.abs(expected) == 1).any() else 'refined')
    assert acted == acting
