# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Which units of each group represent the others best: column subset selection.

Importance says what a unit does for the loss; it does not say whether another unit could do it
too. Once the weights behind a cut are refitted (`compensation`), what is lost is what the units
that stay cannot express. So, for a given width, units are chosen greedily: the next one is that
which, together with those already chosen, explains most of what the following layers receive.
Groups are treated from the outputs backwards, so that only what is kept behind a group counts.

Deviation: the paper ranks units by importance alone; here importance may still set the widths of
the groups, and this the members.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruning_core.groups import Group, Place
from pruning_core.plans import Plan
from pruning_core.visits import Visits, layer_input

Array = npt.NDArray[np.float64]
_RIDGE = 1e-3  # of the mean variance; units that the data hardly show are not told apart by noise


class Chosen(NamedTuple):
    """Columns, best first."""

    columns: list[int]
    unexplained: list[float]  # share of y's variance that is left after each of them


@torch.no_grad()
def greedy(x: Tensor, y: Tensor, count: int) -> Chosen:
    """Choose columns of x that explain y by least squares.

    Args:
        x: (N, C).
        y: (N, D).
        count: columns to choose, all different.
    """
    x, y = (v.double() - v.double().mean(0) for v in (x, y))
    gram, cross = x.T @ x, x.T @ y
    gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()) + 1e-12)
    free = torch.ones(len(gram), dtype=torch.bool)
    chosen = Chosen([], [])
    total = left = max(float(y.square().sum()), 1e-300)
    for _ in range(count):
        # What is left of each column after the chosen ones, and what that explains of y.
        gain = cross.square().sum(1) / gram.diagonal().clamp(min=1e-12)
        best = int(torch.where(free, gain, -1.0).argmax())
        left -= float(gain[best])
        chosen.columns.append(best)
        chosen.unexplained.append(max(left, 0.0) / total)
        free[best] = False
        column, row, pivot = gram[:, best].clone(), cross[best].clone(), float(gram[best, best])
        gram.addr_(column, column, alpha=-1 / pivot)
        cross.addr_(column, row, alpha=-1 / pivot)
    return chosen


@torch.no_grad()
def representatives(groups: Sequence[Group], components: Mapping[str, nn.Module], plan: Plan,
                    visits: Visits, scores: Mapping[str, Array] | None = None) -> Plan:
    """Choose other members for the same widths.

    Args:
        groups: of the traced agent.
        components: its modules, before the cut.
        plan: whose widths are kept.
        visits: situations that the agent meets.
        scores: (units,) per group; what a layer receives is weighted with the importance of the
            units that receive it. None weights all alike.

    Returns:
        A plan of the same widths; groups that no linear layer reads keep their members.
    """
    seen = _Seen(components, visits)
    kept = {g.name: plan.kept(g.name) for g in groups if g.name in plan.sizes}
    rows: dict[str, tuple[np.ndarray, Tensor]] = {}  # outputs that stay, and their weight
    for group in _backwards([g for g in groups if g.name in kept]):
        count = len(kept[group.name])
        received = seen.received(group, rows) if count < group.size else None
        if received is not None:
            kept[group.name] = np.sort(greedy(*received, count).columns)
        for column, place in enumerate(group.places):
            if place.dim == 0 and place.parameter in seen.layers:
                stay = kept[group.name]
                weight = torch.ones(len(stay)) if scores is None \
                    else _weights(scores[group.name][stay])
                rows[place.parameter] = group.indices[stay, column], weight
    removed = {name: np.setdiff1d(np.arange(plan.sizes[name]), stay)
               for name, stay in kept.items()}
    return Plan.removing(groups, removed, budget=plan.budget, requested=plan.requested,
                         achieved=plan.achieved, skipped=plan.skipped, allocation=plan.allocation,
                         score=plan.score)


@torch.no_grad()
def curves(groups: Sequence[Group], components: Mapping[str, nn.Module], visits: Visits,
           scores: Mapping[str, Array]) -> dict[str, Array]:
    """What is lost of each group with the n units that represent the others least.

    That is the share of what the following layers receive of it which the others cannot explain,
    times the mean importance of its units. Unlike sums of importance it rises slowly as long as
    the units that stay can stand in for those that go.

    Args:
        groups: free ones of the traced agent.
        components: its modules.
        visits: situations that the agent meets.
        scores: (units,) per group, comparable between groups.

    Returns:
        (units + 1,) per group, from nothing gone to all.
    """
    seen, found = _Seen(components, visits), {}
    for group in groups:
        known = scores[group.name][np.isfinite(scores[group.name])]
        importance = float(known.mean()) if len(known) else 1.0
        received = seen.received(group, {})
        if received is None:
            found[group.name] = importance * np.linspace(0, 1, group.size + 1)
        else:
            left = [1.0, *greedy(*received, group.size).unexplained]
            found[group.name] = importance * np.array(left[::-1])
    return found


class _Seen:
    """What the layers of an agent receive in the situations that it meets."""

    def __init__(self, components: Mapping[str, nn.Module], visits: Visits) -> None:
        self.components = components
        # The latent is read by several components; all of them see it in the same situations.
        self.inputs = {'encoder': visits.observation, 'policy': visits.latent[:-1].flatten(0, 1),
                       **dict.fromkeys(('dynamics', 'reward', 'q1', 'q2'), visits.pairs())}
        self.layers = {f'{name}.{path}.weight' if path else f'{name}.weight': (name, layer)
                       for name, module in components.items()
                       for path, layer in module.named_modules() if isinstance(layer, nn.Linear)}

    def received(self, group: Group, rows: Mapping[str, tuple[np.ndarray, Tensor]]
                 ) -> tuple[Tensor, Tensor] | None:
        """A group's outputs (N, units), and what its readers make of them (N, D).

        Args:
            group: whose.
            rows: outputs of the reading layers that count, and their weights; all where not named.

        Returns:
            None where no linear layer reads the group.
        """
        x, made = None, list[Tensor]()
        for column, place in _read_by(group, self.layers):
            name, layer = self.layers[place.parameter]
            x = layer_input(self.components[name], layer, self.inputs[name])
            x = x[:, group.indices[:, column]]
            w = layer.weight[:, group.indices[:, column]]
            if place.parameter in rows:
                stay, weight = rows[place.parameter]
                w = w[stay] * weight[:, None]
            y = x @ w.T
            made.append(y / (y - y.mean(0)).norm().clamp(min=1e-12))  # each layer counts alike
        return None if x is None else (x, torch.cat(made, dim=1))


def _weights(scores: Array) -> Tensor:
    """Scores over their mean; those never measured count as the mean."""
    known = np.isfinite(scores)
    mean = scores[known].mean() if known.any() else 0.0
    if not mean > 0:
        return torch.ones(len(scores))
    return torch.from_numpy(np.where(known, scores / mean, 1.0).astype(np.float32))


def _read_by(group: Group, layers: Mapping[str, tuple[str, nn.Linear]]
             ) -> Iterator[tuple[int, Place]]:
    """Columns of `group.places` at which a linear layer reads the group."""
    for column, place in enumerate(group.places):
        if place.dim == 1 and place.parameter in layers:
            yield column, place


def _backwards(groups: Sequence[Group]) -> list[Group]:
    """Order the groups so that each comes after those that its readers feed.

    A recurrence (latent -> dynamics -> latent) is entered at the latent, whose own width then
    counts in full for what feeds it.
    """
    fed = {place.parameter: group for group in groups for place in group.places if place.dim == 0}
    order: list[Group] = []
    entered: set[str] = set()

    def enter(group: Group) -> None:
        if group.name in entered:
            return
        entered.add(group.name)
        for place in group.places:
            if place.dim == 1 and place.parameter in fed:
                enter(fed[place.parameter])
        order.append(group)

    for group in groups:
        enter(group)
    return order
