# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Evidence without a goal: V from the agent's own value, by hand on networks that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pruning_core.config import EnvConfig
from pruning_core.env import ScaledEnv
from pruning_core.errors import ConfigError
from pruning_core.value_evidence import value_evidence

ENV = EnvConfig(id='MountainCarContinuous-v0', max_episode_steps=12)


class Value(nn.Module):
    """Slope times the first observation (the car's position)."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, pair):
        return self.slope * pair[..., :1]


@pytest.fixture
def driver(make_agent):
    """An agent that pushes right, sees all, and predicts that nothing moves."""
    def make(slope):
        agent = make_agent(observations=2)
        agent.components['encoder'] = nn.Identity()
        agent.components['policy'] = nn.Sequential(nn.Linear(2, 1), nn.Tanh())
        with torch.no_grad():
            agent.components['policy'][0].weight.zero_()
            agent.components['policy'][0].bias.fill_(9.0)
        agent.components['dynamics'] = Still()
        agent.components['q1'] = agent.components['q2'] = Value(slope)
        return agent

    return make


class Still(nn.Module):
    def forward(self, pair):
        return pair[..., :2]


def positions(seed):
    env = ScaledEnv(ENV)
    seen = [env.reset(seed)]
    for _ in range(12):
        seen.append(env.step(np.ones(1))[0])
    return np.array(seen)


def test_windows_and_residual_by_hand(driver):
    seen = positions(3)
    found = value_evidence(driver(1.0), ENV, [3], None, steps=4)
    v = seen[:12, 0].max() - seen[:12, 0]
    good = v[4:] <= np.maximum(0.9 * v[:-4], 0.01 * v.max())
    gaps = np.linalg.norm(np.diff(seen, axis=0), axis=1) / np.linalg.norm(seen[1:], axis=1)
    assert (found.episodes, found.windows) == (1, 8)
    assert found.share == pytest.approx(good.mean())
    assert found.residual_median == pytest.approx(np.median(gaps), rel=1e-4)
    assert found.residual_99 == pytest.approx(np.quantile(gaps, 0.99), rel=1e-4)


def test_a_value_that_falls_is_told_from_one_that_rises(driver):
    rising, falling = (value_evidence(driver(s), ENV, [3, 4], None, steps=4) for s in (1.0, -1.0))
    moves_right = positions(3)[11, 0] > positions(3)[0, 0]
    good, bad = (rising, falling) if moves_right else (falling, rising)
    assert good.episodes_failing < bad.episodes_failing == 2 and bad.bound == 1.0


def test_it_says_what_kind_of_evidence_it_is(driver):
    assert 'weak' in value_evidence(driver(1.0), ENV, [3], None, steps=4).to_json()['evidence']


def test_episodes_too_short_for_a_window(driver, four_parts):
    for seeds in ([], [3]):
        with pytest.raises(ConfigError) as error:
            value_evidence(driver(1.0), ENV, seeds, None, steps=20)
        four_parts(error, 'none longer than 20 periods')
