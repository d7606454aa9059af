# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What smoothing does to importance while a network trains: how late, how wrong, how restless.

One tracker per gamma watches the same gradients. The order that is taken as the truth is that of
the raw signal averaged over a window around each update: it looks ahead, which no EMA can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from pruning_core.config import ImportanceConfig
from pruning_core.errors import AgentError, explain
from pruning_core.groups import UnitGraph
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.crossovers import Crossover, crossovers

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WatchConfig:
    """How one training is watched.

    Attributes:
        gammas: EMA coefficients.
        window: updates around each one that the truth is averaged over.
        every: updates between two looks at the choice of units.
    """

    gammas: tuple[float, ...]
    window: int
    every: int


class Watch:
    """One tracker per gamma on the same gradients, and what each has said after every update."""

    def __init__(self, graph: UnitGraph, components: Mapping[str, nn.Module],
                 importance: ImportanceConfig, config: WatchConfig) -> None:
        """Make the trackers; gamma 0 is always among them, as the truth is made of it."""
        self.config, self.names = config, [g.name for g in graph.free]
        self.trackers = {gamma: ImportanceTracker(
            graph, components, dataclasses.replace(importance, gamma=gamma))
            for gamma in (0.0, *config.gammas)}
        self._groups: dict[float, list[Array]] = {gamma: [] for gamma in self.trackers}
        self._chosen: dict[float, list[Array]] = {gamma: [] for gamma in self.trackers}

    def look(self, update: int) -> None:
        """Keep what the trackers say now."""
        for gamma, tracker in self.trackers.items():
            self._groups[gamma].append(tracker.aggregated('gradient')[:len(self.names)])
            if update % self.config.every == 0:
                self._chosen[gamma].append(lower_half(tracker))

    def found(self) -> dict[str, Any]:
        """How late, wrong and restless each gamma was."""
        groups = {gamma: np.array(rows) for gamma, rows in self._groups.items()}
        begins = all_known(groups[0.0])
        truth = centred(groups[0.0][begins:], self.config.window)
        time = np.arange(1, len(truth) + 1)
        expected = crossovers(time, truth, self.names)
        out = {}
        for gamma in self.config.gammas:
            signal, chosen = groups[gamma][begins:], self._chosen[gamma]
            moved = [float((a != b).mean()) for a, b in zip(chosen, chosen[1:], strict=False)]
            shown = crossovers(time, signal, self.names)
            out[f'{gamma:g}'] = {
                'lag': lag(signal, truth, self.config.window),
                'misordered': misordered(signal, truth),
                'moved': float(np.mean(moved[len(moved) // 2:])) if moved else None,
                'crossovers': len(shown), 'delay': delay(shown, expected)}
        return {'crossovers': len(expected), 'updates': begins + len(truth), 'gammas': out}


def lower_half(tracker: ImportanceTracker) -> Array:
    """(units,) whether a unit is in the lower half of its group, as a cut by half would see it."""
    parts = [values < np.median(values) for values in tracker.unit_scores('gradient').values()]
    return np.concatenate(parts)


def all_known(rows: Array) -> int:
    """First row of (T, G) from which every group has a value.

    Some have no gradient in the first updates, such as a policy that learns in every second one.

    Raises:
        AgentError: there is none, or a value is missing after it.
    """
    known = np.asarray(np.isfinite(rows).all(axis=1))
    first = int(known.argmax())
    if not known[first:].all():
        raise AgentError(
            explain('importance was to be watched over a training',
                    f'{int((~known[first:]).sum())} of {len(rows)} updates without a value for '
                    'some group', 'a training in which every group has a gradient',
                    'look for groups that nothing depends on: python -m pruning_core doctor'))
    return first


def centred(values: Array, window: int) -> Array:
    """(T, G) mean over a window around every row; shorter at the ends."""
    half = window // 2
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    rows = np.arange(len(values))
    first, last = np.maximum(rows - half, 0), np.minimum(rows + half + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first)[:, None])


def lag(signal: Array, truth: Array, longest: int) -> int:
    """Updates by which the truth has to be held back to look most like a signal.

    Both in logarithms, over all groups; the first `longest` rows, before smoothing has filled, are
    left out.
    """
    if len(truth) < 3 * longest:
        longest = len(truth) // 3
    a, b = np.log(np.maximum(signal, 1e-30)), np.log(np.maximum(truth, 1e-30))
    errors = [np.abs(a[longest:] - b[longest - k:len(b) - k]).mean() for k in range(longest + 1)]
    return int(np.argmin(errors))


def misordered(signal: Array, truth: Array) -> float:
    """Share of updates and pairs of groups whose order is not the true one."""
    pairs = [(i, j) for i in range(truth.shape[1]) for j in range(i)]
    wrong = [((signal[:, i] > signal[:, j]) != (truth[:, i] > truth[:, j])).mean()
             for i, j in pairs]
    return float(np.mean(wrong))


def delay(found: Sequence[Crossover], expected: Sequence[Crossover]) -> float | None:
    """Median of the updates between a true crossover and the same one as a signal shows it.

    The nearest one of the same two groups in the same direction counts; None where there is none.
    """
    late = []
    for true in expected:
        same = [c.update - true.update for c in found
                if (c.rises, c.falls) == (true.rises, true.falls)]
        if same:
            late.append(min(same, key=abs))
    return float(np.median(late)) if late else None
