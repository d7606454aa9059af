# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How wide each group stays: the least lost for what a budget allows.

A knapsack whose items are blocks of units, with a twist: what a block costs depends on how wide
the groups beside it are (a layer has inputs times outputs many weights), so that no table of costs
can be made. Blocks are therefore taken away one by one, next the one with which least is lost
for what it saves at the present widths; then single blocks are exchanged between groups as long as
that loses less. On small cases this finds what trying everything finds, or nearly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pruning_core.groups import Group

Array = npt.NDArray[np.float64]


def importance_lost(scores: Array) -> Array:
    """Sum of the n lowest scores, n from none to all: (units + 1,); NaN counts as the highest."""
    known = scores[np.isfinite(scores)]
    best = float(known.max()) if len(known) else 1.0
    return np.concatenate([[0.0], np.cumsum(np.sort(np.where(np.isfinite(scores), scores,
                                                             best)))])


class Packing:
    """Groups, what their units are worth, and what removing them saves."""

    def __init__(self, groups: Sequence[Group], lost: Mapping[str, Array], block: int,
                 spent: Callable[[Mapping[str, int]], float]) -> None:
        """Take what is to be packed.

        Args:
            groups: free ones.
            lost: (units + 1,) per group, what is lost with the n units that go first, from none
                to all; comparable between groups.
            block: units taken at once.
            spent: from the units that are removed per group to what the budget counts; whether
                that rises or falls with them is all the same.
        """
        self.sizes = {g.name: g.size for g in groups}
        self.block = block
        self._spent = spent
        self._lost = lost

    def lost(self, removed: Mapping[str, int]) -> float:
        """What is lost with that many units of each group."""
        return float(sum(self._lost[name][n] for name, n in removed.items()))

    def order(self) -> Callable[[float], dict[str, int]]:
        """Take away block after block.

        Returns:
            From a level, 0 (nothing) to 1 (all), to the units that are gone of each group.
        """
        removed = dict.fromkeys(self.sizes, 0)
        path, now = [dict(removed)], self._spent(removed)
        while True:
            best: tuple[float, str, int, float] | None = None
            for name, size in self.sizes.items():
                taken = self._next(removed[name], size)
                if taken == removed[name]:
                    continue
                spent = self._spent({**removed, name: taken})
                loss = self._lost[name][taken] - self._lost[name][removed[name]]
                price = float(loss) / max(abs(now - spent), 1e-300)
                if best is None or price < best[0]:
                    best = price, name, taken, spent
            if best is None:
                break
            _, name, removed[name], now = best
            path.append(dict(removed))
        return lambda level: dict(path[round(level * (len(path) - 1))])

    def _next(self, removed: int, size: int) -> int:
        """Units gone after a further block; what is left is a multiple of it, never nothing."""
        left = size - removed
        if left <= self.block:
            return removed
        return size - self.block * ((left - 1) // self.block)

    def exchange(self, removed: Mapping[str, int], met: Callable[[float], bool],
                 least: Mapping[str, int]) -> dict[str, int]:
        """Move blocks between groups while less is lost that way, within the budget.

        Args:
            removed: units that are gone per group; the budget is met.
            met: whether what is spent meets the budget.
            least: units that must stay, for every group that may take part.
        """
        removed = dict(removed)
        while True:
            lost, better = self.lost(removed), None
            for one in least:
                back = {**removed, one: max(0, removed[one] - self.block)}
                if back[one] == removed[one]:
                    continue
                choices = [back] + [
                    {**back, other: taken} for other in least
                    if other != one
                    and self.sizes[other] - (taken := self._next(back[other], self.sizes[other]))
                    >= least[other]]
                for choice in choices:
                    if self.lost(choice) < lost - 1e-12 and met(self._spent(choice)):
                        lost, better = self.lost(choice), choice
            if better is None:
                return removed
            removed = better
