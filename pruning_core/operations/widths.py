# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes that know which channels they count.

While a model is traced, `x.shape[-1]` is a `Width`: an int that remembers the channels of that
axis, through `n // 2`, `2 * n` and the like. So a size that follows the model (`x.view(*x.shape)`)
can be told from one that is written into the code (`x.view(5, 64)`), which a cut would not change.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Copies = npt.NDArray[np.int64]  # per channel id, how often it is there: 0 where it is cut


class Watch(NamedTuple):
    """Who is told what becomes of a width."""

    # It was turned into a number that no longer follows a cut, such as `1 / math.sqrt(n)`.
    measured: Callable[[Ids], None]
    # It was compared; what that depends on, and whether the outcome stays the same.
    compared: Callable[[Ids, Callable[[Copies], bool]], None]


class Width(int):
    """An int that can tell what it will be after a cut.

    Attributes:
        ids: the channels that it depends on.
        counts: whether it is their number, and not made of it.
    """

    ids: Ids
    counts: bool
    _after: Callable[[Copies], int]
    _watch: Watch

    @classmethod
    def of(cls, ids: Ids, watch: Watch) -> Width:
        """Count the channels of one axis."""
        width = cls._make(len(ids), ids, lambda copies: int(copies[ids].sum()), watch)
        width.counts = True
        return width

    @classmethod
    def _make(cls, value: int, ids: Ids, after: Callable[[Copies], int], watch: Watch) -> Width:
        width = cls(value)
        width.ids, width.counts = ids, False
        width._after, width._watch = after, watch
        return width

    def after(self, copies: Copies) -> int:
        """Value that the same expression has once channels are gone, or doubled."""
        return self._after(copies)

    def _combine(self, operation: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        value = operation(_plain(left), _plain(right))
        if not isinstance(value, int):
            self._watch.measured(self.ids)
            return value
        ids = np.concatenate([x.ids for x in (left, right) if isinstance(x, Width)])
        return Width._make(value, ids, lambda copies: int(
            operation(after(left, copies), after(right, copies))), self._watch)

    def _compare(self, operation: Callable[[Any, Any], bool], other: Any) -> bool:
        outcome = operation(int(self), _plain(other))
        ids = np.concatenate([x.ids for x in (self, other) if isinstance(x, Width)])
        self._watch.compared(ids, lambda copies: outcome == operation(
            self.after(copies), after(other, copies)))
        return outcome

    def __float__(self) -> float:
        self._watch.measured(self.ids)
        return float(int(self))

    __hash__ = int.__hash__


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Width) else value


def after(value: Any, copies: Copies) -> Any:
    """Arguments of an operation as they will be after a change, however deep sizes stand."""
    if isinstance(value, Width):
        return value.after(copies)
    if isinstance(value, (tuple, list)):
        return type(value)([after(v, copies) for v in value])
    if isinstance(value, slice):
        return slice(*(after(v, copies) for v in (value.start, value.stop, value.step)))
    return value


def widths_in(value: Any) -> list[Width]:
    """Every `Width` in the arguments of an operation."""
    if isinstance(value, Width):
        return [value]
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    if isinstance(value, dict):
        value = list(value.values())
    return [w for v in value for w in widths_in(v)] if isinstance(value, (tuple, list)) else []


def _binary(operation: Callable[[Any, Any], Any], *, reflected: bool
            ) -> Callable[[Width, Any], Any]:
    def method(self: Width, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if reflected else (self, other)
        return self._combine(operation, left, right)

    return method


def _comparison(operation: Callable[[Any, Any], bool]) -> Callable[[Width, Any], Any]:
    def method(self: Width, other: Any) -> Any:
        return self._compare(operation, other) if isinstance(other, (int, float)) \
            else NotImplemented

    return method


for _name in ('add', 'sub', 'mul', 'floordiv', 'mod', 'truediv', 'pow'):
    _operation = getattr(operator, _name)
    setattr(Width, f'__{_name}__', _binary(_operation, reflected=False))
    setattr(Width, f'__r{_name}__', _binary(_operation, reflected=True))
setattr(Width, '__neg__', lambda self: 0 - self)  # noqa: B010
for _name in ('eq', 'ne', 'lt', 'le', 'gt', 'ge'):
    setattr(Width, f'__{_name}__', _comparison(getattr(operator, _name)))
