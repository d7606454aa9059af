# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Returns of an agent on fixed seeds, paired between agents, with intervals.

Every episode has its own seed for the environment and for the planner's noise, so that two agents
on the same seeds differ only in what they decide (common random numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from pruning_core.agent import Agent, as_tensor
from pruning_core.config import EnvConfig, PlannerConfig
from pruning_core.env import ScaledEnv
from pruning_core.errors import ConfigError, explain
from pruning_core.planner import SeededNoise
from pruning_core.progress import Progress, silent

FIRST_SEED = 1000  # evaluation seeds are 1000, 1001, ...; training never uses them
_BATCH = 10  # episodes planned together: enough to fill the cores, small enough for the caches


@dataclass(frozen=True)
class Evaluation:
    """Returns per seed.

    Attributes:
        seeds: seed of each episode.
        returns: its undiscounted, unscaled return.
        planner: what it was planned with, as of `budget_of`; None where the policy acted alone.
        chatter: mean change of a command from decision to decision, as a share of its range; NaN
            where only the returns are known.
    """

    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    planner: dict[str, float] | None
    chatter: float = math.nan

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of the mean over seeds (Student's t)."""
        return _interval(np.asarray(self.returns), level)

    def to_json(self) -> dict[str, Any]:
        """Return plain values with mean, interval and worst beside them."""
        low, high = self.interval()
        values = asdict(self) | {'chatter': None if math.isnan(self.chatter) else self.chatter}
        return {**values, 'mean': self.mean, 'low': low, 'high': high,
                'std': float(np.std(self.returns)), 'worst': float(np.min(self.returns))}


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    if len(values) < 2:
        return float(values[0]), float(values[0])
    half = float(stats.sem(values) * stats.t.ppf((1 + level) / 2, len(values) - 1))
    return float(values.mean()) - half, float(values.mean()) + half


def evaluation_seeds(count: int) -> tuple[int, ...]:
    """Return the first `count` fixed evaluation seeds."""
    return tuple(range(FIRST_SEED, FIRST_SEED + count))


def evaluate(agent: Agent, env: EnvConfig, seeds: Sequence[int], planner: PlannerConfig | None,
             progress: Progress = silent) -> Evaluation:
    """Run one episode per seed.

    Args:
        agent: the agent to evaluate.
        env: the plant.
        seeds: one per episode; the environment and the planner's noise are seeded with it.
        planner: settings to plan with, or None for the policy alone.
        progress: told after every decision, in hundredths of an episode, under 'evaluate' where
            it plans and 'evaluate policy' where it does not.

    Raises:
        ConfigError: no seeds.
    """
    _require(seeds)
    returns: list[float] = []
    chatter: list[float] = []
    phase = 'evaluate' if planner else 'evaluate policy'
    for first in range(0, len(seeds), _BATCH):
        batch = seeds[first:first + _BATCH]
        told = _Told(progress, phase, first, len(batch), len(seeds))
        act = agent.planner(planner, SeededNoise(batch)).plan if planner else agent.policy
        found, changes = _episodes(env, batch, _on_arrays(act), told)
        returns += found
        chatter += changes
    progress(phase, 100 * len(seeds), 100 * len(seeds), mean=float(np.mean(returns)))
    return Evaluation(tuple(int(s) for s in seeds), tuple(returns),
                      None if planner is None else budget_of(planner), float(np.mean(chatter)))


def budget_of(planner: PlannerConfig) -> dict[str, float]:
    """What of a planner's settings is kept beside returns, to tell which may be compared.

    Margins and pushes only where there are any: results of before there were stay comparable.
    """
    return {name: getattr(planner, name) for name in ('horizon', 'samples', 'iterations')} | (
        {'policy_margin': planner.policy_margin} if planner.policy_margin else {}) | (
        {'pushes': planner.pushes, 'push_margin': planner.push_margin} if planner.pushes else {})


def evaluate_random(env: EnvConfig, seeds: Sequence[int]) -> Evaluation:
    """Run one episode per seed with actions drawn uniformly: what one returns that knows nothing.

    Raises:
        ConfigError: no seeds.
    """
    _require(seeds)
    generators = [np.random.default_rng(int(s)) for s in seeds]
    actions = len(ScaledEnv(env).spec.action_low)

    def act(_: np.ndarray) -> np.ndarray:
        return np.stack([g.uniform(-1, 1, actions) for g in generators])

    returns, chatter = _episodes(env, seeds, act, lambda _: None)
    return Evaluation(tuple(int(s) for s in seeds), tuple(returns), None, float(np.mean(chatter)))


def _require(seeds: Sequence[int]) -> None:
    if not seeds:
        raise ConfigError(explain('an evaluation was asked for', 'zero episodes', '1 or more',
                                  'raise the number of episodes'))


@dataclass(frozen=True)
class _Told:
    """Turns the share done of a batch of episodes into progress of the evaluation, but its end."""

    progress: Progress
    phase: str
    before: int
    batch: int
    episodes: int

    def __call__(self, share: float) -> None:
        done = round(100 * (self.before + share * self.batch))
        if done < 100 * self.episodes:  # the end is told once, with the mean
            self.progress(self.phase, done, 100 * self.episodes)


def _on_arrays(act: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda observation: act(as_tensor(observation)).numpy()


def _episodes(config: EnvConfig, seeds: Sequence[int], act: Callable[[np.ndarray], np.ndarray],
              report: Callable[[float], None]) -> tuple[list[float], list[float]]:
    """Play one episode per seed at once; `act` turns (E, O) observations into (E, A) actions.

    Returns:
        Return and chatter of each.
    """
    environments = [ScaledEnv(config) for _ in seeds]
    observation = np.stack([e.reset(int(s)) for e, s in zip(environments, seeds, strict=True)])
    total, running = np.zeros(len(seeds)), np.ones(len(seeds), bool)
    steps, limit = 0, environments[0].spec.max_decisions or 1000
    changes, decided, before = np.zeros(len(seeds)), np.zeros(len(seeds)), None
    while running.any():
        action = act(observation)
        taken = np.clip(action, -1, 1)
        if before is not None:
            change = np.abs(taken - before).mean(1) / 2  # the range is 2
            changes[running] += change[running]
        decided += running
        before = taken
        for i in np.flatnonzero(running):
            observation[i], reward, terminated, truncated = environments[i].step(action[i])
            total[i] += reward
            running[i] = not (terminated or truncated)
        steps += 1
        report(min(1.0, steps / limit))
    return [float(t) for t in total], [float(c) for c in changes / np.maximum(decided - 1, 1)]


@dataclass(frozen=True)
class Comparison:
    """Paired difference candidate - reference on common seeds."""

    difference: float
    low: float
    high: float
    loss: float  # share of the reference's mean return that was lost; negative is a gain


def compare(candidate: Evaluation, reference: Evaluation) -> Comparison:
    """Pair two evaluations seed by seed.

    Raises:
        ConfigError: they were not run on the same seeds.
    """
    if candidate.seeds != reference.seeds:
        raise ConfigError(
            explain('two evaluations were compared', 'their seeds differ', 'the same seeds',
                    'evaluate both on the same seeds')
        )
    difference = np.asarray(candidate.returns) - np.asarray(reference.returns)
    low, high = _interval(difference, 0.95)
    scale = max(abs(reference.mean), 1e-9)
    return Comparison(float(difference.mean()), low, high, -float(difference.mean()) / scale)
