# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The decrease test where V, c and the region are known: linear plants, and bounds by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pruning_core.closed_loop import Conditions, LinearController, Loop, Workers, simulate
from pruning_core.decrease import (
    check,
    draw,
    lower_bound,
    measure,
    pair,
    reference_level,
    upper_bound,
    violated,
)
from pruning_core.errors import ConfigError
from pruning_core.plants import Limits, PendulumPlant
from pruning_core.region import region_map
from pruning_core.runtime.errormap import Lyapunov
from pruning_core.stability import pendulum, riccati

A, B = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
P, K = riccati(A, B, np.eye(2), np.array([[0.1]]))


class LinearPlant:
    """x' = A x + B u, observed whole; commands up to `limit`."""

    reach = np.array([2.0, 2.0])

    def __init__(self, a=A, b=B, limit=1e9):
        self.a, self.b = a, b
        self.limits = Limits(np.ones(len(a)), np.array([-limit]), np.array([limit]))

    def states_at(self, errors):
        return np.array(errors)

    def observe(self, states):
        return states.copy()

    def step(self, states, commands):
        return states @ self.a.T + commands @ self.b.T


def lyapunov(p=P, k=K, steps=10, decrease=0.1, ball=1e-3):
    return Lyapunov(tuple(str(i) for i in range(len(p))), p, k, np.zeros(1), steps, decrease, ball)


def loop(plant=None, v=None, gain=1.0, **conditions):
    plant, v = plant or LinearPlant(), v or lyapunov()
    acting = Lyapunov(v.terms, v.P, gain * v.K, v.goal_action, v.steps, v.decrease, v.ball)
    return Loop(plant, LinearController(acting, plant.limits), v,
                Conditions(**{'steps': v.steps, **conditions}))


@pytest.mark.parametrize(('failures', 'trials'), [(0, 1), (0, 1000), (1, 1000), (30, 100), (7, 7),
                                                  (999, 1000)])
def test_clopper_pearson_is_scipys(failures, trials):
    exact = binomtest(failures, trials, alternative='less').proportion_ci(0.95, 'exact')
    assert upper_bound(failures, trials) == pytest.approx(exact.high)
    exact = binomtest(failures, trials, alternative='greater').proportion_ci(0.95, 'exact')
    assert lower_bound(failures, trials) == pytest.approx(exact.low)


def test_none_of_a_thousand_and_of_ten_thousand():
    assert upper_bound(0, 1000) < 0.0030
    assert upper_bound(0, 10_000) < 0.00030


@pytest.mark.parametrize('bad', [(1, 0), (-1, 5), (6, 5)])
def test_bounds_of_nothing(bad, four_parts):
    with pytest.raises(ConfigError) as error:
        upper_bound(*bad)
    four_parts(error, f'{bad[0]} of {bad[1]}')


def test_lqr_on_a_linear_plant_passes_everywhere_with_the_known_margin():
    """V' = x'(A-BK)'P(A-BK)x: the margin is one minus the largest generalised eigenvalue."""
    v = lyapunov(ball=0.0)
    tested = check(loop(v=v), 3.0, 4000, 0).decrease
    closed = np.linalg.matrix_power(A - B @ K, v.steps)
    root = np.linalg.cholesky(P)
    worst = np.linalg.eigvalsh(np.linalg.inv(root) @ closed.T @ P @ closed
                               @ np.linalg.inv(root).T).max()
    assert (tested.violations, tested.states, tested.passing_level) == (0, 4000, 3.0)
    assert tested.bound == upper_bound(0, 4000)
    assert 1 - worst <= tested.margin <= 1 - worst + 0.01


def test_a_controller_that_is_known_to_be_unstable_is_caught():
    """With the sign of the gain turned, V grows from all states but a thin wedge of them."""
    tested = check(loop(gain=-1.0), 1.0, 300, 0)
    assert tested.decrease.violations > 290 and tested.decrease.bound > 0.97
    assert tested.decrease.margin < -100
    np.testing.assert_array_equal(
        tested.failed, tested.after > np.maximum(0.9 * tested.before, lyapunov().ball))
    assert tested.decrease.passing_level < 0.1


def test_the_largest_passing_level_of_a_saturated_scalar_plant():
    """x' = 2 x + u with |u| <= 1: pushed back from |x| < 1 alone, so that V = p x2 passes to p."""
    a = b = np.eye(1)
    p, k = riccati(2 * a, b, a, a)
    v = lyapunov(p, k, steps=20)
    plant = LinearPlant(2 * a, b, limit=1.0)
    plant.reach = np.array([2.0])
    tested = check(loop(plant, v), np.inf, 5000, 0)
    inside = np.abs(tested.states[:, 0]) < 1
    assert inside.any() and not inside.all()
    np.testing.assert_array_equal(tested.failed, ~inside)
    assert p.item() * 0.98 < tested.decrease.passing_level < p.item()
    told = []
    level = reference_level(plant, v, progress=lambda *report: told.append(report))
    assert 0.85 * p.item() < level < 0.9 * p.item()
    assert len(told) > 100 and {phase for phase, *_ in told} == {'reference'}
    assert told[-1][1] == told[-1][2]


def test_region_of_the_same_plant_is_known():
    """Two errors: the second one decays by itself, the first is held from |x| < 1 alone."""
    a, b = np.diag([2.0, 0.5]), np.array([[1.0], [0.0]])
    p, k = riccati(a, b, np.eye(2), np.eye(1))
    found = region_map(loop(LinearPlant(a, b, limit=1.0), lyapunov(p, k, steps=3), steps=30),
                       (8, 4), 5, 0)
    np.testing.assert_array_equal(found.success, np.repeat([0, 0, 1, 1, 1, 1, 0, 0], 4).reshape(
        8, 4))
    assert found.share == 0.5 and found.area == pytest.approx(8.0)
    assert found.share_low < 0.5 and len(found.states) == 160
    assert found.decrease.share == 0.5


def test_ending_early_changes_nothing_that_counts():
    """Runs that leave once they stay at the goal give the verdicts of those that run on."""
    v, plant = pendulum(0.05), PendulumPlant()
    states = draw(plant, v, np.inf, 150, np.random.default_rng(0))
    whole, short = (simulate(Loop(plant, LinearController(v, plant.limits), v,
                                  Conditions(60, hold=hold)), states, range(150))
                    for hold in (0, 20))
    stayed = short.reached >= 0
    assert 3 < stayed.sum() < 150
    np.testing.assert_array_equal(np.isnan(short.values).any(0), stayed & (short.reached < 40))
    both = np.isfinite(short.values)
    np.testing.assert_array_equal(short.values[both], whole.values[both])
    for i in np.flatnonzero(stayed):
        start = short.reached[i]
        assert (whole.values[start:start + 21, i] <= v.ball).all()
        assert start == 0 or whole.values[start - 1, i] > v.ball


def test_delay_is_that_many_commands_late():
    """One scalar run by hand: until the first command arrives, the goal action acts."""
    a = b = np.eye(1)
    v = lyapunov(np.eye(1), np.array([[0.5]]), steps=4, ball=0.0)
    found = simulate(loop(LinearPlant(a, b), v, delay=2), np.array([[8.0]]), [0])
    x = [8.0]
    for u in (0.0, 0.0, -4.0, -4.0):
        x.append(x[-1] + u)
    np.testing.assert_allclose(np.sqrt(found.values[:, 0]), x)


def test_sensor_noise_reaches_the_controller_and_follows_the_seed():
    v = lyapunov()
    states = np.tile([[1.0, 0.0]], (3, 1))
    clean = simulate(loop(v=v), states, [1, 2, 2]).values
    noisy = simulate(loop(v=v, noise=0.1), states, [1, 2, 2]).values
    np.testing.assert_array_equal(clean[:, 0], clean[:, 1])
    assert not np.allclose(noisy, clean) and not np.allclose(noisy[:, 0], noisy[:, 1])
    np.testing.assert_array_equal(noisy[:, 1], noisy[:, 2])
    np.testing.assert_array_equal(noisy[0], clean[0])  # V is that of the true state


@pytest.mark.parametrize('level', [0.5, 2.0])
def test_states_are_uniform_in_the_sublevel_set(level):
    v, plant = lyapunov(ball=0.1), LinearPlant()
    states = draw(plant, v, level, 20_000, np.random.default_rng(0))
    values = v.values(states)
    assert values.min() > v.ball and values.max() <= level
    # In the plane the area below V grows like V: V is uniform between ball and level.
    inside = np.abs(states).max(axis=1) < 2
    assert inside.all()
    assert np.quantile(values, 0.5) == pytest.approx((level + 0.1) / 2, rel=0.03)


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 10)), min_size=1, max_size=50),
       st.floats(0.5, 10))
def test_verdict_is_the_definition(pairs, level):
    v = lyapunov(ball=0.3)
    before, after = np.array(pairs).T
    tested = [(x, y) for x, y in pairs if 0.3 < x <= level]
    if not tested:
        with pytest.raises(ConfigError):
            measure(v, before, after, level)
        return
    found = measure(v, before, after, level)
    bad = [x for x, y in tested if not (y <= 0.9 * x or y <= 0.3)]
    assert (found.states, found.violations) == (len(tested), len(bad))
    assert all(x >= found.passing_level for x in bad)
    assert found.passing_states == sum(x < min(bad, default=np.inf) for x, _ in tested)
    outside = [1 - y / x for x, y in tested if y > 0.3]
    assert found.margin == pytest.approx(min(outside, default=1.0))


def test_a_run_that_blew_up_failed():
    v = lyapunov()
    assert violated(v, np.array([1.0, 1.0]), np.array([np.nan, np.inf])).all()
    assert measure(v, np.array([1.0]), np.array([np.nan]), 2.0).margin == -np.inf


@pytest.mark.parametrize(('count', 'level'), [(0, 1.0), (5, 1e-4)])
def test_no_states_to_test(count, level, four_parts):
    with pytest.raises(ConfigError) as error:
        draw(LinearPlant(), lyapunov(), level, count, np.random.default_rng(0))
    four_parts(error, 'raise the level')


def test_processes_do_not_change_the_result():
    v, plant = pendulum(0.05), PendulumPlant()
    nominal = Loop(plant, LinearController(v, plant.limits), v, Conditions(5, noise=0.1))
    one, two = (check(nominal, 1.0, 130, 0, Workers(n)) for n in (1, 2))
    np.testing.assert_array_equal(one.after, two.after)
    np.testing.assert_array_equal(one.states, two.states)


def test_two_agents_on_the_same_states(four_parts):
    """The failing one alone fails; an agent and itself differ by exactly nothing."""
    good, bad = check(loop(), 1.0, 200, 0), check(loop(gain=-1.0), 1.0, 200, 0)
    found = pair(bad, good)
    assert (found.alone, found.other_alone) == (bad.decrease.violations, 0)
    assert found.low < found.difference == bad.decrease.share < found.high
    assert pair(good, bad).difference == -found.difference
    same = pair(bad, bad)
    assert (same.alone, same.other_alone, same.difference, same.low, same.high) == (0,) * 5
    with pytest.raises(ConfigError) as error:
        pair(good, check(loop(), 1.0, 200, 1))
    four_parts(error, 'states or seeds differ')


@pytest.mark.parametrize('bad', [{'steps': 0}, {'delay': -1}, {'noise': -0.1}, {'hold': -1}])
def test_conditions_that_cannot_be(bad, four_parts):
    with pytest.raises(ConfigError) as error:
        Conditions(**{'steps': 1, **bad})
    four_parts(error, 'out of range')


def test_progress_and_missing_seeds(four_parts):
    told = []
    check(loop(), 1.0, 100, 0, Workers(progress=lambda *a, **f: told.append(a), phase='test'))
    assert told == [('test', 64, 100), ('test', 100, 100)]
    with pytest.raises(ConfigError) as error:
        simulate(loop(), np.zeros((2, 2)), [0])
    four_parts(error, '1 seeds')
