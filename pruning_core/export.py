# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""An agent folder in; a proven bundle out.

The graphs are run by onnxruntime on random observations, and on replayed ones where the folder has
a replay, with the same noise as the torch planner. A difference above the tolerance refuses the
export; nothing is written then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning_core import config as configuration
from pruning_core.checkpoint import Run
from pruning_core.config import PlannerConfig
from pruning_core.env import EnvSpec, describe, make_raw
from pruning_core.errors import ExportMismatch, explain
from pruning_core.graphs import AgentGraphs
from pruning_core.layers import OPSET
from pruning_core.networks import count_parameters, plan_macs
from pruning_core.planner import Start, Step, plan_start, plan_step
from pruning_core.runtime.bound import session
from pruning_core.runtime.bundle import (
    PLAN_START,
    PLAN_STEP,
    PLAN_STEP_INT8,
    POLICY,
    SHORT_START,
    SHORT_STEP,
    WEIGHTS,
    WORLD_MODEL,
    Bundle,
    Manifest,
    PlannerSettings,
    Signal,
    write,
)
from pruning_core.runtime.planner import contract, short_horizon
from pruning_core.runtime.weights import read
from pruning_core.stability import candidate

TOLERANCE = 1e-4
_PROBES = 8  # observations of each kind
_FIT_PROBES = 24  # observations that a robot fits its planner on
# Plans whose values differ by less than this may change places between two engines; the refit is
# then a different but equally good one, so such probes say nothing about the graph.
_TIE = 1e-4


@dataclasses.dataclass(frozen=True)
class IntegerParity:
    """What products of 8-bit integers change over one iteration, against 32-bit floats.

    Attributes:
        median_action: median difference of the first action of the next mean, in [-1, 1].
        worst_action: the largest of these.
        values: largest difference of an elite's value, as a share of the elites' mean range.
    """

    median_action: float
    worst_action: float
    values: float


@dataclasses.dataclass(frozen=True)
class Parity:
    """Largest absolute differences between torch and onnxruntime, in scaled units.

    Attributes:
        policy: of the policy's action; `world_model` of its four outputs.
        plan: of latents, plans, values, mean and standard deviation over one iteration, at every
            horizon.
        probes: observations compared at each horizon, and `ties` those left out of the refit (see
            `export`).
        integers: what the 8-bit variant changes, where there is one.
    """

    policy: float
    world_model: float
    plan: float
    probes: int
    ties: int
    integers: IntegerParity | None = None

    @property
    def worst(self) -> float:
        """The largest of all."""
        return max(self.policy, self.world_model, self.plan)


def export(run: Run, folder: Path) -> tuple[Bundle, Parity]:
    """Write the bundle of an agent.

    Args:
        run: an opened agent folder; what its `lineage` says of parent, dense size and gates goes
            into the manifest.
        folder: where the bundle goes.

    Returns:
        The bundle as written, and how exactly it agrees with torch.

    Raises:
        ExportMismatch: torch and onnxruntime differ by more than 1e-4, or a layer is unknown.
        BundleError: `folder` holds something else.
    """
    graphs, manifest, parity = prepare(run)
    return write(folder, manifest, graphs), parity


def prepare(run: Run) -> tuple[dict[str, bytes], Manifest, Parity]:
    """Make and prove graphs and manifest without writing them; see `export`."""
    config, agent = run.config, run.agent
    spec = describe(make_raw(config.env.id, config.env.max_episode_steps), config.env)
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    middle, half = (low + high) / 2, (high - low) / 2
    metadata = contract(spec.period_s, len(spec.observation_names), len(low),
                        config.planner.horizon)
    writer = AgentGraphs(agent.components, config.planner, config.agent.discount,
                         spec.observation_scale, middle.tolist(), half.tolist(), metadata)
    graphs = writer.write(_observations(run, spec, _FIT_PROBES))
    parity = prove(run, spec, graphs)
    if not parity.worst <= TOLERANCE:
        raise ExportMismatch(
            explain('an agent was exported', f'torch and onnxruntime differ by {parity.worst:.1e}',
                    f'at most {TOLERANCE:.0e}',
                    'check the weights for huge or non-finite numbers; nothing was written')
        )
    integers = {} if parity.integers is None else {
        'parity_int8': dataclasses.asdict(parity.integers)}
    p, dense = config.planner, run.lineage.get('dense', {})
    macs = plan_macs(agent.widths, p)
    parameters = count_parameters(agent.components)
    manifest = Manifest(
        env_id=spec.id, period_s=spec.period_s,
        observation=Signal(spec.observation_names, spec.observation_units, spec.observation_low,
                           spec.observation_high, spec.observation_scale),
        action=Signal(spec.action_names, spec.action_units, spec.action_low, spec.action_high,
                      tuple(half.tolist())),
        planner=PlannerSettings(**dataclasses.asdict(p), policy_noise=config.agent.policy_noise),
        discount=config.agent.discount, reward_scale=config.env.reward_scale,
        widths=agent.widths.to_json(), parameters=parameters,
        dense_parameters=dense.get('parameters', parameters), macs=macs,
        dense_macs=dense.get('macs', macs), parent=run.lineage.get('parent'),
        gates={'parity': parity.worst, **integers, **run.lineage.get('gates', {}),
               **({'failed': failed} if (failed := run.lineage.get('failed')) else {})},
        lyapunov=candidate(spec.id, spec.period_s, config.env.action_repeat), opset=OPSET,
        config=configuration.to_dict(config),
        seeds={'training': config.training.seed,
               **({'pruning': config.pruning.seed} if run.lineage else {})}, files={},
    )
    return graphs, manifest, parity


def _drawn(spec: EnvSpec, rng: np.random.Generator, count: int = _PROBES) -> np.ndarray:
    """Observations all over their range, in the robot's units."""
    scale = np.asarray(spec.observation_scale, np.float32)
    return rng.uniform(-1, 1, (count, len(scale))).astype(np.float32) / scale


def _observations(run: Run, spec: EnvSpec, count: int) -> np.ndarray:
    """Observations that the agent met in training; of a run without a replay, any."""
    rng = np.random.default_rng(1)
    if run.replay is None or not len(run.replay):
        return _drawn(spec, rng, count)
    stored = run.replay.observations()
    chosen: np.ndarray = stored[rng.integers(len(stored), size=count)]
    return chosen / np.asarray(spec.observation_scale, np.float32)


def prove(run: Run, spec: EnvSpec, graphs: Mapping[str, bytes]) -> Parity:
    """Compare every graph with torch on the same inputs and the same noise."""
    rng = np.random.default_rng(0)
    agent, p = run.agent, run.config.planner
    net = agent.components
    raw = np.concatenate([_drawn(spec, rng), _observations(run, spec, _PROBES)])
    scaled = raw * np.asarray(spec.observation_scale, np.float32)
    half = (np.asarray(spec.action_high) - np.asarray(spec.action_low)) / 2
    middle = (np.asarray(spec.action_high) + np.asarray(spec.action_low)) / 2

    weights = read(graphs[WEIGHTS])

    def opened(name: str) -> Any:
        return session(graphs[name], weights.get(name, {}))

    with torch.no_grad():
        observation = torch.from_numpy(scaled)
        physical = opened(POLICY).run(None, {'observation': raw})[0]
        policy = _gap((physical - middle) / half, agent.policy(observation))

        actions = rng.uniform(-1, 1, (len(scaled), len(half))).astype(np.float32)
        latent = net['encoder'](observation)
        pair = torch.cat([latent, torch.from_numpy(actions)], dim=-1)
        found = opened(WORLD_MODEL).run(
            ['encoded', 'next_latent', 'reward', 'value'],
            {'observation': raw, 'latent': latent.numpy(), 'action': actions})
        expected = [latent, net['dynamics'](pair), net['reward'](pair),
                    torch.minimum(net['q1'](pair), net['q2'](pair))]
        world = max(_gap(f, e) for f, e in zip(found, expected, strict=True))

        plan, ties = 0.0, 0
        for horizon, start, step in ((p.horizon, PLAN_START, PLAN_STEP),
                                     (short_horizon(p.horizon), SHORT_START, SHORT_STEP)):
            if start in graphs:
                gap, tied = _plan_gap(run, opened(start), opened(step), horizon, scaled, raw, rng)
                plan, ties = max(plan, gap), ties + tied
        integers = None
        if PLAN_STEP_INT8 in graphs:
            integers = _integer_gap(run, opened(PLAN_STEP), opened(PLAN_STEP_INT8), scaled, rng)
    return Parity(policy, world, plan, len(scaled), ties, integers)


def _plan_gap(run: Run, start: Any, step: Any, horizon: int, scaled: np.ndarray, raw: np.ndarray,
              rng: np.random.Generator) -> tuple[float, int]:
    """Difference of both graphs of planning over one horizon, and the number of ties."""
    p = dataclasses.replace(run.config.planner, horizon=horizon)
    net, discount = run.agent.components, run.config.agent.discount
    a = run.agent.widths.actions
    plan, ties = 0.0, 0
    for i in range(len(scaled)):
        noise = rng.standard_normal((horizon, p.policy_samples, a)).astype(np.float32)
        expected = plan_start(net, torch.from_numpy(scaled[i:i + 1]),
                              torch.from_numpy(noise[:, None]), discount)
        found = start.run(None, {'observation': raw[i:i + 1], 'noise': noise})
        plan = max(plan, _gap(found[0], expected.latent),
                   _gap(found[1], expected.policy_actions[:, 0]),
                   _gap(found[2], expected.policy_values[0]))
        gap = _step_gap(run, step, expected, p, rng)
        if gap is None:
            ties += 1
        else:
            plan = max(plan, gap)
    return plan, ties


def _inputs(start: Start, p: PlannerConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What one iteration takes, drawn at random where it is not known from the start."""
    a = start.policy_actions.shape[-1]
    return {
        'mean': rng.uniform(-1, 1, (p.horizon, a)).astype(np.float32),
        'std': rng.uniform(p.min_std, p.max_std, (p.horizon, a)).astype(np.float32),
        'noise': rng.standard_normal((p.horizon, p.samples, a)).astype(np.float32),
        'latent': start.latent.numpy(), 'policy_actions': start.policy_actions[:, 0].numpy(),
        'policy_values': start.policy_values[0].numpy(), 'elites': np.asarray([p.elites])}


def _integer_gap(run: Run, exact: Any, integer: Any, scaled: np.ndarray, rng: np.random.Generator
                 ) -> IntegerParity:
    """What products of integers change, on the same inputs."""
    p, net = run.config.planner, run.agent.components
    means, values, spread = [], [], []
    for observation in scaled:
        noise = torch.from_numpy(rng.standard_normal(
            (p.horizon, 1, p.policy_samples, run.agent.widths.actions)).astype(np.float32))
        start = plan_start(net, torch.from_numpy(observation[None]), noise,
                           run.config.agent.discount)
        inputs = _inputs(start, p, rng)
        one, other = (x.run(['next_mean', 'elite_values'], inputs) for x in (exact, integer))
        means.append(np.abs(one[0][0] - other[0][0]).max())
        values.append(np.abs(one[1] - other[1]).max())
        spread.append(np.ptp(one[1]))
    return IntegerParity(float(np.median(means)), float(np.max(means)),
                         float(np.max(values) / max(float(np.mean(spread)), 1e-9)))


def _step_gap(run: Run, step: Any, start: Start, p: PlannerConfig, rng: np.random.Generator
              ) -> float | None:
    """Difference over one iteration, or None where two plans at the cut are as good as equal."""
    inputs = _inputs(start, p, rng)
    mean = inputs['mean']
    one_more = dataclasses.replace(p, elites=min(p.elites + 1, p.samples + p.policy_samples))

    def reference(config: PlannerConfig) -> Step:
        m, s, n = (torch.from_numpy(inputs[k][:, None]) for k in ('mean', 'std', 'noise'))
        return plan_step(run.agent.components, start, m, s, n, config, run.config.agent.discount)

    best = reference(one_more).elite_values[0]
    expected = reference(p)
    found = step.run(None, inputs)
    values = _gap(found[3], expected.elite_values[0])
    # The refit, from the graph's own elites: proven whichever of equally good plans they are.
    elite, value = torch.from_numpy(found[2]), torch.from_numpy(found[3])
    weight = torch.softmax(p.temperature * (value - value[:1]), dim=0)[None, :, None]
    centre = (weight * elite).sum(1)
    spread = (weight * (elite - centre[:, None]) ** 2).sum(1).sqrt().clamp(p.min_std, p.max_std)
    values = max(values, _gap(found[1], spread), _gap(
        found[0], p.momentum * torch.from_numpy(mean) + (1 - p.momentum) * centre))
    if len(best) > p.elites and float(best[p.elites - 1] - best[p.elites]) < _TIE:
        return None if values <= TOLERANCE else values
    return max(values, _gap(found[0], expected.mean[:, 0]), _gap(found[1], expected.std[:, 0]))


def _gap(found: np.ndarray, expected: Tensor) -> float:
    with np.errstate(invalid='ignore'):  # of numbers that are not finite; they count as infinite
        gap = np.abs(np.asarray(found) - expected.numpy())
    return float('inf') if not np.isfinite(gap).all() else float(gap.max())
