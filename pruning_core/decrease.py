# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The finite-step decrease test: V along runs in; violations, bound, margin and level out.

From a state in the sublevel set V <= c, outside the small ball around the goal, V must have fallen
to (1 - delta) V, or into the ball, K periods later (method section 5; Aeyels and Peuteman 1998 for
why K steps suffice). States are drawn, so that the result is statistical: the violation share has
a one-sided 95 % Clopper-Pearson bound, which holds for the distribution the states came from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, sem, t

from pruning_core.closed_loop import (
    HERE,
    Conditions,
    LinearController,
    Loop,
    Runs,
    Workers,
    simulate,
)
from pruning_core.errors import ConfigError, explain
from pruning_core.plants import Plant
from pruning_core.progress import Progress, silent
from pruning_core.runtime.errormap import Lyapunov

Array = npt.NDArray[np.float64]
LEVEL = 0.95  # of every one-sided bound
SEED_STRIDE = 1_000_000  # runs of different tests share no seed
_REFERENCE_STATES = 20_000
_RESERVE = 0.9  # of the level at which the linear law was first seen to fail
_TRIES = 200  # rounds of rejection sampling


def upper_bound(failures: int, trials: int, level: float = LEVEL) -> float:
    """One-sided Clopper-Pearson upper bound of a failure probability.

    Raises:
        ConfigError: no trials, or more failures than trials.
    """
    if not 0 <= failures <= trials or trials < 1:
        raise ConfigError(
            explain('a Clopper-Pearson bound was asked for', f'{failures} of {trials}',
                    '0 to all of 1 or more trials', 'test from at least one state')
        )
    return 1.0 if failures == trials else float(beta.ppf(level, failures + 1, trials - failures))


def lower_bound(successes: int, trials: int, level: float = LEVEL) -> float:
    """One-sided Clopper-Pearson lower bound of a success probability; see `upper_bound`."""
    return 1.0 - upper_bound(trials - successes, trials, level)


@dataclass(frozen=True)
class Decrease:
    """Outcome of one test.

    Attributes:
        level: c, the largest V that was tested from; `ball` the smallest.
        states: how many states were tested; `violations` of them failed.
        share: violations over states; `bound` its one-sided 95 % upper bound.
        margin: least 1 - V(t+K)/V(t) over runs that did not end in the ball, negative where V
            grew; 1 where all ended there.
        passing_level: the largest c such that no tested state below it failed.
        passing_states: how many were tested below it.
    """

    level: float
    ball: float
    states: int
    violations: int
    share: float
    bound: float
    margin: float
    passing_level: float
    passing_states: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a margin that is not finite becomes None."""
        return {**asdict(self), 'margin': self.margin if np.isfinite(self.margin) else None}


def violated(lyapunov: Lyapunov, before: Array, after: Array) -> npt.NDArray[np.bool_]:
    """Whether V failed to fall from `before` to `after`, K periods later; NaN counts as failed."""
    return ~(after <= np.maximum((1 - lyapunov.decrease) * before, lyapunov.ball))


def measure(lyapunov: Lyapunov, before: Array, after: Array, level: float) -> Decrease:
    """Judge V at the start and K periods later; states in the ball or above `level` do not count.

    Args:
        lyapunov: delta and the ball.
        before: (N,) V at the start.
        after: (N,) V after `lyapunov.steps` periods.
        level: c; infinite for all states, and then the result has the largest V tested from.

    Raises:
        ConfigError: no state lies between the ball and the level.
    """
    tested = (before > lyapunov.ball) & (before <= level)
    before, after = before[tested], after[tested]
    if len(before):
        level = min(level, float(before.max())) if np.isinf(level) else level
    failed = violated(lyapunov, before, after)
    bound = upper_bound(int(failed.sum()), len(before))
    outside = ~(after <= lyapunov.ball)
    kept = 1 - after[outside] / before[outside]
    worst = float(before[failed].min()) if failed.any() else np.inf
    below = before[before < worst]
    return Decrease(
        level=float(level), ball=lyapunov.ball, states=len(before),
        violations=int(failed.sum()), share=float(failed.mean()), bound=bound,
        margin=float(np.nan_to_num(kept, nan=-np.inf).min()) if len(kept) else 1.0,
        passing_level=float(below.max()) if failed.any() and len(below) else
        (lyapunov.ball if failed.any() else float(level)),
        passing_states=len(below))


def draw(plant: Plant, lyapunov: Lyapunov, level: float, count: int, rng: np.random.Generator
         ) -> Array:
    """Draw states uniformly (in the error) from the sublevel set without its ball.

    Args:
        plant: gives the reach of the errors and the states that have them.
        lyapunov: V and its ball.
        level: c; infinite for all states within reach.
        count: how many.
        rng: draws them.

    Returns:
        (count, S) states.

    Raises:
        ConfigError: next to no state within reach lies between the ball and the level.
    """
    if not (count >= 1 and level > lyapunov.ball):
        raise ConfigError(
            explain(f'{count} states with V up to {level:g} were asked for',
                    f'the ball around the goal ends at {lyapunov.ball:g}',
                    '1 or more states, and a level above the ball', 'raise the level')
        )
    # The box around the ellipsoid e'Pe <= c, no larger than the reach.
    half = np.minimum(plant.reach, np.sqrt(level * np.diag(np.linalg.inv(lyapunov.P))))
    found: list[Array] = []
    for _ in range(_TRIES):
        states = plant.states_at(rng.uniform(-half, half, (2 * count, len(half))))
        values = lyapunov.values(plant.observe(states))
        found.append(states[(values > lyapunov.ball) & (values <= level)])
        if sum(map(len, found)) >= count:
            return np.concatenate(found)[:count]
    raise ConfigError(
        explain(f'{count} states with V from {lyapunov.ball:g} to {level:g} were asked for',
                f'{sum(map(len, found))} of {2 * count * _TRIES} drawn within reach',
                'a level well above the ball', 'raise the level, or lower the ball')
    )


def reference_level(plant: Plant, lyapunov: Lyapunov, seed: int = 0,
                    progress: Progress = silent) -> float:
    """The level on which agents are judged: where the linear law within its limits still passes.

    It depends on the plant alone, so that all agents are asked the same, and there is a controller
    that passes. A tenth is kept in reserve, as the boundary is only known from samples.
    `progress` hears of it under 'reference': a plant that is stepped one run at a time takes a
    minute and more.
    """
    rng = np.random.default_rng(seed)
    states = draw(plant, lyapunov, np.inf, _REFERENCE_STATES, rng)
    loop = Loop(plant, LinearController(lyapunov, plant.limits), lyapunov,
                Conditions(lyapunov.steps))
    values = simulate(loop, states, range(len(states)),
                      Workers(progress=progress, phase='reference')).values
    found = measure(lyapunov, values[0], values[-1], np.inf)
    return _RESERVE * found.passing_level if found.violations else float(values[0].max())


@dataclass(frozen=True, eq=False)
class Tested:
    """A test and what it was made of.

    Attributes:
        decrease: the outcome.
        states: (N, S) initial states; run i had seed `seeds[i]`.
        seeds: (N,).
        before: (N,) V at the start; `after` K periods later.
        failed: (N,) whether V failed to fall.
        reached: (N,) whether the run stayed at the goal as long as the conditions' `hold` asks.
    """

    decrease: Decrease
    states: Array
    seeds: npt.NDArray[np.int64]
    before: Array
    after: Array
    failed: npt.NDArray[np.bool_]
    reached: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Paired:
    """Two agents from the same states with the same noise.

    Attributes:
        alone: states from which the first one fails and the second does not.
        other_alone: the other way round.
        difference: share of states that the first one fails more than the second; `low` and
            `high` its 95 % interval (Student's t over the states).
    """

    alone: int
    other_alone: int
    difference: float
    low: float
    high: float


def pair(first: Tested, second: Tested) -> Paired:
    """Compare two tests state by state.

    Raises:
        ConfigError: they were not made from the same states with the same seeds.
    """
    if not (np.array_equal(first.states, second.states)
            and np.array_equal(first.seeds, second.seeds)):
        raise ConfigError(
            explain('two stability tests were compared', 'their states or seeds differ',
                    'the same states and seeds', 'test both with the same numbers and seed')
        )
    gap = first.failed.astype(float) - second.failed.astype(float)
    half = 0.0 if len(gap) < 2 else float(sem(gap) * t.ppf(0.975, len(gap) - 1))
    return Paired(int((gap > 0).sum()), int((gap < 0).sum()), float(gap.mean()),
                  float(gap.mean()) - half, float(gap.mean()) + half)


def last_values(runs: Runs) -> Array:
    """(N,) V at the end of each run: after all its periods, or when it had stayed at the goal."""
    last: Array = runs.values[-1].copy()
    done = runs.reached >= 0
    columns = runs.values[:, done]
    final = len(columns) - 1 - np.isfinite(columns[::-1]).argmax(axis=0)
    last[done] = columns[final, np.arange(columns.shape[1])]
    return last


def check(loop: Loop, level: float, count: int, seed: int, workers: Workers = HERE
          ) -> Tested:
    """Draw states from the sublevel set, run the loop from each, and judge.

    Args:
        loop: its conditions' steps are K of this test; with `hold`, runs that stay so long at the
            goal end there.
        level: c; infinite for all states within reach.
        count: states to draw.
        seed: draws them and seeds every run; the same seed gives the same states and noise.
        workers: processes, and whom to tell.
    """
    states = draw(loop.plant, loop.lyapunov, level, count, np.random.default_rng(seed))
    seeds = SEED_STRIDE * seed + np.arange(count)
    runs = simulate(loop, states, seeds.tolist(), workers)
    before, after = runs.values[0], last_values(runs)
    return Tested(measure(loop.lyapunov, before, after, level), states, seeds, before, after,
                  violated(loop.lyapunov, before, after), runs.reached >= 0)
