# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Noise that turns plans of the policy into pushes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.config import PlannerConfig
from pruning_core.runtime.pushes import proposals, push_noise

sizes = {'horizon': st.integers(1, 12), 'lengths': st.integers(0, 6), 'actions': st.integers(1, 4)}


def test_one_action_is_held_at_a_limit_for_one_two_and_four_decisions():
    found = np.sign(push_noise(5, 3, 1)[:, :, 0]).T.astype(int).tolist()
    assert found == [[-1, 0, 0, 0, 0], [-1, -1, 0, 0, 0], [-1, -1, -1, -1, 0],
                     [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]


def test_lengths_beyond_the_horizon_are_the_horizon_once():
    assert np.count_nonzero(push_noise(3, 5, 1), axis=0)[:, 0].tolist() == [1, 2, 3, 1, 2, 3]


@given(**sizes, seed=st.integers(0, 99))
def test_whatever_the_policy_says_the_held_action_is_at_the_limit_and_others_are_its(
        horizon, lengths, actions, seed):
    noise = push_noise(horizon, lengths, actions)
    policy = np.random.default_rng(seed).uniform(-1, 1, noise.shape).astype('f4')
    plans = np.clip(policy + noise, -1, 1)
    held = noise != 0
    assert (np.abs(plans[held]) == 1).all()
    assert (plans[~held] == policy[~held]).all()
    assert (held.any(axis=0).sum(axis=1) == 1).all()  # one action of each plan
    assert (held[:-1] >= held[1:]).all()  # at first, then no more


@given(**sizes)
def test_every_plan_is_another_and_they_are_as_many_as_is_said(horizon, lengths, actions):
    noise = push_noise(horizon, lengths, actions)
    assert len({plan.tobytes() for plan in noise.transpose(1, 0, 2)}) == noise.shape[1]
    settings = PlannerConfig(horizon=horizon, pushes=lengths, policy_samples=7)
    assert proposals(settings, actions) == 7 + noise.shape[1]
