# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Recovery: imitation, the replay, both; and what is left as it was found."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from pruning_core.config import LESSONS, ImportanceConfig, PruningConfig
from pruning_core.distillation import Imitation, record
from pruning_core.errors import ConfigError
from pruning_core.importance import ImportanceTracker
from pruning_core.recovery import recover
from pruning_core.visits import visit


@pytest.fixture
def replay(fill):
    return fill(episodes=4)


@pytest.fixture
def teacher(make_agent, replay):
    return taught_by(make_agent(seed=1), replay)


def taught_by(agent, replay):
    visits = visit(agent.components, replay, np.random.default_rng(0), horizon=3)
    return record(agent.components, visits, np.arange(6))


def go(agent, replay, teacher, *, updates=5, seed=0, importance=None, progress=None, **settings):
    more = {} if progress is None else {'progress': progress}
    return recover(agent, replay, teacher, dataclasses.replace(PruningConfig(), **settings),
                   updates=updates, rng=np.random.default_rng(seed), importance=importance, **more)


@torch.no_grad()
def distance(agent, teacher):
    model, policy = Imitation(agent, teacher, LESSONS, 0.5, 200, np.random.default_rng(5))()
    return float(model), float(policy())


@pytest.mark.parametrize('task', [0.0, 0.01])
def test_imitation_draws_towards_the_teacher(make_agent, replay, teacher, task):
    agent = make_agent('agent.policy_every=1', seed=2)
    before = distance(agent, teacher)
    end = go(agent, replay, teacher, updates=120, recovery_task=task, recovery_learning_rate=3e-3)
    assert all(b < 0.7 * a for a, b in zip(before, distance(agent, teacher), strict=True))
    assert math.isfinite(end.distance) and end.updates == 120


def test_only_the_ratio_of_the_weights_counts(make_agent, replay, teacher):
    """A tenth of the one is ten times the other."""
    agents = [make_agent(seed=2) for _ in range(3)]
    for agent, (task, weight) in zip(agents, ((0.1, 1.0), (1.0, 10.0), (1.0, 1.0)), strict=True):
        go(agent, replay, teacher, recovery_task=task, distillation=weight)
    one, same, other = ([p.detach() for p in a.components.parameters()] for a in agents)
    assert all(torch.equal(p, q) for p, q in zip(one, same, strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(one, other, strict=True))


def test_without_the_task_the_replay_is_not_asked(make_agent, teacher):
    agent = make_agent(seed=2)
    go(agent, None, teacher, recovery_task=0.0)
    assert agent.updates == 5


def test_neither_is_refused():
    with pytest.raises(ConfigError, match='recovery_task'):
        PruningConfig(distillation=0.0, recovery_task=0.0)


@pytest.mark.parametrize('lessons', ['latents', '', 'latent, next'])
def test_unknown_lessons_are_refused(lessons):
    with pytest.raises(ConfigError, match='latent, next, reward, value, policy'):
        PruningConfig(distilled=lessons)


@pytest.mark.parametrize('task', [0.0, 1.0])
def test_same_seed_same_recovery(make_agent, replay, teacher, task):
    agents = [make_agent(), make_agent()]
    for agent in agents:
        go(agent, replay, teacher, recovery_task=task)
    assert all(torch.equal(p, q) for p, q in zip(
        agents[0].components.parameters(), agents[1].components.parameters(), strict=True))


@pytest.mark.parametrize(('warmup', 'rise'), [
    (0.0, [1.0] * 10), (0.4, [0.25, 0.5, 0.75, *[1.0] * 7]), (0.05, [1.0] * 10)])
@pytest.mark.parametrize('end', [0.01, 0.2, 1.0])
def test_learning_rate_rises_and_falls(make_agent, replay, teacher, warmup, rise, end):
    agent, rates = make_agent(), []
    go(agent, replay, teacher, updates=10, recovery_learning_rate=2e-3, recovery_warmup=warmup,
       recovery_learning_rate_end=end,
       progress=lambda *a: rates.append(agent.policy_optimizer.param_groups[0]['lr']))
    fall = [1 - (1 - end) * i / 10 for i in range(10)]
    assert rates == pytest.approx([2e-3 * r * f for r, f in zip(rise, fall, strict=True)])


@pytest.mark.parametrize('task', [0.0, 1.0])
def test_importance_is_measured_on_the_way(make_agent, replay, teacher, task):
    agent = make_agent('agent.policy_every=1', seed=2)
    tracker = ImportanceTracker(agent.graph(), dict(agent.components.items()),
                                ImportanceConfig(warmup=2))
    go(agent, replay, teacher, importance=tracker, recovery_task=task)
    assert (tracker.updates, tracker.unseen, tracker.warm) == (5, 0, True)


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_hooks_are_taken_off_again(make_agent, replay, teacher, error):
    """Also after an interruption: later updates know nothing of the teacher."""
    agent = make_agent()
    tracker = ImportanceTracker(agent.graph(), dict(agent.components.items()), ImportanceConfig())

    def stop(phase, done, total, **facts):
        assert (phase, total) == ('recover', 5)
        if done == 3:
            raise error

    with pytest.raises(error):
        go(agent, replay, teacher, importance=tracker, progress=stop, recovery_task=1.0)
    assert agent.extra_loss is None and tracker.updates == 3
    agent.on_gradients()
    before = tracker.state_dict()
    agent.update(replay.sample(np.random.default_rng(0), 8, 2))
    tracker.step()
    assert torch.equal(before['ema'], tracker.state_dict()['ema'])


def test_without_updates_nothing_changes(make_agent, replay, teacher):
    agent = make_agent()
    before = copy.deepcopy(agent.components.state_dict())
    assert math.isnan(go(agent, replay, teacher, updates=0).distance)
    assert all(torch.equal(v, before[k]) for k, v in agent.components.state_dict().items())


def test_without_a_teacher_the_replay_alone_teaches(make_agent, replay, teacher):
    agent, same = make_agent(seed=3), make_agent(seed=3)
    assert math.isnan(go(agent, replay, None).distance)
    end = go(same, replay, teacher, distillation=0.0, recovery_task=1.0)
    assert math.isnan(end.distance)
    assert all(torch.equal(p, q) for p, q in zip(
        agent.components.parameters(), same.components.parameters(), strict=True))


@pytest.mark.parametrize(('threshold', 'updates'), [(0.0, 220), (1e-9, 100), (1.0, 220)])
def test_ends_when_the_ranks_have_settled(make_agent, replay, teacher, threshold, updates):
    """Never, at the second look, or not at all where they must be identical."""
    agent = make_agent(seed=2)
    tracker = ImportanceTracker(agent.graph(), dict(agent.components.items()),
                                ImportanceConfig(warmup=2))
    end = go(agent, replay, teacher, updates=220, importance=tracker, settle=threshold)
    assert end.updates == updates == tracker.updates
