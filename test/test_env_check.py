# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What is said about environments that cannot, or can hardly, be trained."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from pruning_core import config as configuration
from pruning_core.cartpole import CartPoleSwingUp
from pruning_core.env_check import check


def reset_alike(self, **_):
    self.state = np.random.default_rng().normal(size=4)
    return self._get_obs(), {}


def pays(amount):
    def step(self, action):
        observation, _, terminated, truncated, info = CartPoleSwingUp.step(self, action)
        return observation, amount, terminated, truncated, info
    return step


def idle(self, action):
    return CartPoleSwingUp.step(self, 0 * action)


def ends_at_once(self, action):
    observation, reward, _, truncated, info = CartPoleSwingUp.step(self, action)
    return observation, reward, True, truncated, info


def far(self):
    return np.append(CartPoleSwingUp._get_obs(self)[:4], 1e4).astype(np.float32)


WIDE = Box(np.full(5, -np.inf, 'f4'), np.full(5, np.inf, 'f4'))


@pytest.fixture
def findings(monkeypatch):
    """Check a cart-pole with some of its parts replaced."""
    def run(settings=('env.max_episode_steps=40',), **parts):
        module = types.ModuleType('odd_plants')
        module.Plant = type('Plant', (CartPoleSwingUp,), parts)
        monkeypatch.setitem(sys.modules, 'odd_plants', module)
        return check(configuration.from_dict(configuration.override(
            {}, ['env.id="odd_plants:Plant"', *settings])))
    return run


def test_a_good_plant_is_good_throughout(findings):
    found = findings(('env.max_episode_steps=40', 'env.reward_scale=1'))
    assert [(f.about, f.level) for f in found] == [
        ('spaces', 'good'), ('episodes', 'good'), ('seeds', 'good'), ('observations', 'good'),
        ('rewards', 'good'), ('actions', 'good'), ('goal', 'doubtful'), ('speed', 'good')]
    assert 'pruning is gated on return and latency alone' in found[-2].text


@pytest.mark.parametrize(('parts', 'level', 'about', 'said'), [
    ({'action_space': Discrete(3)}, 'wrong', 'environment', 'Discrete(3)'),
    ({'action_space': Box(-np.inf, np.inf, (1,))}, 'wrong', 'environment', 'unbounded'),
    ({'observation_space': Box(-1, 1, (5, 1))}, 'wrong', 'environment', 'one dimension'),
    ({'dt': None}, 'wrong', 'environment', 'set env.period_s'),
    ({'observation_signals': (('one', 'm'),)}, 'wrong', 'environment', 'states 1 observation'),
    ({'step': pays(np.nan)}, 'wrong', 'numbers', 'reward nan'),
    ({'_get_obs': lambda self: np.zeros(4, 'f4')}, 'wrong', 'numbers', 'of shape (4,)'),
    ({'step': lambda self, action: self.motor}, 'wrong', 'environment', "no attribute 'motor'"),
    ({'step': ends_at_once}, 'wrong', 'episodes', 'lower it'),
    ({'reset': reset_alike}, 'doubtful', 'seeds', 'self.np_random'),
    ({'observation_space': WIDE, '_get_obs': far}, 'doubtful', 'observations', 'number 4'),
    ({'step': pays(0.0)}, 'doubtful', 'rewards', 'sparse'),
    ({'step': pays(2000.0)}, 'doubtful', 'rewards', 'env.reward_scale near 0.0003'),
    ({'step': idle}, 'doubtful', 'actions', 'numbers [0]'),
], ids=['discrete', 'unbounded', 'matrix', 'period', 'signals', 'nan',
        'shape', 'bug', 'short', 'seed', 'large',
        'sparse', 'rewards', 'idle'])
def test_what_is_found(findings, parts, level, about, said):
    found = [f for f in findings(**parts) if f.about == about and f.level != 'good']
    assert [f.level for f in found] == [level] * len(found) and found
    assert any(said in f.text for f in found), found


def test_a_goal_is_seen():
    found = {f.about: f for f in check(configuration.from_dict({}))}
    assert found['goal'].level == 'good'


def test_a_goal_that_cannot_be_used_is_wrong(findings):
    found = [f for f in findings(('env.max_episode_steps=40',), stability_goal={'state': 1})
             if f.about == 'goal']
    assert [f.level for f in found] == ['wrong'] and 'stability_goal' in found[0].text


def test_a_constant_number_is_noticed(findings):
    """The fifth of the plant above says nothing."""
    found = findings(_get_obs=far, observation_space=WIDE)
    assert any('[4] never changed' in f.text for f in found)


@pytest.mark.parametrize(('settings', 'about', 'said'), [
    ((), 'episodes', 'set env.max_episode_steps'),
    (('env.max_episode_steps=40', 'training.replay_capacity=30'), 'replay', 'replay_capacity'),
    (('env.max_episode_steps=4',), 'episodes', 'agent.horizon, 5')])
def test_what_does_not_fit_the_settings(findings, settings, about, said):
    assert any(f.level == 'wrong' and f.about == about and said in f.text
               for f in findings(settings))


CONFIGS = Path(__file__).resolve().parent.parent / 'config'
MUJOCO = {'inverted_pendulum', 'inverted_double_pendulum', 'reacher', 'half_cheetah'}


@pytest.mark.parametrize('name', sorted(MUJOCO | {'cartpole', 'pendulum', 'pendulum_quick'}))
def test_shipped_configurations_fit_their_plants(name):
    if name in MUJOCO:
        pytest.importorskip('mujoco', reason='the extra [mujoco] is not installed')
    found = check(configuration.load(CONFIGS / f'{name}.yaml'))
    # The force at the rail's ends, which Gymnasium reports, is 0 away from them.
    known = {'[8] never changed'} if name == 'inverted_double_pendulum' else set()
    for f in found:
        assert f.level == 'good' or (f.level, f.about) == ('doubtful', 'goal') or any(
            t in f.text for t in known), f
