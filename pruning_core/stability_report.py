# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Every stability figure of one agent or bundle as rows for a person: what `stability` prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruning_core import config as configuration
from pruning_core.bundle_loop import BundleController
from pruning_core.checkpoint import Run
from pruning_core.closed_loop import AgentController, Conditions, Controller, Workers
from pruning_core.decrease import check, pair, reference_level
from pruning_core.errors import ConfigError, explain
from pruning_core.evaluation import evaluation_seeds
from pruning_core.plants import PendulumPlant
from pruning_core.policy_bounds import (
    compare_lipschitz,
    interval_bounds,
    pendulum_box,
)
from pruning_core.progress import Progress
from pruning_core.robustness import SWEEPS, delay_margin, sweep
from pruning_core.runtime.bundle import Bundle
from pruning_core.stability_gate import Judged, leave_failures, require_plant
from pruning_core.value_evidence import value_evidence

_SAMPLES = 20_000  # pairs that the Lipschitz bound is held against
_BOXES = ((0.005, 0.02), (0.02, 0.1), (0.2, 1.0))  # half widths, rad and rad/s


@dataclass(frozen=True)
class Asked:
    """What to test; the meaning of each is that of the option of `stability`."""

    states: int
    near: bool
    periods: int
    samples: int
    iterations: int
    policy: bool
    value: bool
    sweeps: bool
    bounds: bool
    seed: int
    processes: int
    out: Path | None
    against: Run | None


@dataclass(frozen=True)
class Subject:
    """What is tested: an agent or a bundle, on its plant.

    Attributes:
        name: for people.
        controller: with its planner.
        judged: its plant.
        action_repeat: plant steps per decision.
    """

    name: str
    controller: Controller
    judged: Judged
    action_repeat: int


def describe_bundle(bundle: Bundle, asked: Asked, progress: Progress) -> dict[str, Any]:
    """Test a bundle, planning as on the robot.

    Raises:
        AgentError: its plant has no known goal.
        ConfigError: a number cannot be used, or something was asked for that takes an agent.
    """
    for name in ('policy', 'value', 'bounds', 'against'):
        if getattr(asked, name):
            raise ConfigError(explain(
                f'--{name} was given with --bundle', 'it takes an agent, not its export',
                '--states, --near, --periods, --sweeps, --samples, --iterations, --seed, '
                '--processes and --out with a bundle',
                'name the agent that it was exported from: --agent'))
    config = configuration.from_dict(dict(bundle.manifest.config))
    judged = require_plant(config, 'a stability test')
    subject = Subject(
        str(bundle.path), BundleController(bundle, asked.samples, asked.iterations), judged,
        config.env.action_repeat)
    facts = _decrease(subject, None, asked, progress)
    return facts | (_sweeps(subject, asked, progress) if asked.sweeps else {})


def describe_stability(run: Run, asked: Asked, progress: Progress) -> dict[str, Any]:
    """Test an agent.

    Raises:
        AgentError: its plant has no known goal.
        ConfigError: a number cannot be used, or what was asked for does not go together.
    """
    against = asked.against
    if asked.value and (asked.near or asked.bounds or asked.sweeps or against):
        raise ConfigError(
            explain('--value was given', '--near, --bounds, --sweeps or --against beside it',
                    '--value alone: it needs no goal, and they do', 'ask for one at a time'))
    if against and against.config.env.id != run.config.env.id:
        raise ConfigError(
            explain(f"'{run.folder}' was to be tested against '{against.folder}'",
                    f'one is of {run.config.env.id}, the other of {against.config.env.id}',
                    'two agents of one plant', 'name another one with --against'))
    planner = None if asked.policy else run.config.planner.scaled(asked.samples, asked.iterations)
    if asked.value:
        return value_evidence(run.agent, run.config.env, evaluation_seeds(asked.states), planner,
                              progress=progress).to_json()
    judged = require_plant(run.config, 'a stability test')

    def subject(of: Run) -> Subject:
        return Subject(str(of.folder), AgentController(of.agent, judged.plant.limits, planner),
                       judged, run.config.env.action_repeat)

    facts = _decrease(subject(run), subject(against) if against else None, asked, progress)
    if asked.sweeps:
        facts.update(_sweeps(subject(run), asked, progress))
    if asked.bounds:
        facts.update(_bounds(run, judged))
    return facts


def _decrease(subject: Subject, against: Subject | None, asked: Asked, progress: Progress
              ) -> dict[str, Any]:
    judged = subject.judged
    k = judged.lyapunov.steps
    if asked.near:
        level = reference_level(judged.plant, judged.lyapunov, progress=progress)
        conditions = Conditions(k)
    else:
        level, conditions = np.inf, Conditions(asked.periods, hold=k)
    tested = check(judged.loop(subject.controller, conditions), level, asked.states, asked.seed,
                   Workers(asked.processes, progress))
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        leave_failures(asked.out, judged, tested)
    d = tested.decrease
    paired: dict[str, Any] = {}
    if against is not None:
        other = check(judged.loop(against.controller, conditions), level, asked.states, asked.seed,
                      Workers(asked.processes, progress, 'against'))
        found = pair(tested, other)
        paired = {'against': against.name,
                  'its violations': other.decrease.violations,
                  'fails alone': found.alone, 'the other alone': found.other_alone,
                  'difference of the shares': found.difference,
                  '95 % interval': [found.low, found.high]}
    facts: dict[str, Any] = {
        'agent': subject.name, 'states': d.states, 'periods': conditions.steps,
        'V of the states': [round(d.ball, 4), round(d.level, 4)], 'violations': d.violations,
        'violation share': d.share, 'at most (95 %)': d.bound, 'margin': d.margin,
        'largest passing V': d.passing_level, 'states below it': d.passing_states}
    if not asked.near:
        facts['reached the goal and stayed'] = int(tested.reached.sum())
    return {**facts, **paired}


def _need_pendulum(judged: Judged, what: str) -> None:
    if not isinstance(judged.plant, PendulumPlant):
        raise ConfigError(explain(f'{what} were asked for', 'another plant', 'Pendulum-v1',
                                  f'leave --{what} away'))


def _sweeps(subject: Subject, asked: Asked, progress: Progress) -> dict[str, Any]:
    _need_pendulum(subject.judged, 'sweeps')
    facts: dict[str, Any] = {}
    for what in SWEEPS:
        points = sweep(what, subject.controller, subject.judged.lyapunov,
                       Conditions(asked.periods), asked.states, asked.seed,
                       action_repeat=subject.action_repeat,
                       workers=Workers(asked.processes, progress, what))
        for point in points:
            facts[f'{what} {point.value:g}'] = (
                f'{point.share:.1%} reach the goal (at least {point.low:.1%}, 95 %)')
        if what == 'delay':
            facts['delay margin, periods'] = delay_margin(points)
    return facts


def _bounds(run: Run, judged: Judged) -> dict[str, Any]:
    _need_pendulum(judged, 'bounds')
    networks = [run.agent.components['encoder'], run.agent.components['policy']]
    rng = np.random.default_rng(0)
    whole = pendulum_box(np.pi, PendulumPlant.MAX_SPEED)
    whole = whole._replace(low=np.array([-1.0, -1.0, -1.0]), high=np.ones(3))
    rate = compare_lipschitz(networks, whole, _SAMPLES, rng)
    facts: dict[str, Any] = {
        'policy, Lipschitz': f'proven {rate.proven:.3g}, sampled {rate.sampled:.3g}'}
    limit = float(judged.plant.limits.action_high[0])
    for angle, speed in _BOXES:
        box = pendulum_box(angle, speed)
        proven = interval_bounds(networks, box)
        states = rng.uniform([-angle, -speed], [angle, speed], (_SAMPLES, 2))
        policy = AgentController(run.agent, judged.plant.limits, None)
        policy.begin([])
        torque = policy.act(judged.plant.observe(states))
        facts[f'policy, N m within {angle:g} rad, {speed:g} rad/s'] = (
            f'proven {limit * proven.low[0]:.2f} to {limit * proven.high[0]:.2f}, sampled '
            f'{torque.min():.2f} to {torque.max():.2f}')
    return facts
