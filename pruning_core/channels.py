# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Run a model once, and find which channels can only go together.

Named modules and a function that runs them in, a `UnitGraph` out. Every tensor's last axis gets
integer channel ids. Each operation passes ids on, concatenates them, unites them (a Linear unites
its input's ids with its weight's columns; an addition unites both sides) or creates new ones (a
Linear's outputs). What is united in the end is one unit. There are no offsets, so the order inside
`cat([z, a])` cannot go wrong; a parameter used twice is united with itself; frozen and detached
parts are seen, since autograd takes no part. An operation that is not understood freezes the
channels it touches and says why: nothing is guessed (method section 1).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, resolve_name

from pruning_core.groups import Group, Place, UnitGraph

Ids = npt.NDArray[np.int64]

# Operations that change values but neither the order nor the number of channels.
_UNARY = {
    'relu', 'relu_', 'elu', 'elu_', 'silu', 'mish', 'gelu', 'tanh', 'sigmoid', 'leaky_relu',
    'hardtanh', 'softplus', 'dropout', 'neg', 'abs', 'exp', 'log', 'sqrt', 'square', 'pow',
    'clamp', 'clamp_', 'clip', 'detach', 'clone', 'contiguous', 'float', 'double', 'to',
    'requires_grad_', '__neg__', '__pow__',
}
_BINARY = {
    'add', 'add_', 'sub', 'mul', 'mul_', 'div', 'minimum', 'maximum', '__add__', '__radd__',
    '__iadd__', '__sub__', '__rsub__', '__mul__', '__rmul__', '__imul__', '__truediv__',
    'true_divide',
}
# Operations that look at a tensor without passing its channels on.
_INSPECTION = {
    'size', 'dim', '__len__', 'numel', 'is_floating_point', 'stride', 'data_ptr',
    '__hash__', 'type', 'get_device', 'ndimension', 'is_complex', 'is_contiguous', '__repr__',
}


_DATA = Tensor.data.__get__  # type: ignore[attr-defined]  # `.data`, which is `.detach()`


def _positional(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
                ) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with its operands by position, and `axis` under its other name."""
    options = dict(kwargs)
    if 'axis' in options:
        options['dim'] = options.pop('axis')
    operands = [options.pop(key) for key in ('input', 'tensors') if key in options]
    if name in _BINARY and 'other' in options:
        operands.append(options.pop('other'))
    return (*args, *operands), options


class _Units:
    """Union-find over channel ids, with a reason on every class that must stay."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.reason: dict[int, str] = {}

    def new(self, count: int) -> Ids:
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, i: int) -> int:
        parent = self.parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def unite(self, left: Ids, right: Ids) -> None:
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            a, b = self.root(a), self.root(b)
            if a != b:
                low, high = min(a, b), max(a, b)
                self.parent[high] = low
                if high in self.reason:
                    self.reason.setdefault(low, self.reason.pop(high))

    def freeze(self, ids: Ids, reason: str) -> None:
        for i in ids.tolist():
            self.reason.setdefault(self.root(i), reason)


class _Tracer(TorchFunctionMode):
    """Follows channel ids through every torch function called inside it."""

    def __init__(self, parameters: Mapping[int, str], tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.units = _Units()
        self.names = parameters  # id(tensor) -> first name
        self.axes: dict[tuple[str, int], Ids] = {}
        self.ids: dict[int, Ids] = {}
        self.alive: list[Any] = list(tensors)  # ids of freed tensors would be used again
        self.depth = 0

    def axis(self, name: str, tensor: Tensor, dim: int) -> Ids:
        """Ids along one axis of a parameter or buffer."""
        key = (name, dim)
        if key not in self.axes:
            self.axes[key] = self.units.new(tensor.shape[dim])
        return self.axes[key]

    def of(self, tensor: Tensor) -> Ids:
        """Ids of a tensor's last axis; a tensor from outside keeps its channels."""
        if id(tensor) in self.names and tensor.dim() == 1:
            return self.axis(self.names[id(tensor)], tensor, 0)
        if id(tensor) not in self.ids:
            fresh = self.units.new(tensor.shape[-1] if tensor.dim() else 1)
            reason = 'a model input'
            if id(tensor) in self.names:
                reason = f'parameter {self.names[id(tensor)]} is used outside a known layer'
                for dim in range(tensor.dim()):
                    self.units.freeze(self.axis(self.names[id(tensor)], tensor, dim), reason)
            self.units.freeze(fresh, reason)
            self.put(tensor, fresh)
        return self.ids[id(tensor)]

    def put(self, tensor: Tensor, ids: Ids) -> None:
        self.ids[id(tensor)] = ids
        self.alive.append(tensor)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.depth += 1
        try:
            out = func(*args, **kwargs)
        finally:
            self.depth -= 1
        if self.depth == 0:
            self._follow(func, args, kwargs, out)
        return out

    def _follow(self, func: Callable[..., Any], args: Any, kwargs: Any, out: Any) -> None:
        name = getattr(func, '__name__', '')
        if name in _INSPECTION or name == '__get__' and not isinstance(out, Tensor):
            return
        args, options = _positional(name, args, kwargs)
        extra = [x for x in (*args[1:], *options.values()) if isinstance(x, Tensor)]
        if func is functional.linear:
            self._linear(out, *args, **options)
        elif func is functional.layer_norm:
            self._layer_norm(out, *args, **options)
        elif (name in _UNARY or func == _DATA) and not extra:
            self.put(out, self.of(args[0]))
        elif name in _BINARY and len(extra) <= 1 and len(args) > 1:
            self._binary(func, out, args[0], args[1])
        elif name in ('cat', 'concat', 'concatenate') and not extra:
            self._cat(out, *args, **options)
        elif name == 'stack':
            self._stack(func, out, *args, **options)
        elif name in ('mean', 'sum'):
            self._reduce(func, out, *args, **options)
        elif name in ('unbind', 'unsqueeze', 'squeeze', 'expand', '__getitem__', 'reshape', 'view',
                      'flatten'):
            self._keeps_last_axis(func, out, args, options)
        else:
            self._refuse(func, out, args, options)

    def _linear(self, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
                ) -> None:
        name = self.names.get(id(weight))
        if name is None:
            self._refuse(functional.linear, out, (input, weight), {})
            return
        self.units.unite(self.of(input), self.axis(name, weight, 1))
        rows = self.axis(name, weight, 0)
        if bias is not None:
            self.units.unite(rows, self.of(bias))
        self.put(out, rows)

    def _layer_norm(self, out: Tensor, input: Tensor, normalized_shape: Any,
                    weight: Tensor | None = None, bias: Tensor | None = None,
                    eps: float = 1e-5) -> None:
        if len(normalized_shape) != 1:
            self._refuse(functional.layer_norm, out, (input, weight, bias), {})
            return
        for affine in (weight, bias):
            if affine is not None:
                self.units.unite(self.of(input), self.of(affine))
        self.put(out, self.of(input))

    def _binary(self, func: Callable[..., Any], out: Tensor, left: Any, right: Any) -> None:
        sides = [t for t in (left, right) if isinstance(t, Tensor) and t.dim() > 0]
        wide = [t for t in sides if t.shape[-1] == out.shape[-1]]
        for narrow in (t for t in sides if t.shape[-1] != out.shape[-1]):
            self.units.freeze(self.of(narrow), f'broadcast by {self._where(func)}')
        for other in wide[1:]:
            self.units.unite(self.of(wide[0]), self.of(other))
        self.put(out, self.of(wide[0]))

    def _cat(self, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
        if dim in (-1, out.dim() - 1):
            self.put(out, np.concatenate([self.of(t) for t in tensors]))
            return
        for other in tensors[1:]:
            self.units.unite(self.of(tensors[0]), self.of(other))
        self.put(out, self.of(tensors[0]))

    def _stack(self, func: Callable[..., Any], out: Tensor, tensors: Sequence[Tensor],
               dim: int = 0) -> None:
        if dim in (-1, out.dim() - 1):
            self._refuse(func, out, (tensors,), {})
            return
        self._cat(out, tensors, 0 if out.dim() > 1 else -1)

    def _reduce(self, func: Callable[..., Any], out: Tensor, source: Tensor, dim: Any = None,
                keepdim: bool = False, **kwargs: Any) -> None:
        axes = {d % source.dim() for d in ((dim,) if isinstance(dim, int) else dim or ())}
        if axes and source.dim() - 1 not in axes:
            self.put(out, self.of(source))
        else:
            self._refuse(func, out, (source,), {})

    def _keeps_last_axis(self, func: Callable[..., Any], out: Any, args: Any, kwargs: Any) -> None:
        """Operations on the leading axes; a probe with numbered channels tells which they were.

        Reshapes and indexing have too many forms to reason about one by one, so the operation is
        repeated on a tensor that holds each element's own channel number.
        """
        source: Tensor = args[0]
        numbers = torch.arange(source.shape[-1] if source.dim() else 1, dtype=torch.float64)
        with torch._C.DisableTorchFunction():
            probe = func(numbers.expand(source.shape).clone(), *args[1:], **kwargs)
            pieces = zip(out, probe, strict=True) if isinstance(out, (tuple, list)) \
                else [(out, probe)]
            for piece, numbered in pieces:
                if numbered.dim():
                    flat = numbered.reshape(-1, numbered.shape[-1])
                    if len(flat) and bool((flat == flat[0]).all()):
                        self.put(piece, self.of(source)[flat[0].long().numpy()])
                        continue
                self._refuse(func, piece, (source,), {})

    def _refuse(self, func: Callable[..., Any], out: Any, args: Any, kwargs: Any) -> None:
        """Freeze everything that an operation touches, saying where it was met."""
        reason = f'not understood: {self._where(func)}'
        touched = [args, list(kwargs.values()), out]
        while touched:
            item = touched.pop()
            if isinstance(item, (tuple, list)):
                touched.extend(item)
            elif isinstance(item, Tensor) and item.dim() > 0 and item.is_floating_point():
                with torch._C.DisableTorchFunction():
                    if id(item) in self.names:
                        for dim in range(item.dim()):
                            self.units.freeze(self.axis(self.names[id(item)], item, dim), reason)
                    self.units.freeze(self.of(item), reason)

    @staticmethod
    def _where(func: Callable[..., Any]) -> str:
        here = os.path.dirname(os.path.abspath(__file__))
        torch_root = os.path.dirname(torch.__file__)
        for frame in reversed(traceback.extract_stack()):
            if not frame.filename.startswith(torch_root) and frame.filename != os.path.join(
                    here, 'channels.py'):
                place = f'{os.path.basename(frame.filename)}:{frame.lineno}'
                break
        else:
            place = 'unknown place'
        return f'{resolve_name(func) or getattr(func, "__name__", func)} at {place}'


def trace(components: Mapping[str, nn.Module], run: Callable[[], Sequence[Tensor]]) -> UnitGraph:
    """Find every group of removable channels.

    Args:
        components: modules by name; parameters are named `component.parameter`.
        run: runs the model's own rollout once (two steps or more, so that what comes out of the
            dynamics goes back in) and returns the tensors whose channels must stay: actions,
            rewards, values, reconstructions. Inputs stay by themselves.

    Returns:
        The graph; groups that may not be cut carry `frozen_because`.
    """
    named: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    for component, module in components.items():
        for name, tensor in list(module.named_parameters()) + list(module.named_buffers()):
            named[f'{component}.{name}'] = tensor
            first.setdefault(id(tensor), f'{component}.{name}')
    tracer = _Tracer(first, list(named.values()))
    with torch.no_grad(), tracer:
        outputs = run()
    for output in outputs:
        tracer.units.freeze(tracer.of(output), 'an output of the model')
    for name, tensor in named.items():
        for dim in range(tensor.dim()):
            if first[id(tensor)] == name and (name, dim) not in tracer.axes:
                tracer.units.freeze(tracer.axis(name, tensor, dim), 'not used while tracing')
    shapes = {n: tuple(t.shape) for n, t in named.items() if first[id(t)] == n}
    return UnitGraph(_groups(tracer, shapes, list(components)), shapes)


def _groups(tracer: _Tracer, shapes: Mapping[str, tuple[int, ...]], order: list[str]
            ) -> tuple[Group, ...]:
    slices: dict[int, list[tuple[Place, int]]] = {}
    for (name, dim), ids in tracer.axes.items():
        for index, i in enumerate(ids.tolist()):
            slices.setdefault(tracer.units.root(i), []).append((Place(name, dim), index))
    units: dict[tuple[tuple[Place, ...], str | None], list[list[int]]] = {}
    for root, parts in slices.items():
        parts.sort()
        key = (tuple(place for place, _ in parts), tracer.units.reason.get(root))
        units.setdefault(key, []).append([index for _, index in parts])
    groups: list[Group] = []
    counts: dict[str, int] = {}
    position = {name: i for i, name in enumerate(shapes)}

    def earliest(item: tuple[tuple[tuple[Place, ...], str | None], list[list[int]]]
                 ) -> tuple[int, int, int]:
        (places, _), rows = item
        return min((order.index(p.parameter.split('.')[0]), position[p.parameter], p.dim)
                   for p in places) if places else (0, 0, rows[0][0])

    for (places, reason), rows in sorted(units.items(), key=earliest):
        owners = tuple(sorted({p.parameter.split('.')[0] for p in places}, key=order.index))
        if reason is not None:
            base = f'{owners[0]}.fixed'
        else:
            base = f'{owners[0]}.hidden' if len(owners) == 1 else 'latent'
        counts[base] = counts.get(base, 0) + 1
        plain = base == 'latent' and counts[base] == 1
        groups.append(Group(
            name=base if plain else f'{base}{counts[base]}', owners=owners, places=places,
            indices=np.asarray(rows, np.int64),
            params_per_unit=_scalars(places, rows[0], shapes),
            macs_per_unit=_scalars([p for p in places if len(shapes[p.parameter]) > 1], rows[0],
                                   shapes),
            frozen_because=reason,
        ))
    return tuple(groups)


def _scalars(places: Sequence[Place], indices: Sequence[int],
             shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Scalars in the union of one unit's slices, counting a crossing once."""
    removed: dict[str, dict[int, int]] = {}
    for place, _ in zip(places, indices, strict=False):
        dims = removed.setdefault(place.parameter, {})
        dims[place.dim] = dims.get(place.dim, 0) + 1
    total = 0
    for parameter, dims in removed.items():
        whole = kept = 1
        for dim, size in enumerate(shapes[parameter]):
            whole *= size
            kept *= size - dims.get(dim, 0)
        total += whole - kept
    return total
