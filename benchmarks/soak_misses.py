# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Which deadlines a controller missed, and which of them the machine did: it stood still then.

Stalls are pairs of begin and end, sorted (`soak_stalls.py`); all times are of `time.monotonic`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_DRAWS = 20_000


@dataclass(frozen=True)
class Miss:
    """A tick that ended after its deadline, as the tick after it tells.

    Attributes:
        began: `time.monotonic` before the tick was due, by less than two periods.
        ended: when the next one started.
        skipped: whole periods that it cost.
        in_swap: whether a bundle was on its way or had just arrived.
    """

    began: float
    ended: float
    skipped: int
    in_swap: bool

    def stalled_s(self, stalls: list[tuple[float, float]]) -> float:
        """How long the machine stood still meanwhile, on any processor."""
        return float(stood_still(stalls, self.began, self.ended))

    def by_machine(self, stalls: list[tuple[float, float]], period_s: float, typical_s: float
                   ) -> bool:
        """Whether such stalls make up half, or more, of the least that it took beyond others.

        Never so of a controller that is too slow for its period anyway.
        """
        excess_s = self.skipped * period_s - typical_s
        return excess_s > 0 and self.stalled_s(stalls) >= 0.5 * excess_s


def misses_of(skipped: Sequence[tuple[float, int]], sent: Sequence[float],
              latency: Sequence[float], in_swap: Sequence[bool] | npt.NDArray[np.bool_],
              period_s: float) -> list[Miss]:
    """Each tick that made a loop skip periods.

    Args:
        skipped: when the count of skipped periods was first told as it is, and the count.
        sent: (ticks,) when each tick told its latency, likewise `time.monotonic`.
        latency: (ticks,) seconds that each had computed by then.
        in_swap: (ticks,) see `Miss`.
        period_s: of the loop.
    """
    found, times = [], np.asarray(sent)[:len(latency)]
    for (_, before), (at, now) in itertools.pairwise(skipped):
        after = int(np.searchsorted(times, at, side='right')) - 1  # the tick that tells of it
        if after > 0:
            started = float(times[after]) - latency[after]
            found.append(Miss(started - (now - before + 2) * period_s, started, now - before,
                              bool(in_swap[after])))
    return found


def longest(stalls: list[tuple[float, float]]) -> float:
    """Seconds of the longest stall; 0: there is none."""
    return max((b - a for a, b in stalls), default=0.0)


def stood_still(stalls: list[tuple[float, float]], began: npt.ArrayLike, ended: npt.ArrayLike
                ) -> npt.NDArray[np.float64]:
    """Seconds between two times, or pairs of such, in which some processor stood still."""
    if not stalls:
        return np.zeros(np.shape(began))
    begin, end = (np.array(times, float) for times in zip(*stalls, strict=True))
    until = np.maximum.accumulate(end)
    begin[1:] = np.maximum(begin[1:], until[:-1])  # what stalls on two processors share is once
    edges = np.stack([begin, np.maximum(begin, until)]).T.ravel()
    so_far = np.cumsum(np.diff(edges, prepend=edges[0]) * (np.arange(len(edges)) % 2))
    first, last = (np.interp(np.asarray(t, float), edges, so_far) for t in (began, ended))
    return np.asarray(last - first)


def by_chance(stalls: list[tuple[float, float]], span_s: float, least_s: float) -> float:
    """Share of the time at which a span that begins then has at least so much of stalls in it."""
    if not stalls:
        return 0.0
    began = np.random.default_rng(0).uniform(stalls[0][0], stalls[-1][1], _DRAWS)
    return float((stood_still(stalls, began, began + span_s) >= least_s).mean())
