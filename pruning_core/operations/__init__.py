# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What each torch operation does to channels: the table that `channels.trace` looks things up in.

An operation's call and its result in; channel ids of the result, and what was united or frozen,
out. There are four large families. *Elementwise* operations unite their operands. *Contractions*
(linear, matmul, einsum, convolution) unite what is summed over and keep the rest. *Reductions* and
operations along an axis are free on axes that are not made of channels and freeze those that are.
*Movements* (views, slices, permutations) are repeated on numbered elements, which shows where each
channel went; and once more with channels taken out, since a size or an order that is written into
the code would then take the wrong ones. What stands in no family is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pruning_core.operations import layers, movements
from pruning_core.operations.calls import Call, Refused, combine, sizes_of, tensors_in
from pruning_core.operations.widths import Ids, Width, widths_in

if TYPE_CHECKING:
    from pruning_core.channels import Tracer


def follow(t: Tracer, func: Callable[..., Any], args: tuple[Any, ...],
           kwargs: Mapping[str, Any], out: Any) -> Any:
    """Carry channels from the operands of a call to its result.

    Returns:
        The result; sizes as `Width`, so that what is made of them is known to follow a cut.
    """
    name = getattr(func, '__name__', '')
    if name == '__get__':
        name = getattr(getattr(func, '__self__', None), '__name__', '')
        if not isinstance(out, Tensor) and name != 'shape':
            return out
    if name in _INSPECTION:
        return out
    if name in ('shape', 'size'):
        return sizes_of(t, args[0], out, args[1:] or tuple(kwargs.values()))
    call = Call(func, name, args, kwargs, out)
    handler = _TABLE.get(name)
    touched = tensors_in([args, dict(kwargs)])
    try:
        if handler is None or (
                kwargs.get('out') is not None and name not in _ELEMENTWISE):
            raise Refused
        if handler not in _TAKES_SIZES:
            _no_widths(t, call)
        handler(t, call)
    except (Refused, LookupError, TypeError, ValueError, AttributeError):
        # The others: a form of the call that its handler did not think of.
        _no_widths(t, call)
        if touched:
            t.refuse(func, touched, out)
    return out


def _no_widths(t: Tracer, call: Call) -> None:
    """A width that enters the arithmetic changes its result after a cut."""
    for width in widths_in([call.args, dict(call.kwargs)]):
        t.freeze(width.ids, f'its width is used as a number by {t.where(call.func)}')


def _elementwise(t: Tracer, call: Call) -> None:
    tensors = tensors_in([call.args, dict(call.kwargs)])
    if not isinstance(call.out, Tensor) or not tensors:
        raise Refused
    if call.name == 'where' and len(tensors) == 1 and len(call.args) == 1:
        raise Refused
    axes = combine(t, call, call.out.shape, [(x.shape, t.axes(x)) for x in tensors])
    t.put(call.out, axes, t.origins(tensors[0]))


def _same(t: Tracer, call: Call) -> None:
    """Conversions and copies of the first operand."""
    source = call.get(0, 'input')
    if not isinstance(call.out, Tensor):
        return  # `x.type()`, a name
    if call.out.shape != source.shape:
        raise Refused
    if call.name == 'dropout' and call.get(2, 'training', 'train', default=True):
        raise Refused  # other random numbers at another width
    t.put(call.out, t.axes(source), t.origins(source))


def _filled(t: Tracer, call: Call) -> None:
    """`zeros(n, z.shape[-1])`: an axis that was made as wide as another follows it."""
    axes: list[Ids | None] = [None] * call.out.dim()
    sizes = [*call.args, *(call.kwargs[k] for k in ('size', 'shape') if k in call.kwargs)]
    if isinstance(sizes[0] if sizes else None, Tensor):
        sizes = sizes[1:]  # `x.new_zeros(...)`
    if sizes and isinstance(sizes[0], (tuple, list)):
        sizes = list(sizes[0])
    for k, size in enumerate(sizes[:len(axes)]):
        if isinstance(size, Width):
            if not size.counts:
                raise Refused
            axes[k] = size.ids
    if axes and axes[-1] is None:
        axes[-1] = t.fixed(call.out.shape[-1], f'made with a fixed size by {t.where(call.func)}')
    t.put(call.out, tuple(axes))


def _fill(t: Tracer, call: Call) -> None:
    """`x.copy_(y)`, `x.fill_(1)`: the channels of y are those of x."""
    target: Tensor = call.args[0]
    sources = tensors_in([call.args[1:], dict(call.kwargs)])
    combine(t, call, target.shape, [(x.shape, t.axes(x)) for x in (target, *sources)])


# Joins.

def _cat(t: Tracer, call: Call) -> None:
    tensors = [x for x in call.get(0, 'tensors') if x.dim() == call.out.dim()]
    dim = call.get(1, 'dim', 'axis', default=0) % call.out.dim()
    if call.name in ('hstack', 'vstack'):
        if call.out.dim() != 2 or len(tensors) != len(call.args[0]):
            raise Refused
        dim = int(call.name == 'hstack')
    _joined(t, call, tensors, dim)


def _joined(t: Tracer, call: Call, tensors: list[Tensor], dim: int) -> None:
    axes: list[Ids | None] = []
    for k in range(call.out.dim()):
        along = [t.axes(x)[k] for x in tensors]
        if k == dim:
            if all(ids is None for ids in along):
                axes.append(None)
                continue
            axes.append(np.concatenate([
                t.fixed(x.shape[k], f'joined to channels by {t.where(call.func)}')
                if ids is None else ids for x, ids in zip(tensors, along, strict=True)]))
        else:
            axes.append(combine(t, call, [call.out.shape[k]],
                                 [([x.shape[k]], (ids,)) for x, ids in
                                  zip(tensors, along, strict=True)])[0])
    t.put(call.out, tuple(axes), t.origins(*tensors))


def _stack(t: Tracer, call: Call) -> None:
    tensors = list(call.get(0, 'tensors'))
    dim = call.get(1, 'dim', default=0) % call.out.dim()
    axes = list(combine(t, call, tensors[0].shape, [(x.shape, t.axes(x)) for x in tensors]))
    axes.insert(dim, None)
    t.put(call.out, tuple(axes), t.origins(*tensors))


# Reductions and operations along an axis.

def _dims(value: Any, of: int) -> set[int] | None:
    """Axes that were named; None where none were."""
    if value is None or isinstance(value, bool):
        return None
    values = value if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(v, int) for v in values):
        raise Refused
    return {v % of for v in values} or None


def _reduce(t: Tracer, call: Call) -> None:
    x: Tensor = call.get(0, 'input')
    second = call.get(1, 'other')
    if isinstance(second, Tensor):  # `torch.max(x, y)`
        _elementwise(t, call)
        return
    position = 2 if call.name in ('norm', 'linalg_vector_norm') else 1
    dims = _dims(call.get(position, 'dim', 'axis'), max(x.dim(), 1))
    gone = set(range(x.dim())) if dims is None else dims
    axes = t.axes(x)
    for k in gone:
        ids = axes[k]
        if ids is not None:
            t.freeze(ids, f'reduced by {t.where(call.func)}')
    for out in tensors_in(call.out if isinstance(call.out, Tensor) else list(call.out)):
        kept = out.dim() == x.dim()
        t.put(out, tuple(None if k in gone else axes[k] for k in range(x.dim())
                         if kept or k not in gone))


def _along(t: Tracer, call: Call) -> None:
    """Softmax, cumulative sums and the like: free along what is not made of channels."""
    x: Tensor = call.get(0, 'input')
    normalize = call.name == 'normalize'
    dim = call.get(2 if normalize else 1, 'dim', 'axis', default=1 if normalize else None)
    dims = _dims(dim, max(x.dim(), 1))
    if dims is None or not isinstance(call.out, Tensor):
        raise Refused
    axes = t.axes(x)
    for k in dims:
        ids = axes[k]
        if ids is not None:
            t.freeze(ids, f'depends on all channels: {t.where(call.func)}')
    t.put(call.out, axes)


def _spatial(t: Tracer, call: Call) -> None:
    """Pooling and interpolation: the last axes are moved over, the others pass."""
    x: Tensor = call.get(0, 'input')
    count = next((int(c) for c in call.name if c.isdigit()), x.dim() - 2)
    _passed_over(t, call, x, range(x.dim() - count, x.dim()))


def _pad(t: Tracer, call: Call) -> None:
    x: Tensor = call.get(0, 'input')
    pads: Sequence[int] = call.get(1, 'pad')
    _passed_over(t, call, x, {x.dim() - 1 - i // 2 for i, n in enumerate(pads) if n})


def _passed_over(t: Tracer, call: Call, x: Tensor, dims: Collection[int]) -> None:
    axes = list(t.axes(x))
    for k in dims:
        ids = axes[k]
        if ids is not None:
            t.freeze(ids, f'passed over by {t.where(call.func)}')
        axes[k] = None
    for out in tensors_in(call.out if isinstance(call.out, Tensor) else list(call.out)):
        t.put(out, tuple(axes))


def _glu(t: Tracer, call: Call) -> None:
    x: Tensor = call.get(0, 'input')
    dim = call.get(1, 'dim', default=-1) % x.dim()
    axes = list(t.axes(x))
    ids = axes[dim]
    if ids is not None:
        half = len(ids) // 2
        t.unite(ids[:half], ids[half:])
        axes[dim] = ids[:half]
    t.put(call.out, tuple(axes))


def _words(text: str) -> list[str]:
    return text.split()


# These look at a tensor without passing its channels on.
_INSPECTION = frozenset(_words("""
dim ndimension __len__ numel nelement element_size is_floating_point is_complex is_contiguous
is_inference is_signed stride storage_offset get_device is_same_size is_shared is_pinned
__hash__ __repr__ __format__ __dir__ can_cast result_type is_tensor
"""))
_UNARY = _words("""
relu relu6 elu celu selu silu mish gelu tanh sigmoid hardtanh hardswish hardsigmoid leaky_relu
logsigmoid log_sigmoid softplus softsign tanhshrink hardshrink softshrink threshold neg
negative positive abs absolute exp exp2 expm1 log log1p log2 log10 sqrt rsqrt square reciprocal
sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc logit sign sgn ceil floor round
trunc frac nan_to_num isnan isinf isfinite logical_not bitwise_not clamp_min clamp_max
""")
_BINARY = _words("""
add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow rsub minimum
maximum fmin fmax atan2 hypot copysign lerp addcmul addcdiv where clamp clip masked_fill eq ne lt
le gt ge not_equal less less_equal greater greater_equal logical_and logical_or logical_xor
bitwise_and bitwise_or bitwise_xor xlogy float_power heaviside
""")
_OPERATORS = _words("""
add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv floordiv rfloordiv mod rmod pow
rpow ipow neg pos abs invert eq ne lt le gt ge and rand iand or ror ior xor rxor ixor
""")
_ELEMENTWISE = frozenset([
    *_UNARY, *_BINARY, *(f'{name}_' for name in (*_UNARY, *_BINARY)),
    *(f'__{name}__' for name in _OPERATORS)])
_SAME = _words("""
detach detach_ clone contiguous to float double half bfloat16 bool int long type type_as cpu cuda
dropout data real requires_grad_ zeros_like ones_like full_like empty_like
""")
_FILLED = _words('zeros ones empty full new_zeros new_ones new_empty new_full')
_REDUCTIONS = _words("""
mean sum prod amax amin max min aminmax std var std_mean var_mean logsumexp norm all any median
nanmedian nanmean nansum argmax argmin count_nonzero linalg_vector_norm mode
""")
_ALONG = _words('softmax log_softmax softmin cumsum cumprod logcumsumexp normalize')
_POOLS = [f'{kind}{n}d' for n in (1, 2, 3) for kind in _words("""
max_pool _max_pool avg_pool adaptive_avg_pool adaptive_max_pool _adaptive_max_pool
""")]
_MOVEMENTS = _words("""
view reshape flatten unflatten ravel squeeze expand expand_as view_as reshape_as broadcast_to
narrow select __getitem__ unbind split split_with_sizes chunk tensor_split flip fliplr flipud roll
repeat tile repeat_interleave index_select diagonal
""")

_Handler = Callable[['Tracer', Call], None]
_TABLE: dict[str, _Handler] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(('copy_', 'fill_', 'zero_'), _fill),
    **dict.fromkeys(_FILLED, _filled),
    **dict.fromkeys(('cat', 'concat', 'concatenate', 'hstack', 'vstack'), _cat),
    'stack': _stack,
    'linear': layers.linear,
    **dict.fromkeys(_words('matmul __matmul__ __rmatmul__ mm bmm mv dot'), layers.matmul),
    **dict.fromkeys(('addmm', 'baddbmm'), layers.add_matmul),
    'einsum': layers.einsum,
    **{f'conv{kind}{n}d': layers.conv for kind in ('', '_transpose') for n in (1, 2, 3)},
    'embedding': layers.embedding,
    **dict.fromkeys(('layer_norm', 'rms_norm'), layers.norm),
    'batch_norm': layers.batch_norm,
    'prelu': layers.prelu,
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys([*_POOLS, 'interpolate'], _spatial),
    'pad': _pad,
    **dict.fromkeys([*movements.ORDERLY, *_MOVEMENTS], movements.move),
    '__setitem__': movements.set_item,
    'glu': _glu,
}
# These look at sizes as sizes.
_TAKES_SIZES = (movements.move, movements.set_item, layers.norm, _filled)
