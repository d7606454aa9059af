# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Beyond the nominal plant: a controller on plants that are heavier, longer, weaker, noisy, late.

Each sweep moves one thing and asks the same question from the same states with the same noise:
from which share of them does the controller reach the goal and stay? The delay sweep is tied to
planning time by `delay_of`: a plan that takes longer than the period arrives whole periods late,
which is what a smaller agent buys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pruning_core.closed_loop import HERE, Conditions, Controller, Loop, Workers
from pruning_core.decrease import check, lower_bound
from pruning_core.errors import ConfigError, explain
from pruning_core.plants import NOMINAL, Pendulum, PendulumPlant, Plant
from pruning_core.runtime.errormap import Lyapunov

# What the controller must still reach for a delay to count as tolerated.
TOLERATED = 0.95
SWEEPS: Mapping[str, tuple[float, ...]] = {
    'mass': (0.6, 0.8, 1.0, 1.2, 1.4), 'length': (0.8, 0.9, 1.0, 1.1, 1.2),
    'torque': (0.6, 0.8, 1.0, 1.2), 'noise': (0.0, 0.01, 0.02, 0.05), 'delay': (0, 1, 2),
}


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes:
        what: of `SWEEPS`; `value` relative to the nominal plant, for noise as a share of each
            observation's largest value, for delay in periods.
        states: runs; `reached` of them got to the goal and stayed.
        low: one-sided 95 % lower bound of that share.
    """

    what: str
    value: float
    states: int
    reached: int
    low: float

    @property
    def share(self) -> float:
        """Share of runs that got to the goal and stayed."""
        return self.reached / self.states

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), 'share': self.share}


def varied(what: str, value: float, conditions: Conditions, action_repeat: int = 1
           ) -> tuple[PendulumPlant, Conditions]:
    """The pendulum and its conditions with one thing moved.

    Raises:
        ConfigError: the sweep is unknown.
    """
    parameters = NOMINAL
    if what in ('mass', 'length', 'torque'):
        name = {'mass': 'mass_kg', 'length': 'length_m', 'torque': 'torque_nm'}[what]
        parameters = Pendulum(**{**asdict(NOMINAL), name: value * getattr(NOMINAL, name)})
    elif what == 'noise':
        conditions = replace(conditions, noise=value)
    elif what == 'delay':
        conditions = replace(conditions, delay=int(value))
    else:
        raise ConfigError(explain(f"a sweep of '{what}' was asked for", 'it is not known',
                                  ', '.join(SWEEPS), 'choose one of these'))
    return PendulumPlant(parameters, action_repeat), conditions


def measure_point(what: str, value: float, plant: Plant, controller: Controller,
                  lyapunov: Lyapunov, conditions: Conditions, states: int, seed: int,
                  workers: Workers = HERE) -> Point:
    """Run a controller on one plant; the states and the noise depend on the seed alone."""
    loop = Loop(plant, controller, lyapunov, replace(conditions, hold=lyapunov.steps))
    tested = check(loop, np.inf, states, seed, workers)
    reached = int(tested.reached.sum())
    return Point(what, float(value), states, reached, lower_bound(reached, states))


def sweep(what: str, controller: Controller, lyapunov: Lyapunov, conditions: Conditions,
          states: int, seed: int, *, values: Sequence[float] = (), action_repeat: int = 1,
          workers: Workers = HERE) -> list[Point]:
    """Move one thing over its values, on the pendulum.

    Args:
        what: of `SWEEPS`.
        controller: what is tested.
        lyapunov: V of the nominal plant; the goal is the same on all.
        conditions: of the nominal plant; `steps` limit each run.
        states: runs per value, drawn from the whole reach.
        seed: of states and noise.
        values: what to try; empty for those of `SWEEPS`.
        action_repeat: plant steps per decision.
        workers: processes, and whom to tell.
    """
    points = []
    for value in values or SWEEPS[what]:
        plant, changed = varied(what, value, conditions, action_repeat)
        points.append(measure_point(what, value, plant, controller, lyapunov, changed, states,
                                    seed, workers))
    return points


def delay_margin(points: Sequence[Point]) -> int:
    """The largest delay in periods up to which the goal is reached from most states.

    Args:
        points: of a delay sweep from 0 on.

    Returns:
        -1 where that fails without any delay.
    """
    margin = -1
    for point in sorted(points, key=lambda p: p.value):
        if point.share < TOLERATED:
            break
        margin = int(point.value)
    return margin


def delay_of(latency_s: float, period_s: float) -> int:
    """Whole periods by which commands come late when planning takes so long."""
    return math.floor(latency_s / period_s)
