# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What the dense agent says in each situation, and the distance to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning_core.config import LESSONS
from pruning_core.distillation import Imitation, Teacher, record
from pruning_core.visits import visit


@pytest.fixture
def visits(make_agent, fill):
    return visit(make_agent(seed=1).components, fill(episodes=4), np.random.default_rng(0),
                 rows=20, horizon=3)


@pytest.fixture
def teacher(make_agent, visits):
    return record(make_agent(seed=1).components, visits, np.arange(6))


def imitation(agent, teacher, lessons=LESSONS, rows=16):
    return Imitation(agent, teacher, lessons, 0.5, rows, np.random.default_rng(0))


def test_teacher_situation_by_situation(make_agent, visits):
    net, kept = make_agent(seed=1).components, np.array([0, 2, 5])
    teacher = record(net, visits, kept)
    assert [tuple(t.shape) for t in teacher] == [
        (20, 3), (3, 20, 1), (4, 20, 3), (3, 20, 1), (3, 20, 2), (4, 20, 1)]
    with torch.no_grad():
        for n in (0, 7, 19):
            z = net['encoder'](teacher.observation[n])
            for h in range(3):
                pair = torch.cat([z, teacher.action[h, n]])
                torch.testing.assert_close(teacher.latent[h, n], z[kept])
                torch.testing.assert_close(teacher.reward[h, n], net['reward'](pair))
                torch.testing.assert_close(
                    teacher.value[h, n], torch.cat([net['q1'](pair), net['q2'](pair)]))
                torch.testing.assert_close(teacher.policy[h, n], net['policy'](z))
                z = net['dynamics'](pair)
            torch.testing.assert_close(teacher.latent[3, n], z[kept])
    assert not any(t.requires_grad for t in teacher)


def test_an_uncut_copy_is_no_distance_away(make_agent, teacher):
    model, policy = imitation(make_agent(seed=1), teacher)()
    assert float(model.detach()) == pytest.approx(0, abs=1e-9)
    assert float(policy().detach()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(('lesson', 'component'), [
    ('latent', 'encoder'), ('next', 'dynamics'), ('reward', 'reward'), ('value', 'q1'),
    ('value', 'q2'), ('policy', 'policy')])
def test_each_lesson_is_about_its_component(make_agent, teacher, lesson, component):
    """A change of one component is noticed by its lesson, and not by those before it."""
    agent = make_agent(seed=1)
    with torch.no_grad():
        last = [m for m in agent.components[component] if isinstance(m, torch.nn.Linear)][-1]
        last.bias.add_(0.3)
    found = {}
    for one in LESSONS:
        model, policy = imitation(agent, teacher, [one])()
        found[one] = float(model) + float(policy())
    assert found[lesson] > 1e-6
    before = LESSONS[:LESSONS.index(lesson)] if component in ('encoder', 'dynamics') \
        else [one for one in LESSONS if one != lesson]
    assert all(found[one] < 1e-9 for one in before)


def test_lessons_add_up(make_agent, teacher):
    agent = make_agent(seed=2)
    whole = imitation(agent, teacher)()
    parts = [imitation(agent, teacher, [one])() for one in LESSONS]
    assert float(whole[0]) == pytest.approx(sum(float(m) for m, _ in parts), rel=1e-5)
    assert float(whole[1]()) == pytest.approx(sum(float(p()) for _, p in parts), rel=1e-5)


def test_distances_are_relative_to_how_much_the_answers_vary(make_agent, teacher):
    """Rewards in another unit are the same lesson."""
    agent = make_agent(seed=1)
    scaled = teacher._replace(reward=1000 * teacher.reward)
    with torch.no_grad():
        shifted = float(teacher.reward.std())
        agent.components['reward'][-1].bias.add_(shifted)
        plain = float(imitation(agent, teacher, ['reward'])()[0])
        agent.components['reward'][-1].weight.mul_(1000)
        agent.components['reward'][-1].bias.mul_(1000)
        assert float(imitation(agent, scaled, ['reward'])()[0]) == pytest.approx(plain, rel=1e-3)
    assert plain == pytest.approx(1, rel=0.2)


def test_the_policy_learns_on_latents_that_it_does_not_move(make_agent, teacher):
    agent = make_agent(seed=2)
    _, policy = imitation(agent, teacher)()
    policy().backward()
    touched = {name for name, module in agent.components.items()
               if any(p.grad is not None for p in module.parameters())}
    assert touched == {'policy'}


def test_teacher_is_only_read(make_agent, teacher):
    before = Teacher(*(t.clone() for t in teacher))
    agent = make_agent(seed=2)
    model, policy = imitation(agent, teacher)()
    agent.descend(model, policy())
    assert all(torch.equal(a, b) for a, b in zip(before, teacher, strict=True))


def test_early_steps_weigh_most(make_agent, teacher):
    """An error of one step counts rho**t of what it would at the first."""
    found = []
    for step in range(3):
        wrong = teacher.reward.clone()
        wrong[step] += 1
        agent = make_agent(seed=1)
        one = imitation(agent, teacher._replace(reward=wrong), ['reward'])
        found.append(float(one()[0].detach()) / one._scale['reward'])
    assert found == pytest.approx([4 / 7, 2 / 7, 1 / 7], rel=1e-4)
