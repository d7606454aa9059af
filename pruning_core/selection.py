# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A budget and scores in; a plan of what to remove out.

The plan says what was asked and what is achieved, and names every group that could not give what
the budget wanted, with the reason. Ties are broken by unit number, so that the same scores always
give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pruning_core.budgets import Budget
from pruning_core.config import ALLOCATIONS, COUPLINGS, PruningConfig
from pruning_core.errors import GroupError, explain, nearest
from pruning_core.groups import Costs, Group
from pruning_core.knapsack import Packing, importance_lost
from pruning_core.plans import Plan

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What selection must respect.

    Attributes:
        floor: units that every group keeps at least.
        multiple: kept units are a multiple of this where the group is large enough for one.
        coupling: how much a group that several components share gives: as its 'own' scores say,
            the 'min' of the shares that its owners' groups give, or nothing ('protect').
        coupling_share: coupling groups give this part of that; their units hold several components
            together, and cost more return per parameter.
        protect: names of groups that are left whole.
        caps: largest share of a component's parameters that may go, by component.
    """

    floor: int = 8
    multiple: int = 8
    coupling: str = 'own'
    coupling_share: float = 1.0
    protect: tuple[str, ...] = ()
    caps: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: PruningConfig) -> Limits:
        """Those of a configuration."""
        return cls(settings.floor, settings.multiple, settings.coupling, settings.coupling_share)

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, value, holds, allowed in (
                ('floor', self.floor, self.floor >= 0, '0 or more'),
                ('multiple', self.multiple, self.multiple >= 1, '1 or more'),
                ('coupling', self.coupling, self.coupling in COUPLINGS, ', '.join(COUPLINGS)),
                ('coupling_share', self.coupling_share, 0 <= self.coupling_share <= 1,
                 'from 0 to 1'),
                *((f'caps of {c}', v, 0 <= v <= 1, 'from 0 to 1') for c, v in self.caps.items())):
            if not holds:
                raise GroupError(explain(f'a limit was set for {name}', f'{value!r}', allowed,
                                         'correct it'))


def select(groups: Sequence[Group], scores: Mapping[str, Array], budget: Budget,
           limits: Limits = Limits(), *, allocation: str = 'uniform', score: str = '',
           lost: Mapping[str, Array] | None = None, strict: bool = True) -> Plan:
    """Choose the units to remove.

    Args:
        groups: of the traced model; those that must stay are left alone.
        scores: (units,) per free group; the lowest go first, NaN (never measured) last.
        budget: `Parameters`, `Macs` or `Milliseconds`.
        limits: floors, multiples, caps, the coupling rule and protected groups.
        allocation: 'uniform' takes the same share of every group; 'global' ranks all units
            together, each score divided by its group's mean so that groups are comparable;
            'knapsack' takes units from where least is lost for what the budget counts.
        score: name of the score, kept in the plan.
        lost: of 'knapsack': (units + 1,) per group, what is lost with the n units that go first;
            None is the sum of their scores.
        strict: raise where the budget cannot be met; otherwise remove what the limits allow.

    Returns:
        The plan that meets the budget, and removes no more than the widths' multiple forces.

    Raises:
        GroupError: the budget cannot be met, a score is missing, or a limit names what is not
            there.
    """
    free = [g for g in groups if g.frozen_because is None]
    _check(groups, free, scores, limits, allocation)
    sizes = {g.name: g.size for g in free}
    costs = Costs(groups)
    packing = Packing(free, lost or {g.name: importance_lost(_scores(scores, g)) for g in free},
                      limits.multiple, lambda removed: budget.achieved(costs, sizes, removed))
    share_out = {'uniform': lambda: _uniform(free), 'global': lambda: _global(free, scores),
                 'knapsack': packing.order}[allocation]()
    ceilings = _ceilings(free, costs, share_out, limits)

    def wanted_at(level: float) -> dict[str, int]:
        return _with_couplings(free, share_out(level), limits)

    def counts_at(level: float) -> dict[str, int]:
        at = {c: wanted_at(min(level, c)) for c in {*ceilings.values(), 1.0}}
        return {g.name: _allowed(g, at[ceilings[g.name]][g.name], limits) for g in free}

    # The level at which enough goes: removal grows with it, so bisection finds the least.
    low, high = 0.0, 1.0
    if budget.met(budget.achieved(costs, sizes, {})):
        high = 0.0
    else:
        for _ in range(50):
            middle = (low + high) / 2
            if budget.met(budget.achieved(costs, sizes, counts_at(middle))):
                high = middle
            else:
                low = middle
    counts = counts_at(high)
    if allocation == 'knapsack':
        counts = packing.exchange(counts, budget.met, {
            g.name: g.size - _allowed(g, g.size, limits) for g in free
            if g.kind != 'coupling' and ceilings[g.name] == 1.0 and g.name not in limits.protect})
    achieved = budget.achieved(costs, sizes, counts)
    if strict and not budget.met(achieved):
        raise GroupError(_missed(groups, free, budget, achieved, limits))
    wanted = share_out(high)
    order = {g.name: np.argsort(np.where(np.isnan(s := _scores(scores, g)), np.inf, s),
                                kind='stable') for g in free}
    return Plan.removing(
        groups, {g.name: order[g.name][:counts[g.name]] for g in free},
        budget=budget.measure, requested=budget.requested, achieved=achieved,
        skipped=tuple((g.name, _why(g, wanted[g.name], counts[g.name], high, ceilings, limits))
                      for g in free if counts[g.name] < wanted[g.name]),
        allocation=allocation, score=score)


def _scores(scores: Mapping[str, Array], group: Group) -> Array:
    return np.asarray(scores[group.name], np.float64)


def _check(groups: Sequence[Group], free: Sequence[Group], scores: Mapping[str, Array],
           limits: Limits, allocation: str) -> None:
    for group in free:
        if group.name not in scores or np.shape(scores[group.name]) != (group.size,):
            found = np.shape(scores[group.name]) if group.name in scores else (0,)
            raise GroupError(
                explain(f"scores for group '{group.name}' were needed",
                        f'{" x ".join(map(str, found)) or "a single one"} of {group.size}',
                        'one score per unit', 'measure importance on this very model')
            )
    if allocation not in ALLOCATIONS:
        raise GroupError(
            explain(f"allocation '{allocation}' was asked for", 'it is not known',
                    ', '.join(ALLOCATIONS), 'choose one of these')
        )
    components = list(dict.fromkeys(o for g in groups for o in g.owners))
    for what, asked, known in (('protected group', limits.protect, [g.name for g in groups]),
                               ('cap for component', limits.caps, components)):
        for name in asked:
            if name not in known:
                raise GroupError(
                    explain(f"a {what} '{name}' was asked for",
                            'it is not known' + nearest(name, known), ', '.join(known),
                            'choose one of these')
                )


def _missed(groups: Sequence[Group], free: Sequence[Group], budget: Budget, achieved: float,
            limits: Limits) -> str:
    if not free:
        reasons = sorted({str(g.frozen_because) for g in groups})
        return explain(f'{budget.asked()} was asked for', 'every group must stay: '
                       + '; '.join(reasons[:5]), 'a model with groups that may be cut',
                       'use operations that are understood, or prune another part')
    caps = ', '.join(f'{c} {v:g}' for c, v in limits.caps.items()) or 'none'
    return explain(
        f'{budget.asked()} was asked for',
        f'{budget.shown(achieved)} is what the limits leave room for',
        f'a floor below {limits.floor}, a multiple below {limits.multiple}, a coupling share '
        f'above {limits.coupling_share:g} (rule {limits.coupling}), higher caps ({caps}), fewer '
        f'protected groups ({", ".join(limits.protect) or "none"})',
        'ask for less, or loosen the limits')


def _why(group: Group, wanted: int, taken: int, level: float, ceilings: Mapping[str, float],
         limits: Limits) -> str:
    if group.name in limits.protect:
        return 'protected'
    if group.kind == 'coupling' and limits.coupling == 'protect':
        return 'coupling groups are protected'
    capped = [f'cap {limits.caps[o]:g} of {o}' for o in group.owners
              if o in limits.caps and ceilings[group.name] < level]
    share = [f'coupling share {limits.coupling_share:g}, rule {limits.coupling}'] \
        if group.kind == 'coupling' else []
    return ', '.join([f'{wanted} units wanted, {taken} taken: floor {limits.floor}',
                      f'multiple {limits.multiple}', *share, *capped])


def _allowed(group: Group, wanted: int, limits: Limits) -> int:
    """Units that may go: the kept width is rounded to a multiple and never below the floor."""
    if group.name in limits.protect or wanted <= 0:
        return 0
    kept = max(group.size - wanted, limits.floor, 1)
    if group.size >= limits.multiple:
        least = limits.multiple * math.ceil(max(limits.floor, 1) / limits.multiple)
        kept = max(least, limits.multiple * round(kept / limits.multiple))
    return group.size - min(group.size, kept)


def _with_couplings(free: Sequence[Group], wanted: Mapping[str, int], limits: Limits
                    ) -> dict[str, int]:
    """Apply the rule for groups that several components share."""
    given: dict[str, list[int]] = {}  # units wanted and there, per component
    for g in free:
        if g.kind == 'component':
            total = given.setdefault(g.owners[0], [0, 0])
            total[0] += wanted[g.name]
            total[1] += g.size
    result = dict(wanted)
    for g in free:
        if g.kind != 'coupling':
            continue
        if limits.coupling == 'protect':
            result[g.name] = 0
        elif limits.coupling == 'min':
            shares = [given[o][0] / given[o][1] for o in g.owners if o in given]
            result[g.name] = min(wanted[g.name], round(min(shares, default=1.0) * g.size))
        result[g.name] = round(limits.coupling_share * result[g.name])
    return result


def _ceilings(free: Sequence[Group], costs: Costs, share_out: Callable[[float], dict[str, int]],
              limits: Limits) -> dict[str, float]:
    """Highest level of each group at which no capped owner of it loses more than its cap."""
    highest = dict.fromkeys(limits.caps, 1.0)
    for component, cap in limits.caps.items():
        total = costs.parameters({}, component)

        def lost(level: float, component: str = component, total: int = total) -> float:
            wanted = _with_couplings(free, share_out(level), limits)
            counts = {g.name: _allowed(g, wanted[g.name], limits) for g in free}
            return 1 - costs.parameters(counts, component) / max(total, 1)

        if lost(1.0) > cap:
            low, high = 0.0, 1.0
            for _ in range(50):
                middle = (low + high) / 2
                low, high = (middle, high) if lost(middle) <= cap else (low, middle)
            highest[component] = low
    return {g.name: min((highest[o] for o in g.owners if o in highest), default=1.0)
            for g in free}


def _uniform(free: Sequence[Group]) -> Callable[[float], dict[str, int]]:
    return lambda level: {g.name: round(level * g.size) for g in free}


def _global(free: Sequence[Group], scores: Mapping[str, Array]
            ) -> Callable[[float], dict[str, int]]:
    """Rank all units together by score over the group's mean score."""
    relative = [np.zeros(0)]
    for group in free:
        values = _scores(scores, group)
        mean = np.nanmean(values) if np.isfinite(values).any() else 1.0
        relative.append(np.where(np.isnan(values), np.inf, values / max(float(mean), 1e-300)))
    owner = np.repeat(np.arange(len(free)), [g.size for g in free])
    order = np.argsort(np.concatenate(relative), kind='stable')

    def wanted(level: float) -> dict[str, int]:
        taken = np.bincount(owner[order[:round(level * len(order))]], minlength=len(free))
        return {g.name: int(n) for g, n in zip(free, taken, strict=True)}

    return wanted
