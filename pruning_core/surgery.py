# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A plan in; smaller modules out: weights, gradients, optimiser state and mirrors together.

The cut is atomic: every new tensor is made and checked before the first one is put in place, so a
plan that does not fit changes nothing. `verify` then proves that the cut model equals the full
model with every removed slice set to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning_core.errors import GroupError, explain
from pruning_core.groups import UnitGraph
from pruning_core.selection import Plan

Components = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Receipt:
    """What a cut did.

    Attributes:
        parameters_before: scalars in `components` before the cut, and after it.
        parameters_after: see above.
        kept: positions that stayed, by parameter name and dim.
    """

    parameters_before: int
    parameters_after: int
    kept: Mapping[tuple[str, int], np.ndarray]


def _kept(graph: UnitGraph, plan: Plan) -> dict[tuple[str, int], np.ndarray]:
    """Positions that stay along every axis that loses something."""
    sizes = {g.name: g.size for g in graph.free}
    if dict(plan.sizes) != sizes:
        raise GroupError(
            explain('a plan was applied', f'it was made for groups {dict(plan.sizes)}',
                    f'this model, with groups {sizes}', 'make a plan for this model')
        )
    gone: dict[tuple[str, int], list[np.ndarray]] = {}
    for group in graph.free:
        units = np.asarray(plan.removed.get(group.name, ()), np.int64)
        if len(units) == 0:
            continue
        if units.min() < 0 or units.max() >= group.size or len(set(units.tolist())) != len(units):
            raise GroupError(
                explain(f"a plan for group '{group.name}' was applied",
                        f'units {units.min()} to {units.max()}, {len(units)} in all',
                        f'different units from 0 to {group.size - 1}', 'make the plan again')
            )
        if len(units) >= group.size:
            raise GroupError(
                explain(f"all {group.size} units of '{group.name}' were to be removed",
                        'nothing would pass through it any more', 'at least one unit stays',
                        'lower the sparsity, or raise the floor')
            )
        for column, place in enumerate(group.places):
            gone.setdefault((place.parameter, place.dim), []).append(group.indices[units, column])
    return {(name, dim): np.setdiff1d(np.arange(graph.shapes[name][dim]), np.concatenate(parts))
            for (name, dim), parts in gone.items()}


def _slice(tensor: Tensor, name: str, kept: Mapping[tuple[str, int], np.ndarray]) -> Tensor:
    for dim in range(tensor.dim()):
        if (name, dim) in kept:
            tensor = tensor.index_select(
                dim, torch.from_numpy(kept[name, dim]).to(tensor.device))
    return tensor.contiguous()


def _tensors(components: Components) -> list[tuple[str, nn.Module, str, Tensor]]:
    """Every parameter and buffer as (full name, owning module, attribute, tensor)."""
    found = []
    for component, module in components.items():
        for path, child in module.named_modules():
            prefix = f'{component}.{path}.' if path else f'{component}.'
            for attribute, tensor in [*child.named_parameters(recurse=False),
                                      *child.named_buffers(recurse=False)]:
                found.append((prefix + attribute, child, attribute, tensor))
    return found


def apply(plan: Plan, graph: UnitGraph, components: Components,
          optimizers: Sequence[torch.optim.Optimizer] = (),
          mirrors: Sequence[Components] = ()) -> Receipt:
    """Cut `components` in place.

    Args:
        plan: from `selection.select` on this graph.
        graph: the trace that the plan was made for.
        components: modules by name, as they were traced.
        optimizers: whose parameters and per-parameter state are cut alongside.
        mirrors: target networks: mappings from (some of) the same names to equally shaped modules.

    Returns:
        What went.

    Raises:
        GroupError: the plan does not fit; nothing was changed.
    """
    kept = _kept(graph, plan)
    first: dict[int, str] = {}
    for name, _, _, tensor in _tensors(components):
        first.setdefault(id(tensor), name)  # tied tensors are cut by their first name
        if name in graph.shapes and tuple(tensor.shape) != graph.shapes[name]:
            raise GroupError(
                explain(f"parameter '{name}' was to be cut", f'its shape is {tuple(tensor.shape)}',
                        f'{graph.shapes[name]}, as traced', 'trace the model again')
            )
    new: dict[int, Tensor] = {}
    places = []
    for _, module, attribute, tensor in _tensors(components):
        places.append((module, attribute, tensor))
        if id(tensor) not in new:
            new[id(tensor)] = _cut(tensor, first[id(tensor)], kept)
    canonical = {name: first[id(tensor)] for name, _, _, tensor in _tensors(components)}
    for mirror in mirrors:
        for own_name, module, attribute, tensor in _tensors(mirror):
            name = canonical.get(own_name, own_name)
            if name in graph.shapes and tuple(tensor.shape) != graph.shapes[name]:
                raise GroupError(
                    explain(f"mirror parameter '{name}' was to be cut",
                            f'its shape is {tuple(tensor.shape)}', f'{graph.shapes[name]}',
                            'mirror the model that was traced')
                )
            places.append((module, attribute, tensor))
            new.setdefault(id(tensor), _cut(tensor, name, kept))
    states = [_cut_state(optimizer, first, kept) for optimizer in optimizers]

    before = sum(t.numel() for t in _unique(components))
    for module, attribute, tensor in places:
        if attribute in module._parameters:
            module._parameters[attribute] = new[id(tensor)]  # type: ignore[assignment]
        else:
            module._buffers[attribute] = new[id(tensor)]
        _resize(module)
    for optimizer, state in zip(optimizers, states, strict=True):
        for group in optimizer.param_groups:
            group['params'] = [new.get(id(p), p) for p in group['params']]
        optimizer.state = type(optimizer.state)(
            optimizer.state.default_factory,
            {new.get(id(p), p): values for p, values in state})
    after = sum(t.numel() for t in _unique(components))
    return Receipt(before, after, kept)


def _unique(components: Components) -> list[Tensor]:
    return list({id(p): p for m in components.values() for p in m.parameters()}.values())


def _cut(tensor: Tensor, name: str, kept: Mapping[tuple[str, int], np.ndarray]) -> Tensor:
    values = _slice(tensor.detach(), name, kept)
    if not isinstance(tensor, nn.Parameter):
        return values
    parameter = nn.Parameter(values.clone(), requires_grad=tensor.requires_grad)
    if tensor.grad is not None:
        parameter.grad = _slice(tensor.grad, name, kept)
    return parameter


def _cut_state(optimizer: torch.optim.Optimizer, names: Mapping[int, str],
               kept: Mapping[tuple[str, int], np.ndarray]) -> list[tuple[Tensor, dict[str, Any]]]:
    """Slice whatever state has the parameter's shape; step counters stay."""
    cut = []
    for parameter, values in optimizer.state.items():
        name = names.get(id(parameter))
        cut.append((parameter, {
            key: _slice(value, name, kept)
            if name and isinstance(value, Tensor) and value.shape == parameter.shape else value
            for key, value in values.items()
        }))
    return cut


def _resize(module: nn.Module) -> None:
    """Bring the sizes that a module states in line with its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


class _KeptLayerNorm(nn.Module):
    """LayerNorm whose statistics see the kept channels only; the removed ones come out as zero."""

    def __init__(self, norm: nn.LayerNorm, kept: np.ndarray) -> None:
        super().__init__()
        self.norm = norm
        self.kept = torch.from_numpy(kept)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        n = self.norm
        out[..., self.kept] = nn.functional.layer_norm(
            x[..., self.kept], (len(self.kept),),
            None if n.weight is None else n.weight[self.kept],
            None if n.bias is None else n.bias[self.kept], n.eps)
        return out


def verify(before: Components, after: Components, receipt: Receipt,
           run: Callable[[Components], Sequence[Tensor]], tolerance: float = 1e-4) -> float:
    """Prove that the cut model is the full model with every removed slice set to zero.

    A LayerNorm's statistics change when channels go; in the full model they are therefore taken
    over the kept channels, which is what the cut model computes.

    Args:
        before: a copy of the components from before the cut (not changed here).
        after: the cut components.
        receipt: what `apply` returned.
        run: runs a model on one fixed probe and returns its outputs.
        tolerance: largest difference allowed, relative to the largest output.

    Returns:
        The largest difference found.

    Raises:
        GroupError: the outputs differ by more.
    """
    masked = copy.deepcopy(dict(before))
    with torch.no_grad():
        for name, _, _, tensor in _tensors(masked):
            for dim in range(tensor.dim()):
                if (name, dim) in receipt.kept:
                    gone = np.setdiff1d(np.arange(tensor.shape[dim]), receipt.kept[name, dim])
                    tensor.index_fill_(dim, torch.from_numpy(gone), 0.0)
        for component, root in masked.items():
            for path, module in list(root.named_modules()):
                for child_name, child in list(module.named_children()):
                    full = '.'.join(p for p in (component, path, child_name, 'weight') if p)
                    if isinstance(child, nn.LayerNorm) and (full, 0) in receipt.kept:
                        setattr(module, child_name,
                                _KeptLayerNorm(child, receipt.kept[full, 0]))
        expected, found = run(masked), run(after)
    gaps = []
    for one, other in zip(expected, found, strict=True):
        scale = max(1.0, float(one.abs().max()))
        gaps.append(float((one - other).abs().max()) / scale)
    worst = float(np.max(gaps, initial=0.0))  # unlike max(), this does not lose a NaN
    if not worst <= tolerance:
        raise GroupError(
            explain('a cut was checked against the full model with zeroed slices',
                    f'outputs differ by {worst:.2e}', f'{tolerance:.0e}',
                    'report this model: its structure was not understood')
        )
    return worst
