# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Groups of removable channels, and the graph that holds them.

A *unit* is one removable channel: every (parameter, dim, index) slice that must go together. A
*group* is a set of units with the same signature, that is, with slices in the same places. A group
whose units touch one component is a component group; one that spans several is a coupling group,
owned by all of them (method section 1; arXiv 2601.19794, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pruning_core.errors import GroupError, explain, nearest


class Place(NamedTuple):
    """One axis of one parameter, named `component.parameter`."""

    parameter: str
    dim: int


@dataclass(frozen=True, eq=False)
class Group:
    """Units with the same signature.

    Example, for an encoder 3 -> 256 -> 50 that feeds a policy 50 -> 512 -> 1: the 256 units of
    `encoder.hidden1` each hold one row of the first weight, one bias and one column of the second
    weight; the 50 units of `latent` each hold one row and one bias of the encoder's last layer and
    one column of the policy's first, so that they belong to both components.

    Attributes:
        name: `component.hidden<k>` for component groups, `latent` (`latent2`, ...) for couplings.
        owners: components that the units touch, in the model's order.
        places: the P axes in which each unit has one or more slices.
        indices: (units, P) position of each unit along each place.
        params_per_unit: scalars that go with one unit.
        macs_per_unit: multiply-accumulates that go with one unit, per pass through its layers.
        frozen_because: why its units must stay, or None where they may be cut.
    """

    name: str
    owners: tuple[str, ...]
    places: tuple[Place, ...]
    indices: npt.NDArray[np.int64]
    params_per_unit: int
    macs_per_unit: int
    frozen_because: str | None = None

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

    def __str__(self) -> str:
        """Two lines: what it is, and where its slices are."""
        state = f', stays: {self.frozen_because}' if self.frozen_because else ''
        places = ', '.join(f'{p.parameter}[{":, " * p.dim}i]' for p in self.places)
        return (f'{self.name}: {self.kind} group of {", ".join(self.owners)}, {self.size} units, '
                f'{self.params_per_unit} parameters each{state}\n    {places}')


@dataclass(frozen=True, eq=False)
class UnitGraph:
    """Every group of a model, and the shapes that it was traced with."""

    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups whose units may be cut."""
        return tuple(g for g in self.groups if g.frozen_because is None)

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
        """Number of parameters of the traced model; tied ones count once per name."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())
