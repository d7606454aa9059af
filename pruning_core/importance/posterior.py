# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The Gamma posterior of each unit's mean gradient: magnitudes in, mean and deviation out.

Deviation: the paper leaves the posterior open. To model a gradient as exponential with a Gamma
*rate* would give an estimate that falls as gradients grow, and so invert the ranking. Here a
magnitude y is Gamma distributed around an unknown *mean* m with a known shape k, and 1/m has a
Gamma prior, which is conjugate; the estimate of m grows with the gradients. The paper's likely
reading, a count of gradient mass over updates, stands beside it. Both take y in units of its
warm-up median, since a prior of fixed numbers would drown gradients near 1e-4.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
POSTERIORS = ('mean', 'paper')


class Posterior(Protocol):
    """Parameters (alpha, beta) per unit, updated by one magnitude at a time."""

    alpha: Array
    beta: Array

    def update(self, y: Array, seen: npt.NDArray[np.bool_], shape: float) -> None:
        """Take in (units,) magnitudes of one update, in units of their warm-up median."""

    def mean(self) -> Array:
        """(units,) estimate mu of the mean magnitude."""

    def deviation(self) -> Array:
        """(units,) standard deviation of that estimate."""


class _Gamma:
    """What both readings share: a prior, and forgetting eta towards it."""

    prior: tuple[float, float]
    alpha: Array
    beta: Array

    def __init__(self, units: int, forgetting: float) -> None:
        self.alpha, self.beta = (np.full(units, value) for value in self.prior)
        self.forgetting = forgetting

    def _move(self, seen: npt.NDArray[np.bool_], alpha: Array | float, beta: Array | float
              ) -> None:
        eta, (alpha0, beta0) = self.forgetting, self.prior
        np.copyto(self.alpha, eta * self.alpha + (1 - eta) * alpha0 + alpha, where=seen)
        np.copyto(self.beta, eta * self.beta + (1 - eta) * beta0 + beta, where=seen)


class MeanPosterior(_Gamma):
    """y ~ Gamma(shape k, mean m), 1/m ~ Gamma(alpha, rate beta); the default."""

    prior = (3.0, 2.0)  # the weakest whole alpha whose mean has a variance; a mean of 1

    def update(self, y: Array, seen: npt.NDArray[np.bool_], shape: float) -> None:
        """Add k to alpha and k y to beta."""
        self._move(seen, shape, shape * y)

    def mean(self) -> Array:
        """Estimate mu = beta / (alpha - 1)."""
        return self.beta / (self.alpha - 1)

    def deviation(self) -> Array:
        """Deviation mu / sqrt(alpha - 2)."""
        return self.mean() / np.sqrt(self.alpha - 2)


class PaperPosterior(_Gamma):
    """The paper's likely reading: alpha gathers magnitude, beta counts updates."""

    prior = (1.0, 1.0)

    def update(self, y: Array, seen: npt.NDArray[np.bool_], shape: float) -> None:
        """Add y to alpha and 1 to beta."""
        self._move(seen, y, 1.0)

    def mean(self) -> Array:
        """Estimate mu = alpha / beta."""
        return self.alpha / self.beta

    def deviation(self) -> Array:
        """Deviation sqrt(alpha) / beta."""
        return np.sqrt(self.alpha) / self.beta


def make_posterior(kind: str, units: int, forgetting: float) -> Posterior:
    """Make one of `POSTERIORS`, at its prior.

    Args:
        kind: 'mean' or 'paper'.
        units: how many.
        forgetting: eta in (0, 1]; what was learnt fades to the prior by this factor per update,
            and 1 never forgets.
    """
    chosen = MeanPosterior if kind == 'mean' else PaperPosterior
    return chosen(units, forgetting)
