# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A controller and a plant, run from many states at once; V along every run comes out.

Each run has its own seed, which all its randomness follows: two controllers from the same states
and seeds meet the same planner noise and the same sensor noise (common random numbers), so that
their difference is the controllers' alone.

Letters: N runs, T control periods, S state channels, O observations, A actions.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pruning_core.agent import Agent, as_tensor
from pruning_core.config import PlannerConfig
from pruning_core.errors import ConfigError, explain
from pruning_core.planner import SeededNoise, TorchPlanner
from pruning_core.plants import Array, Limits, Plant
from pruning_core.progress import Progress, silent
from pruning_core.runtime.errormap import Lyapunov

# Runs planned together: enough to fill a core's vector units, small enough for its caches.
_CHUNK = 64
_SENSOR_STREAM = 1  # second word of the sensor noise's seed; the planner's stream has none


class Controller(Protocol):
    """Decides for N runs at once."""

    def begin(self, seeds: Sequence[int]) -> None:
        """Start N new runs."""

    def act(self, observations: Array) -> Array:
        """(N, O) observations in the plant's units -> (N, A) commands in the plant's units."""

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Go on with these of the runs only."""


class LinearController:
    """u = goal action - K e within the actuators' limits: what the agent is held against."""

    def __init__(self, lyapunov: Lyapunov, limits: Limits) -> None:
        """Take the gain of a stability candidate."""
        self._lyapunov, self._limits = lyapunov, limits

    def begin(self, seeds: Sequence[int]) -> None:
        """Nothing is random here."""

    def act(self, observations: Array) -> Array:
        """See `Controller`."""
        raw = self._lyapunov.goal_action - self._lyapunov.errors(observations) @ self._lyapunov.K.T
        return np.clip(raw, self._limits.action_low, self._limits.action_high)

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Runs do not depend on each other."""


class AgentController:
    """A TD-MPC agent: planning, or its policy alone."""

    def __init__(self, agent: Agent, limits: Limits, planner: PlannerConfig | None) -> None:
        """Take an agent and the planner's settings; None lets the policy act."""
        self._components = agent.components
        self._discount, self._policy_noise = agent.config.discount, agent.config.policy_noise
        self._limits, self._config = limits, planner
        self._planner: TorchPlanner | None = None

    def begin(self, seeds: Sequence[int]) -> None:
        """Seed one stream of planner noise per run."""
        if self._config is not None:
            self._planner = TorchPlanner(self._components, self._config, self._discount,
                                         self._policy_noise, SeededNoise(seeds))

    def act(self, observations: Array) -> Array:
        """See `Controller`."""
        scaled = as_tensor(observations * self._limits.observation_scale)
        if self._planner is not None:
            action = self._planner.plan(scaled)
        else:
            with torch.no_grad():
                action = self._components['policy'](self._components['encoder'](scaled))
        low, high = self._limits.action_low, self._limits.action_high
        command: Array = (low + high) / 2 + (high - low) / 2 * action.double().numpy()
        return np.clip(command, low, high)

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """See `Controller`."""
        if self._planner is not None:
            self._planner.keep(rows.tolist())


@dataclass(frozen=True)
class Conditions:
    """What lies between a controller and its plant.

    Attributes:
        steps: control periods per run.
        delay: whole periods between a decision and its effect; until the first one arrives the
            goal action acts.
        noise: standard deviation of what is added to each observation, as a share of its largest
            value.
        hold: periods in a row that a run has to stay at the goal to have reached it; it ends
            then. 0 runs all to the end.
    """

    steps: int
    delay: int = 0
    noise: float = 0.0
    hold: int = 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: a number is negative, or there are no steps.
        """
        if self.steps < 1 or min(self.delay, self.hold, self.noise) < 0:
            raise ConfigError(
                explain(f'closed-loop runs under {self} were asked for', 'one is out of range',
                        'steps of 1 or more, and delay, noise and hold of 0 or more',
                        'correct the setting')
            )


class Runs(NamedTuple):
    """What happened.

    Attributes:
        values: (T+1, N) V along each run; NaN after it ended.
        reached: (N,) period from which the run stayed at the goal; -1 where it never did.
    """

    values: Array
    reached: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Loop:
    """A plant, a controller and what lies between them, ready to run.

    Attributes:
        plant: the true plant.
        controller: what is tested.
        lyapunov: V, its ball around the goal, and the action that holds the goal.
        conditions: steps, delay, noise and end of each run.
    """

    plant: Plant
    controller: Controller
    lyapunov: Lyapunov
    conditions: Conditions


def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Workers:
    """How runs are spread over processes.

    Attributes:
        processes: 1 stays in this one.
        progress: told after every chunk, under `phase`.
    """

    processes: int = 1
    progress: Progress = field(default=silent)
    phase: str = 'stability'


HERE = Workers()


def simulate(loop: Loop, states: Array, seeds: Sequence[int], workers: Workers = HERE
             ) -> Runs:
    """Run a closed loop from every state.

    Args:
        loop: what to run.
        states: (N, S) initial states.
        seeds: N seeds, one per run.
        workers: processes, and whom to tell.

    Raises:
        ConfigError: there are no states, or not as many seeds.
    """
    states = np.asarray(states, float)
    if states.ndim != 2 or not len(states) or len(seeds) != len(states):
        raise ConfigError(
            explain('closed-loop runs were asked for',
                    f'states of shape {states.shape} and {len(seeds)} seeds',
                    'one row per run, 1 or more, and a seed for each', 'give them')
        )
    pieces = [(loop, states[i:i + _CHUNK], [int(s) for s in seeds[i:i + _CHUNK]])
              for i in range(0, len(states), _CHUNK)]
    done, found = 0, []
    for result in _mapped(pieces, workers.processes):
        found.append(result)
        done += len(result.reached)
        workers.progress(workers.phase, done, len(states))
    return Runs(np.concatenate([r.values for r in found], axis=1),
                np.concatenate([r.reached for r in found]))


def _mapped(pieces: list[tuple[Loop, Array, list[int]]], processes: int) -> Iterator[Runs]:
    if processes <= 1 or len(pieces) == 1:
        yield from map(_run, pieces)
        return
    pool = ProcessPoolExecutor(min(processes, len(pieces)),
                               mp_context=multiprocessing.get_context('spawn'),
                               initializer=_one_thread)
    try:
        yield from pool.map(_run, pieces)
    finally:
        pool.shutdown(cancel_futures=True)


def _run(piece: tuple[Loop, Array, list[int]]) -> Runs:
    """Run one chunk."""
    loop, states, seeds = piece
    c, lyapunov, plant = loop.conditions, loop.lyapunov, loop.plant
    n, actions = len(states), len(plant.limits.action_low)
    values = np.full((c.steps + 1, n), np.nan)
    reached = np.full(n, -1)
    running, inside = np.arange(n), np.zeros(n, int)
    coming = [np.tile(lyapunov.goal_action, (n, 1)) for _ in range(c.delay)]
    noise = _sensor_noise(c, seeds, plant.limits)
    loop.controller.begin(seeds)
    for t in range(c.steps + 1):
        observation = plant.observe(states)
        now = lyapunov.values(observation)
        values[t, running] = now
        inside = np.where(now <= lyapunov.ball, inside + 1, 0)
        ended = inside > c.hold if c.hold else np.zeros(len(running), bool)
        if ended.any():
            reached[running[ended]] = t - c.hold
            stay = np.flatnonzero(~ended)
            running, states, inside = running[stay], states[stay], inside[stay]
            observation, coming = observation[stay], [x[stay] for x in coming]
            loop.controller.keep(stay)
        if t == c.steps or not len(running):
            break
        if noise is not None:
            observation = observation + noise[t][running]
        coming.append(loop.controller.act(observation).reshape(len(running), actions))
        states = plant.step(states, coming.pop(0))
    return Runs(values, reached)


def _sensor_noise(conditions: Conditions, seeds: Sequence[int], limits: Limits) -> Array | None:
    """(T, N, O) disturbances, each run's from its own stream; None without noise."""
    if conditions.noise == 0:
        return None
    width = len(limits.observation_scale)
    drawn = [np.random.default_rng([seed, _SENSOR_STREAM]).standard_normal(
        (conditions.steps, width)) for seed in seeds]
    return conditions.noise * np.stack(drawn, axis=1) / limits.observation_scale
