# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Plans: which units go, said so fully that the model's trace is not needed to carry them out.

Groups and unit numbers in; an immutable `Plan` out, that goes to JSON and back and composes with
a later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.errors import GroupError, explain, nearest
from pruning_core.groups import Costs, Group

_SCHEMA = 2
SIZE = '.normalized_shape'  # ends the name of a size that is no tensor


@dataclass(frozen=True)
class Plan:
    """Which units go.

    Attributes:
        removed: unit numbers by group name, ascending.
        sizes: units of each free group before the cut.
        slices: removed positions, ascending, by tensor name and dim.
        shapes: of every tensor of the model that the plan is for.
        parameters: before the cut; `parameters_left` after it.
        macs: multiply-accumulates of one pass through every layer, before the cut; `macs_left`
            after it.
        budget: what `requested` and `achieved` measure: of 'parameters' and 'macs' the share that
            goes, of 'milliseconds' what is left.
        skipped: (group, reason) for every group that gave less than the allocation wanted.
        allocation: how the budget was shared out, and by which `score`.
    """

    removed: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    slices: Mapping[str, Mapping[int, tuple[int, ...]]]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: int
    parameters_left: int
    macs: int
    macs_left: int
    budget: str = 'parameters'
    requested: float = 0.0
    achieved: float = 0.0
    skipped: tuple[tuple[str, str], ...] = ()
    allocation: str = ''
    score: str = ''
    schema: int = _SCHEMA

    def __post_init__(self) -> None:
        """Close the mappings to changes."""
        for name in ('removed', 'sizes', 'shapes'):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        object.__setattr__(self, 'slices', MappingProxyType(
            {name: MappingProxyType(dict(dims)) for name, dims in self.slices.items()}))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made of plain values."""
        return Plan.from_json, (self.to_json(),)

    @classmethod
    def removing(cls, groups: Sequence[Group], units: Mapping[str, Iterable[int]], **facts: Any
                 ) -> Plan:
        """Plan to remove exactly these units.

        Args:
            groups: of the traced model.
            units: unit numbers by group name; groups that are not named stay whole.
            facts: what asked for it, such as `budget` and `score`.

        Raises:
            GroupError: a group is unknown or must stay, or its units are not there, or all of
                them would go.
        """
        free = {g.name: g for g in groups if g.frozen_because is None}
        removed = {name: tuple(sorted(int(i) for i in chosen)) for name, chosen in units.items()}
        frozen = {g.name: g.frozen_because for g in groups if g.frozen_because is not None}
        slices: dict[str, dict[int, list[int]]] = {}
        for name, chosen in removed.items():
            if name not in free:
                raise GroupError(
                    explain(f"units of group '{name}' were to be removed",
                            f'it must stay: {frozen[name]}' if name in frozen else
                            'it is not known' + nearest(name, free), ', '.join(free) or 'none',
                            'choose one of these')
                )
            _check_units(name, chosen, free[name].size)
            for column, place in enumerate(free[name].places):
                slices.setdefault(place.parameter, {}).setdefault(place.dim, []).extend(
                    free[name].indices[list(chosen), column].tolist())
        costs, counts = Costs(groups), {name: len(chosen) for name, chosen in removed.items()}
        tensors = next((g.tensors for g in groups), {})
        return cls(
            removed={name: removed.get(name, ()) for name in free},
            sizes={name: g.size for name, g in free.items()},
            slices={name: {dim: tuple(sorted(at)) for dim, at in dims.items() if at}
                    for name, dims in slices.items() if any(dims.values())},
            shapes={name: facts.shape for name, facts in tensors.items()},
            parameters=costs.parameters(), parameters_left=costs.parameters(counts),
            macs=costs.macs(), macs_left=costs.macs(counts), **facts)

    def kept(self, group: str) -> npt.NDArray[np.int64]:
        """Unit numbers of a group that stay, ascending."""
        return left(self.sizes[group], self.removed.get(group, ()))

    def shape_after(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor after the cut."""
        gone = self.slices.get(name, {})
        return tuple(n - len(gone.get(dim, ())) for dim, n in enumerate(self.shapes[name]))

    def then(self, later: Plan) -> Plan:
        """Put this plan and one for the model that it leaves into one.

        Returns:
            The plan that removes at once what the two remove one after the other. What was asked
            for is the later one's, in shares of this one's model.

        Raises:
            GroupError: the later plan is for another model.
        """
        after = {name: self.shape_after(name) for name in self.shapes}
        if dict(later.shapes) != after:
            differing = [n for n in {*after, *later.shapes} if after.get(n) != later.shapes.get(n)]
            name = min(differing)
            raise GroupError(
                explain('a plan was put behind another', f"it has '{name}' with "
                        f'{later.shapes.get(name)}', f'{after.get(name)}, as the first leaves it',
                        'make it for the model that the first plan leaves')
            )
        slices: dict[str, dict[int, tuple[int, ...]]] = {}
        for name, shape in self.shapes.items():
            for dim, n in enumerate(shape):
                gone = self.slices.get(name, {}).get(dim, ())
                further = left(n, gone)[list(later.slices.get(name, {}).get(dim, ()))]
                if len(gone) + len(further):
                    slices.setdefault(name, {})[dim] = tuple(sorted([*gone, *further.tolist()]))
        share = {'parameters': 1 - later.parameters_left / max(self.parameters, 1),
                 'macs': 1 - later.macs_left / max(self.macs, 1)}
        return replace(
            later, removed={name: tuple(sorted([
                *self.removed.get(name, ()),
                *self.kept(name)[list(later.removed.get(name, ()))].tolist()]))
                for name in self.sizes},
            sizes=self.sizes, slices=slices, shapes=self.shapes, parameters=self.parameters,
            macs=self.macs, achieved=share.get(later.budget, later.achieved))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)},
                'removed': {k: list(v) for k, v in self.removed.items()},
                'sizes': dict(self.sizes),
                'slices': {name: {str(dim): list(at) for dim, at in dims.items()}
                           for name, dims in self.slices.items()},
                'shapes': {k: list(v) for k, v in self.shapes.items()},
                'skipped': [list(s) for s in self.skipped]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """Rebuild from `to_json`.

        Raises:
            GroupError: fields are missing, unknown or contradict each other.
        """
        try:
            if values['schema'] != _SCHEMA:
                raise ValueError(f"schema {values['schema']}, not {_SCHEMA}")
            plan = cls(**{
                **values,
                'removed': {k: tuple(map(int, v)) for k, v in values['removed'].items()},
                'sizes': {k: int(v) for k, v in values['sizes'].items()},
                'slices': {name: {int(dim): tuple(map(int, at)) for dim, at in dims.items()}
                           for name, dims in values['slices'].items()},
                'shapes': {k: tuple(map(int, v)) for k, v in values['shapes'].items()},
                'skipped': tuple((str(g), str(r)) for g, r in values['skipped']),
            })
            for name, chosen in plan.removed.items():
                _check_units(name, chosen, plan.sizes[name])
            for name, dims in plan.slices.items():
                for dim, at in dims.items():
                    _check_units(f'{name}, dim {dim}', at, plan.shapes[name][dim])
            return plan
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise GroupError(
                explain('a plan was read', f'it is not whole ({error})',
                        'the fields that Plan.to_json writes', 'take the file that pruning wrote')
            ) from error


def check_shapes(expected: Mapping[str, tuple[int, ...] | None],
                 found: Mapping[str, tuple[int, ...]], what: str, do: str) -> None:
    """Compare a model's tensors with those that a plan is for.

    Args:
        expected: by name; sizes that modules state beside their tensors are passed over.
        found: by name.
        what: kind of tensor, for the message.
        do: what to do about a difference.

    Raises:
        GroupError: a tensor is missing, too many, or has another shape.
    """
    for name in sorted({*expected, *found}):
        allowed = expected.get(name)
        if found.get(name) != allowed and not name.endswith(SIZE):
            raise GroupError(
                explain(f"{what} '{name}' was to be used",
                        f'its shape is {found.get(name, "nothing")}',
                        f'{"nothing of this name" if allowed is None else allowed}', do)
            )


def left(size: int, gone: Sequence[int]) -> npt.NDArray[np.int64]:
    """Positions from 0 to `size` that stay, ascending."""
    return np.setdiff1d(np.arange(size), np.asarray(gone, np.int64))


def _check_units(name: str, chosen: Sequence[int], size: int) -> None:
    if not chosen:
        return
    if min(chosen) < 0 or max(chosen) >= size or len(set(chosen)) != len(chosen):
        raise GroupError(
            explain(f"units of '{name}' were to be removed",
                    f'units {min(chosen)} to {max(chosen)}, {len(chosen)} in all',
                    f'different units from 0 to {size - 1}', 'make the plan again')
        )
    if len(chosen) >= size:
        raise GroupError(
            explain(f"all {size} units of '{name}' were to be removed",
                    'nothing would pass through it any more', 'at least one unit stays',
                    'lower the sparsity, or raise the floor')
        )
