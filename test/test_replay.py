# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Whole episodes in, windows out; each number says which episode and step it belongs to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.errors import ConfigError
from pruning_core.replay import Replay


def episode(number, length):
    """Observation (episode, step), action and reward 100 episode + step."""
    steps = np.arange(length + 1)
    marks = 100.0 * number + steps[:-1]
    return np.stack([np.full(length + 1, number), steps], 1), marks[:, None], marks


def filled(lengths, capacity=1000, terminated=()):
    replay = Replay(capacity, 2, 1)
    for number, length in enumerate(lengths):
        replay.add(*episode(number, length), number in terminated)
    return replay


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 9),
       st.integers(10, 40), st.integers(0, 2**32))
def test_windows_stay_inside_one_episode(lengths, horizon, capacity, seed):
    """Consecutive steps of one episode, actions and rewards of the same steps."""
    replay = filled(lengths, capacity)
    assert replay.episodes + len(replay) <= capacity
    if horizon > max(lengths[-replay.episodes:]):
        with pytest.raises(ConfigError, match='horizon'):
            replay.sample(np.random.default_rng(seed), 4, horizon)
        return
    batch = replay.sample(np.random.default_rng(seed), 16, horizon)
    number, step = batch.observation[..., 0], batch.observation[..., 1]
    assert batch.observation.shape == (horizon + 1, 16, 2)
    assert (number == number[0]).all()
    assert (step == step[0] + np.arange(horizon + 1)[:, None]).all()
    marks = 100 * number[:-1] + step[:-1]
    np.testing.assert_array_equal(batch.reward, marks)
    np.testing.assert_array_equal(batch.action[..., 0], marks)
    np.testing.assert_array_equal(replay.observations()[batch.row], batch.observation)
    np.testing.assert_array_equal(replay.actions()[batch.row[:-1]], batch.action)


def test_every_start_and_no_other():
    """Episodes of 3, 1 and 2 decisions take rows 0-3, 4-5 and 6-8."""
    replay = filled([3, 1, 2])
    assert replay.starts(1).tolist() == [0, 1, 2, 4, 6, 7]
    assert replay.starts(2).tolist() == [0, 1, 6]
    assert replay.starts(3).tolist() == [0]
    assert replay.starts(4).tolist() == []
    drawn = replay.sample(np.random.default_rng(0), 400, 1).row[0]
    assert set(drawn.tolist()) == {0, 1, 2, 4, 6, 7}
    assert np.bincount(drawn)[[0, 1, 2, 4, 6, 7]].min() > 35  # uniform over starts: 67 expected


def test_only_the_last_decision_of_a_finished_episode_is_terminal():
    replay = filled([3, 2], terminated={1})
    assert replay.to_arrays()['terminated'].tolist() == [0, 0, 0, 0, 0, 1, 0]


def test_oldest_whole_episodes_go():
    """Rows 4 + 4 + 4 of 12 are full; one of 3 rows pushes out the first only."""
    replay = filled([3, 3, 3], capacity=12)
    assert (len(replay), replay.episodes) == (9, 3)
    replay.add(*episode(7, 2), False)
    assert (len(replay), replay.episodes) == (8, 3)
    assert replay.observations()[:, 0].tolist() == [1] * 4 + [2] * 4 + [7] * 3
    assert replay.actions()[:, 0].tolist() == [100, 101, 102, 0, 200, 201, 202, 0, 700, 701, 0]


def test_dropped_episodes_leave_nothing_behind():
    """Rows that were terminal once are reused clean."""
    replay = filled([2, 2], capacity=6, terminated={0, 1})
    replay.add(*episode(5, 4), False)
    assert replay.to_arrays()['terminated'].tolist() == [0] * 5
    assert replay.to_arrays()['reward'].tolist() == [500, 501, 502, 503, 0]


def test_round_trip():
    replay = filled([3, 5, 2], capacity=11, terminated={2})
    again = Replay.from_arrays(replay.to_arrays())
    rngs = np.random.default_rng(3), np.random.default_rng(3)
    for one, other in zip(replay.sample(rngs[0], 9, 2), again.sample(rngs[1], 9, 2), strict=True):
        np.testing.assert_array_equal(one, other)
    for r in (replay, again):
        r.add(*episode(9, 6), True)
    for name, array in replay.to_arrays().items():
        np.testing.assert_array_equal(array, again.to_arrays()[name], err_msg=name)


def test_too_long_an_episode_is_refused(four_parts):
    replay = filled([2], capacity=4)
    with pytest.raises(ConfigError) as error:
        replay.add(*episode(1, 4), False)
    four_parts(error, '5 rows', 'room for 4', 'training.replay_capacity')
    assert replay.episodes == 1


def test_nothing_to_sample(four_parts):
    with pytest.raises(ConfigError) as error:
        Replay(10, 2, 1).sample(np.random.default_rng(0), 1, 3)
    four_parts(error, '3 decisions', 'agent.horizon')


def test_starts_follow_the_episodes(fill):
    """Asked before and after an episode came and another went."""
    replay = fill(episodes=2, decisions=3, capacity=10)
    assert replay.starts(2).tolist() == [0, 1, 4, 5] and replay.starts(3).tolist() == [0, 4]
    replay.add(np.zeros((6, 3)), np.zeros((5, 1)), np.zeros(5), False)
    assert replay.episodes == 2
    assert replay.starts(2).tolist() == [0, 1, 4, 5, 6, 7] and replay.starts(5).tolist() == [4]
