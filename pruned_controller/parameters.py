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
    Parameter('store_keep', 20, 'How many of them; older ones are removed, but none that may be '
              'needed. 0: all', 0, 100_000, fixed=True),
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
    Parameter('planner.budget', 0.0, 'Seconds from when the tick was due in which a plan must be '
              'made, stopping early with the best so far; 0: all iterations, however long', 0.0,
              60.0),
    Parameter('planner.seed', 0, 'Seed of the sampling noise', 0, 2**31 - 1, fixed=True),
    Parameter('observation_timeout', 0.5, 'Seconds after which an observation is stale', 1e-3,
              60.0, fixed=True),
    Parameter('hold_ticks', 5, 'Ticks the last command is held without an observation', 0, 10_000,
              fixed=True),
    Parameter('max_consecutive_misses', 0, 'Overruns in a row before the policy acts alone, for '
              'recover_ticks ticks, and as many more before the fallback; 0: never', 0, 10_000,
              fixed=True),
    Parameter('recover_ticks', 20, 'Good ticks before the fallback is left or planning is tried '
              'again; 0: only by ~/reset_fallback', 0, 100_000, fixed=True),
    Parameter('blend_ticks', 5, 'Ticks over which the return from the fallback is blended', 0,
              10_000, fixed=True),
    Parameter('proof_ticks', 3, 'Good ticks in a row before the first plan acts; the fallback '
              'acts until then', 0, 10_000, fixed=True),
    Parameter('command_rate', 0.0, 'Fastest change of a command, in full ranges per second; 0: '
              'unlimited', 0.0, 1e6, fixed=True),
    Parameter('max_residual', 0.0, 'Largest relative error of the predicted latent before the '
              'policy acts alone; 0: not checked', 0.0, 1e6, fixed=True),
    Parameter('residual_ticks', 3, 'Ticks in a row beyond max_residual that are needed', 1, 10_000,
              fixed=True),
    Parameter('envelope_margin', 0.1, 'Part of its width by which an observation may leave the '
              "bundle's limits before the fallback acts; negative: not checked", -1.0, 1e6,
              fixed=True),
    Parameter('envelope', [''], "Narrower or wider limits: 'name low high', such as 'angular "
              "velocity -6 6'", fixed=True),
    Parameter('fallback', 'zero', "What acts in fallback: 'zero' or 'lqr'", fixed=True),
    Parameter('phase', 0.003, 'Seconds after an observation at which ticks are aimed; negative: '
              'no phase lock', -1.0, 1.0, fixed=True),
    Parameter('publish_every', 1, 'Ticks between two messages on the metric topics', 1, 100_000,
              fixed=True),
    Parameter('autostart', False, 'Configure and activate at the start, without a manager',
              fixed=True),
    Parameter('resume', False, 'Begin with the last bundle that proved itself after this one, as '
              'after a crash', fixed=True),
    Parameter('public_key', '', 'PEM file; bundles must be signed with its private half. Empty: '
              'not checked', fixed=True),
    Parameter('swap.trial', True, 'Try a new bundle in a process of its own first', fixed=True),
    Parameter('swap.shadow_ticks', 10, 'Observations that a new bundle plans on beside the '
              'running one, before it acts', 0, 10_000, fixed=True),
    Parameter('swap.window_ticks', 200, 'Ticks that a new bundle is watched for, and changed back '
              'where it does worse; 0: never', 0, 100_000, fixed=True),
    Parameter('swap.max_worse', 0.05, 'Part of these ticks that may fail or miss deadlines, '
              'beyond what did before', 0.0, 1.0, fixed=True),
    Parameter('swap.max_stability_loss', 0.3, 'By how much the share of windows in which V '
              'decreased may fall', 0.0, 1.0, fixed=True),
    Parameter('realtime.cores', '', "CPU cores of the control thread, such as '1' or '2-3'; "
              'empty: any', fixed=True),
    Parameter('realtime.priority', 0, 'SCHED_FIFO priority of the control thread; 0: an ordinary '
              'thread', 0, 99, fixed=True),
    Parameter('realtime.lock_memory', False, 'Keep every page of the process in memory',
              fixed=True),
    Parameter('realtime.freeze_gc', True, 'Collect garbage only in the slack of the loop',
              fixed=True),
    Parameter('realtime.switch_interval', 0.0001, 'Seconds that another Python thread may keep '
              "the interpreter; 0: Python's own 0.005", 0.0, 1.0, fixed=True),
    Parameter('fault_injection.enabled', False, 'Let the parameters below make faults; for tests, '
              'never on a robot', fixed=True),
    Parameter('fault_injection.observation', '', 'nan, inf, short, long, denormal, huge, drop, '
              'old, future, reorder or jump; empty: none'),
    Parameter('fault_injection.plan', '', 'nan, inf, huge, short, raise or crash; empty: none'),
    Parameter('fault_injection.stall', 0.0, 'Seconds by which each plan takes longer', 0.0, 60.0),
    Parameter('fault_injection.ticks', 0, 'Ticks that a fault of the plan lasts; 0: until changed',
              0, 1_000_000),
)

PRUNER = (
    Parameter('agent', 'pendulum_dense', 'Agent to prune: run folder, or a shipped name'),
    Parameter('config', '', 'YAML file for ~/train'),
    Parameter('runs', '~/.ros/pruned_controller/runs', 'Where jobs keep their folders',
              fixed=True),
    Parameter('sparsity', 0.95, 'Share of the parameters to remove'),
    Parameter('score', 'combined', 'Importance to rank by: gradient, fisher, bayesian, combined, '
              'ucb, random, l1, l2, lamp, taylor, activation or ablation'),
    Parameter('recovery_updates', 500, 'Gradient updates after the cut', 0, 10_000_000),
    Parameter('gate_return_loss', 0.1, 'Largest loss of return, as a share, to be published', 0.0,
              1e6),
    Parameter('gate_latency_share', 1.0, 'Part of the period the slowest 1 % of plans may take; '
              '0: no gate', 0.0, 1e6),
    Parameter('gate_violation', 0.05, 'Largest share of starts, at 95 % confidence, from which '
              'the goal is not reached; 0: no gate', 0.0, 1.0),
    Parameter('seed', 0, 'Seed of recovery', 0, 2**31 - 1),
    Parameter('nice', 10, 'How far jobs step back behind the controller', 0, 19, fixed=True),
    Parameter('cores', '', "CPU cores of jobs, such as '1-3', away from the controller's; empty: "
              'any', fixed=True),
    Parameter('signing_key', '', 'PEM file of a private key that bundles are signed with; empty: '
              'unsigned', fixed=True),
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
    Parameter('command_timeout', 0.0, 'Seconds after which a command no longer acts, and the one '
              'nearest to zero does; 0: the last one acts on', 0.0, 3600.0, fixed=True),
    Parameter('fault_injection.enabled', False, 'Publish faulty observations; for tests',
              fixed=True),
    Parameter('fault_injection.observation', '', 'nan, inf, short, long, denormal, huge, drop, '
              'old, future, reorder or jump; empty: none', fixed=True),
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
