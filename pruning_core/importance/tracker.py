# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Importance of groups and units, measured from the gradients of ordinary training.

A `UnitGraph` and named components in; per-unit and per-group scores out. Gradient Accumulation,
Fisher Information, Bayesian Uncertainty and their combined rank, smoothed by an EMA (arXiv
2601.19794, section 3.2; method section 2 defines what the paper leaves open).

Signals are read after each backward pass, before clipping, from the task loss alone. Deviation:
the inputs of the Bayesian signal are divided by their warm-up medians, so that scaling the loss
leaves it unchanged; `posterior` tells the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruning_core.config import ImportanceConfig
from pruning_core.errors import AgentError, GroupError, explain, nearest
from pruning_core.groups import Group, UnitGraph
from pruning_core.importance.per_sample import copied, per_sample_squares
from pruning_core.importance.posterior import make_posterior
from pruning_core.importance.ranking import agreement, combined_rank
from pruning_core.importance.slices import SliceSums, absolute, named_parameters, squared
from pruning_core.importance.views import coupling_views

Array = npt.NDArray[np.float64]
SIGNALS = ('gradient', 'fisher', 'bayesian')
GATHERED = (*SIGNALS, 'combined', 'ucb')  # the scores that `unit_scores` knows
_FLOOR = 1e-12


class ImportanceTracker:
    """Measures importance while a model trains.

    Three lines attach it to any torch training loop::

        tracker = ImportanceTracker(trace(components, run), components, ImportanceConfig())
        loss.backward(); tracker.observe()     # after every backward pass, before clipping
        tracker.step()                         # once per update

    Gradients are read as they lie in `.grad`: where two losses share parameters, clear the
    gradients between their passes, or observe once, after the last.

    Attributes:
        groups: the free groups, in the order of the scores.
        views: of the coupling groups; see `views`.
        updates: updates gone through so far.
        skipped: updates left out because a gradient was not finite.
        observed: whether the last update closed was one of those that are observed.
        raw: (units and views,) mean |gradient| of the update observed last; NaN where it had
            none, infinite where it was not finite.
    """

    def __init__(self, graph: UnitGraph, components: Mapping[str, nn.Module],
                 config: ImportanceConfig) -> None:
        """Lay out the free groups of `graph` over the parameters of `components`."""
        self.config = config
        self.groups: tuple[Group, ...] = graph.free
        self.views: tuple[Group, ...] = coupling_views(self.groups)
        self._components = components
        self._parts = (*self.groups, *self.views)
        self._parameters = named_parameters(components)
        self._sums = SliceSums(self._parts, self._parameters, (absolute, squared))
        self._observed = [self._parameters[name] for name in self._sums.names]
        self._sample_sums: SliceSums | None = None
        sizes = [part.size for part in self._parts]
        self._bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self._count = sum(g.size for g in self.groups)  # the units; views stand behind them
        width = self._sums.units
        # Per update: sums of |g| and of g squared, and how many scalars each is over.
        self._totals, self._scalars = np.zeros((2, width)), np.zeros((2, width))
        self._ema = np.zeros((len(SIGNALS), width))
        # 1 - gamma**t per unit: the EMA's bias correction
        self._weight = np.zeros((len(SIGNALS), width))
        self._posterior = make_posterior(config.posterior, width, config.forgetting)
        # Of |gradient| until the scales are frozen: observations, their sum, their squares' sum.
        self._warmup = np.zeros((3, width))
        self._warmed = 0
        self._scale_gradient = self._scale_fisher = 0.0
        self._shape = 1.0
        self.updates = 0
        self.skipped = 0
        self.observed = False
        self.raw = np.full(width, np.nan)

    @property
    def warm(self) -> bool:
        """Whether the scales of the Bayesian signal are frozen."""
        return self._scale_gradient > 0

    @property
    def unseen(self) -> int:
        """Number of units without any gradient so far; they have no score."""
        return int((self._weight[0, :self._count] == 0).sum())

    @property
    def due(self) -> bool:
        """Whether the present update is one of those that are observed."""
        return self.updates % self.config.every == 0

    @torch.no_grad()
    def observe(self) -> None:
        """Read the gradients of one backward pass; parameters without one are left out."""
        if not self.due:
            return
        totals, scalars = self._sums([p.grad for p in self._observed])
        if self.config.fisher == 'batch':
            self._totals += totals
            self._scalars += scalars
        else:
            self._totals[0] += totals[0]
            self._scalars[0] += scalars

    def observe_samples(self, loss: Callable[[Any], Tensor], samples: Any) -> None:
        """Read the exact Fisher information of one loss; nothing where `fisher` is 'batch'.

        Args:
            loss: of one sample, without the batch axis, computed by the tracked components. It
                is mapped over the batch by `torch.func`, so it may not branch on values.
            samples: tensors, or a tuple, list or dict of them, with the batch as first axis.
        """
        if not self.due or self.config.fisher == 'batch':
            return
        if self._sample_sums is None:
            self._sample_sums = SliceSums(self._parts, self._parameters, (copied,))
        squares = per_sample_squares(self._components, loss, samples)
        totals, scalars = self._sample_sums(
            [squares.get(name) for name in self._sample_sums.names])
        self._totals[1] += totals[0]
        self._scalars[1] += scalars

    def step(self) -> None:
        """Close one update: turn what was observed into signals and smooth them."""
        self.observed = self.due
        self.updates += 1
        if not self.observed:
            return
        seen = self._scalars > 0
        if not np.isfinite(self._totals.sum()):
            self.skipped += 1
            self.raw = np.where(np.isfinite(self._totals).all(0), np.nan, np.inf)
        elif seen.any():
            self._take_in(self._totals / np.maximum(self._scalars, 1), seen)
        self._totals[:] = 0
        self._scalars[:] = 0

    def _take_in(self, values: Array, seen: npt.NDArray[np.bool_]) -> None:
        gradient, fisher = values
        self.raw = np.where(seen[0], gradient, np.nan)
        self._smooth(slice(0, 2), values, seen)
        if not self.warm:
            self._warm_up(gradient, seen[0])
        if self.warm:
            both = seen[0] & seen[1]
            self._posterior.update(gradient / self._scale_gradient, seen[0], self._shape)
            bayesian = np.log1p(self._posterior.mean()) * (1 + fisher / self._scale_fisher)
            self._smooth(slice(2, 3), bayesian, both)

    def _smooth(self, rows: slice, values: Array, seen: npt.NDArray[np.bool_]) -> None:
        gamma = self.config.gamma
        ema, weight = self._ema[rows], self._weight[rows]
        np.copyto(ema, gamma * ema + (1 - gamma) * values, where=seen)
        np.copyto(weight, gamma * weight + (1 - gamma), where=seen)

    def _warm_up(self, gradient: Array, seen: npt.NDArray[np.bool_]) -> None:
        """Gather, and at the end freeze, the scales and the shape of the Bayesian signal."""
        self._warmup += seen * np.stack([np.ones_like(gradient), gradient, gradient**2])
        self._warmed += 1
        if self._warmed < self.config.warmup:
            return
        count, total, square = self._warmup[:, :self._count]
        with np.errstate(invalid='ignore'):  # units without a gradient so far are NaN
            mean = total / count
        self._scale_gradient = max(float(np.nanmedian(mean)), _FLOOR)
        fisher = self._flat('fisher')[:self._count]
        self._scale_fisher = _FLOOR
        if np.isfinite(fisher).any():
            self._scale_fisher = max(float(np.nanmedian(fisher)), _FLOOR)
        variance = float(np.nansum(square - count * mean**2) / count.sum())
        self._shape = float(np.clip(
            np.nanmean(mean) ** 2 / max(variance, _FLOOR**2), 0.5, 50.0))
        self._warmup[:] = 0

    def unit_scores(self, score: str) -> dict[str, Array]:
        """Smoothed, bias-corrected scores per unit; NaN where no gradient has been seen.

        Args:
            score: 'gradient', 'fisher', 'bayesian', 'combined' (mean of the normalised ranks of
                the three over all units, ties averaged) or 'ucb' (posterior mean plus kappa of
                its standard deviations, in units of the warm-up median).

        Returns:
            (units,) per group name.

        Raises:
            GroupError: there is no such score.
        """
        if score == 'combined':
            flat = combined_rank([self._flat(signal)[:self._count] for signal in SIGNALS])
        else:
            flat = self._flat(score)
        return self._split(flat, self.groups)

    def group_scores(self, score: str) -> dict[str, float]:
        """Mean (or sum, `aggregate`) over each group's units; NaN units are left out.

        A combined score ranks the groups among each other, not their units.
        """
        names = [g.name for g in self.groups]
        if score == 'combined':
            ranks = combined_rank([self.aggregated(s)[:len(names)] for s in SIGNALS])
            return dict(zip(names, ranks.tolist(), strict=True))
        return dict(zip(names, self.aggregated(score).tolist(), strict=False))

    def view_scores(self, score: str) -> dict[str, float]:
        """Scores of the coupling views, aggregated as those of groups.

        A combined score is the rank that the view would have among the groups in the place of
        the coupling group itself.
        """
        names, first = [v.name for v in self.views], len(self.groups)
        if score != 'combined':
            return dict(zip(names, self.aggregated(score)[first:].tolist(), strict=True))
        signals = [self.aggregated(s) for s in SIGNALS]
        out = {}
        for i, view in enumerate(self.views):
            place = next(g for g, group in enumerate(self.groups)
                         if group.places and set(view.places) <= set(group.places))
            mixed = [np.where(np.arange(first) == place, s[first + i], s[:first]) for s in signals]
            out[view.name] = float(combined_rank(mixed)[place])
        return out

    def view_unit_scores(self, score: str) -> dict[str, Array]:
        """(units,) scores per view; of the signals and 'ucb' only."""
        return self._split(self._flat(score), self._parts, skip=len(self.groups))

    def summary(self) -> str:
        """How far the measuring is, in a few words; for those who watch a run."""
        scores = {n: v for n, v in self.group_scores('combined').items() if np.isfinite(v)}
        if not self.warm or not scores:
            return f'warming up, {self._warmed} of {self.config.warmup}'
        return f'{max(scores, key=scores.__getitem__)} most, ' \
               f'{min(scores, key=scores.__getitem__)} least'

    def signal_agreement(self) -> dict[str, float]:
        """Kendall's tau between the three signals over all units, per pair.

        Above 0.95 their combination cannot matter.
        """
        pairs = [(a, b) for i, a in enumerate(SIGNALS) for b in SIGNALS[i + 1:]]
        return {f'{a}-{b}': agreement(self._flat(a)[:self._count], self._flat(b)[:self._count])
                for a, b in pairs}

    def aggregate(self, flat: Array) -> Array:
        """(groups and views,) from (units of both,), NaN where all units are."""
        known = np.isfinite(flat)
        totals = np.add.reduceat(np.where(known, flat, 0.0), self._bounds[:-1])
        counts = np.add.reduceat(known, self._bounds[:-1], dtype=np.float64)
        divisor = counts if self.config.aggregate == 'mean' else 1.0
        with np.errstate(invalid='ignore'):
            return np.where(counts > 0, totals / divisor, np.nan)

    def aggregated(self, score: str) -> Array:
        """(groups and views,) of one signal, or of 'ucb'."""
        return self.aggregate(self._flat(score))

    def _split(self, flat: Array, parts: tuple[Group, ...], skip: int = 0) -> dict[str, Array]:
        bounds = zip(parts, self._bounds[:-1], self._bounds[1:], strict=False)
        return {part.name: flat[a:b] for part, a, b in list(bounds)[skip:]}

    def _flat(self, score: str) -> Array:
        """(units and views,) of one signal, or of the posterior's bound."""
        if score in SIGNALS:
            ema, weight = (x[SIGNALS.index(score)] for x in (self._ema, self._weight))
            return np.where(weight > 0, ema / np.maximum(weight, _FLOOR), np.nan)
        if score == 'ucb':
            bound = self._posterior.mean() + self.config.kappa * self._posterior.deviation()
            return np.where(self._weight[2] > 0, bound, np.nan)
        raise GroupError(
            explain(f"score '{score}' was asked for",
                    'it is not gathered in training' + nearest(score, GATHERED),
                    ', '.join(GATHERED), 'choose one of these')
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on measuring after a `step`, as tensors."""
        numbers = [self._scale_gradient, self._scale_fisher, self._shape, float(self.updates),
                   float(self.skipped), float(self._warmed)]
        arrays = {'ema': self._ema, 'weight': self._weight, 'alpha': self._posterior.alpha,
                  'beta': self._posterior.beta, 'warmup': self._warmup, 'raw': self.raw,
                  'scalars': np.array(numbers), 'sizes': np.array([g.size for g in self.groups])}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`.

        Raises:
            AgentError: it was gathered on a model with other groups.
        """
        sizes = [g.size for g in self.groups]
        found = [int(n) for n in state.get('sizes', ())]
        if found != sizes or state['ema'].shape != self._ema.shape:
            raise AgentError(
                explain(f'importance of {sum(sizes)} units in {len(sizes)} groups was read',
                        f'the file has {sum(found)} in {len(found)}',
                        'importance gathered on this very model',
                        'use the files of one run folder')
            )
        for array, name in ((self._ema, 'ema'), (self._weight, 'weight'),
                            (self._posterior.alpha, 'alpha'), (self._posterior.beta, 'beta'),
                            (self._warmup, 'warmup'), (self.raw, 'raw')):
            array[:] = state[name].numpy()
        numbers = state['scalars'].tolist()
        self._scale_gradient, self._scale_fisher, self._shape = numbers[:3]
        self.updates, self.skipped, self._warmed = (int(n) for n in numbers[3:])
