# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Crossovers of curves whose crossings are known."""

from __future__ import annotations

import numpy as np
import pytest

from pruning_core.importance.crossovers import Crossover, crossovers


def test_where_two_exponentials_meet():
    """exp(t / 10) and exp(5) meet at t = 50, between two rows."""
    t = np.arange(0, 100, 4.0)
    values = np.stack([np.exp(t / 10), np.full(len(t), np.exp(5.0))], axis=1)
    (found,) = crossovers(t, values, ['up', 'flat'])
    assert (found.rises, found.falls) == ('up', 'flat')
    assert (found.update, found.value) == (pytest.approx(50), pytest.approx(np.exp(5)))
    (found,) = crossovers(t, values[::-1], ['down', 'flat'])
    assert (found.rises, found.falls) == ('flat', 'down')


def test_there_and_back_again():
    t = np.linspace(0, 4 * np.pi, 400)
    values = np.stack([np.exp(np.sin(t)), np.ones(400)], axis=1)
    found = crossovers(t, values, ['wave', 'flat'])
    np.testing.assert_allclose([c.update for c in found], np.pi * np.array([1, 2, 3]), atol=0.02)
    assert [c.rises for c in found] == ['flat', 'wave', 'flat']


def test_curves_that_lie_on_each_other_do_not_cross():
    """Noise of 5 % around each other, with a factor of 1.2; touching is no crossing either."""
    rng, t = np.random.default_rng(0), np.arange(300.0)
    noisy = np.exp(0.05 * rng.uniform(-1, 1, (300, 2)))
    assert crossovers(t, noisy, ['a', 'b']) == []
    assert len(crossovers(t, noisy, ['a', 'b'], factor=1.0)) > 50
    touching = np.stack([1 + np.abs(t - 150) / 10, np.ones(300)], axis=1)
    assert crossovers(t, touching, ['a', 'b']) == []


def test_noise_at_a_crossing_counts_once():
    rng, t = np.random.default_rng(1), np.arange(300.0)
    values = np.stack([np.exp((t - 150) / 100 + 0.05 * rng.normal(size=300)), np.ones(300)],
                      axis=1)
    (found,) = crossovers(t, values, ['a', 'b'])
    assert found.update == pytest.approx(150, abs=20)


def test_missing_and_zero_rows_are_passed_over():
    values = np.array([[1, 4], [np.nan, 4], [0, 4], [16, 4.0]])
    assert crossovers([0, 1, 2, 3], values, ['a', 'b']) == [
        Crossover(pytest.approx(1.5), 'a', 'b', pytest.approx(4.0))]
    assert crossovers([], np.zeros((0, 2)), ['a', 'b']) == []
