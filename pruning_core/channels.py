# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Run a model once, and find which channels can only go together.

Named modules and a function that runs them in, a `UnitGraph` out. Every axis of a tensor that is
made of channels carries integer channel ids. Each operation passes ids on, joins them, unites them
(a Linear unites its input's ids with its weight's columns; an addition unites both sides) or
creates new ones (a Linear's outputs are its weight's rows). What is united in the end is one unit.
There are no offsets, so the order inside `cat([z, a])` cannot go wrong; a parameter used twice is
united with itself; frozen and detached parts are seen, since autograd takes no part. An operation
that is not understood freezes the channels it touches and says why: nothing is guessed (method
section 1). `operations` knows the operations, `units` makes groups of what was united here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pruning_core import operations, units
from pruning_core.errors import GroupError, explain
from pruning_core.groups import TensorFacts, UnitGraph
from pruning_core.operations.calls import tensors_in
from pruning_core.operations.widths import Copies, Ids

Axes = tuple[Ids | None, ...]  # channel ids along each axis; None where it is not made of channels
Components = Mapping[str, nn.Module]

_HERE = os.path.dirname(os.path.abspath(__file__))
_OURS = (*(os.path.join(_HERE, name) for name in ('channels.py', 'equivalence.py')),
         os.path.join(_HERE, 'operations') + os.sep)
_TORCH = os.path.dirname(torch.__file__) + os.sep


class Check(NamedTuple):
    """A condition on what may be cut, put when everything is known."""

    ids: Ids  # the channels that it is about
    holds: Callable[[Copies], bool]
    reason: str


class Tracer(TorchFunctionMode):
    """Follows channel ids through every torch function called inside it.

    Attributes:
        names: full name of each parameter and buffer, by `id`; tied ones have one name.
        tensors: what each of these is.
        slots: ids along each (name, dim).
        pairs: what was united: (n, 2) arrays of ids.
        frozen: (ids, reason) of what must stay, the first reason counts.
        consumed: ids that a later layer multiplies with weights of its own.
        checks: conditions on what may be cut.
        norms: ids that each normalisation over channels averages over, in order of execution.
    """

    def __init__(self, components: Components) -> None:
        super().__init__()
        self.count = 0
        self.names: dict[int, str] = {}
        self.tensors: dict[str, TensorFacts] = {}
        self.slots: dict[tuple[str, int], Ids] = {}
        self.pairs: list[tuple[Ids, Ids]] = []
        self.frozen: list[tuple[Ids, str]] = []
        self.consumed: list[Ids] = []
        self.checks: list[Check] = []
        self.norms: list[Ids] = []
        self.modules = {id(module): f'{component}.{path}' if path else component
                        for component, root in components.items()
                        for path, module in root.named_modules()}
        self._axes: dict[int, Axes] = {}
        self._origins: dict[int, frozenset[str]] = {}
        self._alive: list[Tensor] = []  # the id of a freed tensor would be used again
        self._stay: set[int] = set()
        self._used: set[str] = set()
        self.inside = 0
        for name, tensor in named_tensors(components).items():
            self._name(name, tensor, 'parameter' if isinstance(tensor, nn.Parameter) else 'buffer')

    def _name(self, name: str, tensor: Tensor, kind: Any) -> None:
        self.names[id(tensor)] = name
        self.tensors[name] = TensorFacts(tuple(tensor.shape), kind)
        axes = tuple(self.new(size) for size in tensor.shape)
        self.slots.update({(name, dim): ids for dim, ids in enumerate(axes)})
        self.put(tensor, axes, frozenset([name]))

    # What the operations do to channels.

    def new(self, count: int) -> Ids:
        """Return ids that nothing else has."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def unite(self, left: Ids, right: Ids) -> None:
        """Let channels go only together, one by one."""
        if left is not right:
            self.pairs.append((left, right))

    def freeze(self, ids: Ids, reason: str) -> None:
        """Let channels stay."""
        self.frozen.append((ids, reason))

    def fixed(self, count: int, reason: str) -> Ids:
        """Return new ids of channels that stay."""
        ids = self.new(count)
        self.freeze(ids, reason)
        self._stay.update(ids.tolist())
        return ids

    def stays(self, ids: Ids | None) -> bool:
        """Whether channels were made to stay from the beginning."""
        return ids is not None and self._stay.issuperset(ids.tolist())

    def size_slot(self, name: str, count: int) -> Ids:
        """Ids of a size that a module states beside its tensors."""
        if (name, 0) not in self.slots:
            self.tensors[name] = TensorFacts((count,), 'size')
            self.slots[name, 0] = self.new(count)
        self._used.add(name)
        return self.slots[name, 0]

    def multiply(self, tensor: Tensor, positions: int) -> None:
        """Count the multiply-accumulates of the parameters that a tensor was made of."""
        for name in self._origins.get(id(tensor), ()):
            facts = self.tensors[name]
            self.tensors[name] = replace(facts, positions=max(facts.positions, positions))

    # What is known of tensors.

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor came out of this run, or belongs to the model."""
        return id(tensor) in self._axes

    def axes(self, tensor: Tensor) -> Axes:
        """Channel ids along each axis of a tensor; what comes from outside keeps its channels."""
        if id(tensor) not in self._axes:
            known = self._alias(tensor)
            if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                self.freeze_tensor(torch._C._functorch.get_unwrapped(tensor),
                                   'not understood: torch.vmap')
            if known is None:
                last = (self.fixed(tensor.shape[-1], 'a model input'),) if tensor.dim() else ()
                known = (None,) * (tensor.dim() - 1) + last
            self.put(tensor, known)
        if id(tensor) in self.names:
            self._used.add(self.names[id(tensor)])
        return self._axes[id(tensor)]

    def put(self, tensor: Tensor, axes: Axes, origins: frozenset[str] = frozenset()) -> None:
        """Note the channels of a tensor, and the parameters that it is a mere view of."""
        self._axes[id(tensor)] = axes
        self._alive.append(tensor)
        if origins:
            self._origins[id(tensor)] = origins

    def known(self, tensor: Tensor) -> Axes:
        """Axes of a known tensor that is only looked at."""
        return self._axes[id(tensor)]

    def check(self, ids: Ids, holds: Callable[[Copies], bool], reason: str) -> None:
        """Put a condition on what may be cut of these channels."""
        self.checks.append(Check(ids, holds, reason))

    def origins(self, *tensors: Tensor) -> frozenset[str]:
        """The parameters that tensors are mere views of."""
        return frozenset().union(*(self._origins.get(id(t), frozenset()) for t in tensors))

    def _alias(self, tensor: Tensor) -> Axes | None:
        """Axes of a known tensor that shares this one's memory element by element."""
        def place(t: Tensor) -> tuple[Any, ...] | None:
            try:
                return (t.untyped_storage().data_ptr(), t.storage_offset(), t.stride())
            except (RuntimeError, NotImplementedError):  # sparse, or inside vmap
                return None

        sought = place(tensor)
        if sought is None or not tensor.numel():
            return None
        return next((self._axes[id(known)] for known in reversed(self._alive)
                     if known.shape == tensor.shape and place(known) == sought), None)

    # The run.

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.inside += 1
        try:
            out = func(*args, **kwargs)
            return operations.follow(self, func, args, kwargs, out)
        finally:
            self.inside -= 1

    def refuse(self, func: Callable[..., Any], touched: Any, out: Any) -> None:
        """Freeze everything that an operation touches, saying where it was met."""
        reason = f'not understood: {self.where(func)}'
        for tensor in tensors_in(touched):
            self.freeze_tensor(tensor, reason)
        for tensor in tensors_in(out):
            if self.knows(tensor):
                self.freeze_tensor(tensor, reason)
            if id(tensor) not in self.names:  # changed in place, it may have other axes
                self.put(tensor, tuple(self.fixed(n, reason) for n in tensor.shape))

    def freeze_tensor(self, tensor: Tensor, reason: str) -> None:
        """Let every channel of a tensor stay."""
        for ids in self.axes(tensor):
            if ids is not None:
                self.freeze(ids, reason)

    @staticmethod
    def where(func: Callable[..., Any]) -> str:
        """Name of an operation, with the file and line of the model that called it."""
        frame: Any = sys._getframe()
        while frame is not None:
            file = frame.f_code.co_filename
            if not file.startswith((*_OURS, _TORCH, '<')):
                return f'{_title(func)} at {os.path.basename(file)}:{frame.f_lineno}'
            frame = frame.f_back
        return f'{_title(func)} at an unknown place'

    def finish(self, outputs: Iterable[Tensor]) -> None:
        """Freeze what the run showed must stay."""
        for output in outputs:
            self.freeze_tensor(output, 'an output of the model')
        for (name, _), ids in self.slots.items():
            if name not in self._used:
                self.freeze(ids, 'not used while tracing')


class _Unseen(TorchDispatchMode):
    """Meets what reaches the tensors by other ways than torch's functions, and freezes it."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracer = tracer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and importing the compiler to say so takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tracer = self.tracer
        if not tracer.inside:
            tracer.inside += 1
            try:
                met = [t for t in tensors_in([args, kwargs]) if tracer.knows(t)]
                if met and str(func) in ('aten.detach.default', 'aten.alias.default'):
                    tracer.put(out, tracer.axes(met[0]), tracer.origins(met[0]))
                elif met:
                    tracer.refuse(func, met, out)
            finally:
                tracer.inside -= 1
        return out


def _title(func: Callable[..., Any]) -> str:
    if isinstance(func, (torch._ops.OpOverload, type)):
        return getattr(func, '__name__', '') if isinstance(func, type) else str(func)
    name = getattr(func, '__name__', str(func))
    if name == '__get__':
        name = getattr(getattr(func, '__self__', None), '__name__', name)
    module = getattr(func, '__module__', None) or ''
    return f'{module if module.startswith("torch.nn") else "torch"}.{name}'


def named_tensors(components: Components, *, ties: bool = False) -> dict[str, Tensor]:
    """Parameters and buffers by full name, parameters of each component first.

    Args:
        components: modules by name.
        ties: list a tensor under each of its names, not under the first alone.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for component, module in components.items():
        for name, tensor in [*module.named_parameters(remove_duplicate=False),
                             *module.named_buffers(remove_duplicate=False)]:
            if ties or id(tensor) not in seen:
                seen.add(id(tensor))
                found[f'{component}.{name}'] = tensor
    return found


@contextmanager
def undisturbed(components: Components) -> Iterator[None]:
    """Run a model without leaving marks: buffers, train or eval and random numbers stay as is.

    Inside, every module is in eval mode and no gradient is recorded.
    """
    modules = [m for root in components.values() for m in root.modules()]
    training = [m.training for m in modules]
    buffers = [(m, name, b, None if b is None else b.clone())
               for m in modules for name, b in m._buffers.items()]
    cuda = {p.get_device() for m in modules for p in m.parameters(recurse=False) if p.is_cuda}
    try:
        with torch.random.fork_rng(devices=sorted(cuda)), torch.no_grad():
            for module in modules:
                module.training = False
            yield
    finally:
        for module, was in zip(modules, training, strict=True):
            module.training = was
        for module, name, buffer, values in buffers:
            module._buffers[name] = buffer
            if buffer is not None:
                buffer.data.copy_(values)  # type: ignore[arg-type]


def follow(components: Components, run: Callable[[], Any]) -> Tracer:
    """Run a model once under a tracer.

    Raises:
        GroupError: the run returns no tensor.
    """
    tracer = Tracer(components)
    with undisturbed(components):
        with tracer, _Unseen(tracer):
            returned = run()
        outputs = tensors_in(returned)
        if not outputs:
            raise GroupError(
                explain('a model was traced',
                        f'its run returned {type(returned).__name__} without a tensor',
                        'the tensors whose channels must stay: actions, rewards, '
                        'values, reconstructions', 'return them from the function given to trace')
            )
        tracer.finish(outputs)
    return tracer


def trace(components: Components, run: Callable[[], Sequence[Tensor]]) -> UnitGraph:
    """Find every group of removable channels.

    Args:
        components: modules by name; parameters are named `component.parameter`.
        run: runs the model's own rollout once (two steps or more, so that what comes out of the
            dynamics goes back in) and returns the tensors whose channels must stay: actions,
            rewards, values, reconstructions. Inputs stay by themselves. It runs in eval mode
            without gradients, and leaves buffers and random numbers as they were.

    Returns:
        The graph; groups that may not be cut carry `frozen_because`.

    Raises:
        GroupError: a component has no usable name, or the run returns no tensor.
    """
    components = dict(components.items())
    for name, module in components.items():
        if not name or '.' in name or not isinstance(module, nn.Module):
            raise GroupError(
                explain('components were traced', f'one is {name!r}: {type(module).__name__}',
                        'modules, under names without a dot such as encoder',
                        'give modules by name')
            )
    return units.graph(follow(components, run), list(components))
