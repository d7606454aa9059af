# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The six components of a TD-MPC agent as plain, separate modules.

Sizes in (`Widths`), `nn.ModuleDict` of `nn.Sequential` out. Because every component is a plain
sequence, a cut agent is rebuilt from its widths and a weights file alone, and exported layer by
layer. Structure follows TD-MPC (Hansen et al. 2022); with the default widths it has the
reference's 1,489,512 parameters for 3 observations and 1 action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pruning_core.config import ACTIVATIONS, NetworkConfig, PlannerConfig
from pruning_core.errors import AgentError, explain
from pruning_core.runtime.pushes import proposals

COMPONENTS = ('encoder', 'dynamics', 'reward', 'q1', 'q2', 'policy')
# The components that have a slowly following copy for the targets of the losses.
TARGETS = ('encoder', 'q1', 'q2')


@dataclass(frozen=True)
class Widths:
    """Sizes that fix every layer: O, A, Z and the hidden widths per component."""

    observations: int
    actions: int
    latent: int
    encoder: tuple[int, ...]
    dynamics: tuple[int, ...]
    reward: tuple[int, ...]
    q1: tuple[int, ...]
    q2: tuple[int, ...]
    policy: tuple[int, ...]
    activation: str

    @classmethod
    def dense(cls, network: NetworkConfig, observations: int, actions: int) -> Widths:
        """Return the widths of an uncut agent."""
        two = (network.hidden, network.hidden)
        return cls(observations, actions, network.latent, (network.encoder_hidden,), two, two, two,
                   two, two, network.activation)

    @classmethod
    def of(cls, components: Mapping[str, nn.Module], activation: str) -> Widths:
        """Read the widths off built (and perhaps cut) components."""
        linears = {name: [m for m in module.modules() if isinstance(m, nn.Linear)]
                   for name, module in components.items()}
        hidden: dict[str, tuple[int, ...]] = {
            name: tuple(m.out_features for m in layers[:-1]) for name, layers in linears.items()
        }
        return cls(
            observations=linears['encoder'][0].in_features,
            actions=linears['policy'][-1].out_features,
            latent=linears['encoder'][-1].out_features, activation=activation, **hidden,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Widths:
        """Rebuild from `to_json`.

        Raises:
            AgentError: a field is missing, unknown or of another type.
        """
        try:
            fields: dict[str, Any] = {
                k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()}
            widths = cls(**fields)
            for name in COMPONENTS:
                if not isinstance(getattr(widths, name), tuple):
                    raise TypeError(f'{name} is {getattr(widths, name)!r}')
            sizes = [widths.observations, widths.actions, widths.latent,
                     *(n for name in COMPONENTS for n in getattr(widths, name))]
            if not all(type(n) is int and n >= 1 for n in sizes):
                raise ValueError(f'sizes are {sizes}')
            if widths.activation not in ACTIVATIONS:
                raise ValueError(f'activation is {widths.activation!r}')
            return widths
        except (TypeError, ValueError, AttributeError) as error:
            raise AgentError(
                explain('widths of an agent were read', f'{values!r} ({error})',
                        'the fields of networks.Widths', 'take the file that training wrote')
            ) from error


def _activation(name: str) -> nn.Module:
    return nn.ELU() if name == 'elu' else nn.ReLU()


def _mlp(sizes: tuple[int, ...], activation: str, *, normalise_first: bool = False
         ) -> nn.Sequential:
    """Linear layers through `sizes`, an activation after each but the last."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers.append(nn.Linear(fan_in, fan_out))
        if i == 0 and normalise_first:
            layers += [nn.LayerNorm(fan_out), nn.Tanh()]
        elif i < len(sizes) - 2:
            layers.append(_activation(activation))
    return nn.Sequential(*layers)


def build(widths: Widths) -> nn.ModuleDict:
    """Build the six components with freshly drawn weights.

    Args:
        widths: every size.

    Returns:
        `encoder` (B, O) -> (B, Z); `dynamics` (B, Z+A) -> (B, Z); `reward` (B, Z+A) -> (B, 1);
        `q1`, `q2` (B, Z+A) -> (B, 1); `policy` (B, Z) -> (B, A), tanh included.
    """
    z, a, act = widths.latent, widths.actions, widths.activation
    policy = _mlp((z, *widths.policy, a), act)
    policy.append(nn.Tanh())
    return nn.ModuleDict({
        'encoder': _mlp((widths.observations, *widths.encoder, z), act),
        'dynamics': _mlp((z + a, *widths.dynamics, z), act),
        'reward': _mlp((z + a, *widths.reward, 1), act),
        'q1': _mlp((z + a, *widths.q1, 1), act, normalise_first=True),
        'q2': _mlp((z + a, *widths.q2, 1), act, normalise_first=True),
        'policy': policy,
    })


def initialise(components: nn.ModuleDict, generator: torch.Generator) -> None:
    """Draw orthogonal weights, zero biases, and zero last layers of reward, q1 and q2.

    As in the TD-MPC reference: a zero head keeps early bootstrapped targets small.
    """
    for module in components.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
    for name in ('reward', 'q1', 'q2'):
        last = [m for m in components[name].modules() if isinstance(m, nn.Linear)][-1]
        nn.init.zeros_(last.weight)


def count_parameters(components: nn.ModuleDict) -> int:
    """Count the parameters of all components."""
    return sum(p.numel() for p in components.parameters())


def plan_macs(widths: Widths, planner: PlannerConfig) -> int:
    """Multiply-accumulates of one plan with these settings; see `count_plan_macs`."""
    return count_plan_macs(widths, planner.horizon, planner.samples,
                           proposals(planner, widths.actions), planner.iterations)


def count_plan_macs(widths: Widths, horizon: int, samples: int, proposed: int,
                    iterations: int) -> int:
    """Multiply-accumulates of one plan: H dynamics and reward steps, a policy and two Q each.

    Proposed plans are rolled out and valued once (`runtime.pushes.proposals`), sampled plans in
    every iteration. One more, where it decides what the refined plan is worth, is left out.
    """
    z, a = widths.latent, widths.actions

    def mlp(sizes: tuple[int, ...]) -> int:
        return sum(i * o for i, o in zip(sizes, sizes[1:], strict=False))

    encoder = mlp((widths.observations, *widths.encoder, z))
    step = mlp((z + a, *widths.dynamics, z)) + mlp((z + a, *widths.reward, 1))
    policy = mlp((z, *widths.policy, a))
    end = policy + mlp((z + a, *widths.q1, 1)) + mlp((z + a, *widths.q2, 1))
    sampled = iterations * samples * (horizon * step + end)
    proposing = proposed * (horizon * (step + policy) + end)
    return encoder + sampled + proposing
