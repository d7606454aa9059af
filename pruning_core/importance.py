# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Importance of groups and units, measured from the gradients of ordinary training.

A `UnitGraph` and named components in; per-unit and per-group scores out. Gradient Accumulation,
Fisher Information (batch form), Bayesian Uncertainty and their combined rank, smoothed by an EMA
(arXiv 2601.19794, section 3.2; method section 2 defines what the paper leaves open).

Signals are read after each backward pass, before clipping, from the task loss alone. Deviation:
the posterior is a Gamma-distributed *mean* gradient, since a rate would fall as gradients grow
and invert the ranking; its inputs are divided by their warm-up medians, so that scaling the loss
leaves the scores unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from pruning_core.config import ImportanceConfig
from pruning_core.errors import AgentError, GroupError, explain, nearest
from pruning_core.groups import Group, UnitGraph

Array = npt.NDArray[np.float64]
SIGNALS = ('gradient', 'fisher', 'bayesian')
_FLOOR = 1e-12
_PRIOR_SHAPE = 3.0  # alpha_0: the weakest prior with a finite variance of the mean


@dataclass(frozen=True)
class _Layout:
    """Where each parameter's slices go in the flat array of all units."""

    parameter: nn.Parameter
    dim: int
    index: Tensor  # (n,) positions along `dim`
    unit: Tensor  # (n,) flat unit numbers


class ImportanceTracker:
    """Measures importance while a model trains.

    Three lines attach it to any torch training loop::

        tracker = ImportanceTracker(trace(components, run), components, ImportanceConfig())
        loss.backward(); tracker.observe()     # after every backward pass, before clipping
        tracker.step()                         # once per update

    Attributes:
        updates: updates observed so far.
        skipped: updates left out because a gradient was not finite.
        unseen: units that no gradient has reached yet; they have no score.
    """

    def __init__(self, graph: UnitGraph, components: Mapping[str, nn.Module],
                 config: ImportanceConfig) -> None:
        """Lay out the free groups of `graph` over the parameters of `components`."""
        self.config = config
        self.groups: tuple[Group, ...] = graph.free
        sizes = [g.size for g in self.groups]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self._count = int(self._offsets[-1])
        parameters = {f'{component}.{name}': parameter
                      for component, module in components.items()
                      for name, parameter in module.named_parameters()}
        per_place: dict[tuple[str, int], list[tuple[npt.NDArray[np.int64], int]]] = {}
        for group, offset in zip(self.groups, self._offsets[:-1], strict=True):
            for column, place in enumerate(group.places):
                if place.parameter in parameters:  # buffers have no gradient
                    per_place.setdefault((place.parameter, place.dim), []).append(
                        (group.indices[:, column], int(offset)))
        self._layouts = [
            _Layout(parameters[name], dim,
                    torch.from_numpy(np.concatenate([i for i, _ in parts])),
                    torch.from_numpy(np.concatenate([np.arange(len(i)) + o for i, o in parts])))
            for (name, dim), parts in per_place.items()
        ]

        def zeros() -> Tensor:
            return torch.zeros(self._count, dtype=torch.float64)

        self._absolute, self._square, self._scalars = zeros(), zeros(), zeros()
        self._ema = {signal: zeros() for signal in SIGNALS}
        # 1 - gamma**t per unit: the EMA's bias correction
        self._weight = {signal: zeros() for signal in SIGNALS}
        self._alpha, self._beta = zeros(), zeros()
        self._warmup_gradient: list[Tensor] = []
        self._scale_gradient = self._scale_fisher = 0.0
        self._shape = 1.0
        self.updates = 0
        self.skipped = 0

    @property
    def warm(self) -> bool:
        """Whether the scales of the Bayesian signal are frozen."""
        return self._scale_gradient > 0

    @property
    def unseen(self) -> int:
        """Number of units without any gradient so far."""
        return int((self._weight['gradient'] == 0).sum())

    @torch.no_grad()
    def observe(self) -> None:
        """Read the gradients of one backward pass; parameters without one are left out."""
        if self.updates % self.config.every:
            return
        reduced: dict[int, tuple[Tensor, Tensor]] = {}
        for layout in self._layouts:
            gradient = layout.parameter.grad
            if gradient is None:
                continue
            if id(layout.parameter) not in reduced:
                reduced[id(layout.parameter)] = (gradient.abs(), gradient.square())
            others = [d for d in range(gradient.dim()) if d != layout.dim]
            for total, values in zip((self._absolute, self._square),
                                     reduced[id(layout.parameter)], strict=True):
                along = values.sum(others) if others else values
                total.index_add_(0, layout.unit, along[layout.index].double())
            per_slice = gradient.numel() // gradient.shape[layout.dim]
            self._scalars.index_add_(
                0, layout.unit, torch.full((len(layout.unit),), float(per_slice),
                                           dtype=torch.float64))

    @torch.no_grad()
    def step(self) -> None:
        """Close one update: turn what was observed into signals and smooth them."""
        observed = self.updates % self.config.every == 0
        self.updates += 1
        if not observed:
            return
        seen = self._scalars > 0
        finite = bool(torch.isfinite(self._absolute).all() & torch.isfinite(self._square).all())
        if not finite or not bool(seen.any()):
            self.skipped += not finite
        else:
            count = self._scalars.clamp(min=1)
            gradient, fisher = self._absolute / count, self._square / count
            self._smooth('gradient', gradient, seen)
            self._smooth('fisher', fisher, seen)
            bayesian = self._bayesian(gradient, fisher, seen)
            if bayesian is not None:
                self._smooth('bayesian', bayesian, seen)
        for total in (self._absolute, self._square, self._scalars):
            total.zero_()

    def _smooth(self, signal: str, value: Tensor, seen: Tensor) -> None:
        gamma, ema, weight = self.config.gamma, self._ema[signal], self._weight[signal]
        ema[seen] = gamma * ema[seen] + (1 - gamma) * value[seen]
        weight[seen] = gamma * weight[seen] + (1 - gamma)

    def _bayesian(self, gradient: Tensor, fisher: Tensor, seen: Tensor) -> Tensor | None:
        """log(1 + mu) (1 + F), mu the posterior mean, in units of warm-up medians; None before."""
        if not self.warm:
            self._warmup_gradient.append(torch.where(seen, gradient, torch.nan))
            if len(self._warmup_gradient) < self.config.warmup:
                return None
            self._freeze_scales()
        y = gradient / self._scale_gradient
        alpha = torch.where(self._alpha == 0, _PRIOR_SHAPE, self._alpha)
        beta = torch.where(self._alpha == 0, _PRIOR_SHAPE - 1.0, self._beta)
        forgetting = self.config.gamma
        alpha = forgetting * alpha + (1 - forgetting) * _PRIOR_SHAPE + self._shape
        beta = forgetting * beta + (1 - forgetting) * (_PRIOR_SHAPE - 1.0) + self._shape * y
        self._alpha = torch.where(seen, alpha, self._alpha)
        self._beta = torch.where(seen, beta, self._beta)
        mean = beta / (alpha - 1)
        return torch.log1p(mean) * (1 + fisher / self._scale_fisher)

    def _freeze_scales(self) -> None:
        history = torch.stack(self._warmup_gradient)
        per_unit = history.nanmean(0)
        self._scale_gradient = max(float(per_unit.nanmedian()), _FLOOR)
        self._scale_fisher = max(float(np.nanmedian(self._flat('fisher'))), _FLOOR)
        variance = float((history - per_unit).square().nanmean())
        mean = float(per_unit.nanmean())
        self._shape = float(np.clip(mean * mean / max(variance, _FLOOR**2), 0.5, 50.0))
        self._warmup_gradient = []

    def unit_scores(self, score: str) -> dict[str, Array]:
        """Smoothed, bias-corrected scores per unit; NaN where no gradient has been seen.

        Args:
            score: 'gradient', 'fisher', 'bayesian' or 'combined' (mean of the normalised ranks of
                the three over all units, ties averaged; method section 2).

        Returns:
            (units,) per group name.
        """
        if score == 'combined':
            ranks = [_normalised_ranks(self._flat(signal)) for signal in SIGNALS]
            flat = np.mean(ranks, axis=0)
        elif score in SIGNALS:
            flat = self._flat(score)
        else:
            raise GroupError(
                explain(f"score '{score}' was asked for",
                        'it is not gathered in training' + nearest(score, (*SIGNALS, 'combined')),
                        ', '.join((*SIGNALS, 'combined')), 'choose one of these')
            )
        return {g.name: flat[a:b] for g, a, b in
                zip(self.groups, self._offsets[:-1], self._offsets[1:], strict=True)}

    def group_scores(self, score: str) -> dict[str, float]:
        """Mean score of each group's units; a combined score ranks the groups, not the units."""
        if score == 'combined':
            names = [g.name for g in self.groups]
            ranks = [_normalised_ranks(np.asarray([self.group_scores(s)[n] for n in names]))
                     for s in SIGNALS]
            return dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True))
        return {name: float(np.nanmean(values)) if np.isfinite(values).any() else float('nan')
                for name, values in self.unit_scores(score).items()}

    def _flat(self, signal: str) -> Array:
        ema, weight = self._ema[signal].numpy(), self._weight[signal].numpy()
        return np.where(weight > 0, ema / np.maximum(weight, _FLOOR), np.nan)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on measuring, as tensors."""
        warm = torch.stack(self._warmup_gradient) if self._warmup_gradient \
            else torch.zeros(0, self._count, dtype=torch.float64)
        return {
            **{f'ema.{s}': self._ema[s].clone() for s in SIGNALS},
            **{f'weight.{s}': self._weight[s].clone() for s in SIGNALS},
            'alpha': self._alpha.clone(), 'beta': self._beta.clone(), 'warmup': warm,
            'scalars': torch.tensor([self._scale_gradient, self._scale_fisher, self._shape,
                                     float(self.updates), float(self.skipped)],
                                    dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`.

        Raises:
            AgentError: it was gathered on a model with other groups.
        """
        found = len(state['alpha']) if 'alpha' in state else 0
        if found != self._count:
            raise AgentError(
                explain(f'importance of {self._count} units was read',
                        f'the file has {found}', 'importance gathered on this very model',
                        'use the files of one run folder')
            )
        for signal in SIGNALS:
            self._ema[signal] = state[f'ema.{signal}'].clone()
            self._weight[signal] = state[f'weight.{signal}'].clone()
        self._alpha, self._beta = state['alpha'].clone(), state['beta'].clone()
        self._warmup_gradient = list(state['warmup'].clone())
        numbers = state['scalars'].tolist()
        self._scale_gradient, self._scale_fisher, self._shape = numbers[:3]
        self.updates, self.skipped = int(numbers[3]), int(numbers[4])


def _normalised_ranks(values: Array) -> Array:
    """Ranks from 0 (least) to 1 (most), ties averaged; NaN stays NaN."""
    out = np.full(values.shape, np.nan)
    known = np.isfinite(values)
    if known.any():
        out[known] = (rankdata(values[known]) - 0.5) / known.sum()
    return out


def magnitude(graph: UnitGraph, components: Mapping[str, nn.Module]) -> dict[str, Array]:
    """Baseline: mean absolute weight over each unit's slices (L1)."""
    scores = {}
    named = {f'{c}.{n}': p.detach() for c, m in components.items()
             for n, p in m.named_parameters()}
    for group in graph.free:
        total, count = np.zeros(group.size), 0
        for column, place in enumerate(group.places):
            if place.parameter not in named:
                continue
            values = named[place.parameter].abs().double()
            others = [d for d in range(values.dim()) if d != place.dim]
            along = (values.sum(others) if others else values).numpy()
            total += along[group.indices[:, column]]
            count += values.numel() // values.shape[place.dim]
        scores[group.name] = total / max(count, 1)
    return scores


def random(graph: UnitGraph, rng: np.random.Generator) -> dict[str, Array]:
    """Baseline: scores drawn at random."""
    return {group.name: rng.random(group.size) for group in graph.free}
