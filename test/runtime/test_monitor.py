# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The online share against the definition computed over the whole past."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.runtime.errormap import Lyapunov
from pruning_core.runtime.monitor import StabilityMonitor


def square(steps=3, decrease=0.1, ball=0.0):
    """V is the square of the first observation."""
    return Lyapunov(('0',), np.eye(1), np.zeros((1, 1)), np.zeros(1), steps, decrease, ball)


def follow(monitor, errors):
    return [monitor.update([e]) for e in errors]


@given(st.lists(st.floats(-4, 4), max_size=40), st.integers(1, 6), st.integers(1, 9),
       st.sampled_from([0.0, 0.1, 0.9]), st.sampled_from([0.0, 0.5]))
def test_share_is_that_of_the_definition(errors, steps, windows, decrease, ball):
    plant = square(steps, decrease, ball)
    readings = follow(StabilityMonitor(plant, windows), errors)
    values = [plant.value([e]) for e in errors]
    for t, reading in enumerate(readings):
        good = [values[s] <= max((1 - decrease) * values[s - steps], ball)
                for s in range(steps, t + 1)][-windows:]
        assert reading.value == values[t]
        assert reading.valid == bool(good)
        if good:
            assert reading.share == pytest.approx(sum(good) / len(good))
        else:
            assert math.isnan(reading.share)


@pytest.mark.parametrize(('errors', 'share'), [
    ([4, 3, 2, 1, 0], 1.0),
    ([1, 2, 3, 4, 5], 0.0),
    ([2, 2, 2, 2, 2], 0.0),  # held away from the goal is no decrease
    ([0, 0, 0, 0, 0], 1.0),
    ([4, 4, 4, 1, 5], 0.5),
])
def test_share_by_hand(errors, share):
    assert follow(StabilityMonitor(square()), errors)[-1].share == share


def test_resting_near_the_goal_counts_as_stable_only_with_a_ball():
    wobble = [0.1, 0.11, 0.12, 0.13, 0.14]
    assert follow(StabilityMonitor(square(ball=0.02)), wobble)[-1].share == 1.0
    assert follow(StabilityMonitor(square(ball=0.0)), wobble)[-1].share == 0.0


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf, 1e200])
def test_value_that_is_not_finite_does_not_enter_the_windows(bad):
    monitor = StabilityMonitor(square())
    with np.errstate(over='ignore'):
        reading = follow(monitor, [4, 3, 2, 1, bad])[-1]
    assert math.isnan(reading.value)
    assert (reading.share, reading.valid) == (1.0, True)
    assert follow(monitor, [0.5])[-1].share == 1.0


def test_plant_without_candidate_measures_nothing():
    reading = StabilityMonitor(None).update([1.0, 2.0])
    assert not reading.valid
    assert math.isnan(reading.value)
    assert math.isnan(reading.share)


def test_reset_forgets_the_past():
    monitor = StabilityMonitor(square())
    follow(monitor, [1, 2, 3, 4, 5])
    monitor.reset()
    assert not any(r.valid for r in follow(monitor, [9, 8, 7]))
    assert follow(monitor, [6])[-1].share == 1.0


def test_memory_does_not_grow():
    def size(monitor):
        return sum(sys.getsizeof(v) for v in vars(monitor).values())
    short, long = (StabilityMonitor(square(), windows=20) for _ in range(2))
    follow(short, range(30))
    follow(long, range(3000))
    assert size(long) <= size(short) + 100
