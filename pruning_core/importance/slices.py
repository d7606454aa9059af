# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Sums over the slices of every unit: tensors shaped like the parameters in, (units,) out.

A unit's slices are rows and columns of weights, and entries of biases. Summing a weight over its
rows and over its columns once gives every slice in it, whichever units they belong to, so that the
cost is one pass over each weight however many units there are. Weights are walked in blocks of a
fixed size: the memory needed beside the sums does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruning_core.errors import GroupError, explain
from pruning_core.groups import Group

Array = npt.NDArray[np.float64]
Elementwise = Callable[[Tensor, Tensor], object]
_BLOCK = 2**18  # elements (1 MB a function): what is written stays in the cache until it is summed


def named_parameters(components: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Parameters under the names that a `UnitGraph` gives them, `component.parameter`."""
    return {f'{component}.{name}': parameter for component, module in components.items()
            for name, parameter in module.named_parameters()}


def absolute(source: Tensor, out: Tensor) -> object:
    """Fill `out` with |x|."""
    return torch.abs(source, out=out)


def squared(source: Tensor, out: Tensor) -> object:
    """Fill `out` with x squared."""
    return torch.mul(source, source, out=out)


@dataclass(frozen=True)
class _Axis:
    """Where the sums along one axis of one parameter go."""

    dim: int
    others: list[int]  # the axes summed away; 0 is that of the functions
    out: Tensor  # (functions, size of the axis), a part of the sums


@dataclass(frozen=True)
class _Walk:
    """How one parameter is summed, laid out beforehand: an update has no time to spare."""

    axes: tuple[_Axis, ...]
    values: Tensor | None  # (functions, *shape) of the buffer where all of it fits
    rows: int  # of a block, where it does not


class SliceSums:
    """Sums of one or more elementwise functions over the slices of every unit.

    Attributes:
        names: the parameters that hold slices, in the order in which tensors are given.
        units: number of units, over all groups.
    """

    def __init__(self, groups: Sequence[Group], parameters: Mapping[str, Tensor],
                 functions: Sequence[Elementwise]) -> None:
        """Lay out the slices of `groups`.

        Args:
            groups: whose units, in order; a place that is in no parameter (a buffer) is left out.
            parameters: by the names that places use.
            functions: each fills its second argument from its first; one row of sums each.

        Raises:
            GroupError: the parameters lie on several devices.
        """
        self._functions = tuple(functions)
        self.units = sum(g.size for g in groups)
        sizes: dict[str, dict[int, int]] = {}
        for group in groups:
            for place in group.places:
                if place.parameter in parameters:
                    sizes.setdefault(place.parameter, {})[place.dim] = parameters[
                        place.parameter].shape[place.dim]
        self.names = tuple(n for n in parameters if n in sizes)
        devices = {parameters[n].device for n in self.names}
        if len(devices) > 1:
            raise GroupError(
                explain('importance of one model was to be measured',
                        f'its parameters lie on {", ".join(sorted(map(str, devices)))}',
                        'all of them on one device', 'move the components to one device')
            )
        device = devices.pop() if devices else torch.device('cpu')
        starts, width = {}, 0
        for name in self.names:
            for dim, size in sorted(sizes[name].items()):
                starts[name, dim] = width
                width += size
        count, largest = len(self._functions), max(
            (parameters[n].numel() for n in self.names), default=0)
        self._sums = torch.zeros(count, width, device=device)
        self._buffer = torch.empty(count * min(_BLOCK, largest), device=device)
        self._walks = [self._walk(parameters[name].shape, {
            dim: self._sums[:, starts[name, dim]:starts[name, dim] + size]
            for dim, size in sorted(sizes[name].items())}) for name in self.names]
        self._filled = [False] * len(self.names)
        owner = {name: i for i, name in enumerate(self.names)}
        slots, parameter_of, scalars, unit = [], [], [], []
        offset = 0
        for group in groups:
            kept = [c for c, p in enumerate(group.places) if p.parameter in owner]
            for column in kept:
                place = group.places[column]
                shape = parameters[place.parameter].shape
                slots.append(starts[place.parameter, place.dim] + group.indices[:, column])
                parameter_of.append(np.full(group.size, owner[place.parameter]))
                scalars.append(np.full(group.size, shape.numel() // max(1, shape[place.dim])))
                unit.append(offset + np.arange(group.size))
            offset += group.size
        empty = [np.zeros(0, np.int64)]
        unit_of = np.concatenate(unit or empty)
        order = np.argsort(unit_of, kind='stable')
        self._slots = np.concatenate(slots or empty)[order]
        self._parameter_of = np.concatenate(parameter_of or empty)[order].astype(np.int32)
        self._scalars_of = np.concatenate(scalars or empty)[order].astype(np.float64)
        # Units without any slice (of buffers alone) have no segment; the others start here.
        self._with_slices, self._starts = np.unique(unit_of[order], return_index=True)
        self._scalars: dict[tuple[bool, ...], Array] = {}

    @torch.no_grad()
    def __call__(self, tensors: Sequence[Tensor | None]) -> tuple[Array, Array]:
        """Sum over every unit's slices.

        Args:
            tensors: shaped like the parameters `names`; None leaves its parameter out.

        Returns:
            (functions, units) sums, and (units,) the number of scalars that each sum is over.
        """
        for i, tensor in enumerate(tensors):
            if tensor is not None:
                self._fill(self._walks[i], tensor)
                self._filled[i] = True
            elif self._filled[i]:
                for axis in self._walks[i].axes:
                    axis.out.zero_()
                self._filled[i] = False
        sums = np.zeros((len(self._functions), self.units))
        if len(self._slots):
            values = self._sums.cpu().numpy()[:, self._slots]
            sums[:, self._with_slices] = np.add.reduceat(
                values, self._starts, axis=1, dtype=np.float64)
        return sums, self._counts(tuple(t is not None for t in tensors))

    def _walk(self, shape: torch.Size, outs: Mapping[int, Tensor]) -> _Walk:
        size, count = shape.numel(), len(self._functions)
        axes = tuple(_Axis(dim, [d + 1 for d in range(len(shape)) if d != dim], out)
                     for dim, out in outs.items())
        values = None
        if size <= _BLOCK:
            values = self._buffer[:count * size].view(count, *shape)
        return _Walk(axes, values, max(1, _BLOCK * shape[0] // max(1, size)))

    def _fill(self, walk: _Walk, tensor: Tensor) -> None:
        """Sum one tensor along the axes in which units have slices."""
        if tensor.dtype != torch.float32:  # squares of half-precision numbers overflow at 256
            tensor = tensor.float()
        if tensor.dim() == 1:
            self._apply(tensor, walk.axes[0].out)
        elif walk.values is not None:
            self._apply(tensor, walk.values)
            for axis in walk.axes:
                torch.sum(walk.values, axis.others, out=axis.out)
        else:
            self._fill_by_blocks(walk, tensor)

    def _fill_by_blocks(self, walk: _Walk, tensor: Tensor) -> None:
        for start in range(0, len(tensor), walk.rows):
            block = tensor[start:start + walk.rows]
            size = len(self._functions) * block.numel()
            if size > len(self._buffer):  # one row alone is more than a block
                self._buffer = self._buffer.new_empty(size)
            values = self._buffer[:size].view(len(self._functions), *block.shape)
            self._apply(block, values)
            for axis in walk.axes:
                if axis.dim == 0:
                    axis.out[:, start:start + walk.rows] = torch.sum(values, axis.others)
                elif start == 0:
                    torch.sum(values, axis.others, out=axis.out)
                else:
                    axis.out.add_(torch.sum(values, axis.others))

    def _apply(self, source: Tensor, out: Tensor) -> None:
        for i, function in enumerate(self._functions):
            function(source, out[i])

    def _counts(self, present: tuple[bool, ...]) -> Array:
        """Scalars per unit; the same few patterns come again and again."""
        if present not in self._scalars:
            counts = np.zeros(self.units)
            if len(self._slots):
                seen = np.asarray(present)[self._parameter_of] * self._scalars_of
                counts[self._with_slices] = np.add.reduceat(seen, self._starts)
            self._scalars[present] = counts
        return self._scalars[present]
