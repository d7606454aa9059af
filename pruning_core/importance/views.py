# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Coupling views: the channels of a coupling group, seen through what reads them.

The paper names two coupling groups, Encoder -> Policy and Encoder -> (Dynamics, Reward, Q1, Q2,
Policy). The channels that can be cut are the same in both. Deviation: they are kept as views of
the one coupling group, scored through the columns of one consumer alone and of all together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pruning_core.groups import Group, Place


def reads(place: Place) -> bool:
    """Whether the axis is the input side of a weight."""
    return place.dim == 1


def coupling_views(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Make the views of every coupling group, as groups over a part of its places.

    Returns:
        For each coupling group `producer->consumer` for every component that reads it, and
        `producer->all` where those are several. The producer is the first owner; where a model
        has several coupling groups, the name of the group stands before, as in `latent2:a->b`.
    """
    couplings = [g for g in groups if g.kind == 'coupling']
    views = []
    for group in couplings:
        columns = {i: p for i, p in enumerate(group.places) if reads(p)}
        consumers = list(dict.fromkeys(_component(p) for p in columns.values()))
        consumers.sort(key=group.owners.index)
        prefix = f'{group.name}:' if len(couplings) > 1 else ''
        producer = group.owners[0]
        for consumer in consumers:
            views.append(_view(group, f'{prefix}{producer}->{consumer}',
                               [i for i, p in columns.items() if _component(p) == consumer]))
        if len(consumers) > 1:
            views.append(_view(group, f'{prefix}{producer}->all', list(columns)))
    return tuple(views)


def _component(place: Place) -> str:
    return place.parameter.partition('.')[0]


def _view(group: Group, name: str, columns: list[int]) -> Group:
    return dataclasses.replace(
        group, name=name, places=tuple(group.places[i] for i in columns),
        indices=group.indices[:, columns])
