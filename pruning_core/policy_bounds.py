# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What can be proven of the policy network at small cost: a Lipschitz bound, and output bounds.

Both hold for every observation, not for samples: the product of the layers' spectral norms bounds
how fast the action can change, and interval arithmetic bounds the actions over a box of
observations. They concern the policy alone; the planner samples, and nothing here bounds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruning_core.errors import AgentError, explain

Array = npt.NDArray[np.float64]
# All of them grow with their argument, at a rate of at most one.
_GROWING = (nn.ReLU, nn.ELU, nn.Tanh)


class Box(NamedTuple):
    """Bounds of each channel; (C,) each."""

    low: Array
    high: Array


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    """Leaves of a network, in order.

    Raises:
        AgentError: one that has no bound here.
    """
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            continue
        if not isinstance(module, (nn.Linear, *_GROWING)) or (
                isinstance(module, nn.ELU) and module.alpha > 1):
            raise AgentError(
                explain('a bound of the policy was asked for',
                        f'a layer of type {type(module).__name__}',
                        'Linear, ReLU, ELU and Tanh in sequence', 'leave --bounds away')
            )
        yield module


def lipschitz_bound(networks: list[nn.Module]) -> float:
    """Product of the spectral norms of all layers, in sequence.

    Args:
        networks: such as encoder and policy.

    Returns:
        L with |f(x) - f(y)| <= L |x - y| in the 2-norm, for all x and y.
    """
    bound = 1.0
    for network in networks:
        for layer in _layers(network):
            if isinstance(layer, nn.Linear):
                bound *= float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))
    return bound


@torch.no_grad()
def interval_bounds(networks: list[nn.Module], box: Box) -> Box:
    """Bounds of the outputs over a box of inputs, by interval arithmetic.

    Args:
        networks: in sequence.
        box: of the inputs, scaled as the first network takes them.

    Returns:
        A box that holds every output; the true range may be smaller.
    """
    low, high = (torch.from_numpy(np.asarray(x, float)) for x in box)
    for network in networks:
        for layer in _layers(network):
            if isinstance(layer, nn.Linear):
                weight, bias = layer.weight.double(), layer.bias.double()
                middle, half = (low + high) / 2, (high - low) / 2
                centre, spread = weight @ middle + bias, weight.abs() @ half
                low, high = centre - spread, centre + spread
            else:
                low, high = layer(low), layer(high)
    return Box(low.numpy(), high.numpy())


def pendulum_box(half_angle: float, half_speed: float, max_speed: float = 8.0) -> Box:
    """Scaled observations of all pendulum states with |angle| and |speed| up to these."""
    return Box(np.array([np.cos(half_angle), -np.sin(half_angle), -half_speed / max_speed]),
               np.array([1.0, np.sin(half_angle), half_speed / max_speed]))


class Compared(NamedTuple):
    """A proven bound beside what samples show."""

    proven: float
    sampled: float


@torch.no_grad()
def compare_lipschitz(networks: list[nn.Module], box: Box, samples: int,
                      rng: np.random.Generator) -> Compared:
    """The norm product beside the steepest difference between close pairs in a box."""
    low, high = np.asarray(box.low), np.asarray(box.high)
    x = rng.uniform(low, high, (samples, len(low)))
    y = x + 1e-3 * rng.standard_normal(x.shape)
    out = []
    for points in (x, y):
        value: Tensor = torch.from_numpy(points)
        for network in networks:
            for layer in _layers(network):
                if isinstance(layer, nn.Linear):
                    value = value @ layer.weight.double().T + layer.bias.double()
                else:
                    value = layer(value)
        out.append(value.numpy())
    rate = np.linalg.norm(out[0] - out[1], axis=1) / np.linalg.norm(x - y, axis=1)
    return Compared(lipschitz_bound(networks), float(rate.max()))
