# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What acts when the planner may not."""

from __future__ import annotations

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import ConfigError
from pruning_core.runtime.errormap import Lyapunov
from pruning_core.runtime.fallback import KINDS, make_fallback


def limited(manifest, low, high, lyapunov=None):
    action = dataclasses.replace(manifest.action, low=(low,), high=(high,))
    return dataclasses.replace(manifest, action=action, lyapunov=lyapunov or manifest.lyapunov)


@pytest.mark.parametrize(('low', 'high', 'command'), [(-2, 2, 0), (1, 3, 1), (-3, -1, -1)])
@pytest.mark.parametrize('kind', KINDS)
def test_without_observation_the_command_nearest_to_zero_acts(manifest, kind, low, high, command):
    fallback = make_fallback(kind, limited(manifest, low, high))
    for observation in (None, [math.nan, 0, 0], [1, math.inf, 0]):
        assert fallback.act(observation).tolist() == [command]


def test_zero_ignores_observations_and_what_callers_do_with_its_command(manifest):
    fallback = make_fallback('zero', manifest)
    fallback.act([1.0, 0.0, 5.0])[0] = 9.0
    assert fallback.act([1.0, 0.0, 5.0]).tolist() == [0.0]


def test_lqr_by_hand(manifest):
    plant = Lyapunov(('atan2(1,0)', '2'), np.eye(2), np.array([[0.5, -0.25]]), np.array([0.3]),
                     20, 0.1, 0.1)
    fallback = make_fallback('lqr', limited(manifest, -2, 2, plant))
    angle = 0.4
    observation = [math.cos(angle), math.sin(angle), 1.2]
    assert fallback.act(observation) == pytest.approx([0.3 - 0.5 * angle + 0.25 * 1.2])
    assert fallback.act([1.0, 0.0, 100.0]).tolist() == [2.0]
    assert fallback.act([1.0, 0.0, -100.0]).tolist() == [-2.0]


@given(st.lists(st.floats(), min_size=3, max_size=3))
def test_lqr_is_finite_and_within_limits_for_any_observation(manifest, observation):
    command = make_fallback('lqr', manifest).act(observation)
    assert command.shape == (1,)
    assert -2 <= command[0] <= 2


def test_lqr_of_the_bundle_holds_the_real_pendulum_upright(manifest):
    """The gain, its sign, the terms and the units together: a wrong one lets it fall."""
    env = gymnasium.make('Pendulum-v1').unwrapped
    fallback = make_fallback('lqr', manifest)
    env.reset(seed=0)
    env.state = np.array([0.15, -0.2])
    for _ in range(100):
        theta, speed = env.state
        command = fallback.act([math.cos(theta), math.sin(theta), speed])
        env.step(command.astype(np.float32))
    assert np.abs(env.state).max() < 0.01


def test_lqr_needs_a_plant_with_a_goal(manifest):
    with pytest.raises(ConfigError, match='no gain in its bundle; allowed: zero'):
        make_fallback('lqr', dataclasses.replace(manifest, lyapunov=None))


def test_unknown_fallback_names_the_near_one(manifest):
    with pytest.raises(ConfigError, match="'lqrr'.*did you mean 'lqr'.*allowed: zero, lqr"):
        make_fallback('lqrr', manifest)
