# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Sparsity pressure that moves from group to group: a schedule, a proximal step, what it did.

The paper puts groups under stress in turn (arXiv 2601.19794, section 3.3): each group's L1
coefficient follows a cosine with a phase of its own, and a group that keeps its weights while the
coefficient is high is structurally critical.

Deviation: the L1 term never enters the loss. A subgradient inside Adam gives no exact zeros, and
would leak the coefficient into the gradients that importance is read from. Instead the weights
take a proximal step (a soft threshold) after the optimiser's. A weight that belongs to two groups,
by its row and by its column, is under the pressure of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruning_core.config import SparsityConfig
from pruning_core.errors import AgentError, explain
from pruning_core.groups import Group, UnitGraph
from pruning_core.importance.slices import named_parameters

Array = npt.NDArray[np.float64]
SEPARATE = 0.9  # above this correlation, neighbouring groups are stressed as one


def coefficients(config: SparsityConfig, groups: int, update: npt.ArrayLike) -> Array:
    """L1 coefficients of every group.

    | schedule | lambda_i(t), between lambda_min and lambda_max |
    |---|---|
    | `cosine` | one cosine per period T, group i delayed by i T / n: least at t = i T / n |
    | `in_phase` | the same cosine without the delays: all groups at once |
    | `frequencies` | i + 1 cosines per period: orthogonal over a period, however many groups |
    | `constant` | lambda_max |
    | `step` | lambda_max, its distance to lambda_min halved at every multiple of T |
    | `exponential` | the same decay, smooth |
    | `none` | 0 |

    Args:
        config: kind, range and period.
        groups: their number n.
        update: time t in updates, of any shape.

    Returns:
        (*shape of update, n).
    """
    t, i = np.asarray(update, float)[..., None], np.arange(groups)
    low, span, period = config.lambda_min, config.lambda_max - config.lambda_min, config.period
    if config.schedule == 'cosine':
        share = (1 - np.cos(2 * math.pi * (t / period - i / groups))) / 2
    elif config.schedule == 'in_phase':
        share = (1 - np.cos(2 * math.pi * t / period + 0 * i)) / 2
    elif config.schedule == 'frequencies':
        share = (1 - np.cos(2 * math.pi * t / period * (i + 1))) / 2
    elif config.schedule == 'step':
        share = 0.5 ** np.floor(t / period) + 0 * i
    elif config.schedule == 'exponential':
        share = 0.5 ** (t / period) + 0 * i
    elif config.schedule == 'constant':
        share = np.ones_like(t + i)
    else:
        return np.zeros_like(t + i)
    return np.asarray(low + span * share)


def neighbour_correlation(schedule: str, groups: int) -> float:
    """Correlation over a period of the pressures on two groups that follow each other.

    cos(2 pi / n) for `cosine`, 0 for `frequencies`; the others press on all groups at once, 1.
    """
    if groups < 2 or schedule in ('none', 'frequencies'):
        return 0.0
    return math.cos(2 * math.pi / groups) if schedule == 'cosine' else 1.0


def cycles(config: SparsityConfig, groups: int) -> Array:
    """Updates within which the pressure on each group rises or falls and is the same again.

    The period T; T / (i + 1) for `frequencies`. A `step` is an event of its own once every T.
    Infinite for the others, which are constant or one slow decay: an answer to that cannot be told
    from the trend of a training.

    Args:
        config: kind and period.
        groups: their number n.

    Returns:
        (n,).
    """
    if config.schedule == 'frequencies':
        return config.period / np.arange(1.0, groups + 1)
    moves = config.schedule in ('cosine', 'in_phase', 'step')
    return np.full(groups, float(config.period) if moves else math.inf)


class _Block(NamedTuple):
    """A part of a parameter whose weights all belong to the same groups."""

    weights: Tensor
    groups: tuple[int, ...]


class SparsityPressure:
    """Applies a schedule to a model while it trains.

    Call `step` once per update, after the optimiser's step.

    Attributes:
        groups: the free groups of the graph, in the order of every array.
        updates: updates gone through.
        coefficients: (G,) lambda of each group at the last step.
        norms: (G,) Euclidean norm of each group's weights when last looked at.
        collapsed: update at which a group's norm had fallen below `collapse` of what it was when
            the pressure began; its coefficient is frozen at 0 from there on.
    """

    def __init__(self, graph: UnitGraph, components: Mapping[str, nn.Module],
                 config: SparsityConfig) -> None:
        """Lay out the blocks of every parameter."""
        self.config = config
        self.groups: tuple[Group, ...] = graph.free
        self._blocks = _blocks(self.groups, named_parameters(components))
        self._scalars = np.array([g.size * g.params_per_unit for g in self.groups], float)
        count = len(self.groups)
        self.updates = 0
        self.coefficients = np.zeros(count)
        self.norms = np.full(count, np.nan)
        self._first = np.full(count, np.nan)
        self._frozen = np.full(count, -1)  # update of the collapse; -1: none

    @property
    def active(self) -> bool:
        """Whether there is any pressure at all."""
        return self.config.schedule != 'none'

    @property
    def collapsed(self) -> dict[str, int]:
        """Update of the collapse, by group."""
        return {g.name: int(t) for g, t in zip(self.groups, self._frozen, strict=True) if t >= 0}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Shrink every weight by learning_rate * lambda_g / |G_g|, to exactly 0 where it is less.

        With `every` above 1 the steps between are left out, and the others as much larger.

        Args:
            learning_rate: of the optimiser's step that came before.
        """
        if not self.active:
            return
        update, every = self.updates, self.config.every
        self.updates += 1
        if update % self.config.check_every == 0:
            self._check(update)
        if update % every:
            return
        self.coefficients = coefficients(self.config, len(self.groups), update)
        self.coefficients[self._frozen >= 0] = 0.0
        thresholds = (every * learning_rate * self.coefficients / self._scalars).tolist()
        for weights, owners in self._blocks:
            threshold = sum(thresholds[g] for g in owners)
            if threshold > 0:
                torch.ops.aten.softshrink.out(weights, threshold, out=weights)

    def _check(self, update: int) -> None:
        """Look at the norms, and take the pressure off groups that give way altogether."""
        squares = np.zeros(len(self.groups))
        for weights, owners in self._blocks:
            square = float(torch.linalg.vector_norm(weights)) ** 2
            for g in owners:
                squares[g] += square
        self.norms = np.sqrt(squares)
        self._first = np.where(np.isnan(self._first), self.norms, self._first)
        fallen = (self.norms < self.config.collapse * self._first) & (self._frozen < 0)
        self._frozen[fallen] = update

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on, as tensors."""
        return {name: torch.from_numpy(np.array(value)) for name, value in (
            ('updates', self.updates), ('coefficients', self.coefficients),
            ('norms', self.norms), ('first', self._first), ('frozen', self._frozen))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`.

        Raises:
            AgentError: it belongs to a model with another number of groups.
        """
        if len(state['norms']) != len(self.groups):
            raise AgentError(
                explain(f'sparsity pressure on {len(self.groups)} groups was read',
                        f'the state has {len(state["norms"])}', 'the state of this very model',
                        'use the files of one run folder')
            )
        self.updates = int(state['updates'])
        self.coefficients, self.norms, self._first, self._frozen = (
            state[n].numpy().copy() for n in ('coefficients', 'norms', 'first', 'frozen'))


def _blocks(groups: tuple[Group, ...], parameters: Mapping[str, nn.Parameter]) -> list[_Block]:
    """Cut every parameter into the largest rectangles that belong to the same groups."""
    owners: dict[str, dict[int, npt.NDArray[np.int64]]] = {}
    for g, group in enumerate(groups):
        for column, place in enumerate(group.places):
            if place.parameter in parameters:
                size = parameters[place.parameter].shape[place.dim]
                axis = owners.setdefault(place.parameter, {}).setdefault(
                    place.dim, np.full(size, -1))
                axis[group.indices[:, column]] = g
    blocks = []
    for name, axes in owners.items():
        parts: list[tuple[Tensor, tuple[int, ...]]] = [(parameters[name].detach(), ())]
        for dim, owner in axes.items():
            cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1), len(owner)]
            parts = [(part.narrow(dim, int(a), int(b - a)),
                      (*of, int(owner[a])) if owner[a] >= 0 else of)
                     for part, of in parts for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        blocks += [_Block(part, of) for part, of in parts if of]
    return blocks


class Resilience(NamedTuple):
    """How a group's norm answered to its own pressure.

    Attributes:
        slope: change of the log-norm per unit of lambda; 0 is a group that does not give way.
        lag: updates after which it answers.
        explained: share of the log-norm's variance about its trend that lambda explains.
    """

    slope: float
    lag: float
    explained: float


def resilience(updates: Array, pressure: Array, norm: Array, cycle: float) -> Resilience | None:
    """Regress a group's log-norm on its own lagged pressure, beside a trend of second order.

    The lag is the one, up to a quarter of the group's cycle, that explains most: a norm that
    recovers at once follows the pressure itself, one that never does follows its sum. Later than
    that an answer cannot be told from its opposite: half a cycle late, a cosine is its negative.

    Args:
        updates: (T,) ascending and evenly spaced.
        pressure: (T,) lambda of the group.
        norm: (T,) norm of the group, above 0.
        cycle: of the pressure on this very group, in updates; see `cycles`.

    Returns:
        None where less than a cycle was seen, or the pressure did not vary.
    """
    known = np.isfinite(norm) & (norm > 0) & np.isfinite(pressure)
    updates, pressure, norm = updates[known], pressure[known], norm[known]
    if len(updates) < 8 or updates[-1] - updates[0] < cycle or np.ptp(pressure) == 0:
        return None
    spacing = float(updates[1] - updates[0])
    time = np.linspace(-1, 1, len(updates))
    best = Resilience(0.0, 0.0, 0.0)
    if np.ptp(np.log(norm)) < 1e-6:  # less than single precision tells apart
        return best
    longest = min(int(cycle / 4 / spacing), len(updates) // 2)
    for rows in range(longest + 1):
        late = slice(rows, None)
        trend = np.stack([np.ones_like(time), time, time**2], axis=1)[late]
        answer = np.log(norm[late])
        cause = pressure[:len(pressure) - rows]
        answer, cause = (x - trend @ np.linalg.lstsq(trend, x, rcond=None)[0]
                         for x in (answer, cause))
        slope = float(cause @ answer / (cause @ cause))
        explained = float((slope * (cause @ answer)) / (answer @ answer))
        if explained > best.explained:
            best = Resilience(slope, rows * spacing, explained)
    return best


def resiliences(config: SparsityConfig, updates: npt.ArrayLike, pressure: Array, norm: Array
                ) -> list[Resilience | None]:
    """Resilience of every group, each by the cycle of its own pressure; see `resilience`.

    Args:
        config: schedule and period.
        updates: (T,) ascending and evenly spaced.
        pressure: (T, G) lambda of each group; `norm` their norms.
        norm: see there.
    """
    own = cycles(config, pressure.shape[1])
    return [resilience(np.asarray(updates, float), pressure[:, g], norm[:, g], cycle)
            for g, cycle in enumerate(own)]
