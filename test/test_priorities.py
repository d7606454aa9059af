# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Prioritised replay: errors against the definition, row by row, and what is drawn by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning_core import priorities
from pruning_core.agent import Agent
from pruning_core.config import AgentConfig
from pruning_core.errors import AgentError
from pruning_core.networks import Widths
from pruning_core.priorities import chances, td_errors
from pruning_core.replay import Replay

LENGTHS, HORIZON = (5, 1, 4), 2


@pytest.fixture
def agent():
    agent = Agent(Widths(3, 1, 4, (8,), (8, 8), (8, 8), (8, 8), (8, 8), (8, 8), 'relu'),
                  AgentConfig(horizon=HORIZON), torch.Generator().manual_seed(0))
    with torch.no_grad():  # targets of their own, so that it matters which are asked
        for p in agent.targets.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=agent.generator))
    return agent


@pytest.fixture
def episodes():
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(n + 1, 3)), rng.uniform(-1, 1, (n, 1)), rng.normal(size=n))
            for n in LENGTHS]


@pytest.fixture
def replay(episodes):
    replay = Replay(100, 3, 1)
    for i, (observation, action, reward) in enumerate(episodes):
        replay.add(observation, action, reward, terminated=i == 1)
    return replay


def error(agent, observation, action, reward, following, over):
    """The definition, for one decision."""
    net, slow = agent.components, agent.targets

    def lower(nets, latent, action):
        pair = torch.cat([latent, action])
        return min(float(nets[q](pair)) for q in ('q1', 'q2'))

    with torch.no_grad():
        z, after = (net['encoder'](torch.tensor(x, dtype=torch.float32))
                    for x in (observation, following))
        value = 0 if over else lower(slow, after, net['policy'](after))
        q = lower(net, z, torch.tensor(action, dtype=torch.float32))
        return abs(reward + agent.config.discount * value - q)


@pytest.mark.parametrize('rows', [3, 4096])
def test_errors_are_those_of_the_definition(agent, replay, episodes, monkeypatch, rows):
    monkeypatch.setattr(priorities, '_ROWS', rows)
    expected = []
    for i, (o, a, r) in enumerate(episodes):
        expected += [error(agent, o[t], a[t], r[t], o[t + 1], over=i == 1)
                     for t in range(len(r))] + [0]
    np.testing.assert_allclose(td_errors(agent, replay), expected, atol=1e-5)


def test_windows_are_likely_by_the_mean_error_of_their_decisions(agent, replay):
    errors, starts = td_errors(agent, replay), replay.starts(HORIZON)
    means = np.array([errors[s:s + HORIZON].mean() for s in starts]) + 1e-3
    assert len(starts) == 4 + 0 + 3
    np.testing.assert_allclose(chances(agent, replay, 1), means / means.sum(), rtol=1e-5)
    np.testing.assert_allclose(chances(agent, replay, 0.5),
                               means**0.5 / (means**0.5).sum(), rtol=1e-5)
    np.testing.assert_allclose(chances(agent, replay, 0), 1 / len(starts))


def test_values_that_are_not_finite_are_named(agent, replay, four_parts):
    with torch.no_grad():
        agent.components['q2'][-1].bias.fill_(float('nan'))
    with pytest.raises(AgentError, match='learning_rate') as caught:
        chances(agent, replay, 0.6)
    four_parts(caught.value)
