# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Ranks of scores, and how far two rankings agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, rankdata

Array = npt.NDArray[np.float64]


def normalised_ranks(values: Array) -> Array:
    """(rank - 1/2) / n, from 0 (least) to 1 (most), ties averaged; NaN stays NaN."""
    out = np.full(values.shape, np.nan)
    known = np.isfinite(values)
    if known.any():
        out[known] = (rankdata(values[known]) - 0.5) / known.sum()
    return out


def combined_rank(scores: Sequence[Array]) -> Array:
    """Mean of the normalised ranks under several scores.

    Deviation: the paper asks for a combined ranking but defines none (method section 2).
    """
    return np.asarray(np.mean([normalised_ranks(s) for s in scores], axis=0))


def agreement(left: Array, right: Array) -> float:
    """Kendall's tau-b over what both have; NaN where that is fewer than two, or all tied."""
    known = np.isfinite(left) & np.isfinite(right)
    if known.sum() < 2:
        return float('nan')
    return float(kendalltau(left[known], right[known]).statistic)
