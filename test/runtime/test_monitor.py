# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The online share against the definition computed over the whole past."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.closed_loop import LinearController
from pruning_core.decrease import draw, violated
from pruning_core.plants import PendulumPlant
from pruning_core.runtime.errormap import Lyapunov
from pruning_core.runtime.monitor import StabilityMonitor
from pruning_core.stability import pendulum


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


@pytest.mark.parametrize(('commands', 'saturation', 'chatter'), [
    ([[0.0], [0.0], [0.0]], 0, 0), ([[3.0], [-1.0], [3.0]], 1, 1), ([[3.0], [1.0], [0.0]], 1 / 3,
                                                                    0.375),
    ([[1.0], [math.nan], [2.0]], 0, 0.25),
])
def test_saturation_and_chatter_by_hand(commands, saturation, chatter):
    """Limits -1 and 3; what is not finite never was a command."""
    monitor = StabilityMonitor(None, low=(-1.0,), high=(3.0,))
    for command in commands:
        reading = monitor.update([0.0], command=command)
    assert reading.commands_valid
    assert (reading.saturation, reading.chatter) == (pytest.approx(saturation),
                                                     pytest.approx(chatter))


def test_of_several_actuators_the_worst_counts():
    monitor = StabilityMonitor(None, low=(-1.0, 0.0), high=(1.0, 10.0))
    monitor.update([0.0], command=[0.0, 5.0])
    reading = monitor.update([0.0], command=[0.1, 10.0])
    assert (reading.saturation, reading.chatter) == (0.5, 0.5)


@given(st.lists(st.floats(0, 1e6) | st.just(math.nan), min_size=1, max_size=40),
       st.integers(1, 9))
def test_residual_is_the_mean_of_the_last_ones(residuals, windows):
    monitor = StabilityMonitor(None, windows)
    for residual in residuals:
        reading = monitor.update([0.0], residual=residual)
    known = [r for r in residuals if math.isfinite(r)][-windows:]
    assert reading.residual_valid == bool(known)
    if known:
        assert reading.residual == pytest.approx(np.mean(known), rel=1e-6, abs=1e-6)
    else:
        assert math.isnan(reading.residual)


def test_one_huge_number_is_forgotten_entirely():
    monitor = StabilityMonitor(None, 5)
    for residual in [1e300, *[0.5] * 10]:
        reading = monitor.update([0.0], residual=residual)
    assert reading.residual == 0.5


def test_envelope_is_v_over_the_tested_level():
    reading = StabilityMonitor(square(), level=8.0).update([4.0])
    assert (reading.envelope, reading.envelope_valid) == (2.0, True)
    for level in (math.nan, 0.0, -1.0):
        reading = StabilityMonitor(square(), level=level).update([4.0])
        assert math.isnan(reading.envelope) and not reading.envelope_valid


def test_what_a_bundle_says(manifest):
    """Limits of its actuators; the level of its gate, where it has one that can be used."""
    high = list(manifest.action.high)
    for gates, level in (({}, None), ({'stability': {'passing_level': 4.0}}, 4.0),
                         ({'stability': {'passing_level': 'high'}}, None),
                         ({'stability': None}, None)):
        reading = StabilityMonitor.of(dataclasses.replace(manifest, gates=gates)).update(
            [1.0, 0.0, 2.0], command=high)
        assert reading.saturation == 1.0
        assert reading.envelope_valid == (level is not None)
        if level:
            assert reading.envelope == pytest.approx(manifest.lyapunov.value([1, 0, 2]) / level)


def test_agrees_with_the_offline_test_on_recorded_runs():
    """Every window of every run: the online share is that of the offline verdicts."""
    v, plant = pendulum(0.05), PendulumPlant()
    states = draw(plant, v, np.inf, 30, np.random.default_rng(0))
    controller = LinearController(v, plant.limits)
    offline, monitors = [], [StabilityMonitor(v, 1000) for _ in states]
    history = []
    for _ in range(90):
        observations = plant.observe(states)
        history.append(v.values(observations))
        readings = [m.update(o.tolist()) for m, o in zip(monitors, observations, strict=True)]
        states = plant.step(states, controller.act(observations))
    values = np.array(history)
    offline = ~violated(v, values[:-v.steps], values[v.steps:])
    assert 0 < offline.mean() < 1
    np.testing.assert_allclose([r.share for r in readings], offline.mean(axis=0))


def test_memory_does_not_grow():
    def size(monitor):
        return sum(sys.getsizeof(v) for v in vars(monitor).values())
    short, long = (StabilityMonitor(square(), windows=20) for _ in range(2))
    follow(short, range(30))
    follow(long, range(3000))
    assert size(long) <= size(short) + 100
