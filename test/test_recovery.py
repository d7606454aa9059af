# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Recovery: the teacher's word, the pull towards it, and what is left as it was found."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from pruning_core.config import ImportanceConfig
from pruning_core.importance import ImportanceTracker
from pruning_core.recovery import Teacher, record, recover


@pytest.fixture
def replay(fill):
    return fill(episodes=4)


def go(agent, replay, teacher, **settings):
    return recover(agent, replay, teacher, rng=np.random.default_rng(0), **{
        'updates': 5, 'learning_rate': 1e-3, 'distillation': 1.0, **settings})


def test_teacher_row_by_row(make_agent, replay):
    """At each stored observation: the kept latents, the policy's action, both values."""
    agent = make_agent()
    kept = np.array([0, 2, 5])
    teacher = record(agent, replay, kept)
    net = agent.components
    rows = len(replay.observations())
    assert [t.shape for t in teacher] == [(rows, 3), (rows, 1), (rows, 2)]
    for row in (0, 8, 9, rows - 1):
        with torch.no_grad():
            z = net['encoder'](torch.from_numpy(replay.observations()[row]))
            pair = torch.cat([z, torch.from_numpy(replay.actions()[row])])
            torch.testing.assert_close(teacher.latent[row], z[kept])
            torch.testing.assert_close(teacher.action[row], net['policy'](z))
            torch.testing.assert_close(teacher.value[row],
                                       torch.cat([net['q1'](pair), net['q2'](pair)]))
    assert not any(t.requires_grad for t in teacher)


def distances(agent, replay, teacher):
    """Of latents, actions and values to the teacher's, over all stored observations."""
    own = record(agent, replay, np.arange(agent.widths.latent))
    return [float(((a - b) ** 2).mean()) for a, b in zip(own, teacher, strict=True)]


def test_distillation_draws_towards_the_teacher(make_agent, replay):
    """Latents, policy and values come closer than without it."""
    teacher = record(make_agent(seed=1), replay, np.arange(6))
    found = []
    for weight in (0.0, 50.0):
        agent = make_agent('agent.policy_every=1', seed=2)
        last = go(agent, replay, teacher, updates=60, distillation=weight, learning_rate=3e-3)
        found.append(distances(agent, replay, teacher))
        assert math.isnan(last) == (weight == 0)
    for without, with_teacher in zip(*found, strict=True):
        assert with_teacher < 0.8 * without


def test_returned_distance_is_that_of_the_last_batch(make_agent, replay):
    """With a step size of nothing it can be computed from the same batches."""
    agent = make_agent('agent.policy_every=1')
    teacher = record(make_agent(seed=1), replay, np.arange(6))
    rng = np.random.default_rng(0)
    batches = [replay.sample(rng, 8, 2) for _ in range(3)]
    last = go(agent, replay, teacher, updates=3, learning_rate=1e-30)
    net = agent.components
    with torch.no_grad():
        latents = [net['encoder'](torch.from_numpy(batches[-1].observation[0]))]
        for action in torch.from_numpy(batches[-1].action):
            latents.append(net['dynamics'](torch.cat([latents[-1], action], -1)))
        taught = teacher.action[torch.from_numpy(batches[-1].row)]
        gap = net['policy'](torch.stack(latents)) - taught
    assert last == pytest.approx(float((gap ** 2).mean()), rel=1e-4)


def test_same_seed_same_recovery(make_agent, replay):
    agents = [make_agent(), make_agent()]
    for agent in agents:
        go(agent, replay, record(agent, replay, np.arange(6)))
    assert all(torch.equal(p, q) for p, q in zip(
        agents[0].components.parameters(), agents[1].components.parameters(), strict=True))


def test_learning_rate_falls_to_a_tenth(make_agent, replay):
    agent, rates = make_agent(), []
    go(agent, replay, record(agent, replay, np.arange(6)), updates=10, learning_rate=2e-3,
       progress=lambda *a: rates.append(agent.policy_optimizer.param_groups[0]['lr']))
    assert rates == pytest.approx([2e-3 * (1 - 0.09 * i) for i in range(10)])


def test_importance_is_measured_on_the_way(make_agent, replay):
    agent = make_agent('agent.policy_every=1')
    tracker = ImportanceTracker(agent.graph(), dict(agent.components.items()),
                                ImportanceConfig(warmup=2))
    go(agent, replay, record(agent, replay, np.arange(6)), importance=tracker)
    assert (tracker.updates, tracker.unseen, tracker.warm) == (5, 0, True)


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_hooks_are_taken_off_again(make_agent, replay, error):
    """Also after an interruption: later updates know nothing of the teacher."""
    agent = make_agent()
    tracker = ImportanceTracker(agent.graph(), dict(agent.components.items()), ImportanceConfig())

    def stop(phase, done, total, **facts):
        assert (phase, total) == ('recover', 5)
        if done == 3:
            raise error

    with pytest.raises(error):
        go(agent, replay, record(agent, replay, np.arange(6)), importance=tracker, progress=stop)
    assert agent.extra_loss is None and tracker.updates == 3
    agent.on_gradients()
    before = tracker.state_dict()
    agent.update(replay.sample(np.random.default_rng(0), 8, 2))
    tracker.step()
    assert torch.equal(before['ema'], tracker.state_dict()['ema'])


def test_without_updates_nothing_changes(make_agent, replay):
    agent = make_agent()
    before = copy.deepcopy(agent.components.state_dict())
    assert math.isnan(go(agent, replay, record(agent, replay, np.arange(6)), updates=0))
    assert all(torch.equal(v, before[k]) for k, v in agent.components.state_dict().items())


def test_teacher_is_only_read(make_agent, replay):
    agent = make_agent()
    teacher = record(agent, replay, np.arange(6))
    before = Teacher(*(t.clone() for t in teacher))
    go(agent, replay, teacher)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher, strict=True))


def test_without_a_teacher_the_replay_alone_teaches(make_agent, replay):
    agent, same = make_agent(seed=3), make_agent(seed=3)
    assert math.isnan(go(agent, replay, None))
    go(same, replay, record(make_agent(seed=4), replay, np.arange(6)), distillation=0.0)
    for one, other in zip(agent.components.parameters(), same.components.parameters(),
                          strict=True):
        assert torch.equal(one, other)
