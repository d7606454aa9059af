# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The planner fitted to a machine: samples, iterations, horizon, threads and precision.

A bundle and a time in, the best choice within it out, measured on this very machine and kept
beside the bundle. A robot cannot try out what a choice does to its return, so the choice is
judged by the bundle's own model: on observations met in training, how much less is the first
action of this choice worth than that of the full plan, the rest of the plan being the full
plan's. Of choices that do not differ beyond the noise of this judgement, the fastest is taken.

The choice is timed as a control loop makes plans, each after a sleep: while a robot waits for its
next period, the processor goes to sleep, too, and others use the caches. On a virtual machine a
plan can take a millisecond more then than in a row. All others are timed in a row, for want of
time, and what the smallest takes longer after a sleep is added.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from pruning_core.errors import ConfigError, explain
from pruning_core.runtime.bench import operations, probes
from pruning_core.runtime.bundle import FIT, Bundle
from pruning_core.runtime.choice import Choice
from pruning_core.runtime.planner import Planner, horizons, precisions
from pruning_core.runtime.pushes import proposals

SCHEMA = 2
_TRIALS = 2  # plans with different noise on each observation
_FEW = 5  # plans that every choice is timed by
_PLANS = 60  # timed before a choice is taken
_ASLEEP_S = 0.1  # before each plan, at most
_WAKINGS = 20  # plans after a sleep that tell what waking costs

Array = npt.NDArray[np.float32]
Told = Callable[[str, int, int], object]


@dataclasses.dataclass(frozen=True)
class Fit:
    """A choice, and what it was made by.

    Attributes:
        choice: of the settings.
        p50_s: median of 60 plans, each after a sleep; `p99_s` the slowest but one of them.
        loss: what its first actions are worth less than the full plan's, by the bundle's model,
            mean over observations, in the plant's reward units; `error` its standard error.
        budget_s: what a plan may take.
        bundle: hash of the bundle.
        machine: what was measured on.
        tried: every choice that was judged: its settings, median and loss.
    """

    choice: Choice
    p50_s: float
    p99_s: float
    loss: float
    error: float
    budget_s: float
    bundle: str
    machine: dict[str, Any]
    tried: tuple[dict[str, Any], ...]


def machine() -> dict[str, Any]:
    """What the time of a plan depends on, beside the bundle."""
    model = platform.processor()
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            key, _, value = line.partition(':')
            if key.strip() in ('model name', 'Model', 'Hardware'):
                model = value.strip()
                break
    except OSError:
        pass
    return {'processor': model, 'architecture': platform.machine(), 'cores': cores(),
            'onnxruntime': onnxruntime.__version__, 'numpy': np.__version__}


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else (
        os.cpu_count() or 1)


def fit(bundle: Bundle, period_s: float = 0.0, share: float = 0.5, *, again: bool = False,
        told: Told = lambda phase, done, total: None) -> Fit:
    """Choose the planner's settings for this machine, or take the choice made before.

    Args:
        bundle: verified; with a folder, the choice is kept there.
        period_s: of control; 0 takes the bundle's.
        share: of the period that a plan may take, at its 99 % quantile.
        again: measure even if there is a choice for this bundle, budget and machine.
        told: of progress: phase, done, total.

    Raises:
        ConfigError: the budget is not above 0, or nothing fits into it.
    """
    budget_s = (period_s or bundle.manifest.period_s) * share
    if not 0 < budget_s < np.inf:
        raise ConfigError(
            explain('a planner was to be fitted', f'a period of {period_s} s and a share of '
                    f'{share}', 'a period of 0 or more and a share above 0', 'correct them')
        )
    if not again and (known := load(bundle, budget_s)) is not None:
        return known
    asleep_s = asleep(period_s or bundle.manifest.period_s)
    found = _search(bundle, budget_s, asleep_s, told)
    if bundle.path is not None:
        _save(found, bundle.path)
    return found


def load(bundle: Bundle, budget_s: float) -> Fit | None:
    """The choice beside a bundle, if it was made for it, within this budget and here."""
    if bundle.path is None:
        return None
    try:
        values = json.loads((bundle.path / FIT).read_text())
        if values.pop('schema') != SCHEMA:
            return None
        values['choice'] = Choice(**values['choice'])
        values['tried'] = tuple(values['tried'])
        found = Fit(**values)
        # What a choice names must be there: the file may have been edited.
        Planner(bundle, **dataclasses.asdict(found.choice))
    except Exception:  # missing, torn or of another version: measure again
        return None
    same = (found.bundle, found.machine) == (bundle.hash, machine())
    return found if same and np.isclose(found.budget_s, budget_s) else None


def _save(found: Fit, folder: Path) -> None:
    """Whole or not at all; a folder that cannot be written costs a measurement, not the robot."""
    temporary = folder / f'.{FIT}.{os.getpid()}'
    try:
        temporary.write_text(json.dumps(
            {'schema': SCHEMA, **dataclasses.asdict(found)}, indent=1) + '\n')
        os.replace(temporary, folder / FIT)
    except OSError:
        temporary.unlink(missing_ok=True)


class Judge:
    """Values first actions by the bundle's own model, against the full plan."""

    def __init__(self, bundle: Bundle, observations: Array) -> None:
        """Make the full plan of every observation."""
        self._planner, self._observations = Planner(bundle), observations
        self._full: list[tuple[Array, Array, float]] = []
        for observation in observations:
            self._planner.reset(1000)
            self._planner.plan(observation)
            latent, plan = self._planner.latent.copy(), self._planner.mean.copy()
            self._full.append((latent, plan, self._planner.value_of(latent, plan)))

    def loss(self, planner: Planner) -> tuple[float, float]:
        """Mean loss of value over observations, and its standard error."""
        losses = []
        for observation, (latent, plan, value) in zip(
                self._observations, self._full, strict=True):
            found = []
            for trial in range(_TRIALS):
                planner.reset(trial)
                planner.plan(observation)
                changed = plan.copy()
                changed[0] = planner.mean[0]
                found.append(self._planner.value_of(latent, changed))
            losses.append(value - float(np.mean(found)))
        return float(np.mean(losses)), float(np.std(losses) / np.sqrt(len(losses)))


def candidates(bundle: Bundle) -> list[Choice]:
    """Every choice, the cheapest first."""
    p, m = bundle.manifest.planner, bundle.manifest
    samples = sorted({max(min(16, p.samples), round(p.samples / 2**i)) for i in range(6)})
    iterations = sorted({i for i in (1, 2, 3, 4, p.iterations) if i <= p.iterations})
    threads = sorted({1, cores()})
    found = [Choice(n, i, h, t, precision) for n in samples for i in iterations
             for h in horizons(bundle) for t in threads for precision in precisions(bundle)]

    def work(c: Choice) -> float:
        policy = max(1, round(p.policy_samples * c.samples / p.samples))
        proposing = dataclasses.replace(p, horizon=c.horizon, policy_samples=policy)
        return operations(m.widths, c.horizon, c.samples,
                          proposals(proposing, len(m.action.names)), c.iterations)

    return sorted(found, key=work)


def plan_times(planner: Planner, observations: Array, plans: int, asleep_s: float = 0.0
               ) -> list[float]:
    """Seconds of so many plans, on the observations in turn, with a sleep before each."""
    took = []
    for i in range(plans):
        if asleep_s:
            time.sleep(asleep_s)
        took.append(planner.plan(observations[i % len(observations)]).compute_s)
    return took


def _quick(bundle: Bundle, choice: Choice, observations: Array) -> float:
    """Median seconds of a few plans in a row."""
    planner = Planner(bundle, **dataclasses.asdict(choice))
    planner.warm_up(1)
    return float(np.median(plan_times(planner, observations, _FEW)))


def waking(planner: Planner, observations: Array, asleep_s: float) -> float:
    """Seconds that a plan takes longer after a sleep than in a row, by medians.

    Args:
        planner: warmed up; what it would do next changes.
        observations: (any, O) of its plant.
        asleep_s: before each plan; see `asleep`.
    """
    row, slept = (float(np.median(plan_times(planner, observations, _WAKINGS, s)))
                  for s in (0.0, asleep_s))
    return max(0.0, slept - row)


def asleep(period_s: float) -> float:
    """Seconds that a loop of this period is taken to sleep before each plan."""
    return min(period_s, _ASLEEP_S)


def _search(bundle: Bundle, budget_s: float, asleep_s: float, told: Told) -> Fit:
    observations = probes(bundle)
    every = candidates(bundle)
    # Threads and precision change how fast, horizon and samples how much: the fastest way to run
    # each amount is looked for at one size only, and taken for all.
    fastest: dict[tuple[int, str], int] = {}
    sizes = sorted({c.samples for c in every})
    middle = sizes[len(sizes) // 2]
    ways = {(c.horizon, c.precision) for c in every}
    for done, (horizon, precision) in enumerate(sorted(ways)):
        times = {t: _quick(bundle, Choice(middle, 1, horizon, t, precision), observations)
                 for t in {c.threads for c in every}}
        # A second thread must pay clearly: it is the first to suffer from what else runs.
        fastest[horizon, precision] = min(times, key=lambda t: times[t] * (1.0 if t == 1 else 1.2))
        told('threads', done + 1, len(ways))
    open_ = [c for c in every if fastest[c.horizon, c.precision] == c.threads]
    smallest = Planner(bundle, **dataclasses.asdict(open_[0]))
    smallest.warm_up()
    waking_s = waking(smallest, observations, asleep_s)
    timed: list[tuple[Choice, float]] = []
    for done, choice in enumerate(open_):
        slower_known = any(t > budget_s and _dominates(c, choice) for c, t in timed)
        seconds = float('inf') if slower_known else (
            waking_s + _quick(bundle, choice, observations))
        timed.append((choice, seconds))
        told('timing', done + 1, len(open_))
    fitting = [(c, t) for c, t in timed if t <= budget_s]
    if not fitting:
        fastest_s = min(t for _, t in timed)
        raise ConfigError(
            explain(f'a plan within {budget_s * 1e3:.3g} ms was asked for',
                    f'the smallest takes {fastest_s * 1e3:.3g} ms here',
                    'a longer period, a larger share, or a smaller agent',
                    'prune further (--budget latency_ms=...), or let the policy act alone')
        )
    judge = Judge(bundle, observations)
    judged = []
    for done, (choice, seconds) in enumerate(fitting):
        loss, error = judge.loss(Planner(bundle, **dataclasses.asdict(choice)))
        judged.append((choice, seconds, loss, error))
        told('judging', done + 1, len(fitting))
    least = min(judged, key=lambda x: x[2])
    equal = sorted((x for x in judged if x[2] <= least[2] + least[3]), key=lambda x: x[1])
    rest = sorted((x for x in judged if x not in equal), key=lambda x: x[2])
    tried = tuple({**dataclasses.asdict(c), 'p50_s': t, 'loss': loss}
                  for c, t, loss, _ in judged)
    best: Fit | None = None
    for choice, _, loss, error in [*equal, *rest]:
        planner = Planner(bundle, **dataclasses.asdict(choice))
        planner.warm_up()
        took = plan_times(planner, observations, _PLANS, asleep_s)
        p99_s = sorted(took)[-2]
        found = Fit(choice, float(np.median(took)), p99_s, loss, error, budget_s, bundle.hash,
                    machine(), tried)
        if p99_s <= budget_s:
            return found
        if best is None or p99_s < best.p99_s:
            best = found
    assert best is not None
    return best  # its slowest plans are too slow; the budget of each plan still holds at run time


def _dominates(smaller: Choice, larger: Choice) -> bool:
    """Whether the second does at least as much work in the same way."""
    return (smaller.precision == larger.precision and smaller.threads == larger.threads
            and smaller.samples <= larger.samples and smaller.iterations <= larger.iterations
            and smaller.horizon <= larger.horizon)
