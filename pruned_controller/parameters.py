# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One table of parameters per node: it declares them, checks them and documents them.

`config/*.yaml` and the tables of the README are compared with these by a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default fixes its type; `low` and `high` its range, if any."""

    name: str
    default: Any
    text: str
    low: float | None = None
    high: float | None = None
    fixed: bool = False  # read once; cannot be changed while the node runs


CONTROLLER = (
    Parameter('bundle', '', 'Bundle folder to start with', fixed=True),
    Parameter('bundle_topic', 'pruner/bundle', 'Where newer bundles arrive; empty: nowhere',
              fixed=True),
    Parameter('store', '~/.ros/pruned_controller/bundles', 'Where received bundles are kept',
              fixed=True),
    Parameter('input', 'observation', "Where observations come from: 'observation' or "
              "'joint_states'", fixed=True),
    Parameter('joint_map', [''], 'With joint_states: one entry per observation, such as '
              "'cos(pendulum.position)' or 'pendulum.velocity'", fixed=True),
    Parameter('planner.samples', 0, "Plans per iteration; 0: the bundle's own", 0, 100_000),
    Parameter('planner.iterations', 0, "Refinements; 0: the bundle's own", 0, 1000),
    Parameter('planner.threads', 1, 'onnxruntime threads', 1, 64, fixed=True),
    Parameter('planner.fit', 0.0, 'Part of the period to fit plans into: samples, iterations, '
              'threads and more are then chosen by measuring, once per machine; 0: as set here',
              0.0, 1.0, fixed=True),
    Parameter('planner.budget', 0.0, 'Seconds a plan may take, stopping early with the best so '
              'far; 0: all iterations, however long', 0.0, 60.0),
    Parameter('planner.seed', 0, 'Seed of the sampling noise', 0, 2**31 - 1, fixed=True),
    Parameter('observation_timeout', 0.5, 'Seconds after which an observation is stale', 1e-3,
              60.0, fixed=True),
    Parameter('hold_ticks', 5, 'Ticks the last command is held without an observation', 0, 10_000,
              fixed=True),
    Parameter('max_consecutive_misses', 0, 'Overruns in a row before the policy acts alone, for '
              'recover_ticks ticks; 0: never', 0, 10_000, fixed=True),
    Parameter('recover_ticks', 20, 'Good ticks before the fallback is left or planning is tried '
              'again; 0: only by ~/reset_fallback', 0, 100_000, fixed=True),
    Parameter('blend_ticks', 5, 'Ticks over which the return from the fallback is blended', 0,
              10_000, fixed=True),
    Parameter('fallback', 'zero', "What acts in fallback: 'zero' or 'lqr'", fixed=True),
    Parameter('phase', 0.003, 'Seconds after an observation at which ticks are aimed; negative: '
              'no phase lock', -1.0, 1.0, fixed=True),
    Parameter('publish_every', 1, 'Ticks between two messages on the metric topics', 1, 100_000,
              fixed=True),
)

PRUNER = (
    Parameter('agent', 'pendulum_dense', 'Agent to prune: run folder, or a shipped name'),
    Parameter('config', '', 'YAML file for ~/train'),
    Parameter('runs', '~/.ros/pruned_controller/runs', 'Where jobs keep their folders',
              fixed=True),
    Parameter('sparsity', 0.95, 'Share of the parameters to remove'),
    Parameter('score', 'combined', 'Importance to rank by: gradient, fisher, bayesian, combined, '
              'l1 or random'),
    Parameter('recovery_updates', 2000, 'Gradient updates after the cut', 0, 10_000_000),
    Parameter('gate_return_loss', 0.1, 'Largest loss of return, as a share, to be published', 0.0,
              1e6),
    Parameter('gate_latency_share', 1.0, 'Part of the period the slowest 1 % of plans may take; '
              '0: no gate', 0.0, 1e6),
    Parameter('seed', 0, 'Seed of recovery', 0, 2**31 - 1),
    Parameter('nice', 10, 'How far jobs step back behind the controller', 0, 19, fixed=True),
    Parameter('threads', 1, 'torch threads of a job', 0, 256),
)

PLANT = (
    Parameter('env_id', 'Pendulum-v1', 'Gymnasium id of the plant', fixed=True),
    Parameter('output', 'observation', "What is published: 'observation' or 'joint_states'",
              fixed=True),
    Parameter('joint_names', ['pendulum'], 'With joint_states: names', fixed=True),
    Parameter('joint_positions', ['atan2(1,0)'], 'Positions, as terms of the observation',
              fixed=True),
    Parameter('joint_velocities', ['2'], 'Velocities, as terms of the observation', fixed=True),
    Parameter('seed', 0, 'Seed of the first episode; each later one adds 1', 0, 2**31 - 1,
              fixed=True),
    Parameter('episodes', 0, 'Episodes after which the plant rests; 0: endless', 0, 10**9,
              fixed=True),
    Parameter('max_episode_steps', 0, "Steps per episode; 0: the environment's own", 0, 10**9,
              fixed=True),
    Parameter('lock_step', False, 'Step on each command instead of in real time', fixed=True),
)


def declare(node: Node, table: tuple[Parameter, ...], *, read_only: bool = True) -> None:
    """Declare every parameter of a table; overrides out of range are refused by rclpy.

    Args:
        node: where.
        table: of that node.
        read_only: whether `fixed` ones can never be set later.
    """
    for p in table:
        descriptor = ParameterDescriptor(description=p.text, read_only=p.fixed and read_only)
        if p.low is not None and p.high is not None:
            if isinstance(p.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(p.low), to_value=float(p.high))]
            else:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(p.low), to_value=int(p.high), step=1)]
        node.declare_parameter(p.name, p.default, descriptor)


def read(node: Node, table: tuple[Parameter, ...]) -> dict[str, Any]:
    """Return the present values of a table, taken at once."""
    names = [p.name for p in table]
    return {n: v.value for n, v in zip(names, node.get_parameters(names), strict=True)}
