# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How fast a bundle plans on this machine, against what its multiplications alone would cost.

A bundle in, timings out, with numpy and onnxruntime alone. The floor of a plan is its number of
floating-point operations over the rate at which this very process multiplies matrices, measured
after each plan, or turn of plans, for as long: what hardly a planner on this processor and in this
precision gets below.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.runtime.bundle import PROBES, WEIGHTS, Bundle
from pruning_core.runtime.planner import Planner, horizons, precisions
from pruning_core.runtime.pushes import proposals
from pruning_core.runtime.weights import read

Array = npt.NDArray[np.float32]
_ROWS, _INNER, _COLUMNS = 537, 512, 512  # 512 samples and 25 plans of the policy, width 512


@dataclass(frozen=True)
class Timing:
    """Quantiles of repeated work, in seconds, and how often it was done."""

    p50_s: float
    p99_s: float
    count: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Summarise measured seconds."""
        return cls(float(np.quantile(seconds, 0.5)), float(np.quantile(seconds, 0.99)),
                   len(seconds))


@dataclass(frozen=True)
class Row:
    """One way to plan: what it is, how long it takes, and against the floor.

    Attributes:
        name: for people.
        operations: floating-point operations of one plan.
        timing: of one plan.
        rate: operations per second of matrix products, measured beside it.
    """

    name: str
    operations: float
    timing: Timing
    rate: float

    @property
    def floor_s(self) -> float:
        """Seconds of the multiplications alone."""
        return self.operations / self.rate

    @property
    def floor_ratio(self) -> float:
        """Median over floor."""
        return self.timing.p50_s / self.floor_s


def probes(bundle: Bundle) -> Array:
    """Observations that belong to the plant of a bundle, (any, O), in the robot's units."""
    found: Array = read(bundle.graphs[WEIGHTS])[PROBES][PROBES]
    return found


class MatrixRate:
    """Measures how fast this process multiplies matrices, on one thread.

    numpy's library counts its threads when it is first imported: set OPENBLAS_NUM_THREADS,
    OMP_NUM_THREADS and MKL_NUM_THREADS to 1 before that.
    """

    def __init__(self) -> None:
        """Draw the matrices."""
        rng = np.random.default_rng(0)
        self._a = rng.standard_normal((_ROWS, _INNER), np.float32)
        self._b = rng.standard_normal((_INNER, _COLUMNS), np.float32)
        self._out = np.empty((_ROWS, _COLUMNS), np.float32)

    def during(self, seconds: float) -> float:
        """Multiply for about so long, twice at least; returns operations per second.

        As long as the work it is compared with: what else runs on the machine slows long work and
        short work by different shares.
        """
        began, done, now = time.perf_counter(), 0, 0.0
        while done < 2 or now < seconds:
            np.matmul(self._a, self._b, out=self._out)
            done += 1
            now = time.perf_counter() - began
        return done * 2 * _ROWS * _INNER * _COLUMNS / now


def operations(widths: Mapping[str, Any], horizon: int, samples: int, proposed: int,
               iterations: int) -> float:
    """Floating-point operations of one plan: two for each multiply-add.

    H dynamics and reward steps, a policy and two values for each plan; those that are proposed
    are valued once (`pushes.proposals`), sampled ones in each iteration. One more, where it
    decides what the refined plan is worth, is left out.
    """
    z, a = widths['latent'], widths['actions']

    def mlp(*sizes: int) -> int:
        return sum(i * o for i, o in zip(sizes, sizes[1:], strict=False))

    step = mlp(z + a, *widths['dynamics'], z) + mlp(z + a, *widths['reward'], 1)
    policy = mlp(z, *widths['policy'], a)
    end = policy + mlp(z + a, *widths['q1'], 1) + mlp(z + a, *widths['q2'], 1)
    sampled = iterations * samples * (horizon * step + end)
    proposing = proposed * (horizon * (step + policy) + end)
    encoder = mlp(widths['observations'], *widths['encoder'], z)
    return 2.0 * (encoder + sampled + proposing)


def of_planner(planner: Planner) -> float:
    """Floating-point operations of one full plan of a planner."""
    s = planner.settings
    return operations(planner.manifest.widths, s.horizon, s.samples, _proposed(planner),
                      s.iterations)


def _proposed(planner: Planner) -> int:
    return proposals(planner.settings, len(planner.manifest.action.names))


def time_together(work: Mapping[str, Callable[[], object]], seconds: float, least: int = 15,
                  turn_s: float = 0.0) -> tuple[dict[str, Timing], dict[str, float]]:
    """Time several pieces of work in turns, so that whatever the machine does meets them all.

    Args:
        work: to time, by name.
        seconds: to spend in all.
        least: rounds at least.
        turn_s: a piece is repeated for so long before the next one has its turn. Of 0, each begins
            with caches that another one filled, as in a process that does other things, too.

    Returns:
        Timings, and the rate of matrix products in operations per second, the median of what was
        measured directly after each turn and for as long.
    """
    rate = MatrixRate()
    for one in work.values():
        one()
    taken: dict[str, list[float]] = {name: [] for name in work}
    rates: dict[str, list[float]] = {name: [] for name in work}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < least or time.perf_counter() < end:
        for name, one in work.items():
            began = now = time.perf_counter()
            while True:
                before = now
                one()
                now = time.perf_counter()
                taken[name].append(now - before)
                if now - began >= turn_s:
                    break
            rates[name].append(rate.during(now - began))
        rounds += 1
    return ({name: Timing.of(t) for name, t in taken.items()},
            {name: float(np.median(r)) for name, r in rates.items()})


def bench(bundle: Bundle, threads: int = 1, seconds: float = 20.0) -> list[Row]:
    """Time every way in which a bundle plans.

    Args:
        bundle: verified.
        threads: of onnxruntime; the floor is always that of one thread.
        seconds: to spend.
    """
    observations = probes(bundle)
    ways: dict[str, Planner] = {}
    for horizon in horizons(bundle):
        for precision in precisions(bundle):
            ways[f'horizon {horizon}, {precision}'] = Planner(
                bundle, horizon=horizon, precision=precision, threads=threads)
    count = [0]

    def planned(planner: Planner, budget_s: float | None) -> Callable[[], object]:
        def one() -> object:
            count[0] += 1
            return planner.plan(observations[count[0] % len(observations)], budget_s)
        return one

    for planner in ways.values():
        planner.warm_up()
    first = next(iter(ways.values()))
    work = {name: planned(p, None) for name, p in ways.items()}
    timings, rates = time_together({**work, 'proposals alone': planned(first, 0.0)}, seconds)
    rows = [Row(name, of_planner(p), timings[name], rates[name]) for name, p in ways.items()]
    name = 'proposals alone'
    alone = operations(first.manifest.widths, first.settings.horizon, 0, _proposed(first), 0)
    return [*rows, Row(name, alone, timings[name], rates[name])]


def rss_mb() -> float:
    """Resident memory of this process, in MB; NaN where the system does not tell."""
    try:
        with open('/proc/self/statm') as file:
            return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6
    except OSError:
        return float('nan')
