# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Per-sample gradients: a loss of one sample and a batch in, exact Fisher information out.

The batch form squares the gradient of the mean loss, in which the samples' gradients have already
cancelled each other in part. The exact empirical Fisher information squares each sample's own
gradient first, and is never smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_flatten, tree_map

_CHUNK = 16  # samples whose gradients are held at once


def copied(source: Tensor, out: Tensor) -> object:
    """Fill `out` with x: what is summed is already a square."""
    return out.copy_(source)


class _Loss(nn.Module):
    """Owns the components, so that their parameters can be swapped for the time of a call."""

    def __init__(self, components: Mapping[str, nn.Module], loss: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.components = nn.ModuleDict(dict(components))
        self._loss = loss

    def forward(self, sample: Any) -> Tensor:
        return self._loss(sample)


def per_sample_squares(components: Mapping[str, nn.Module], loss: Callable[[Any], Tensor],
                       samples: Any, chunk: int = _CHUNK) -> dict[str, Tensor]:
    """Mean over a batch of the squared gradient of each sample's loss.

    Args:
        components: modules by name; parameters are named `component.parameter`.
        loss: of one sample, without the batch axis, computed by these very modules.
        samples: tensors, or a tuple, list or dict of them, with the batch as first axis.
        chunk: samples at once; memory grows with it, results do not depend on it.

    Returns:
        Per parameter that the loss depends on, a tensor of its shape.
    """
    model = _Loss(components, loss)
    prefix = 'components.'
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # torch.func gives zeros where a parameter takes no part; autograd tells the two apart.
    with torch.enable_grad():
        first = torch.autograd.grad(
            model(tree_map(lambda x: x[0], samples)), list(trained.values()), allow_unused=True)
    touched = {n: p.detach() for (n, p), g in zip(trained.items(), first, strict=True)
               if g is not None}

    def of_one(parameters: dict[str, Tensor], sample: Any) -> Tensor:
        result: Tensor = functional_call(model, parameters, (sample,))
        return result

    gradients = vmap(grad(of_one), in_dims=(None, 0))
    leaves, _ = tree_flatten(samples)
    batch = len(leaves[0])
    squares = {name: torch.zeros_like(p) for name, p in touched.items()}
    for start in range(0, batch, chunk):
        part = tree_map(lambda x, a=start: x[a:a + chunk], samples)
        for name, g in gradients(touched, part).items():
            squares[name] += g.square().sum(0)
    return {name.removeprefix(prefix): s / batch for name, s in squares.items()}
