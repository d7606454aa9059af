# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The posteriors against data drawn from the very models that they assume."""

from __future__ import annotations

import numpy as np
import pytest

from pruning_core.importance.posterior import POSTERIORS, make_posterior


def learnt(kind, magnitudes, shape=1.0, forgetting=1.0):
    """Posterior after (updates, units) magnitudes."""
    posterior = make_posterior(kind, magnitudes.shape[1], forgetting)
    for y in magnitudes:
        posterior.update(y, np.full(len(y), True), shape)
    return posterior


def test_mean_posterior_is_calibrated():
    """Means drawn from the prior, magnitudes from the means: errors are as large as stated."""
    rng = np.random.default_rng(0)
    units, shape = 20_000, 1.5
    prior = make_posterior('mean', 1, 1.0)
    true = prior.beta[0] / rng.gamma(prior.alpha[0], size=units)
    magnitudes = rng.gamma(shape, true / shape, size=(30, units))
    found = learnt('mean', magnitudes, shape)
    z = (true - found.mean()) / found.deviation()
    assert abs(z.mean()) < 4 / np.sqrt(units)
    assert z.std() == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(prior.mean(), 1.0)
    np.testing.assert_allclose(prior.deviation(), 1.0)


@pytest.mark.parametrize('kind', POSTERIORS)
def test_estimates_converge_on_the_mean(kind):
    """And the deviation shrinks as one over the root of the number of updates."""
    rng, true = np.random.default_rng(1), np.array([0.1, 1.0, 30.0])
    few, many = (learnt(kind, rng.gamma(2.0, true / 2.0, size=(n, 3)), 2.0) for n in (100, 10_000))
    np.testing.assert_allclose(many.mean(), true, rtol=0.03)
    np.testing.assert_allclose(few.deviation() / many.deviation(), 10, rtol=0.25)


@pytest.mark.parametrize('kind', POSTERIORS)
def test_larger_magnitudes_give_larger_means(kind):
    """A posterior over the rate would do the opposite."""
    found = learnt(kind, np.tile([0.5, 1.0, 2.0], (10, 1)), 1.0, 0.9)
    assert (np.diff(found.mean()) > 0).all()


@pytest.mark.parametrize('kind', POSTERIORS)
def test_forgetting_returns_to_new_data_and_never_beyond_the_prior(kind):
    """Without it, an old gradient counts as much as a new one."""
    magnitudes = np.concatenate([np.full((500, 1), 9.0), np.full((500, 1), 1.0)])
    assert learnt(kind, magnitudes, 4.0, 0.9).mean()[0] == pytest.approx(1.0, abs=0.01)
    assert learnt(kind, magnitudes, 4.0, 1.0).mean()[0] == pytest.approx(5.0, abs=0.01)
    steady = learnt(kind, np.full((2000, 1), 9.0), 4.0, 0.9)
    assert 7 < steady.mean()[0] < 9


@pytest.mark.parametrize('kind', POSTERIORS)
def test_units_not_seen_stay(kind):
    posterior = make_posterior(kind, 2, 0.9)
    before = posterior.mean()[1]
    posterior.update(np.array([5.0, 5.0]), np.array([True, False]), 1.0)
    assert posterior.mean()[0] != before and posterior.mean()[1] == before
