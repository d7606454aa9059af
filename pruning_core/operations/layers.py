# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Layers with weights: contractions, convolutions and normalisations.

A contraction (linear, matmul, einsum, convolution) unites what it sums over, and its result has
the channels of what it keeps. A normalisation unites its scale and shift with what passes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from pruning_core.operations.calls import Call, Refused, caller, combine
from pruning_core.operations.widths import Copies, Ids, Width

if TYPE_CHECKING:
    from pruning_core.channels import Axes, Tracer


def _contract(t: Tracer, call: Call, operands: Sequence[tuple[Tensor, Sequence[Hashable]]],
              result: Sequence[Hashable], out: Tensor) -> Axes:
    """Einstein summation: unite what bears one letter; a letter alone is summed up."""
    axes: dict[Hashable, Ids | None] = {}
    for tensor, letters in operands:
        if len(set(letters)) != len(letters) or len(letters) != tensor.dim():
            raise Refused
    for letter in dict.fromkeys(x for _, letters in operands for x in letters):
        holders = [(x.shape[list(w).index(letter)], t.axes(x)[list(w).index(letter)])
                   for x, w in operands if letter in w]
        size = max(n for n, _ in holders)
        axes[letter] = combine(t, call, [size], [([n], (ids,)) for n, ids in holders])[0]
        ids = axes[letter]
        if letter not in result and ids is not None:
            if len(holders) == 1:
                t.freeze(ids, f'summed up by {t.where(call.func)}')
            else:
                t.consumed.append(ids)
    for tensor, _ in operands:
        t.multiply(tensor, 1)
    return tuple(axes.get(letter) for letter in result)


def linear(t: Tracer, call: Call) -> None:
    """`linear`: the result has the channels of the weight's rows."""
    x, weight, bias = call.get(0, 'input'), call.get(1, 'weight'), call.get(2, 'bias')
    if weight.dim() != 2:
        raise Refused
    lead = list(range(x.dim() - 1))
    axes = _contract(t, call, [(x, [*lead, 'in']), (weight, ['out', 'in'])], [*lead, 'out'],
                     call.out)
    _with_bias(t, call, axes, bias)


def _with_bias(t: Tracer, call: Call, axes: Axes, bias: Tensor | None) -> None:
    if bias is not None:
        combine(t, call, call.out.shape, [(call.out.shape, axes), (bias.shape, t.axes(bias))])
    t.put(call.out, axes)


def matmul(t: Tracer, call: Call) -> None:
    """`matmul`, `bmm`, `mm`, `mv` and `@`."""
    left, right = call.get(0, 'input', 'self'), call.get(1, 'other', 'mat2', 'vec', 'tensor')
    if call.name == '__rmatmul__':
        left, right = right, left
    t.put(call.out, _matmul_axes(t, call, left, right))


def _matmul_axes(t: Tracer, call: Call, left: Tensor, right: Tensor) -> Axes:
    batch = max(left.dim(), right.dim()) - 2
    a: list[Hashable] = ['in'] if left.dim() == 1 else [
        *range(batch - left.dim() + 2, batch), 'row', 'in']
    b: list[Hashable] = ['in'] if right.dim() == 1 else [
        *range(batch - right.dim() + 2, batch), 'in', 'column']
    result = [*range(max(batch, 0)), *(['row'] if left.dim() > 1 else []),
              *(['column'] if right.dim() > 1 else [])]
    return _contract(t, call, [(left, a), (right, b)], result, call.out)


def add_matmul(t: Tracer, call: Call) -> None:
    """`addmm`, `baddbmm`."""
    axes = _matmul_axes(t, call, call.args[1], call.args[2])
    _with_bias(t, call, axes, call.args[0])


def einsum(t: Tracer, call: Call) -> None:
    """`einsum`, without an ellipsis."""
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not isinstance(equation, str) or '.' in equation:
        raise Refused
    inputs, _, result = equation.replace(' ', '').partition('->')
    if '->' not in equation:
        letters = inputs.replace(',', '')
        result = ''.join(sorted(x for x in set(letters) if letters.count(x) == 1))
    axes = _contract(t, call, list(zip(operands, inputs.split(','), strict=True)), result,
                     call.out)
    t.put(call.out, axes)


def conv(t: Tracer, call: Call) -> None:
    """Convolutions, transposed ones too; with groups only where each channel has its own."""
    x, weight, bias = call.get(0, 'input'), call.get(1, 'weight'), call.get(2, 'bias')
    transposed = 'transpose' in call.name
    groups = call.get(6, 'groups', default=1)
    spatial = weight.dim() - 2
    channel = x.dim() - spatial - 1
    axes, (first, second, *window) = t.axes(x), t.axes(weight)
    reason = f'passed over by {t.where(call.func)}'
    for ids in (*axes[channel + 1:], *axes[:channel], *window):
        if ids is not None:
            t.freeze(ids, reason)
    fan_in, rows = (first, second) if transposed else (second, first)
    entering = axes[channel]
    if fan_in is None or rows is None:
        raise Refused
    if groups == 1:
        if entering is None:
            t.freeze(fan_in, f'reads what is not made of channels: {t.where(call.func)}')
        else:
            t.unite(entering, fan_in)
            t.consumed.append(entering)
    else:
        # One filter (or several) of its own for every channel; the module states how many.
        convolution = nn.modules.conv._ConvNd
        if (transposed or groups != x.shape[channel] or entering is None
                or caller(convolution, lambda m: m.weight is weight) is None):
            raise Refused
        t.freeze(fan_in, 'one channel per filter')
        t.unite(rows, np.repeat(entering, len(rows) // groups))
        t.consumed.append(entering)
    positions = math.prod((x if transposed else call.out).shape[channel + 1:])
    t.multiply(weight, positions)
    if bias is not None:
        combine(t, call, [len(rows)], [([len(rows)], (rows,)), (bias.shape, t.axes(bias))])
    t.put(call.out, (*(None for _ in range(channel)), rows, *(None for _ in range(spatial))))


def embedding(t: Tracer, call: Call) -> None:
    """`embedding`: the result has the channels of the weight's columns."""
    weight = call.get(1, 'weight')
    if call.get(3, 'max_norm') is not None:
        raise Refused  # rows are scaled by their norm over all channels
    entries, channels = t.axes(weight)
    if entries is not None:
        t.freeze(entries, 'entries of an embedding')
    t.put(call.out, (*(None for _ in range(call.out.dim() - 1)), channels))


# Normalisations.

def norm(t: Tracer, call: Call) -> None:
    """`layer_norm` and `rms_norm` over the last axis."""
    x, sizes = call.get(0, 'input'), call.get(1, 'normalized_shape')
    weights = [w for w in (call.get(2, 'weight'),
                           call.get(3, 'bias') if call.name == 'layer_norm' else None)
               if w is not None]
    axes = t.axes(x)
    ids = axes[-1] if len(sizes) == 1 else None
    t.norms.append(np.zeros(0, np.int64) if ids is None else ids)
    if ids is None:
        raise Refused
    combine(t, call, [len(ids)], [([len(ids)], (ids,)), *((w.shape, t.axes(w)) for w in weights)])
    size = sizes[0]
    if isinstance(size, Width):
        t.check(np.concatenate([ids, size.ids]), partial(_still_counts, size, ids),
                f'normalised over another size by {t.where(call.func)}')
    else:
        module = caller((nn.LayerNorm, nn.RMSNorm), lambda m: m.normalized_shape is sizes)
        if module is None or id(module) not in t.modules:
            t.freeze(ids, f'normalised over a fixed size by {t.where(call.func)}')
        elif module.weight is None:
            t.unite(ids, t.size_slot(f'{t.modules[id(module)]}.normalized_shape', size))
    t.put(call.out, axes)


def _still_counts(size: Width, ids: Ids, copies: Copies) -> bool:
    return size.after(copies) == int(copies[ids].sum())


def batch_norm(t: Tracer, call: Call) -> None:
    """`batch_norm`: channels are on the second axis."""
    x: Tensor = call.get(0, 'input')
    of_channels = [v for v in (
        call.get(1, 'running_mean'), call.get(2, 'running_var'), call.get(3, 'weight'),
        call.get(4, 'bias')) if v is not None]
    axes = t.axes(x)
    for k, ids in enumerate(axes):
        if k != 1 and ids is not None:
            t.freeze(ids, f'averaged over by {t.where(call.func)}')
    n = x.shape[1]
    combine(t, call, [n], [([n], (axes[1],)), *((v.shape, t.axes(v)) for v in of_channels)])
    t.put(call.out, axes)


def prelu(t: Tracer, call: Call) -> None:
    """`prelu`, whose slopes may belong to channels."""
    x, slope = call.get(0, 'input'), call.get(1, 'weight')
    axes, channel = t.axes(x), min(1, x.dim() - 1)
    if slope.numel() > 1:
        combine(t, call, slope.shape, [(slope.shape, (axes[channel],)),
                                        (slope.shape, t.axes(slope))])
    else:
        t.freeze_tensor(slope, 'one slope for all channels')
    t.put(call.out, axes)
