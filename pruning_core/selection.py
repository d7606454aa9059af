# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A budget and scores in; a plan of what to remove out.

The plan is immutable, says what was asked and what is achieved, and names every group that could
not give what the budget wanted, with the reason. Ties are broken by unit number, so that the same
scores always give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.errors import GroupError, explain
from pruning_core.groups import Group, UnitGraph

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What selection must respect.

    Attributes:
        floor: units that every group keeps at least.
        multiple: kept units are a multiple of this where the group is large enough for one.
        coupling_share: coupling groups give this part of what the allocation wants of them; their
            units hold several components together, and cost more return per parameter.
        protect: names of groups that are left whole.
    """

    floor: int = 8
    multiple: int = 8
    coupling_share: float = 1.0
    protect: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Which units go.

    Attributes:
        removed: unit numbers by group name, ascending.
        sizes: units of each free group before the cut.
        requested: share of the parameters to remove; `achieved` the share that goes.
        parameters: before the cut; `parameters_left` after it.
        skipped: (group, reason) for every group that gave less than the allocation wanted.
        allocation: how the budget was shared out, and by which `score`.
    """

    removed: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    requested: float
    achieved: float
    parameters: int
    parameters_left: int
    skipped: tuple[tuple[str, str], ...] = ()
    allocation: str = 'uniform'
    score: str = ''
    schema: int = field(default=1)

    def kept(self, group: str) -> npt.NDArray[np.int64]:
        """Unit numbers of a group that stay, ascending."""
        gone = np.asarray(self.removed.get(group, ()), np.int64)
        return np.setdiff1d(np.arange(self.sizes[group]), gone)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """Rebuild from `to_json`.

        Raises:
            GroupError: fields are missing or unknown.
        """
        try:
            return cls(**{
                **values,
                'removed': {k: tuple(int(i) for i in v) for k, v in values['removed'].items()},
                'skipped': tuple((str(g), str(r)) for g, r in values['skipped']),
            })
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GroupError(
                explain('a plan was read', f'it is not whole ({error})',
                        'the fields that Plan.to_json writes', 'take the file that pruning wrote')
            ) from error


def parameters_left(graph: UnitGraph, removed: Mapping[str, int]) -> int:
    """Count the parameters that stay when `removed[group]` units of each group go."""
    gone: dict[str, dict[int, int]] = {}
    for group in graph.groups:
        for place in group.places:
            dims = gone.setdefault(place.parameter, {})
            dims[place.dim] = dims.get(place.dim, 0) + removed.get(group.name, 0)
    return sum(
        math.prod(size - gone.get(name, {}).get(dim, 0) for dim, size in enumerate(shape))
        for name, shape in graph.shapes.items()
    )


def select(graph: UnitGraph, scores: Mapping[str, Array], sparsity: float,
           limits: Limits = Limits(), *, allocation: str = 'uniform', score: str = '',
           strict: bool = True) -> Plan:
    """Choose the units to remove.

    Args:
        graph: the traced structure.
        scores: (units,) per free group; the lowest go first, NaN (never measured) last.
        sparsity: share of the parameters to remove, in [0, 1).
        limits: floors, multiples and protected groups.
        allocation: 'uniform' takes the same share of every group; 'global' ranks all units
            together, each score divided by its group's mean so that groups are comparable.
        score: name of the score, kept in the plan.
        strict: raise where the budget cannot be met; otherwise remove what the limits allow.

    Returns:
        The plan that removes at least `sparsity`, and no more than the widths' multiple forces.

    Raises:
        GroupError: the budget is out of range or cannot be met, or a score is missing.
    """
    if not (math.isfinite(sparsity) and 0 <= sparsity < 1):
        raise GroupError(
            explain(f'removing a share of {sparsity} of the parameters was asked for',
                    'it is out of range', 'a share from 0 to below 1, such as 0.9',
                    'correct the sparsity')
        )
    for group in graph.free:
        if group.name not in scores or len(scores[group.name]) != group.size:
            raise GroupError(
                explain(f"scores for group '{group.name}' were needed",
                        f'{len(scores.get(group.name, ()))} of {group.size}',
                        'one score per unit', 'measure importance on this very model')
            )
    if allocation not in ('uniform', 'global'):
        raise GroupError(
            explain(f"allocation '{allocation}' was asked for", 'it is not known',
                    'uniform, global', 'choose one of these')
        )
    wanted_of = _uniform(graph) if allocation == 'uniform' else _global(graph, scores)
    total = graph.parameters

    def removed_at(level: float) -> dict[str, int]:
        wanted = wanted_of(level)
        return {g.name: _allowed(g, wanted[g.name], limits) for g in graph.free}

    # The level at which enough goes: removal grows with it, so bisection finds the least.
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if 1 - parameters_left(graph, removed_at(middle)) / total >= sparsity:
            high = middle
        else:
            low = middle
    level = 0.0 if sparsity == 0 else high
    counts = removed_at(level)
    left = parameters_left(graph, counts)
    achieved = 1 - left / total
    if strict and achieved < sparsity:
        raise GroupError(
            explain(f'removing {sparsity:.1%} of the parameters was asked for',
                    f'{achieved:.1%} is what the limits leave room for',
                    f'a floor below {limits.floor}, a multiple below {limits.multiple}, a '
                    f'coupling share above {limits.coupling_share:g}, fewer protected groups '
                    f'({", ".join(limits.protect) or "none"})',
                    'ask for less, or loosen the limits')
        )
    wanted = wanted_of(level)
    skipped = tuple(
        (g.name, 'protected' if g.name in limits.protect else
         f'{wanted[g.name]} units wanted, {counts[g.name]} taken: floor {limits.floor}, '
         f'multiple {limits.multiple}'
         + (f', coupling share {limits.coupling_share:g}' if g.kind == 'coupling' else ''))
        for g in graph.free if counts[g.name] < wanted[g.name]
    )
    order = {g.name: np.argsort(np.where(np.isnan(s := scores[g.name]), np.inf, s), kind='stable')
             for g in graph.free}
    return Plan(
        removed={g.name: tuple(sorted(int(i) for i in order[g.name][:counts[g.name]]))
                 for g in graph.free},
        sizes={g.name: g.size for g in graph.free}, requested=float(sparsity), achieved=achieved,
        parameters=total, parameters_left=left, skipped=skipped, allocation=allocation,
        score=score,
    )


def _allowed(group: Group, wanted: int, limits: Limits) -> int:
    """Units that may go: the kept width is rounded to a multiple and never below the floor."""
    if group.kind == 'coupling':
        wanted = round(limits.coupling_share * wanted)
    if group.name in limits.protect or wanted <= 0:
        return 0
    kept = max(group.size - wanted, limits.floor, 1)
    if group.size >= limits.multiple:
        least = limits.multiple * math.ceil(max(limits.floor, 1) / limits.multiple)
        kept = max(least, limits.multiple * round(kept / limits.multiple))
    return group.size - min(group.size, kept)


def _uniform(graph: UnitGraph) -> Callable[[float], dict[str, int]]:
    return lambda level: {g.name: round(level * g.size) for g in graph.free}


def _global(graph: UnitGraph, scores: Mapping[str, Array]) -> Callable[[float], dict[str, int]]:
    """Rank all units together by score over the group's mean score."""
    relative = []
    for group in graph.free:
        values = scores[group.name]
        mean = np.nanmean(values) if np.isfinite(values).any() else 1.0
        relative.append(np.where(np.isnan(values), np.inf, values / max(float(mean), 1e-300)))
    owner = np.concatenate([np.full(g.size, i) for i, g in enumerate(graph.free)])
    order = np.argsort(np.concatenate(relative), kind='stable')

    def wanted(level: float) -> dict[str, int]:
        taken = np.bincount(owner[order[:round(level * len(order))]], minlength=len(graph.free))
        return {g.name: int(n) for g, n in zip(graph.free, taken, strict=True)}

    return wanted
