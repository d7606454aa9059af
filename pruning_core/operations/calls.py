# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One call of a torch function, and what every family of operations does with its operands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pruning_core.operations.widths import Ids, Watch, Width

if TYPE_CHECKING:
    from pruning_core.channels import Axes, Tracer


class Call(NamedTuple):
    """One call of a torch function, after it ran."""

    func: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any

    def get(self, position: int, *names: str, default: Any = None) -> Any:
        """Look up an argument by its position, or by one of its names."""
        if len(self.args) > position:
            return self.args[position]
        return next((self.kwargs[n] for n in names if n in self.kwargs), default)


class Refused(Exception):
    """A use of a known operation that is not understood."""


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in tensors_in(item)]
    return []


def sizes_of(t: Tracer, tensor: Tensor, out: Any, dim: tuple[Any, ...]) -> Any:
    """Sizes of a tensor as `Width` where they count channels.

    Args:
        t: the tracer.
        tensor: whose sizes they are.
        out: what torch answered: a size, or all of them.
        dim: the axis that was asked for; empty for all.
    """
    if not t.knows(tensor):
        return out

    watch = Watch(
        lambda ids: t.freeze(ids, f'its width is turned into a number by {t.where(float)}'),
        lambda ids, holds: t.check(ids, holds, f'its width is compared by {t.where(int)}'))
    axes = t.known(tensor)
    if isinstance(out, int):
        ids = axes[dim[0]]
        return out if ids is None else Width.of(ids, watch)
    return torch.Size([n if ids is None else Width.of(ids, watch)
                       for n, ids in zip(out, axes, strict=True)])


def combine(t: Tracer, call: Call, shape: Sequence[int],
             operands: Sequence[tuple[Sequence[int], Axes]]) -> Axes:
    """Unite operands that are broadcast to one shape; returns the axes of the result."""
    result: list[Ids | None] = []
    for back, size in enumerate(reversed(shape), 1):
        wide, plain = [], False
        for sizes, axes in operands:
            if back > len(sizes):
                continue
            ids = axes[-back]
            if sizes[-back] != size:
                if ids is not None:
                    t.freeze(ids, f'broadcast by {t.where(call.func)}')
            elif ids is None:
                plain = True
            else:
                wide.append(ids)
        if plain:
            for ids in wide:
                t.freeze(ids, f'combined with what is not made of channels by '
                              f'{t.where(call.func)}')
        for ids in wide[1:]:
            t.unite(wide[0], ids)
        result.append(wide[0] if wide else None)
    return tuple(reversed(result))


def caller(kind: type | tuple[type, ...], holds: Callable[[Any], bool]) -> Any:
    """Find the module whose forward made the present call, or None."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get('self')
        if isinstance(found, kind):
            return found if holds(found) else None
        frame = frame.f_back
    return None
