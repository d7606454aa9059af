# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""From united channel ids to named groups.

A finished `Tracer` in, a `UnitGraph` out. Ids are nodes, unions are edges: the connected
components are the units. Units with slices in the same places form a group. Then every condition
that an operation put is tried on each group; a group that breaks one must stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pruning_core.groups import Group, Place, TensorFacts, UnitGraph

if TYPE_CHECKING:
    from pruning_core.channels import Tracer

_Array = npt.NDArray[np.int64]
_NO_CONSUMER = ('its channels reach no later layer in this run: return them as an output, or roll '
                'out one step more')


def labels(tracer: Tracer) -> _Array:
    """Number the units: (ids,) unit of each channel id, in order of first appearance."""
    if not tracer.pairs:
        return np.arange(tracer.count)
    left, right = (np.concatenate(side) for side in zip(*tracer.pairs, strict=True))
    edges = coo_array((np.ones(len(left), np.int8), (left, right)),
                      shape=(tracer.count, tracer.count))
    found = connected_components(edges, directed=False)[1]
    first: _Array = np.full(tracer.count, tracer.count)
    np.minimum.at(first, found, np.arange(tracer.count))
    return np.asarray(first[found])


def graph(tracer: Tracer, order: Sequence[str]) -> UnitGraph:
    """Make groups of what a run showed.

    Args:
        tracer: after its run.
        order: component names in the model's order.
    """
    unit_of = labels(tracer)
    reasons: list[str] = []
    why = np.full(tracer.count, -1)  # per unit, index of the first reason to stay

    def freeze(units: _Array, reason: str) -> None:
        units = units[why[units] < 0]
        if len(units):
            if reason not in reasons:
                reasons.append(reason)
            why[units] = reasons.index(reason)

    for ids, reason in tracer.frozen:
        freeze(unit_of[ids], reason)
    slots = _Slots(tracer, unit_of)
    consumed = np.zeros(tracer.count, np.bool_)
    for ids in tracer.consumed:
        consumed[unit_of[ids]] = True
    freeze(slots.unit[~consumed[slots.unit]], _NO_CONSUMER)
    free = [units for _, units, _ in slots.groups(why) if why[units[0]] < 0]
    for check in tracer.checks:
        concerned = np.zeros(tracer.count, np.bool_)
        concerned[unit_of[check.ids]] = True
        met = [units for units in free if concerned[units].any() and why[units[0]] < 0]
        for units in met:
            if not all(check.holds(_without(unit_of, gone)) for gone in _trials(units)):
                freeze(units, check.reason)
        met = [units for units in met if why[units[0]] < 0]
        if len(met) > 1 and not check.holds(
                _without(unit_of, np.concatenate([units[:len(units) // 2] for units in met]))):
            freeze(np.concatenate(met), check.reason)
    return UnitGraph(_named(slots, why, reasons, tracer.tensors, order), dict(tracer.tensors))


def _trials(units: _Array) -> list[_Array]:
    """Subsets of a group that conditions are tried on; the last unit of a group never goes."""
    half = len(units) // 2
    return [units[:1], units[-1:], units[:half], units[::2], units[1:], units[:-1]] if half else []


def _without(unit_of: _Array, gone: _Array) -> _Array:
    """Copies of each channel once some units are gone."""
    left = np.ones(len(unit_of), np.int64)
    left[gone] = 0
    return left[unit_of]


class _Slots:
    """Every slice of the model, sorted by unit: (unit, place, index)."""

    def __init__(self, tracer: Tracer, unit_of: _Array) -> None:
        self.places = sorted(Place(*key) for key in tracer.slots)
        sizes = [len(tracer.slots[p]) for p in self.places]
        place = np.repeat(np.arange(len(sizes)), sizes)
        index = np.concatenate([np.arange(n) for n in sizes]) if sizes else np.zeros(0, np.int64)
        unit = np.concatenate([unit_of[tracer.slots[p]] for p in self.places]) \
            if sizes else np.zeros(0, np.int64)
        by = np.lexsort((index, place, unit))
        self.unit, self.place, self.index = unit[by], place[by], index[by]

    def groups(self, why: _Array) -> list[tuple[tuple[Place, ...], _Array, _Array]]:
        """Split into (places, (units,) unit numbers, (units, P) indices)."""
        if not len(self.unit):
            return []
        starts = np.flatnonzero(np.diff(self.unit, prepend=-1))
        counts = np.diff(np.append(starts, len(self.unit)))
        found: dict[tuple[bytes, int], list[int]] = {}
        for k, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
            key = (self.place[start:start + count].tobytes(), int(why[self.unit[start]]))
            found.setdefault(key, []).append(k)
        result = []
        for members in found.values():
            at = starts[members][:, None] + np.arange(counts[members[0]])
            result.append((tuple(self.places[p] for p in self.place[at[0]]),
                           self.unit[at[:, 0]], self.index[at]))
        return result


def _named(slots: _Slots, why: _Array, reasons: Sequence[str],
           tensors: Mapping[str, TensorFacts], order: Sequence[str]) -> tuple[Group, ...]:
    component = {name: order.index(name.split('.')[0]) for name in tensors}
    position = {name: (component[name], i) for i, name in enumerate(tensors)}

    def along(places: tuple[Place, ...]) -> int:
        """The first place in the model's order."""
        return min(range(len(places)),
                   key=lambda i: (position[places[i].parameter], places[i].dim))

    found = []
    for places, units, indices in slots.groups(why):
        first = along(places)
        by = np.argsort(indices[:, first], kind='stable')
        key = (position[places[first].parameter], places[first].dim, int(indices[by[0], first]))
        found.append((key, places, units, indices[by]))
    groups: list[Group] = []
    counts: dict[str, int] = {}
    for _, places, units, indices in sorted(found, key=lambda item: item[0]):
        owners = tuple(sorted({p.parameter.split('.')[0] for p in places}, key=order.index))
        reason = reasons[why[units[0]]] if why[units[0]] >= 0 else None
        base = f'{owners[0]}.fixed' if reason is not None else \
            f'{owners[0]}.hidden' if len(owners) == 1 else 'latent'
        counts[base] = counts.get(base, 0) + 1
        plain = base == 'latent' and counts[base] == 1
        parameters, macs = _per_unit(places, tensors)
        groups.append(Group(base if plain else f'{base}{counts[base]}', owners, places, indices,
                            parameters, macs, reason, tensors))
    return tuple(groups)


def _per_unit(places: Sequence[Place], tensors: Mapping[str, TensorFacts]) -> tuple[int, int]:
    """Parameters and multiply-accumulates that go with one unit, counting a crossing once."""
    taken: dict[str, dict[int, int]] = {}
    for place in places:
        dims = taken.setdefault(place.parameter, {})
        dims[place.dim] = dims.get(place.dim, 0) + 1
    parameters = macs = 0
    for name, dims in taken.items():
        facts = tensors[name]
        scalars = math.prod(facts.shape) - math.prod(
            n - dims.get(d, 0) for d, n in enumerate(facts.shape))
        parameters += scalars if facts.kind == 'parameter' else 0
        macs += scalars * facts.positions
    return parameters, macs
