# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The proof of a cut: the cut model computes what the full one does with removed slices at zero.

A model and a plan in, the outputs of the masked model out; and the comparison of the two. A
normalisation over channels (LayerNorm, RMSNorm) averages over those that are there, so in the
masked model it has to leave the removed ones out: a trace of the same run tells which they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning_core.channels import Components, follow, named_tensors, undisturbed
from pruning_core.errors import GroupError, explain
from pruning_core.operations.calls import tensors_in
from pruning_core.plans import Plan, check_shapes, left
from pruning_core.units import labels

Run = Callable[[Components], Sequence[Tensor]]


class _Masked(TorchFunctionMode):
    """Hands a copy with zeros to every operation that is given a parameter with removed slices.

    The model itself is not touched, and there are never the copies of more than one operation.
    """

    def __init__(self, gone: Mapping[int, Mapping[int, Tensor]],
                 norms: Sequence[npt.NDArray[np.int64]]) -> None:
        super().__init__()
        self.gone = gone  # per id of a tensor and dim, the positions to be zero
        self.buffers: dict[int, Tensor] = {}  # these copies last: a run may change its buffers
        self.norms = list(norms)  # per normalisation in order of execution, positions to leave out

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        name = getattr(func, '__name__', '')
        if name == '__get__' and func.__self__.__name__ not in (  # type: ignore[attr-defined]
                'data', 'T', 'mT', 'H', 'mH'):
            return func(*args, **(kwargs or {}))
        args, kwargs = self._with_zeros(args), self._with_zeros(kwargs or {})
        if name in ('layer_norm', 'rms_norm') and self.norms:
            out = self.norms.pop(0)
            if len(out):
                return _norm_without(func, out, *args, **kwargs)
        return func(*args, **kwargs)

    def _with_zeros(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            dims = self.gone.get(id(value))
            if dims is None:
                return value
            if id(value) in self.buffers:
                return self.buffers[id(value)]
            zeroed = value.detach().clone()
            for dim, at in dims.items():
                zeroed.index_fill_(dim, at, 0)
            if not isinstance(value, nn.Parameter):
                self.buffers[id(value)] = zeroed
            return zeroed
        if isinstance(value, dict):
            return {k: self._with_zeros(v) for k, v in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._with_zeros(v) for v in value)
        return value


def _norm_without(func: Callable[..., Any], out: npt.NDArray[np.int64], input: Tensor,
                  normalized_shape: Sequence[int], weight: Tensor | None = None,
                  *rest: Any, **options: Any) -> Tensor:
    """Normalise over the other channels; those left out come out as zero."""
    kept = torch.from_numpy(left(input.shape[-1], out.tolist())).to(input.device)
    rest = tuple(r[kept] if isinstance(r, Tensor) else r for r in rest)  # a bias
    options = {k: v[kept] if isinstance(v, Tensor) else v for k, v in options.items()}
    result = torch.zeros_like(input)
    result[..., kept] = func(input[..., kept], (len(kept),),
                             None if weight is None else weight[kept], *rest, **options)
    return result


def masked_outputs(components: Components, plan: Plan, run: Run) -> list[Tensor]:
    """Outputs of the full model with every removed slice set to zero.

    Args:
        components: the full model; not changed.
        plan: what is removed.
        run: runs a model on one fixed probe and returns its outputs.
    """
    tracer = follow(components, lambda: run(components))
    unit_of = labels(tracer)
    gone = np.zeros(tracer.count, np.bool_)
    for name, dims in plan.slices.items():
        for dim, at in dims.items():
            if (name, dim) not in tracer.slots:
                continue  # the size of a normalisation that this probe does not come by
            gone[unit_of[tracer.slots[name, dim][list(at)]]] = True
    norms = [np.flatnonzero(gone[unit_of[ids]]) for ids in tracer.norms]
    zeros = {id(tensor): {dim: torch.tensor(at, device=tensor.device)
                          for dim, at in plan.slices[name].items()}
             for name, tensor in named_tensors(components).items() if name in plan.slices}
    with undisturbed(components), _Masked(zeros, norms):
        return tensors_in(run(components))


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Sizes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def outputs(components: Components, run: Run) -> list[Tensor]:
    """Outputs of a model as it is."""
    with undisturbed(components):
        return tensors_in(run(components))


def difference(expected: Sequence[Tensor], found: Sequence[Tensor],
               tolerance: float | None = None) -> float:
    """Largest difference between outputs, relative to the largest of each (1 or more).

    Args:
        expected: of the masked model.
        found: of the cut model.
        tolerance: largest difference allowed; None is 1e-4, or 30 roundings of a coarser type.

    Raises:
        GroupError: the outputs differ by more, or have other shapes.
    """
    shapes = [[tuple(t.shape) for t in side] for side in (expected, found)]
    if shapes[0] != shapes[1]:
        raise GroupError(_unlike(f'outputs have the shapes {shapes[1]}', f'{shapes[0]}'))
    gaps = []
    allowed = tolerance if tolerance is not None else 1e-4
    for one, other in zip(expected, found, strict=True):
        if not one.numel():
            continue
        if tolerance is None and one.is_floating_point():
            allowed = max(allowed, 30 * torch.finfo(one.dtype).eps)
        one, other = one.double(), other.double()
        gaps.append(float((one - other).abs().max()) / max(1.0, float(one.abs().max())))
    worst = float(np.max(gaps, initial=0.0))  # unlike max(), this does not lose a NaN
    if not worst <= allowed:
        raise GroupError(_unlike(f'outputs differ by {worst:.2e}', f'{allowed:.0e}'))
    return worst


def _unlike(found: str, allowed: str) -> str:
    return explain('a cut was checked against the full model with zeroed slices', found, allowed,
                   'report this model: its structure was not understood')


def verify(before: Components, after: Components, plan: Plan, run: Run,
           tolerance: float | None = None) -> float:
    """Prove that the cut model is the full model with every removed slice set to zero.

    Both run in eval mode, with the same random numbers.

    Args:
        before: a copy of the components from before the cut; not changed.
        after: the cut components.
        plan: what was cut.
        run: runs a model on one fixed probe and returns its outputs.
        tolerance: largest difference allowed, relative to the largest output; None is 1e-4, or 30
            roundings of a coarser type.

    Returns:
        The largest difference found.

    Raises:
        GroupError: the outputs differ by more, the cut model does not run, or the plan is for
            another model.
    """
    for model, shapes in ((before, plan.shapes),
                          (after, {name: plan.shape_after(name) for name in plan.shapes})):
        check_shapes(shapes, shapes_of(named_tensors(dict(model.items()))), 'parameter',
                     'give the model from before the cut, the one after it, and its plan')
    return compare(masked_outputs(before, plan, run), after, run, tolerance)


def compare(expected: Sequence[Tensor], after: Components, run: Run,
            tolerance: float | None = None) -> float:
    """The second half of `verify`, for a full model that is no longer there."""
    try:
        found = outputs(after, run)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise GroupError(_unlike(
            f'the cut model does not run ({" ".join(str(error).split())[:300]})',
            'a model that runs at any width')) from error
    return difference(expected, found, tolerance)


