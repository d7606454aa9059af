# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Situations that a planner meets: the model's own rollouts, within limits, repeatable."""

import numpy as np
import torch
from torch import nn

from pruning_core.visits import layer_input, visit


def test_latents_are_the_models_own_and_actions_stay_within_limits(make_agent, fill):
    agent, replay = make_agent(), fill(episodes=5, decisions=8)
    visits = visit(agent.components, replay, np.random.default_rng(0), rows=30, horizon=3)
    assert visits.observation.shape == (30, 3) and visits.action.shape == (3, 30, 1)
    assert visits.latent.shape == (4, 30, 6)
    with torch.no_grad():
        assert torch.equal(visits.latent[0], agent.components['encoder'](visits.observation))
        for t in range(3):
            pair = torch.cat([visits.latent[t], visits.action[t]], dim=-1)
            assert torch.equal(visits.latent[t + 1], agent.components['dynamics'](pair))
    assert float(visits.action.abs().max()) <= 1
    assert visits.pairs().shape == (90, 7) and visits.latents().shape == (120, 6)
    stored = {tuple(row) for row in replay.observations().tolist()}
    assert {tuple(row) for row in visits.observation.tolist()} <= stored


def test_the_same_numbers_for_the_same_generator(make_agent, fill):
    agent, replay = make_agent(), fill()
    one, same, other = (visit(agent.components, replay, np.random.default_rng(s), rows=10)
                        for s in (3, 3, 4))
    assert torch.equal(one.latent, same.latent) and torch.equal(one.action, same.action)
    assert not torch.equal(one.action, other.action)


def test_no_more_rows_than_the_replay_has(make_agent, fill):
    agent, replay = make_agent(), fill(episodes=2, decisions=4)
    visits = visit(agent.components, replay, np.random.default_rng(0))
    assert len(visits.observation) == 10


def test_what_comes_into_a_layer():
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = torch.randn(5000, 2)  # more than one chunk
    with torch.no_grad():
        assert torch.equal(layer_input(module, module[2], x), module[1](module[0](x)))
    assert not module[2]._forward_pre_hooks


def test_some_of_them_are_spread_over_all(make_agent, fill):
    visits = visit(make_agent().components, fill(), np.random.default_rng(0), rows=10)
    few = visits.spread(4)
    assert torch.equal(few.observation, visits.observation[[0, 3, 6, 9]])
    assert torch.equal(few.latent, visits.latent[:, [0, 3, 6, 9]])
    assert torch.equal(few.action, visits.action[:, [0, 3, 6, 9]])
    assert torch.equal(visits.spread(100).latent, visits.latent)


def test_replayed_actions_come_first_where_asked(make_agent, fill):
    replay = fill(episodes=3)
    visits = visit(make_agent().components, replay, np.random.default_rng(0), rows=10**6,
                   horizon=2, replayed=True)
    assert torch.equal(visits.action[0], torch.from_numpy(replay.actions()))
    assert not torch.equal(visits.action[1], visits.action[0])
