# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Crossovers: where one group's importance comes to exceed another's, and stays there.

The paper's figure 2 rests on them: importance is not a property of a place in the network but of a
time in training. A crossing counts only once the two curves are a stated factor apart on the other
side, so that two curves that lie on each other do not cross at every row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Crossover(NamedTuple):
    """One group rises above another.

    Attributes:
        update: at which the curves meet, between two rows.
        rises, falls: the groups above and below from there on.
        value: importance at which they meet.
    """

    update: float
    rises: str
    falls: str
    value: float


def crossovers(updates: npt.ArrayLike, values: Array, names: Sequence[str],
               factor: float = 1.2) -> list[Crossover]:
    """Find every lasting crossing.

    Args:
        updates: (T,) ascending.
        values: (T, G) importance; rows in which one of a pair is not above 0 are passed over.
        names: of the groups.
        factor: how far apart two curves must have come, on both sides.

    Returns:
        Ascending by update.
    """
    time = np.asarray(updates, float)
    with np.errstate(divide='ignore', invalid='ignore'):
        logs = np.log(values)
    found = []
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            found += _of_pair(time, logs[:, a], logs[:, b], (names[a], names[b]), factor)
    return sorted(found)


def _of_pair(time: Array, first: Array, second: Array, names: tuple[str, str], factor: float
             ) -> list[Crossover]:
    known = np.isfinite(first) & np.isfinite(second)
    time, first, second = time[known], first[known], second[known]
    gap = first - second
    apart = np.flatnonzero(np.abs(gap) > math.log(factor))
    found = []
    for before, after in zip(apart[:-1], apart[1:], strict=True):
        if (gap[before] > 0) == (gap[after] > 0):
            continue
        # The last change of sign between the two rows at which the curves were apart.
        signs = np.sign(gap[before:after + 1]) == np.sign(gap[after])
        i = before + int(np.flatnonzero(~signs)[-1])
        share = gap[i] / (gap[i] - gap[i + 1])
        level = first[i] + share * (first[i + 1] - first[i])
        rises, falls = names if gap[after] > 0 else names[::-1]
        found.append(Crossover(float(time[i] + share * (time[i + 1] - time[i])), rises, falls,
                               float(np.exp(level))))
    return found
