# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Groups of removable channels, and the graph that holds them.

A *unit* is one removable channel: every (parameter, dim, index) slice that must go together. A
*group* is a set of units with the same signature, that is, with slices in the same places. A group
whose units touch one component is a component group; one that spans several is a coupling group,
owned by all of them (method section 1; arXiv 2601.19794, section 3.1).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pruning_core.errors import GroupError, explain, nearest


class Place(NamedTuple):
    """One axis of one parameter, named `component.parameter`."""

    parameter: str
    dim: int


@dataclass(frozen=True)
class TensorFacts:
    """What is known of one tensor of a traced model.

    Attributes:
        shape: its sizes.
        kind: a 'parameter', a 'buffer', or the 'size' that a normalisation without parameters of
            its own states (`component.module.normalized_shape`).
        positions: how often each of its scalars is multiplied when one sample passes through its
            layer: 1 for Linear, the output's height times width for Conv2d, 0 for biases.
    """

    shape: tuple[int, ...]
    kind: Literal['parameter', 'buffer', 'size']
    positions: int = 0


@dataclass(frozen=True, eq=False)
class Group:
    """Units with the same signature.

    Example, for an encoder 3 -> 256 -> 50 that feeds a policy 50 -> 512 -> 1: the 256 units of
    `encoder.hidden1` each hold one row of the first weight, one bias and one column of the second
    weight; the 50 units of `latent` each hold one row and one bias of the encoder's last layer and
    one column of the policy's first, so that they belong to both components. `print` says so::

        latent: coupling group of encoder, policy, 50 units, 769 parameters each
            encoder.2.bias[i], encoder.2.weight[i], policy.0.weight[:, i]

    Attributes:
        name: `component.hidden<k>` for component groups, `latent` (`latent2`, ...) for couplings,
            `component.fixed<k>` where the units must stay.
        owners: components that the units touch, in the model's order.
        places: the P axes in which each unit has slices; an axis stands as often as it has slices
            of one unit (a channel of an image that was flattened has many).
        indices: (units, P) position of each unit along each place.
        params_per_unit: scalars that go with one unit; those that it shares count for both.
        macs_per_unit: multiply-accumulates that go with one unit when one sample passes through
            each of its layers once.
        frozen_because: why its units must stay, or None where they may be cut.
        tensors: facts of every tensor of the model, the same for all its groups.
    """

    name: str
    owners: tuple[str, ...]
    places: tuple[Place, ...]
    indices: npt.NDArray[np.int64]
    params_per_unit: int
    macs_per_unit: int
    frozen_because: str | None = None
    tensors: Mapping[str, TensorFacts] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """'component' or 'coupling'."""
        return 'coupling' if len(self.owners) > 1 else 'component'

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.indices)

    def unit(self, index: int) -> tuple[tuple[str, int, int], ...]:
        """The (parameter, dim, index) slices of one unit."""
        return tuple((place.parameter, place.dim, int(i))
                     for place, i in zip(self.places, self.indices[index], strict=True))

    @property
    def units(self) -> tuple[tuple[tuple[str, int, int], ...], ...]:
        """The slices of every unit."""
        return tuple(self.unit(i) for i in range(self.size))

    def __str__(self) -> str:
        """Two lines: what it is, and where its slices are."""
        state = f', stays: {self.frozen_because}' if self.frozen_because else ''
        places = ', '.join(
            f'{p.parameter}[{":, " * p.dim}i]' + (f' x {n}' if n > 1 else '')
            for p, n in Counter(self.places).items())
        return (f'{self.name}: {self.kind} group of {", ".join(self.owners)}, {self.size} units, '
                f'{self.params_per_unit} parameters each{state}\n    {places}')


@dataclass(frozen=True, eq=False)
class UnitGraph:
    """Every group of a model, and the tensors that it was traced with."""

    groups: tuple[Group, ...]
    tensors: Mapping[str, TensorFacts]

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups whose units may be cut."""
        return tuple(g for g in self.groups if g.frozen_because is None)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Sizes of every tensor by name."""
        return {name: facts.shape for name, facts in self.tensors.items()}

    def __str__(self) -> str:
        """Every group, in two lines each."""
        return '\n'.join(map(str, self.groups))

    def __getitem__(self, name: str) -> Group:
        """Find a group by name.

        Raises:
            GroupError: there is no such group.
        """
        for group in self.groups:
            if group.name == name:
                return group
        names = [g.name for g in self.groups]
        raise GroupError(
            explain(f"group '{name}' was asked for", 'it is not known' + nearest(name, names),
                    ', '.join(names), 'choose one of these')
        )

    @property
    def parameters(self) -> int:
        """Number of parameters of the traced model; tied ones count once."""
        return Costs(self.groups).parameters()

    @property
    def macs(self) -> int:
        """Multiply-accumulates when one sample passes through every layer once."""
        return Costs(self.groups).macs()


class Costs:
    """Counts what a model costs when some units of its groups are gone.

    Slices cross: a row that goes and a column that goes share scalars, which count once.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        """Look at the tensors of the model that the groups belong to."""
        self._tensors: Mapping[str, TensorFacts] = groups[0].tensors if groups else {}
        # per tensor and dim: (group, slices that one of its units takes there)
        self._slices: dict[str, dict[int, list[tuple[str, int]]]] = {}
        for group in groups:
            if group.frozen_because is None:
                for place, count in Counter(group.places).items():
                    self._slices.setdefault(place.parameter, {}).setdefault(place.dim, []).append(
                        (group.name, count))

    def _left(self, name: str, removed: Mapping[str, int]) -> int:
        gone = self._slices.get(name, {})
        return math.prod(
            size - sum(n * removed.get(group, 0) for group, n in gone.get(dim, ()))
            for dim, size in enumerate(self._tensors[name].shape))

    def parameters(self, removed: Mapping[str, int] | None = None, component: str = '') -> int:
        """Count the parameters that stay when `removed[group]` units of each group go.

        Args:
            removed: units that go by group; none by default.
            component: count those of this component only.
        """
        return sum(self._left(name, removed or {}) for name, facts in self._tensors.items()
                   if facts.kind == 'parameter'
                   and (not component or name.split('.')[0] == component))

    def macs(self, removed: Mapping[str, int] | None = None,
             uses: Mapping[str, float] | None = None) -> int:
        """Count the multiply-accumulates that stay.

        Args:
            removed: units that go by group; none by default.
            uses: how often each component runs; once where it is not named.
        """
        return round(sum(
            self._left(name, removed or {}) * facts.positions
            * (uses or {}).get(name.split('.')[0], 1)
            for name, facts in self._tensors.items() if facts.positions))
