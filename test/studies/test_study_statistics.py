# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Interquartile means, intervals and correlations against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pruning_core.errors import ConfigError
from pruning_core.studies.statistics import (
    Estimate,
    iqm,
    kendall,
    share,
    spearman,
    summary,
    verdict,
)


def test_the_outer_quarters_do_not_count():
    assert iqm([-1e9, 1, 2, 3, 4, 5, 6, 1e9]).value == 3.5
    assert iqm([1, 2, 6]) == (3.0, *iqm([1, 2, 6])[1:3], 3)
    assert iqm([7.0]) == (7.0, 7.0, 7.0, 1)


@pytest.mark.parametrize('n', [5, 20])
def test_interval_is_the_percentile_bootstrap(n):
    values = np.random.default_rng(n).exponential(size=n)
    ours = iqm(values)
    theirs = stats.bootstrap((values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
                             method='percentile', n_resamples=20_000).confidence_interval
    spread = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * spread)
    assert ours == iqm(values)


def test_interval_covers_the_truth():
    """Of normal samples the interquartile mean is the mean; 95 % of intervals should hold it."""
    rng = np.random.default_rng(1)
    held = [(e := iqm(rng.normal(3, 1, 30))).low <= 3 <= e.high for _ in range(200)]
    assert 0.88 <= np.mean(held) <= 0.99


@pytest.mark.parametrize('bad', [[], [1.0, float('nan')], [[1.0]]])
def test_no_mean_of_what_is_not_there(bad, four_parts):
    with pytest.raises(ConfigError) as error:
        iqm(bad)
    four_parts(error, 'interquartile')


def test_correlations():
    a, b = [1, 2, 3, 4, float('nan')], [10, 20, 30, 25, 1]
    assert spearman(a, b) == pytest.approx(0.8)
    assert kendall(a, b) == pytest.approx(2 / 3)
    assert np.isnan(spearman([1, 2], [1, 2])) and np.isnan(kendall([1, 1, 1], [1, 2, 3]))


@pytest.mark.parametrize(('low', 'high', 'n', 'said'), [
    (0.1, 0.2, 5, 'holds'), (-0.2, -0.1, 5, 'does not'), (-0.1, 0.2, 5, 'not shown'),
    (0.1, 0.2, 2, 'not shown')])
def test_verdicts(low, high, n, said):
    assert verdict(Estimate((low + high) / 2, low, high, n))['verdict'] == said


def test_shares():
    assert share(20, 20)['verdict'] == 'holds' and share(0, 20)['verdict'] == 'does not'
    assert share(12, 20)['verdict'] == 'not shown'
    assert share(20, 20)['low'] == pytest.approx(0.025 ** (1 / 20))


def test_summary_leaves_out_what_is_unknown():
    assert summary([1.0, None, float('nan'), 1.0]) == {'value': 1.0, 'low': 1.0, 'high': 1.0,
                                                       'n': 2}
    assert summary([None]) is None
