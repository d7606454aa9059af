# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Outgoing weights after a cut, refitted in closed form: no gradient update at all.

A cut leaves each layer with fewer inputs than it was trained for. What the missing ones used to
contribute can be told, in part, from those that stayed: the weights W' and the bias b' of every
linear layer become the least-squares solution of

    mean |y - W' x' - b'|^2  +  ridge * mean(x'^2) * |W' - W|^2

where y is what the layer put out in the dense model and x' what now comes in, from layers that
were refitted before it. The ridge draws towards the weights that the cut left, so that directions
which the data do not show stay as they were trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pruning_core.agent import Agent
from pruning_core.plans import Plan, left
from pruning_core.visits import Visits, layer_input

RIDGE = 1e-3


class Refit(NamedTuple):
    """Relative error of a layer's outputs, |y - y'| / |y - mean(y)|, before and after."""

    layer: str
    before: float
    after: float


@torch.no_grad()
def compensate(name: str, full: nn.Module, cut: nn.Module, plan: Plan, full_input: Tensor,
               cut_input: Tensor, ridge: float = RIDGE) -> list[Refit]:
    """Refit every linear layer of one component that lost inputs, or follows one that did.

    Args:
        name: of the component; its parameters are `name.path.weight` in the plan.
        full: the component before the cut.
        cut: the same after it; refitted in place.
        plan: what was removed.
        full_input: (N, C) what goes into `full`.
        cut_input: (N, C') what goes into `cut` in the same situations.
        ridge: see the module.

    Returns:
        One entry for each refitted layer, in their order.
    """
    refits: list[Refit] = []
    before = dict(full.named_modules())
    for path, layer in cut.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        label = f'{name}.{path}' if path else name
        gone = plan.slices.get(f'{label}.weight', {})
        if 1 not in gone and not refits and torch.equal(full_input, cut_input):
            continue  # nothing that comes into it has changed
        old = before[path]
        assert isinstance(old, nn.Linear)
        y = old(layer_input(full, old, full_input)).double()
        if 0 in gone:
            y = y[:, torch.from_numpy(left(y.shape[1], gone[0]))]
        refits.append(_refit(label, layer, layer_input(cut, layer, cut_input).double(), y, ridge))
    return refits


def _refit(label: str, layer: nn.Linear, x: Tensor, y: Tensor, ridge: float) -> Refit:
    missing = y - x @ layer.weight.double().T
    if layer.bias is not None:
        missing -= layer.bias.double()
    # Without a bias the layer cannot shift its mean, so nothing is centred.
    x_mean, y_mean = (v.mean(0) if layer.bias is not None else v.new_zeros(v.shape[1])
                      for v in (x, missing))
    xc, mc = x - x_mean, missing - y_mean
    gram = xc.T @ xc / len(x)
    # A layer that no input reaches (all of them constant) keeps its weights.
    damping = ridge * float(gram.diagonal().mean())
    gram.diagonal().add_(damping if damping > 0 else 1.0)
    change = torch.linalg.solve(gram, xc.T @ mc / len(x)).T
    layer.weight.add_(change.to(layer.weight.dtype))
    if layer.bias is not None:
        layer.bias.add_((y_mean - change @ x_mean).to(layer.bias.dtype))
    scale = max(float((y - y.mean(0)).norm()), 1e-12)
    return Refit(label, float(missing.norm()) / scale, float((mc - xc @ change.T).norm()) / scale)


@torch.no_grad()
def compensate_agent(full: Mapping[str, nn.Module], agent: Agent, plan: Plan, visits: Visits,
                     ridge: float = RIDGE) -> list[Refit]:
    """Refit a cut agent.

    The encoder is refitted first, then the dynamics; the cut model is then rolled out beside the
    dense one under the same actions, and dynamics and heads are refitted on what it itself arrives
    at. Targets are set to the refitted networks.

    Args:
        full: the components before the cut.
        agent: the cut agent, changed in place.
        plan: what was removed.
        visits: of the dense agent.
        ridge: see the module.
    """
    net = agent.components

    def refit(name: str, full_input: Tensor, cut_input: Tensor) -> list[Refit]:
        return compensate(name, full[name], net[name], plan, full_input, cut_input, ridge)

    refits = refit('encoder', visits.observation, visits.observation)
    start = net['encoder'](visits.observation)
    first = [torch.cat([z, visits.action[0]], dim=-1) for z in (visits.latent[0], start)]
    refits += refit('dynamics', first[0], first[1])
    latents = [start]
    for action in visits.action:
        latents.append(net['dynamics'](torch.cat([latents[-1], action], dim=-1)))
    cut = visits._replace(latent=torch.stack(latents))
    for name in ('reward', 'q1', 'q2'):
        refits += refit(name, visits.pairs(), cut.pairs())
    refits += refit('policy', visits.latents(), cut.latents())
    agent.sync_targets()
    return refits
