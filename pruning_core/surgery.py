# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A plan in; smaller modules out: weights, gradients, optimiser state and mirrors together.

The cut is atomic: every new tensor is made and checked before the first one is put in place, and
where a probe is given, a cut that does not compute what the masked model does is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruning_core.channels import Components, named_tensors
from pruning_core.equivalence import Run, compare, masked_outputs, shapes_of, verify
from pruning_core.errors import GroupError, explain
from pruning_core.plans import Plan, check_shapes, left

__all__ = ['Receipt', 'apply', 'rebuild', 'save', 'verify']

Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None


@dataclass(frozen=True)
class Receipt:
    """What a cut did.

    Attributes:
        parameters_before: scalars in `components` before the cut, and after it.
        parameters_after: see above.
        difference: between the cut and the masked model; None where no probe was given.
    """

    parameters_before: int
    parameters_after: int
    difference: float | None = None


class _Knife:
    """Slices tensors by the name of the parameter that they belong to."""

    def __init__(self, plan: Plan) -> None:
        self.kept = {(name, dim): torch.from_numpy(left(plan.shapes[name][dim], at))
                     for name, dims in plan.slices.items() for dim, at in dims.items()}
        self.names = frozenset(plan.slices)

    def slice(self, tensor: Tensor, name: str) -> Tensor:
        for dim in range(tensor.dim()):
            if (name, dim) in self.kept:
                tensor = tensor.index_select(dim, self.kept[name, dim].to(tensor.device))
        return tensor.contiguous()

    def cut(self, tensor: Tensor, name: str) -> Tensor:
        """Return a new parameter or buffer like this one, with its gradient and hooks."""
        values = self.slice(tensor.detach(), name)
        if not isinstance(tensor, nn.Parameter):
            return values
        parameter: Tensor = torch.Tensor._make_subclass(
            type(tensor), values, tensor.requires_grad)
        parameter.__dict__.update(tensor.__dict__)
        if tensor.grad is not None:
            parameter.grad = self.slice(tensor.grad, name)
        for hook in (tensor._backward_hooks or {}).values():
            parameter.register_hook(hook)
        for hook in (getattr(tensor, '_post_accumulate_grad_hooks', None) or {}).values():
            parameter.register_post_accumulate_grad_hook(hook)
        return parameter

    def cut_state(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str]
                  ) -> dict[int, dict[str, Any]]:
        """State of every parameter that is cut: what has its shape is sliced, scalars stay."""
        states = {}
        for parameter, state in optimizer.state.items():
            name = names.get(id(parameter))
            if name not in self.names:
                continue
            new = states[id(parameter)] = dict(state)
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    new[key] = self.slice(value, name)
                elif isinstance(value, (Tensor, list, tuple, dict)) and not (
                        isinstance(value, Tensor) and value.numel() == 1):
                    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value)
                    raise GroupError(
                        explain(f"the state '{key}' that {type(optimizer).__name__} keeps of "
                                f"'{name}' was to be cut", f'it has the shape {shape}',
                                f'{tuple(parameter.shape)} or a single number',
                                'start the optimiser afresh after the cut')
                    )
        return states


def apply(plan: Plan, components: Components, optimizer: Optimizers = None,
          mirrors: Sequence[Components] = (), run: Run | None = None) -> Receipt:
    """Cut `components` in place.

    Parameters become new objects; optimisers that are given hold the new ones afterwards, in their
    old order. Everything else stays: ties, `requires_grad`, train and eval mode, device, dtype.

    Args:
        plan: from `selection.select` on the groups of these components.
        components: modules by name, as they were traced.
        optimizer: whose parameters and per-parameter state are cut alongside; one or several.
        mirrors: target networks: mappings from (some of) the same names to equally shaped modules.
        run: runs a model on one fixed probe and returns its outputs. Where it is given, the cut
            is verified, and taken back if it does not hold.

    Returns:
        What went.

    Raises:
        GroupError: the plan does not fit, or the cut does not verify; nothing was changed.
    """
    components = dict(components.items())
    optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) \
        else list(optimizer or ())
    tensors = named_tensors(components)
    check_shapes(plan.shapes, shapes_of(tensors), 'parameter', 'trace the model again')
    names = {id(tensor): name for name, tensor in tensors.items()}
    owned, modules = list(tensors.values()), _modules(components)
    canonical = {name: names[id(tensor)]
                 for name, tensor in named_tensors(components, ties=True).items()}
    for mirror in (dict(m.items()) for m in mirrors):
        for name, tensor in named_tensors(mirror, ties=True).items():
            name = canonical.get(name, name)
            check_shapes({name: plan.shapes.get(name)}, {name: tuple(tensor.shape)},
                         'mirror parameter', 'mirror the model that was traced')
            names.setdefault(id(tensor), name)
            owned.append(tensor)
        modules += _modules(mirror)
    expected = masked_outputs(components, plan, run) if run is not None else []
    knife = _Knife(plan)
    new = {id(tensor): knife.cut(tensor, names[id(tensor)]) for tensor in
           {id(t): t for t in owned}.values() if names[id(tensor)] in knife.names}
    states = [knife.cut_state(o, names) for o in optimizers]

    before = _count(components)
    undo: list[Callable[[], None]] = []
    try:
        for name, module in modules:
            _put(module, new, undo)
            _resize(module, plan, name, undo)
        for o, state in zip(optimizers, states, strict=True):
            _hand_over(o, state, new, undo)
        gap = compare(expected, components, run) if run is not None else None
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    return Receipt(before, _count(components), gap)


def _modules(components: Components) -> list[tuple[str, nn.Module]]:
    """Every module with its full name; one that has several names stands under each."""
    return [(f'{component}.{path}' if path else component, module)
            for component, root in components.items()
            for path, module in root.named_modules(remove_duplicate=False)]


def _count(components: Components) -> int:
    return sum(p.numel() for p in {id(p): p for m in components.values()
                                   for p in m.parameters()}.values())


def _put(module: nn.Module, new: Mapping[int, Tensor], undo: list[Callable[[], None]]) -> None:
    for registry in (module._parameters, module._buffers):
        for attribute, tensor in list(registry.items()):
            if tensor is not None and id(tensor) in new:
                def back(registry: Any = registry, attribute: str = attribute,
                         tensor: Tensor = tensor) -> None:
                    registry[attribute] = tensor

                undo.append(back)
                registry[attribute] = new[id(tensor)]  # type: ignore[assignment]


def _hand_over(optimizer: torch.optim.Optimizer, state: Mapping[int, dict[str, Any]],
               new: Mapping[int, Tensor], undo: list[Callable[[], None]]) -> None:
    held, old = [list(g['params']) for g in optimizer.param_groups], dict(optimizer.state)

    def fill(params: Sequence[list[Any]], values: Mapping[Any, Any]) -> None:
        for group, chosen in zip(optimizer.param_groups, params, strict=True):
            group['params'] = chosen
        optimizer.state.clear()
        optimizer.state.update(values)

    undo.append(lambda: fill(held, old))
    fill([[new.get(id(p), p) for p in params] for params in held],
         {new.get(id(p), p): state.get(id(p), values) for p, values in old.items()})


def _resize(module: nn.Module, plan: Plan, name: str, undo: list[Callable[[], None]]) -> None:
    """Bring the sizes that a module states in line with its tensors."""
    stated: dict[str, Any] = {}
    if isinstance(module, nn.Linear):
        stated['out_features'], stated['in_features'] = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        first, second = module.weight.shape[:2]
        if module.groups > 1:  # each channel has filters of its own
            module_groups = first * module.groups // max(module.out_channels, 1)
            stated.update(groups=module_groups, out_channels=first, in_channels=module_groups)
        elif module.transposed:
            stated['in_channels'], stated['out_channels'] = first, second
        else:
            stated['out_channels'], stated['in_channels'] = first, second
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        sized = f'{name}.normalized_shape'
        scale = module._parameters.get('weight')
        if scale is not None:
            stated['normalized_shape'] = tuple(scale.shape)
        elif sized in plan.slices:
            stated['normalized_shape'] = plan.shape_after(sized)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        for tensor in (*module._parameters.values(), module._buffers.get('running_mean')):
            if tensor is not None:
                stated['num_features'] = len(tensor)
    elif isinstance(module, nn.Embedding):
        stated['embedding_dim'] = module.weight.shape[1]
    elif isinstance(module, nn.PReLU):
        stated['num_parameters'] = len(module.weight)
    for attribute, value in stated.items():
        if getattr(module, attribute) != value:
            undo.append(partial(setattr, module, attribute, getattr(module, attribute)))
            setattr(module, attribute, value)


def save(components: Components, path: str | Path) -> None:
    """Write the tensors of a model, tied ones once, as safetensors."""
    save_file({name: tensor.detach().contiguous()
               for name, tensor in named_tensors(dict(components.items())).items()}, str(path))


def rebuild(constructor: Callable[[], Components], plans: Sequence[Plan],
            weights: str | Path | Mapping[str, Tensor] | None = None) -> dict[str, nn.Module]:
    """Build a cut model from its plans and a weights file.

    Args:
        constructor: builds the full model: modules by name, as they were traced.
        plans: what was cut, in order.
        weights: a file that `save` wrote, or tensors by name; None leaves what the constructor
            drew.

    Returns:
        The cut model, by component.

    Raises:
        GroupError: a plan or the weights do not fit the model, or the file is damaged.
    """
    components = dict(constructor().items())
    for plan in plans:
        apply(plan, components)
    if weights is not None:
        tensors = _read(weights) if isinstance(weights, (str, Path)) else weights
        own = named_tensors(components)
        check_shapes(shapes_of(own), shapes_of(tensors), 'the weight',
                     'give the plans and the weights of one and the same model')
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
    return components


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise GroupError(
            explain(f"weights '{path}' were read", f'{" ".join(str(error).split())[:300]}',
                    'a safetensors file that surgery.save wrote', 'give another file')
        ) from error
