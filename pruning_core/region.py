# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Region of attraction as a map: from which states a controller reaches the goal and stays there.

The plane of two errors (for the pendulum, angle and rate) is cut into cells; runs start at random
places of each cell. A run succeeds when it enters the ball around the goal and stays in it for K
periods in a row; it ends then, so that easy cells cost little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.closed_loop import HERE, Loop, Workers, simulate
from pruning_core.decrease import SEED_STRIDE, Decrease, last_values, lower_bound, measure
from pruning_core.errors import ConfigError, explain

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Region:
    """A region of attraction, as far as samples tell.

    Attributes:
        edges: of the cells along the first and the second error.
        success: (rows, columns) share of a cell's runs that reached the goal and stayed; rows
            follow the first error.
        states: (N, S) where runs started; `seeds` (N,) of their noise.
        reached: (N,) periods until each stayed at the goal; -1 where it did not.
        decrease: the decrease test over the same runs, with their whole length for K.
    """

    edges: tuple[Array, Array]
    success: Array
    states: Array
    seeds: npt.NDArray[np.int64]
    reached: npt.NDArray[np.int64]
    decrease: Decrease

    @property
    def share(self) -> float:
        """Share of all runs that reached the goal and stayed."""
        return float((self.reached >= 0).mean())

    @property
    def share_low(self) -> float:
        """One-sided 95 % lower bound of `share`."""
        return lower_bound(int((self.reached >= 0).sum()), len(self.reached))

    @property
    def area(self) -> float:
        """Area of the region in the units of the two errors (rad2/s for the pendulum)."""
        (first, second), share = self.edges, self.share
        return float((first[-1] - first[0]) * (second[-1] - second[0])) * share

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the map and its figures."""
        return {'edges': [e.tolist() for e in self.edges], 'success': self.success.tolist(),
                'share': self.share, 'share_low': self.share_low, 'area': self.area,
                'decrease': self.decrease.to_json()}


def region_map(loop: Loop, cells: tuple[int, int], repeats: int, seed: int,
               workers: Workers = HERE, axes: tuple[int, int] = (0, 1)) -> Region:
    """Map the region of attraction of a closed loop.

    Args:
        loop: `conditions.steps` limit each run; a run that stays K periods at the goal ends.
        cells: rows and columns.
        repeats: runs per cell.
        seed: places the runs and seeds their noise; common to all agents that are compared.
        workers: processes, and whom to tell.
        axes: which two errors; the others start at 0.

    Raises:
        ConfigError: fewer than one cell or run per cell, or axes that the plant does not have.
    """
    reach = loop.plant.reach
    if min(*cells, repeats) < 1 or len(set(axes)) < 2 or not all(
            0 <= a < len(reach) for a in axes):
        raise ConfigError(
            explain('a map of the region of attraction was asked for',
                    f'{cells[0]} x {cells[1]} cells with {repeats} runs each over errors {axes}',
                    f'1 or more of each, and two different errors of the {len(reach)} there are',
                    'correct the numbers')
        )
    edges = tuple(np.linspace(-reach[a], reach[a], n + 1)
                  for a, n in zip(axes, cells, strict=True))
    rng = np.random.default_rng(seed)
    count = cells[0] * cells[1] * repeats
    row, column = np.divmod(np.arange(count) // repeats, cells[1])
    errors = np.zeros((count, len(reach)))
    for axis, at, edge in zip(axes, (row, column), edges, strict=True):
        errors[:, axis] = edge[at] + rng.random(count) * (edge[1] - edge[0])
    states = loop.plant.states_at(errors)
    seeds = SEED_STRIDE * seed + np.arange(count)
    loop = replace(loop, conditions=replace(loop.conditions, hold=loop.lyapunov.steps))
    runs = simulate(loop, states, seeds.tolist(), workers)
    success = (runs.reached >= 0).reshape(*cells, repeats).mean(axis=2)
    decrease = measure(loop.lyapunov, runs.values[0], last_values(runs), np.inf)
    return Region((edges[0], edges[1]), success, states, seeds, runs.reached, decrease)
