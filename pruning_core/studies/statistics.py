# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Interquartile means with bootstrap intervals, and rank correlations that may be undefined.

Few seeds and heavy tails: the mean follows the one training that failed, the median wastes the
others. The interquartile mean leaves out a quarter at either end (Agarwal et al. 2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from pruning_core.errors import ConfigError, explain

_RESAMPLES = 2000


class Estimate(NamedTuple):
    """An interquartile mean.

    Attributes:
        value: the mean of the middle half.
        low: of its 95 % percentile bootstrap interval; the value itself where n is 1.
        high: see `low`.
        n: how many values it is of.
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return self._asdict()


def iqm(values: npt.ArrayLike, level: float = 0.95) -> Estimate:
    """Interquartile mean over runs.

    The same values always give the same interval: the resampling has a seed of its own. Below
    four values nothing can be left out, and it is the mean.

    Args:
        values: (n,) one per run; those that are not finite are an error of the caller.
        level: of the interval.

    Raises:
        ConfigError: no values, or one that is not finite.
    """
    x = np.asarray(values, float)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ConfigError(explain('an interquartile mean was asked for', f'{x.tolist()}',
                                  'one finite value or more, in a row', 'leave the others out'))
    rng = np.random.default_rng(0)
    drawn = x[rng.integers(0, len(x), (_RESAMPLES, len(x)))]
    means = stats.trim_mean(drawn, 0.25, axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(stats.trim_mean(x, 0.25)), float(low), float(high), len(x))


def spearman(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Spearman's rank correlation over what both have; NaN below three pairs or without ranks."""
    return _correlation(stats.spearmanr, left, right)


def kendall(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Kendall's tau-b over what both have; NaN below three pairs or without ranks."""
    return _correlation(stats.kendalltau, left, right)


def _correlation(of: Any, left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    a, b = np.asarray(left, float), np.asarray(right, float)
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return float('nan')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', stats.NearConstantInputWarning)
        return float(of(a[known], b[known]).statistic)


def verdict(estimate: Estimate, limit: float = 0.0) -> dict[str, Any]:
    """An estimate with what follows for the claim that the quantity exceeds a limit.

    It `holds` where the whole interval lies above, `does not` where it lies below, and is
    `not shown` otherwise, or from fewer than three runs.
    """
    said = 'not shown'
    if estimate.n >= 3 and estimate.low > limit:
        said = 'holds'
    elif estimate.n >= 3 and estimate.high < limit:
        said = 'does not'
    return {**estimate.to_json(), 'verdict': said}


def share(successes: int, runs: int) -> dict[str, Any]:
    """Share of runs in which a claim is true, with its exact 95 % (Clopper-Pearson) interval.

    The claim is that it is true in more than half of them.
    """
    interval = stats.binomtest(successes, runs).proportion_ci(0.95)
    return verdict(Estimate(successes / runs, float(interval.low), float(interval.high), runs),
                   0.5)


def known(values: Sequence[float | None]) -> list[float]:
    """Those that are there and finite."""
    return [float(v) for v in values if v is not None and np.isfinite(v)]


def summary(values: Sequence[float | None]) -> dict[str, Any] | None:
    """The interquartile mean of what is known, as plain values; None where nothing is."""
    found = known(values)
    return iqm(found).to_json() if found else None
