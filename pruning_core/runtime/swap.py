# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Change the model of a running loop, and change it back where it does worse.

In the background, a bundle is opened, compared with what the running one promises, warmed up and
run beside it on live observations; the loop then changes one reference between two ticks. The
model before stays loaded for a window in which misses, failed plans and the stability monitor of
the new one are held against bounds: beyond them the loop changes back by itself.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from pruning_core.errors import BundleError, ConfigError, explain
from pruning_core.runtime import fit
from pruning_core.runtime.bundle import Bundle, Manifest
from pruning_core.runtime.metrics import LatencyStats
from pruning_core.runtime.monitor import StabilityMonitor
from pruning_core.runtime.planner import Planner
from pruning_core.runtime.supervisor import Mode

Observation = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PlanBudget:
    """How a planner is made; 0 takes the bundle's own.

    Attributes:
        fit: part of the period that samples, iterations, threads and more are fitted to. 0: as
            set here.
    """

    samples: int = 0
    iterations: int = 0
    threads: int = 1
    seed: int = 0
    fit: float = 0.0

    def planner(self, bundle: Bundle, measure: bool) -> Planner:
        """Make a planner; see `Planner` for the errors.

        Args:
            bundle: to plan on.
            measure: fit it where that was not done on this machine before; otherwise take what is
                set here. It takes all of the processor, a minute or so.
        """
        known = None
        if self.fit > 0 and measure:
            known = fit.fit(bundle, share=self.fit)
        elif self.fit > 0:
            known = fit.load(bundle, self.fit * bundle.manifest.period_s)
        if known is not None:
            return Planner(bundle, seed=self.seed, **asdict(known.choice))
        return Planner(bundle, seed=self.seed, samples=self.samples, iterations=self.iterations,
                       threads=self.threads)


@dataclass
class Model:
    """One bundle in use, with everything that is counted per bundle."""

    planner: Planner
    monitor: StabilityMonitor
    bundle: Bundle
    origin: str
    compute: LatencyStats = field(default_factory=LatencyStats)
    lateness: LatencyStats = field(default_factory=LatencyStats)
    age: LatencyStats = field(default_factory=LatencyStats)
    watched: bool = True  # on probation when it is taken; not where a person asked for it
    modes: dict[Mode, int] = field(default_factory=lambda: dict.fromkeys(Mode, 0))
    given_up: tuple[int, int] = (0, 0)  # iterations and samples that the last plan did without

    @property
    def hash(self) -> str:
        """Identity of the bundle."""
        return self.bundle.hash


def check_contract(bundle: Bundle, running: Manifest) -> None:
    """Compare what a bundle takes and gives with what the running one does.

    Raises:
        BundleError: signals or period differ.
    """
    for name in ('observation', 'action', 'period_s'):
        ours, theirs = getattr(running, name), getattr(bundle.manifest, name)
        if ours != theirs:
            raise BundleError(
                explain(f'bundle {bundle.hash[:16]} was offered', f'its {name} is {theirs}',
                        f'{ours}, as the running one',
                        'deactivate and configure the controller with this bundle')
            )


def load(bundle: Bundle, origin: str, budget: PlanBudget, *, measure: bool = False
         ) -> tuple[Model, float]:
    """Open a bundle for use and warm it up.

    Args:
        bundle: verified.
        origin: where it came from.
        budget: how its planner is made.
        measure: whether there is time to fit the planner, where that is asked for.

    Returns:
        The model, and the slowest of its first plans in seconds.

    Raises:
        BundleError: its graphs do not load, or do not run together.
        ConfigError: the budget is out of range.
    """
    planner = budget.planner(bundle, measure)
    try:
        slowest_s = planner.warm_up()
    except Exception as error:  # onnxruntime's own classes share no public root
        raise BundleError(
            explain(f'bundle {bundle.hash[:16]} was tried',
                    f'its graphs do not run together ({error})'[:300],
                    'the four graphs of one agent', 'export it again')
        ) from error
    return Model(planner, StabilityMonitor.of(bundle.manifest), bundle, origin), slowest_s


def shadow_run(model: Model, newest: Callable[[], Observation | None], ticks: int,
               typical_s: float, budget_s: float | None = None,
               sleep: Callable[[float], None] = time.sleep,
               clock: Callable[[], float] = time.thread_time) -> int:
    """Let a model plan beside the running one, its commands looked at and thrown away.

    Args:
        model: just loaded.
        newest: returns the newest usable observation, None where there is none.
        ticks: observations to plan on; fewer where they stop coming.
        typical_s: median time the running model needs to plan; NaN where it is not known.
        budget_s: seconds that the loop will give to a plan; None: as long as it takes.
        sleep: for tests.
        clock: of this thread's own work, since it is often made to wait for others; for tests.

    Returns:
        The number of observations it planned on.

    Raises:
        BundleError: a command is not finite, or it cannot keep a period that the running one does.
    """
    period_s = model.bundle.manifest.period_s
    times: list[float] = []
    seen: Observation | None = None
    for _ in range(3 * ticks):
        if len(times) >= ticks:
            break
        values = newest()
        if values is None or values is seen:
            sleep(period_s)
            continue
        seen = values
        began = clock()
        plan = model.planner.plan(values, budget_s)
        times.append(clock() - began)
        if not np.isfinite(plan.action).all():
            raise BundleError(
                explain(f'bundle {model.hash[:16]} was tried on the present observation',
                        f'its command is {plan.action.tolist()}', 'finite numbers',
                        'prune or train again')
            )
        sleep(max(0.0, period_s - plan.compute_s))
    model.planner.reset()
    if len(times) >= 3 and float(np.median(times)) > period_s >= typical_s:
        raise BundleError(
            explain(f'bundle {model.hash[:16]} ran beside the present one',
                    f'a plan takes {float(np.median(times)):.3f} s of this processor',
                    f'at most the period of {period_s:g} s, which the running one keeps',
                    'prune more, or set a smaller planner.samples')
        )
    return len(times)


@dataclass(frozen=True)
class ProbationSettings:
    """Bounds for a new model.

    Attributes:
        window_ticks: ticks that it is watched for; 0: never changed back by itself.
        max_worse: part of these ticks that may miss a deadline or fail to give a plan, beyond the
            part that did before.
        max_stability_loss: by how much the share of windows in which V decreased may fall.
    """

    window_ticks: int = 200
    max_worse: float = 0.05
    max_stability_loss: float = 0.3

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: one is negative.
        """
        if not (self.window_ticks >= 0 and self.max_worse >= 0 and self.max_stability_loss >= 0):
            raise ConfigError(
                explain(f'probation settings {self} were asked for', 'one is out of range',
                        '0 or more', 'correct the parameters')
            )


class ModelSwitch:
    """The models of one loop: the one that acts, the next, and the one before.

    `offer` may be called from any thread; `take` and `judge` belong to the loop.

    Attributes:
        active: acts.
        previous: what `rolled_back` goes back to, while it is kept.
        quarantined: why models were changed back, by hash; they are not offered again by a topic.
        proven: hash of the last model that came through its probation, or that began.
        retired: models that are needed no more; closing one takes milliseconds that no tick has,
            so that somebody else has to clear this.
    """

    def __init__(self, first: Model, settings: ProbationSettings) -> None:
        """Begin with a model that is not on probation."""
        self._settings = settings
        self.active, self.previous = first, None  # type: Model, Model | None
        self._offered: deque[Model] = deque(maxlen=1)  # its operations are atomic
        self.quarantined: dict[str, str] = {}
        self.proven = first.hash
        self.retired: deque[Model] = deque()
        self._recent: deque[int] = deque(maxlen=max(1, settings.window_ticks))
        self._failures = 0
        self._share = math.nan
        self._left = 0  # ticks of probation
        self._allowed, self._share_before = math.inf, math.nan

    @property
    def pending(self) -> Model | None:
        """The model that takes over at the next tick, if there is one."""
        try:
            return self._offered[-1]
        except IndexError:
            return None

    def offer(self, model: Model) -> None:
        """Let a model take over at the next tick; one that was offered before is forgotten."""
        self._offered.append(model)

    def take(self) -> Model:
        """Change the model, if another one is ready, by moving one reference."""
        with contextlib.suppress(IndexError):
            self.use(self._offered.popleft())
        return self.active

    def use(self, other: Model) -> None:
        """Change the model now; another size of plan is not what a rollback goes back from."""
        if other.hash == self.active.hash:
            self._keep(other, self.previous)
            return
        before_it = self.previous
        if not self._left:  # else the one before it is what proved itself, and stays the measure
            before = self._failures / len(self._recent) if self._recent else 0.0
            self._allowed = (before + self._settings.max_worse) * self._settings.window_ticks
            self._share_before = self._share
            before_it = self.active
        self._keep(other, before_it)
        self._left = self._settings.window_ticks if other.watched else 0
        self._forget()
        if not self._left:
            self.proven = other.hash

    def judge(self, failed: bool, share: float) -> str:
        """Take the outcome of one tick; changes back, and says why, where a bound is passed.

        Args:
            failed: whether it missed its deadline, or the model gave no plan that could be used.
            share: of recent windows in which V decreased; NaN where it is not measurable.
        """
        if self._settings.window_ticks:
            if len(self._recent) == self._recent.maxlen:
                self._failures -= self._recent[0]
            self._recent.append(failed)
            self._failures += failed
        self._share = share
        if not self._left:
            return ''
        self._left -= 1
        if self._failures > self._allowed:
            return self._change_back(
                f'{self._failures} of its first {len(self._recent)} ticks failed or came too '
                f'late, allowed {self._allowed:.0f} of {self._settings.window_ticks}')
        if self._left:
            return ''
        loss = self._share_before - share
        if loss > self._settings.max_stability_loss:
            return self._change_back(
                f'V decreased in {share:.0%} of the windows, {self._share_before:.0%} before')
        self.proven = self.active.hash
        return ''

    def _change_back(self, why: str) -> str:
        bad, self._left = self.active, 0
        while len(self.quarantined) >= 32:
            del self.quarantined[next(iter(self.quarantined))]
        self.quarantined[bad.hash] = why
        assert self.previous is not None
        self._keep(self.previous, None)
        self.active.planner.reset()
        self.active.monitor.reset()
        self._forget()
        return f'bundle {bad.hash[:16]} was changed back to {self.active.hash[:16]}: {why}'

    def _keep(self, active: Model, previous: Model | None) -> None:
        """Set both; which of the present ones is neither of them retires."""
        kept = active, previous
        self.retired.extend(m for m in (self.active, self.previous)
                            if m is not None and all(m is not k for k in kept))
        self.active, self.previous = kept

    def _forget(self) -> None:
        self._recent.clear()
        self._failures, self._share = 0, math.nan

    @property
    def on_probation(self) -> bool:
        """Whether the active model is still watched."""
        return self._left > 0
