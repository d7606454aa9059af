# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Environments as the agent sees them: scaled, described, and refused where they do not fit."""

from __future__ import annotations

import math
import subprocess
import sys
import types

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from pruning_core.config import EnvConfig
from pruning_core.env import ScaledEnv, describe, make_raw
from pruning_core.errors import AgentError, EnvError


class Plant(gymnasium.Env):
    """Two observations, one unbounded; an action from 1 to 5 that is returned as the reward."""

    metadata = {'render_fps': 50}
    observation_space = Box(np.array([-4, -np.inf], 'f4'), np.array([2, np.inf], 'f4'))
    action_space = Box(np.array([1], 'f4'), np.array([5], 'f4'))
    broken = ''

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.array([2, 10], 'f4'), {}

    def step(self, action):
        self.steps += 1
        observation = np.array([1, np.nan if self.broken == 'observation' else 10], 'f4')
        reward = math.inf if self.broken == 'reward' else float(action[0])
        return observation, reward, self.steps == 3, False, {}


@pytest.fixture
def plants(monkeypatch):
    """A module of plants that `env.id` can name; returns a function that adds one."""
    module = types.ModuleType('test_plants')
    module.Plant = Plant
    monkeypatch.setitem(sys.modules, 'test_plants', module)

    def add(**attributes):
        module.Other = type('Other', (Plant,), attributes)
        return 'test_plants:Other'

    return add


def test_pendulum_is_described_with_names_and_units():
    spec = ScaledEnv(EnvConfig()).spec
    assert spec.observation_names == ('cos(angle)', 'sin(angle)', 'angular velocity')
    assert spec.observation_units == ('1', '1', 'rad/s')
    assert spec.observation_scale == pytest.approx((1, 1, 1 / 8))
    assert (spec.action_names, spec.action_units) == (('torque',), ('N m',))
    assert (spec.action_low, spec.action_high) == ((-2.0,), (2.0,))
    assert (spec.period_s, spec.max_decisions) == (0.05, 200)


@pytest.mark.parametrize(('settings', 'period_s', 'decisions'), [
    ({'action_repeat': 2}, 0.1, 100),
    ({'action_repeat': 3}, 0.15, 67),
    ({'max_episode_steps': 30}, 0.05, 30),
    ({'max_episode_steps': 30, 'action_repeat': 4}, 0.2, 8),
    ({'period_s': 0.02, 'action_repeat': 2}, 0.02, 100),
])
def test_period_and_length(settings, period_s, decisions):
    env = ScaledEnv(EnvConfig(**settings))
    assert env.spec.period_s == pytest.approx(period_s)
    assert env.spec.max_decisions == decisions
    env.reset(seed=0)
    count, done = 0, False
    while not done:
        _, _, terminated, truncated = env.step([0.0])
        count, done = count + 1, terminated or truncated
    assert count == decisions


def test_scaling_and_repeat_against_the_raw_environment():
    """Two repeats of 2 N m times the action; rewards are summed, observations scaled."""
    raw, env = make_raw('Pendulum-v1'), ScaledEnv(EnvConfig(action_repeat=2))
    first, _ = raw.reset(seed=7)
    np.testing.assert_allclose(env.reset(7), first / [1, 1, 8], rtol=1e-6)
    found, reward, _, _ = env.step([0.25])
    rewards = [raw.step(np.array([0.5], 'f4')) for _ in range(2)]
    np.testing.assert_allclose(found, rewards[1][0] / [1, 1, 8], rtol=1e-6)
    assert reward == pytest.approx(rewards[0][1] + rewards[1][1])
    assert found.dtype == np.float32


@pytest.mark.parametrize(('action', 'physical'),
                         [(-1, 1), (0, 3), (0.5, 4), (1, 5), (9, 5), (-9, 1)])
def test_actions_reach_the_plant_in_its_units(plants, action, physical):
    """From [-1, 1] to [1, 5], and clipped there."""
    env = ScaledEnv(EnvConfig(id='test_plants:Plant'))
    env.reset(0)
    assert env.step([action])[1] == physical


def test_a_plant_of_ones_own(plants):
    """Unbounded observations keep their scale; the frame rate tells the period."""
    env = ScaledEnv(EnvConfig(id='test_plants:Plant'))
    assert env.spec.observation_scale == (0.25, 1.0)
    assert env.spec.observation_names == ('observation[0]', 'observation[1]')
    assert env.spec.action_names == ('action[0]',)
    assert (env.spec.period_s, env.spec.max_decisions) == (0.02, 0)
    np.testing.assert_array_equal(env.reset(0), np.array([0.5, 10], 'f4'))
    limited = EnvConfig(id='test_plants:Plant', max_episode_steps=2)
    assert ScaledEnv(limited).spec.max_decisions == 2


def test_repeat_stops_where_the_episode_ends(plants):
    env = ScaledEnv(EnvConfig(id='test_plants:Plant', action_repeat=2))
    env.reset(0)
    assert env.step([0.0])[1:] == (6.0, False, False)
    assert env.step([0.0])[1:] == (3.0, True, False)


@pytest.mark.parametrize(('id', 'said'), [
    ('Pendulm-v1', ["'Pendulm-v1'", "did you mean 'Pendulum-v1'?"]),
    ('Pendulum-v77', ["'Pendulum-v77'"]),
    ('no_such_module:Plant', ['no_such_module']),
    ('test_plants:Missing', ['Missing']),
    ('not an id', ["'not an id'"]),
    ('', ["environment ''"]),
])
def test_unknown_environments(plants, id, said, four_parts):
    with pytest.raises(EnvError) as error:
        make_raw(id)
    four_parts(error, *said)


@pytest.mark.parametrize(('attributes', 'said'), [
    ({'action_space': Discrete(3)}, ['its action space is Discrete(3)', 'a Box action space']),
    ({'observation_space': Box(0, 1, (4, 4))}, ['observation space', 'one dimension']),
    ({'action_space': Box(-np.inf, np.inf, (1,))}, ['unbounded', 'RescaleAction']),
    ({'metadata': {}}, ['neither a dt nor a frame rate', 'env.period_s']),
    ({'dt': math.nan}, ['env.period_s']),
    ({'dt': -0.1}, ['env.period_s']),
])
def test_plants_that_do_not_fit(plants, attributes, said, four_parts):
    with pytest.raises(EnvError) as error:
        ScaledEnv(EnvConfig(id=plants(**attributes)))
    four_parts(error, *said)


def test_a_given_period_needs_none_of_the_plant(plants):
    config = EnvConfig(id=plants(metadata={}), period_s=0.3)
    assert describe(make_raw(config.id), config).period_s == 0.3


@pytest.mark.parametrize('broken', ['observation', 'reward'])
def test_numbers_that_are_not_finite_stop_the_run(plants, broken, four_parts):
    env = ScaledEnv(EnvConfig(id=plants(broken=broken)))
    env.reset(0)
    with pytest.raises(EnvError) as error:
        env.step([0.0])
    four_parts(error, 'nan' if broken == 'observation' else 'inf')


TWICE = """
from pruning_core.env import make_raw
for _ in range(3):
    make_raw('HalfCheetah-v5').close()
"""


def test_mujoco_says_a_thing_once_however_many_environments_are_made():
    pytest.importorskip('mujoco', reason='the extra [mujoco] is not installed')
    done = subprocess.run([sys.executable, '-c', TWICE], capture_output=True, text=True,
                          check=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(said) == len(set(said))


@pytest.mark.parametrize(('code', 'name', 'said'), [
    ('class A:\n    def __init__(self, cfg): pass\n', 'A',
     "missing 1 required positional argument: 'cfg'; allowed"),
    ('class A:\n    def __init__(self): raise RuntimeError("no camera")\n', 'A',
     'A() raised RuntimeError: no camera (plant_of_a_test.py, line 2)'),
    ('class A:\n    def __init__(self): self.nothing\n', 'A', "no attribute 'nothing'"),
    ('class A:\n    def __init__(self): raise SystemExit(0)\n', 'A', 'A() raised SystemExit: 0'),
    ('class A: pass\n', 'A', 'A has no observation_space, action_space'),
    ('class A:\n    observation_space = action_space = None\n', 'A', 'A is no gymnasium.Env'),
    ('A = 3\n', 'A', "a 'A' that is no class (3)"),
    ('class A: pass\n', 'B', "has no 'B'"),
    ('class A(:\n', 'A', "importing 'plant_of_a_test' raised SyntaxError"),
    ('from math import nope\n', 'A', "raised ImportError: cannot import name 'nope'"),
    ('import nowhere_at_all\n', 'A',
     "raised ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ('import plant\n', 'A', "raised ModuleNotFoundError: No module named 'plant'"),
    ('import numpy\nclass A:\n    def __init__(self): numpy.linalg.inv(numpy.zeros((2, 2)))\n',
     'A', 'LinAlgError: Singular matrix (plant_of_a_test.py, line 3)'),
    ('import sys\nsys.exit(0)\n', 'A', 'raised SystemExit: 0'),
    (None, 'A', "there is no module 'plant_of_a_test'"),
], ids=['argument', 'raises', 'attribute', 'exit', 'no spaces', 'no env', 'number', 'name',
        'syntax', 'import', 'its import', 'a prefix', 'a library', 'exit on import', 'no module'])
def test_a_class_that_cannot_be_made_is_told_from_one_that_is_not_there(
        tmp_path, monkeypatch, four_parts, code, name, said):
    monkeypatch.syspath_prepend(tmp_path)
    if code is not None:
        (tmp_path / 'plant_of_a_test.py').write_text(code)
    try:
        with pytest.raises(EnvError) as error:
            make_raw(f'plant_of_a_test:{name}')
    finally:
        sys.modules.pop('plant_of_a_test', None)
    four_parts(error, said)


def test_what_the_plant_raises_is_said_to_be_its_own(plants, four_parts):
    def step(self, action):
        raise OSError('device lost')

    env = ScaledEnv(EnvConfig(id=plants(step=step)))
    env.reset(0)
    with pytest.raises(EnvError) as error:
        env.step([0.0])
    four_parts(error, 'it raised OSError: device lost (test_env.py, line')


def test_an_action_that_is_not_finite_is_not_the_plants_fault(plants, four_parts):
    env = ScaledEnv(EnvConfig(id=plants()))
    env.reset(0)
    with pytest.raises(AgentError) as error:
        env.step([np.nan])
    four_parts(error, 'training has diverged')


def test_a_period_that_is_no_number(plants, four_parts):
    with pytest.raises(EnvError) as error:
        ScaledEnv(EnvConfig(id=plants(dt='fast')))
    four_parts(error, "'fast'")


@pytest.mark.parametrize(('parts', 'said'), [
    ({'step': lambda self, action: (np.zeros(2), 0.0, False, {})}, 'it returned 4 values'),
    ({'step': lambda self, action: (np.zeros(2), 'much', False, False, {})},
     "the reward 'much'"),
    ({'step': lambda self, action: ({'a': 1}, 0.0, False, False, {})},
     'no array of numbers (dict)'),
    ({'reset': lambda self, seed=None: np.zeros(2)}, 'it returned ndarray'),
])
def test_what_the_plant_returns_has_to_be_what_gymnasium_says(plants, four_parts, parts, said):
    env = ScaledEnv(EnvConfig(id=plants(**parts)))
    with pytest.raises(EnvError) as error:
        env.reset(0)
        env.step([0.0])
    four_parts(error, said)


def test_a_registered_plant_that_cannot_be_made(four_parts, monkeypatch):
    def broken(**options):
        raise RuntimeError('no camera')

    gymnasium.register('Broken-v0', entry_point=broken)
    try:
        with pytest.raises(EnvError) as error:
            make_raw('Broken-v0')
    finally:
        del gymnasium.registry['Broken-v0']
    four_parts(error, 'making it raised RuntimeError: no camera (test_env.py, line')
