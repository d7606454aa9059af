# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Baselines: scores of every unit that need no training to be watched, behind one interface.

| name | score of a unit, over its slices |
|---|---|
| `random` | drawn evenly from [0, 1) |
| `l1`, `l2` | mean absolute, and root mean square, weight |
| `lamp` | its squared weight over that of all units of the group that have at least as much |
| `taylor` | mean absolute product of weight and gradient of the loss |
| `activation` | mean absolute activation that its consumers read |
| `ablation` | change of the loss when nothing reads the unit any more |

The first four look at weights alone; the others need a loss on data. `ablation` is what the others
are held against: gradients can rank units otherwise than removing them does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruning_core.errors import GroupError, explain, nearest
from pruning_core.groups import Group, UnitGraph
from pruning_core.importance.per_sample import copied
from pruning_core.importance.slices import SliceSums, absolute, named_parameters, squared
from pruning_core.importance.views import reads
from pruning_core.progress import Progress, silent

Array = npt.NDArray[np.float64]
Scores = dict[str, Array]


@dataclass(frozen=True)
class Subject:
    """What a baseline looks at.

    Attributes:
        graph: the structure; its free groups are scored.
        components: modules by name.
        rng: for `random`.
        loss: the task loss on fixed data, the same at every call; None where there is none.
        progress: told after every unit of an ablation.
    """

    graph: UnitGraph
    components: Mapping[str, nn.Module]
    rng: np.random.Generator
    loss: Callable[[], Tensor] | None = None
    progress: Progress = silent


def score(name: str, subject: Subject) -> Scores:
    """(units,) score per free group under the baseline of that name; NaN where it has none.

    Raises:
        GroupError: there is no such baseline, or it needs a loss and there is none.
    """
    if name not in BASELINES:
        raise GroupError(
            explain(f"baseline '{name}' was asked for",
                    'it is not known' + nearest(name, BASELINES), ', '.join(BASELINES),
                    'choose one of these')
        )
    if name in NEED_DATA and subject.loss is None:
        raise GroupError(
            explain(f"baseline '{name}' was asked for", 'there is no loss to measure it with',
                    'a loss on data, or a baseline of weights alone: '
                    + ', '.join(n for n in BASELINES if n not in NEED_DATA),
                    'give Subject.loss, or choose one of these')
        )
    return BASELINES[name](subject)


def _random(subject: Subject) -> Scores:
    return {g.name: subject.rng.random(g.size) for g in subject.graph.free}


def _means(subject: Subject, function: Callable[[Tensor, Tensor], object],
           tensors: Mapping[str, Tensor]) -> Scores:
    """Mean of an elementwise function over each unit's slices."""
    groups = subject.graph.free
    sums = SliceSums(groups, named_parameters(subject.components), (function,))
    totals, scalars = sums([tensors.get(name) for name in sums.names])
    mean = np.where(scalars > 0, totals[0] / np.maximum(scalars, 1), np.nan)
    return _split(groups, mean)


def _split(groups: Sequence[Group], flat: Array) -> Scores:
    bounds = np.cumsum([0, *(g.size for g in groups)])
    return {g.name: flat[a:b] for g, a, b in zip(groups, bounds[:-1], bounds[1:], strict=True)}


def _weights(subject: Subject) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in named_parameters(subject.components).items()}


def _l1(subject: Subject) -> Scores:
    return _means(subject, absolute, _weights(subject))


def _l2(subject: Subject) -> Scores:
    return {name: np.sqrt(values)
            for name, values in _means(subject, squared, _weights(subject)).items()}


def _lamp(subject: Subject) -> Scores:
    out = {}
    for name, values in _means(subject, squared, _weights(subject)).items():
        order = np.argsort(-values, kind='stable')
        out[name] = np.empty_like(values)
        out[name][order] = values[order] / np.maximum(np.cumsum(values[order]), 1e-300)
    return out


def _taylor(subject: Subject) -> Scores:
    assert subject.loss is not None
    trained = {n: p for n, p in named_parameters(subject.components).items() if p.requires_grad}
    with torch.enable_grad():
        gradients = torch.autograd.grad(subject.loss(), list(trained.values()), allow_unused=True)
    products = {n: (p.detach() * g).abs_()
                for (n, p), g in zip(trained.items(), gradients, strict=True) if g is not None}
    return _means(subject, copied, products)


def _activation(subject: Subject) -> Scores:
    assert subject.loss is not None
    totals: dict[str, Tensor] = {}
    rows: dict[str, int] = {}

    def watch(parameter: str, axis: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            channels_last = inputs[0].detach().abs().movedim(axis, -1)
            flat = channels_last.reshape(-1, channels_last.shape[-1]).double()
            totals[parameter] = totals.get(parameter, 0) + flat.sum(0).cpu()
            rows[parameter] = rows.get(parameter, 0) + len(flat)

        return hook

    handles = []
    for component, module in subject.components.items():
        for path, layer in module.named_modules():
            name = '.'.join(part for part in (component, path, 'weight') if part)
            if isinstance(getattr(layer, 'weight', None), nn.Parameter) and layer.weight.dim() > 1:
                axis = -1 if isinstance(layer, nn.Linear) else 1
                handles.append(layer.register_forward_pre_hook(watch(name, axis)))
    try:
        with torch.no_grad():
            subject.loss()
    finally:
        for handle in handles:
            handle.remove()
    out = {}
    for group in subject.graph.free:
        seen = [totals[p.parameter].numpy()[group.indices[:, i]] / rows[p.parameter]
                for i, p in enumerate(group.places) if reads(p) and p.parameter in totals]
        out[group.name] = np.mean(seen, axis=0) if seen else np.full(group.size, np.nan)
    return out


@torch.no_grad()
def _ablation(subject: Subject) -> Scores:
    assert subject.loss is not None
    parameters = named_parameters(subject.components)
    whole = float(subject.loss())
    total, done = sum(g.size for g in subject.graph.free), 0
    out = {}
    for group in subject.graph.free:
        changes = np.empty(group.size)
        for unit in range(group.size):
            with _masked(parameters, group, unit):
                changes[unit] = float(subject.loss()) - whole
            done += 1
            subject.progress('ablation', done, total, group=group.name)
        out[group.name] = changes
    return out


@contextmanager
def _masked(parameters: Mapping[str, Tensor], group: Group, unit: int) -> Iterator[None]:
    """Zero what reads one unit; all of it where nothing does."""
    columns = [i for i, p in enumerate(group.places) if reads(p) and p.parameter in parameters]
    columns = columns or [i for i, p in enumerate(group.places) if p.parameter in parameters]
    slices = [parameters[group.places[i].parameter].select(
        group.places[i].dim, int(group.indices[unit, i])) for i in columns]
    kept = [s.clone() for s in slices]
    for s in slices:
        s.zero_()
    try:
        yield
    finally:
        for s, value in zip(reversed(slices), reversed(kept), strict=True):
            s.copy_(value)


BASELINES: Mapping[str, Callable[[Subject], Scores]] = {
    'random': _random, 'l1': _l1, 'l2': _l2, 'lamp': _lamp, 'taylor': _taylor,
    'activation': _activation, 'ablation': _ablation,
}
NEED_DATA = frozenset({'taylor', 'activation', 'ablation'})
