# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Movements: views, slices, permutations and the like, which only put elements elsewhere.

There are too many forms to reason about one by one, so the call is repeated on numbered elements,
which shows where each channel went; and once more with channels taken out, since a size or an
order that is written into the code would then take the wrong ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pruning_core.operations.calls import Call, Refused, combine, sizes_of, tensors_in
from pruning_core.operations.widths import Copies, Ids, Width, after, widths_in
from pruning_core.units import labels

if TYPE_CHECKING:
    from pruning_core.channels import Axes, Tracer

_Numbers = npt.NDArray[np.int64]
_ERRORS = (RuntimeError, IndexError, ValueError, TypeError)  # of a call that no longer fits
# These know neither sizes nor places: they do the same to any number of channels.
ORDERLY = frozenset(('transpose', 'swapaxes', 'swapdims', 'permute', 'movedim', 'moveaxis', 't',
                     'T', 'mT', 'H', 'mH', 'adjoint', 'unsqueeze'))


def _numbered(func: Callable[..., Any], numbers: _Numbers, rest: Any, kwargs: Any
              ) -> list[_Numbers]:
    out = func(torch.from_numpy(np.ascontiguousarray(numbers)), *rest, **kwargs)
    pieces = [out] if isinstance(out, Tensor) else list(out)
    return [p.numpy() for p in pieces]


def _numbers(shape: Sequence[int]) -> _Numbers:
    return np.arange(math.prod(shape), dtype=np.int64).reshape(tuple(shape))


class _Moves:
    """Where the channels of one tensor go in a movement.

    Attributes:
        results: shape and axes of each piece that comes out.
    """

    def __init__(self, t: Tracer, call: Call, func: Callable[..., Any], source: Tensor,
                 rest: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.t, self.call, self.func = t, call, func
        self.rest, self.kwargs = rest, dict(kwargs)
        self.shape, self.axes = tuple(int(n) for n in source.shape), t.axes(source)
        for index in tensors_in([list(rest), self.kwargs, [
                v for x in rest if isinstance(x, tuple) for v in x]]):
            if t.knows(index) and any(ids is not None for ids in t.axes(index)):
                raise Refused  # an index that is computed, or one that is cut itself
        self.widths = widths_in([list(rest), self.kwargs])
        try:
            self.pieces = _numbered(func, _numbers(self.shape), rest, self.kwargs)
        except _ERRORS as error:  # such as an index on another device
            raise Refused from error
        self.results: list[tuple[tuple[int, ...], Axes]] = [
            (p.shape, self._axes_of(p)) for p in self.pieces]
        involved = [ids for ids in self.axes if ids is not None]
        involved += [w.ids for w in self.widths]
        if involved and call.name not in ORDERLY:
            t.check(np.concatenate(involved), self.follows,
                    f'a size or place is written into {t.where(call.func)}')

    def _axes_of(self, piece: _Numbers) -> Axes:
        axes: list[Ids | None] = [None] * piece.ndim
        if not piece.size:
            for ids in self.axes:
                if ids is not None:
                    self.t.freeze(ids, f'nothing left after {self.t.where(self.call.func)}')
            return tuple(axes)
        coordinates = np.unravel_index(piece, self.shape) if self.shape else ()
        spread = []
        for k, ids in sorted(enumerate(self.axes), key=lambda item: self.t.stays(item[1])):
            if ids is None:
                continue
            at = coordinates[k]
            varies = [m for m in range(piece.ndim)
                      if piece.shape[m] > 1 and bool((at != at.take([0], m)).any())]
            grown = self._grown(k, piece) if 1 in (len(ids), *piece.shape) else None
            if grown is not None and piece.shape[grown] == 1 and varies and axes[grown] is None:
                # All are one block, as in `x.view(batch, -1, 8)` of eight channels.
                for other in ids[1:]:
                    self.t.unite(ids[:1], np.asarray([other]))
                axes[grown] = ids[:1]
            elif not varies:
                m = grown if len(ids) == 1 else None
                if m is None or axes[m] is not None:  # one of several, or one for all
                    self.t.freeze(ids[np.unique(at)],
                                  f'taken out by itself by {self.t.where(self.call.func)}')
                else:
                    axes[m] = np.repeat(ids, piece.shape[m])
            elif len(varies) > 1:
                spread.append((ids, at, varies))
            elif axes[varies[0]] is not None:
                if not self.t.stays(ids):
                    raise Refused  # two axes of channels became one
            else:
                (m,) = varies
                axes[m] = ids[np.moveaxis(at, m, 0).reshape(piece.shape[m], -1)[:, 0]]
        for ids, at, varies in spread:
            self._tie(axes, ids, at, varies, piece)
        return tuple(axes)

    def _grown(self, k: int, piece: _Numbers) -> int | None:
        """Axis of the result that would be twice as long if axis k of the source were."""
        copies = self._copies()
        if self.widths:  # what is one unit by now grows together
            united = labels(self.t)
            copies[np.isin(united, united[self.axes[k]])] = 2
        shape = (*self.shape[:k], 2 * self.shape[k], *self.shape[k + 1:])
        try:
            pieces = self._numbered_after(_numbers(shape), copies)
        except _ERRORS:
            return None
        if len(pieces) != 1 or pieces[0].ndim != piece.ndim:
            return None
        longer = [m for m in range(piece.ndim) if pieces[0].shape[m] != piece.shape[m]]
        return longer[0] if len(longer) == 1 and (
            pieces[0].shape[longer[0]] == 2 * piece.shape[longer[0]]) else None

    def _tie(self, axes: list[Ids | None], ids: Ids, at: _Numbers, varies: list[int],
             piece: _Numbers) -> None:
        """One axis became several, as in `x.view(batch, -1, 8)`: whole blocks go together.

        Either axis could be the one that is cut; the sizes in the code decide.
        """
        for m in varies:
            if axes[m] is not None:
                continue
            blocks = np.moveaxis(at, m, 0).reshape(piece.shape[m], -1)
            if sum(len(np.unique(b)) for b in blocks) != len(np.unique(blocks)):
                continue
            tried = [*axes]
            tried[m] = ids[blocks[:, 0]]
            if all(self._block_goes(ids[b], tuple(tried)) for b in (blocks[0], blocks[-1])):
                axes[m] = tried[m]
                for column in blocks.T[1:]:
                    self.t.unite(ids[blocks[:, 0]], ids[column])
                return
        raise Refused

    def _block_goes(self, block: Ids, axes: Axes) -> bool:
        copies = self._copies()
        copies[block] = 0
        return len(self.pieces) == 1 and self._same_without(copies, [axes])

    def follows(self, copies: Copies) -> bool:
        """Whether the same call on what is left yields what is left of the result."""
        return self._same_without(copies, [axes for _, axes in self.results])

    def _same_without(self, copies: Copies, results: Sequence[Axes]) -> bool:
        try:
            found = self._numbered_after(
                _without(_numbers(self.shape), self.axes, copies), copies)
        except _ERRORS:
            return False
        return len(found) == len(self.pieces) and all(
            np.array_equal(f, _without(p, axes, copies))
            for f, p, axes in zip(found, self.pieces, results, strict=True))

    def _copies(self) -> Copies:
        return np.ones(self.t.count, np.int64)

    def _numbered_after(self, numbers: _Numbers, copies: Copies) -> list[_Numbers]:
        return _numbered(self.func, numbers, after(self.rest, copies),
                         {k: after(v, copies) for k, v in self.kwargs.items()})


def _without(numbers: _Numbers, axes: Axes, copies: Copies) -> _Numbers:
    for k, ids in enumerate(axes):
        if ids is not None:
            numbers = numbers.take(np.flatnonzero(copies[ids]), k)
    return numbers


def move(t: Tracer, call: Call) -> None:
    """Follow a movement."""
    source, *rest = call.args if call.args else (call.kwargs['input'],)
    kwargs = {k: v for k, v in call.kwargs.items() if k != 'input'}
    func = call.func
    if call.name in ('expand_as', 'view_as', 'reshape_as'):
        other = rest[0] if rest else kwargs['other']
        func = getattr(Tensor, call.name.removesuffix('_as'))
        rest, kwargs = [sizes_of(t, other, other.shape, ())], {}
    _equal_parts(t, call, source)
    moves = _Moves(t, call, func, source, tuple(rest), kwargs)
    outs = [call.out] if isinstance(call.out, Tensor) else list(call.out)
    for out, (_, axes) in zip(outs, moves.results, strict=True):
        t.put(out, axes, t.origins(source))


def _equal_parts(t: Tracer, call: Call, source: Tensor) -> None:
    """`chunk(2)` cuts in the middle, wherever that is: the parts keep one width."""
    if call.name not in ('chunk', 'split', 'tensor_split', 'unflatten'):
        return
    how = call.get(1, 'chunks', 'split_size', 'split_size_or_sections',
                   'indices_or_sections')
    dim = call.get(2, 'dim', default=0)
    if not isinstance(how, int) or not isinstance(dim, int) or call.name == 'unflatten':
        return
    ids = t.axes(source)[dim]
    size = source.shape[dim]
    if call.name == 'split':
        if not isinstance(how, Width):
            return  # a number of channels that a cut would not change
        how = -(-size // int(how))
    if ids is not None and how > 0 and size % how == 0:
        parts = ids.reshape(how, -1)
        for part in parts[1:]:
            t.unite(parts[0], part)


def set_item(t: Tracer, call: Call) -> None:
    """`x[place] = y`: the channels of y are those of x at that place."""
    target, place, value = call.args
    moves = _Moves(t, call, Tensor.__getitem__, target, (place,), {})
    (shape, axes), = moves.results
    sources = [(x.shape, t.axes(x)) for x in tensors_in(value)]
    combine(t, call, shape, [(shape, axes), *(
        (s[max(0, len(s) - len(shape)):], a[max(0, len(s) - len(shape)):]) for s, a in sources)])
