# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What a plan has to reach: a share of the parameters or of the MACs gone, or milliseconds.

Numbers in; an object out that tells what a set of widths costs and whether that is enough. Budgets
in parameters are not budgets in time: the dynamics run at every step of every plan, the encoder
once (method section 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from pruning_core.errors import GroupError, explain
from pruning_core.groups import Costs


class Budget(Protocol):
    """What `selection.select` asks of a budget."""

    @property
    def measure(self) -> str:
        """'parameters', 'macs' or 'milliseconds'."""

    @property
    def requested(self) -> float:
        """The number that was asked for."""

    def achieved(self, costs: Costs, sizes: Mapping[str, int], removed: Mapping[str, int]
                 ) -> float:
        """Number that is reached when `removed[group]` of `sizes[group]` units go."""

    def met(self, achieved: float) -> bool:
        """Whether a number that was reached is enough."""

    def asked(self) -> str:
        """Say what is asked for."""

    def shown(self, achieved: float) -> str:
        """Say what was reached."""


def _share(value: float, of: str) -> None:
    if not (math.isfinite(value) and 0 <= value < 1):
        raise GroupError(
            explain(f'removing a share of {value} of the {of} was asked for',
                    'it is out of range', 'a share from 0 to below 1, such as 0.9',
                    'correct the sparsity')
        )


@dataclass(frozen=True)
class Parameters:
    """Remove this share of the parameters.

    Attributes:
        remove: share that goes, in [0, 1).
    """

    measure: ClassVar[str] = 'parameters'
    remove: float

    def __post_init__(self) -> None:
        """Check the range."""
        _share(self.remove, 'parameters')

    @property
    def requested(self) -> float:
        """The share."""
        return float(self.remove)

    def achieved(self, costs: Costs, sizes: Mapping[str, int], removed: Mapping[str, int]
                 ) -> float:
        """Share of the parameters that goes."""
        return 1 - costs.parameters(removed) / max(costs.parameters(), 1)

    def met(self, achieved: float) -> bool:
        """As much or more."""
        return achieved >= self.remove

    def asked(self) -> str:
        """Say what is asked for."""
        return f'removing {self.remove:.1%} of the {self.measure}'

    def shown(self, achieved: float) -> str:
        """Say what was reached."""
        return f'{achieved:.1%}'


@dataclass(frozen=True)
class Macs(Parameters):
    """Remove this share of the multiply-accumulates.

    Attributes:
        remove: share that goes, in [0, 1).
        uses: how often each component runs per decision, such as `{'encoder': 1, 'dynamics':
            15360}`; once where it is not named.
    """

    measure: ClassVar[str] = 'macs'
    uses: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the range."""
        _share(self.remove, 'macs')

    def achieved(self, costs: Costs, sizes: Mapping[str, int], removed: Mapping[str, int]
                 ) -> float:
        """Share of the multiply-accumulates that goes."""
        return 1 - costs.macs(removed, self.uses) / max(costs.macs({}, self.uses), 1)


@dataclass(frozen=True)
class Milliseconds:
    """Come down to this many milliseconds, as a model of the machine predicts them.

    Attributes:
        limit: milliseconds, above 0.
        predict: from the units that each free group keeps to seconds.
    """

    measure: ClassVar[str] = 'milliseconds'
    limit: float
    predict: Callable[[Mapping[str, int]], float]

    def __post_init__(self) -> None:
        """Check the range."""
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise GroupError(
                explain(f'a budget of {self.limit} ms was asked for', 'it is out of range',
                        'a number of milliseconds above 0', 'correct the budget')
            )

    @property
    def requested(self) -> float:
        """The limit."""
        return float(self.limit)

    def achieved(self, costs: Costs, sizes: Mapping[str, int], removed: Mapping[str, int]
                 ) -> float:
        """Predicted milliseconds.

        Raises:
            GroupError: the prediction is no time.
        """
        kept = {name: size - removed.get(name, 0) for name, size in sizes.items()}
        seconds = float(self.predict(kept))
        if not (math.isfinite(seconds) and seconds >= 0):
            raise GroupError(
                explain(f'the time for widths {kept} was to be predicted',
                        f'the prediction is {seconds} s', 'a finite number of seconds, 0 or more',
                        'correct the predictor')
            )
        return 1e3 * seconds

    def met(self, achieved: float) -> bool:
        """As long or shorter."""
        return achieved <= self.limit

    def asked(self) -> str:
        """Say what is asked for."""
        return f'a decision within {self.limit:g} ms'

    def shown(self, achieved: float) -> str:
        """Say what was reached."""
        return f'{achieved:.4g} ms'
