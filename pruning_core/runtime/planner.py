# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""MPPI over onnxruntime: an observation in, a command within limits out, at any time.

A tick encodes the observation and has plans proposed, by the policy and by pushes
(`plan_start.onnx`), then refines a sampling distribution one fused graph at a time
(`plan_step.onnx`). With a margin of the policy, or with pushes, the refined plan is valued in the
end as they are: the policy acts if that is worth little more, a push if it is worth clearly less.
From the first graph on a valid action exists, so that the planner can stop after any iteration.
With a budget it starts another one only if it is expected to end in time, with fewer samples where
the full number does not fit, and the plan says what was given up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnxruntime

from pruning_core.errors import BundleError, ConfigError, explain
from pruning_core.runtime.bound import BoundGraph, session
from pruning_core.runtime.bundle import (
    PLAN_START,
    PLAN_STEP,
    PLAN_STEP_INT8,
    SHORT_START,
    SHORT_STEP,
    SHORT_STEP_INT8,
    WEIGHTS,
    WORLD_MODEL,
    Bundle,
    PlannerSettings,
)
from pruning_core.runtime.choice import PRECISIONS, Choice
from pruning_core.runtime.pace import Pace
from pruning_core.runtime.pushes import push_noise
from pruning_core.runtime.trace import Trace, state_of, words
from pruning_core.runtime.weights import read

Array = npt.NDArray[np.float32]
HORIZON = 'pruned_controller.horizon'  # key in the metadata of a graph
_INPUTS = {
    'start': {'observation', 'noise'},
    **dict.fromkeys(('step', 'judge'), {
        'latent', 'mean', 'std', 'noise', 'policy_actions', 'policy_values', 'elites'}),
    'model': {'observation', 'latent', 'action'},
}
_SIZES = (1.0, 0.5, 0.25, 0.125)  # shares of the samples that an iteration may be cut down to


@dataclass(frozen=True)
class Plan:
    """What one tick decided.

    Attributes:
        action: (A,) command in the robot's units, within its limits.
        policy_action: (A,) what the policy alone would do, in the same units.
        value: predicted discounted return in the plant's reward units: of the best sample, or,
            with a margin of the policy or with pushes, of the plan that acts.
        reward: predicted reward of the first decision, in the plant's reward units.
        iterations: refinements that were done.
        samples: sampled plans that were valued, in all of them together.
        given_up_iterations: refinements of the settings for which there was no time.
        given_up_samples: sampled plans of the settings for which there was no time.
        residual: distance between the latent that was predicted for now at the last tick and the
            one observed, relative to its size; NaN at the first tick.
        compute_s: seconds from observation to command.
    """

    action: Array
    policy_action: Array
    value: float
    reward: float
    iterations: int
    samples: int
    given_up_iterations: int
    given_up_samples: int
    residual: float
    compute_s: float


@dataclass(frozen=True)
class _Size:
    """One size of iteration: its samples, the noise it draws, its graph and its pace."""

    samples: int
    noise: Array  # (H, N, A)
    values: Array  # (K,)
    graph: BoundGraph
    pace: Pace


@dataclass
class Course:
    """What a planner carries from one decision of a run to the next.

    Attributes:
        rng: of the run's noise.
        mean: (H, A) the last plan.
        predicted: (1, Z) the latent that was foreseen for the next decision; None before there is
            one.
    """

    rng: np.random.Generator
    mean: Array
    predicted: Array | None = None


class Planner:
    """Plans on one bundle, warm-started from the last decision.

    Attributes:
        manifest: of the bundle; `hash` its identity.
        settings: the planner settings in use.
        precision: of the refinements.
    """

    def __init__(self, bundle: Bundle, *, seed: int = 0, samples: int = 0, iterations: int = 0,
                 horizon: int = 0, threads: int = 1, precision: str = 'fp32',
                 clock: Callable[[], float] = time.perf_counter) -> None:
        """Open the graphs, check their contract and allocate every buffer.

        Args:
            bundle: a verified bundle.
            seed: of the sampling noise; same seed and observations, same commands.
            samples: plans per iteration; 0 takes the bundle's default.
            iterations: refinements; 0 takes the bundle's default.
            horizon: decisions looked ahead, one of `horizons(bundle)`; 0 takes the longest.
            threads: for onnxruntime; 1 is best for pruned agents.
            precision: 'fp32', or 'int8' where the bundle has such a graph.
            clock: seconds; for tests.

        Raises:
            BundleError: a graph does not load or does not match the manifest.
            ConfigError: a setting is out of range.
        """
        self.manifest, self.hash = bundle.manifest, bundle.hash
        settings = _settings(bundle.manifest.planner, samples, iterations)
        start, step = _graphs(bundle, horizon or settings.horizon, precision)
        # What integers refined is valued in floats before it is held against what is proposed,
        # which is valued in them, too.
        self._judges = settings.policy_margin > 0 or settings.pushes > 0
        judge = step if not self._judges else _graphs(
            bundle, horizon or settings.horizon, PRECISIONS[0])[1]
        s = self.settings = replace(settings, horizon=horizon or settings.horizon)
        self.precision = precision
        if threads < 1:
            raise ConfigError(explain(f'{threads} planner threads were asked for', 'less than 1',
                                      '1 or more', 'correct the parameter'))
        self._threads, self._clock = threads, clock
        self._rng = np.random.default_rng(seed)
        self._course: Course | None = None  # that is followed
        weights = read(bundle.graphs[WEIGHTS])
        roles = {'start': start, 'step': step, 'judge': judge, 'model': WORLD_MODEL}
        opened = {name: session(bundle.graphs[name], weights.get(name, {}),
                                1 if name == WORLD_MODEL else threads)
                  for name in dict.fromkeys(roles.values())}
        self._check_contract(bundle, {role: opened[name] for role, name in roles.items()}, roles)

        action = self.manifest.action
        o, a = len(self.manifest.observation.names), len(action.names)
        z, = (i.shape[-1] for i in opened[WORLD_MODEL].get_inputs() if i.name == 'latent')
        if type(z) is not int:
            raise BundleError(
                explain(f'{WORLD_MODEL} of bundle {bundle.hash[:16]} was loaded',
                        f'the size of its latent is {z!r}', 'a number', 'export the bundle again')
            )
        self._low, self._high = np.asarray(action.low, 'f4'), np.asarray(action.high, 'f4')
        self._middle, self._half = (self._low + self._high) / 2, (self._high - self._low) / 2
        self._observation = np.zeros((1, o), 'f4')
        # What is proposed: the policy, the policy with noise, pushes.
        self._drawn = np.zeros((s.horizon, s.policy_samples, a), 'f4')
        self._policy_noise = np.concatenate(
            [self._drawn, push_noise(s.horizon, s.pushes, a)], axis=1)
        self._latent = np.zeros((1, z), 'f4')
        self._policy_actions = np.zeros_like(self._policy_noise)
        self._policy_values = np.zeros(self._policy_noise.shape[1], 'f4')
        self._mean, self._next_mean = (np.zeros((s.horizon, a), 'f4') for _ in range(2))
        self._std, self._next_std = (np.zeros((s.horizon, a), 'f4') for _ in range(2))
        self._action, self._reward = np.zeros((1, a), 'f4'), np.zeros((1, 1), 'f4')
        self._predicted = np.zeros((1, z), 'f4')
        self._has_predicted = False
        # Of the last plan; see `trace`.
        self._mean_before = np.zeros_like(self._mean)
        self._noise_before = self._rng.bit_generator.state
        self._done: list[int] = []
        self._compute_s = math.nan
        self._start = BoundGraph(
            opened[start], {'observation': self._observation, 'noise': self._policy_noise},
            {'latent': self._latent, 'policy_actions': self._policy_actions,
             'policy_values': self._policy_values})
        self._model = BoundGraph(
            opened[WORLD_MODEL],
            {'observation': self._observation, 'latent': self._latent, 'action': self._action},
            {'next_latent': self._predicted, 'reward': self._reward})
        counts = sorted({max(1, round(share * s.samples)) for share in _SIZES}, reverse=True)
        self._sizes = [self._bound(opened[step], count) for count in counts]
        # Values the present plan alone: nothing is sampled around it, and proposals do not count.
        self._judged = np.zeros(1, 'f4')
        self._judge = BoundGraph(
            opened[judge],
            {'latent': self._latent, 'mean': self._mean, 'std': np.zeros_like(self._std),
             'noise': np.zeros((s.horizon, 1, a), 'f4'),
             'policy_actions': self._policy_actions,
             'policy_values': np.full_like(self._policy_values, -np.inf),
             'elites': np.ones(1, np.int64)}, {'elite_values': self._judged})
        self._judging = Pace()  # what the refined plan is worth, where that decides
        self._last = Pace()  # from there to the command

    def _bound(self, step: onnxruntime.InferenceSession, samples: int) -> _Size:
        """Bind an iteration of so many samples; elites keep their share."""
        s = self.settings
        elites = min(max(1, round(s.elites * samples / s.samples)),
                     samples + len(self._policy_values))
        noise = np.zeros((s.horizon, samples, len(self._low)), 'f4')
        values = np.zeros(elites, 'f4')
        graph = BoundGraph(
            step,
            {'latent': self._latent, 'mean': self._mean, 'std': self._std, 'noise': noise,
             'policy_actions': self._policy_actions, 'policy_values': self._policy_values,
             'elites': np.asarray([elites], np.int64)},
            {'next_mean': self._next_mean, 'next_std': self._next_std, 'elite_values': values})
        return _Size(samples, noise, values, graph, Pace())

    def _check_contract(self, bundle: Bundle, opened: dict[str, onnxruntime.InferenceSession],
                        names: dict[str, str]) -> None:
        """Compare the inputs and the metadata of the graphs with the manifest."""
        m = bundle.manifest
        for role, graph in opened.items():
            name = names[role]
            inputs = {i.name for i in graph.get_inputs()}
            if inputs != _INPUTS[role]:
                raise BundleError(
                    explain(f'{name} of bundle {bundle.hash[:16]} was loaded',
                            f'its inputs are {", ".join(sorted(inputs))}',
                            ', '.join(sorted(_INPUTS[role])), 'export the bundle again')
                )
            expected = contract(
                m.period_s, len(m.observation.names), len(m.action.names),
                m.planner.horizon if role == 'model' else self.settings.horizon)
            found = graph.get_modelmeta().custom_metadata_map
            wrong = {k: (found.get(k), v) for k, v in expected.items() if found.get(k) != v}
            if wrong:
                key, (was, should) = next(iter(wrong.items()))
                raise BundleError(
                    explain(f'{name} of bundle {bundle.hash[:16]} was loaded',
                            f'its {key} is {was}', f'{should}, as its manifest says',
                            'export the bundle again')
                )

    def reset(self, seed: int | None = None) -> None:
        """Forget the last plan, as when the plant was moved by hand.

        Args:
            seed: starts the noise again, too, as at the beginning of an episode.
        """
        self._mean[:] = 0
        self._has_predicted = False
        if seed is not None:
            self._rng = np.random.default_rng(seed)

    def course(self, seed: int) -> Course:
        """Return the beginning of a run with noise of its own; see `follow`."""
        return Course(np.random.default_rng(seed), np.zeros_like(self._mean))

    def follow(self, course: Course) -> None:
        """Plan for this run from now on, until another one is followed.

        One planner can thus decide for many runs in turn, each as if it were alone.
        """
        before, self._course = self._course, course
        if before is not None:
            before.rng, before.mean = self._rng, self._mean.copy()
            before.predicted = self._predicted.copy() if self._has_predicted else None
        self._rng = course.rng
        self._mean[:] = course.mean
        self._has_predicted = course.predicted is not None
        if course.predicted is not None:
            self._predicted[:] = course.predicted

    def plan(self, observation: npt.ArrayLike, budget_s: float | None = None) -> Plan:
        """Plan one decision.

        Args:
            observation: (O,) in the robot's units.
            budget_s: seconds to stay within, if at least the first graph does; None for all
                iterations.

        Raises:
            ConfigError: the observation has another shape.
        """
        return self._plan(self._checked(observation), budget_s, None)

    def repeat(self, trace: Trace) -> Plan:
        """Make a plan again, whatever was planned before; on the same machine it is the same.

        Raises:
            ConfigError: it was made with other settings, or for another plant.
        """
        sizes = {size.samples: size for size in self._sizes}
        if (trace.choice != self._choice or trace.mean.shape != self._mean.shape
                or not sizes.keys() >= set(trace.samples)
                or len(trace.samples) > self.settings.iterations):
            raise ConfigError(
                explain('a plan was to be made again',
                        f'it was made with {trace.choice}, {trace.mean.shape[1]} actions and '
                        f'refinements of {list(trace.samples)} samples',
                        f'{self._choice}, {self._mean.shape[1]} actions and at most '
                        f'{self.settings.iterations} refinements of {sorted(sizes)} samples',
                        'make a planner with the settings of the trace')
            )
        self._mean[:] = trace.mean
        self._has_predicted = False
        self._rng.bit_generator.state = state_of(trace.noise)
        return self._plan(self._checked(trace.observation), None,
                          [sizes[samples] for samples in trace.samples])

    def trace(self) -> Trace:
        """Return what the last plan came from."""
        return Trace(self.hash, self._choice, np.asarray(self._observation[0], float),
                     self._mean_before.astype(float), words(self._noise_before),
                     tuple(self._done), np.asarray(self._physical(self._action[0]), float),
                     self._compute_s)

    @property
    def _choice(self) -> Choice:
        s = self.settings
        return Choice(s.samples, s.iterations, s.horizon, self._threads, self.precision)

    def _plan(self, observation: npt.NDArray[np.float64], budget_s: float | None,
              again: list[_Size] | None) -> Plan:
        """Plan; `again` are the refinements to be done, None leaves it to the budget."""
        began = self._clock()
        s = self.settings
        self._observation[0] = observation
        self._mean_before[:], self._noise_before = self._mean, self._rng.bit_generator.state
        self._done.clear()
        self._rng.standard_normal(dtype=np.float32, out=self._drawn)
        self._drawn *= s.policy_noise
        self._drawn[:, 0] = 0  # plan 0 is the policy itself
        self._policy_noise[:, :s.policy_samples] = self._drawn
        self._start.run()
        gap = self._surprise()
        self._mean[:-1] = self._mean[1:]  # the last plan, moved on by one decision
        self._mean[-1] = 0
        self._std[:] = s.max_std
        value, done = float(self._policy_values[0]), self._done
        now = self._clock()
        while len(done) < s.iterations:
            size = self._sizes[0]
            if again is not None:
                if len(done) == len(again):
                    break
                size = again[len(done)]
            elif budget_s is not None:
                left = (budget_s - (now - began) - self._judging.expected_s
                        - self._last.expected_s)
                fits = next((x for x in self._sizes if self._expected(x) <= left), None)
                if fits is None:
                    break
                size = fits
            self._rng.standard_normal(dtype=np.float32, out=size.noise)
            size.graph.run()
            self._mean[:], self._std[:] = self._next_mean, self._next_std
            value = float(size.values[0])
            done.append(size.samples)
            before, now = now, self._clock()
            factor = size.pace.observe(now - before)
            for pace in (self._judging, *(x.pace for x in self._sizes)):
                if factor > 1 and pace is not size.pace:
                    pace.slow(factor)
        for size in self._sizes:
            if size.samples not in done:
                size.pace.rest()
        if not done:
            self._mean[:] = self._policy_actions[:, 0]
            self._judging.rest()
        elif self._judges:
            # Many plans made this one: what it is worth itself is not known yet.
            np.clip(self._mean, -1, 1, out=self._mean)
            self._judge.run()
            value = float(self._judged[0])
            before, now = now, self._clock()
            self._judging.observe(now - before)
        value = self._chosen(value)
        # One plan that is not finite must not spoil all later ones through the warm start.
        np.clip(self._mean[0], -1, 1, out=self._action[0])
        if not np.isfinite(self._mean).all():
            self._mean[:] = 0
        command = self._physical(self._action[0])
        self._model.run()
        self._has_predicted = True
        after = self._clock()
        self._last.observe(after - now)
        self._compute_s = after - began
        scale = self.manifest.reward_scale
        return Plan(command, self._physical(self._policy_actions[0, 0]), value / scale,
                    float(self._reward[0, 0]) / scale, len(done), sum(done),
                    s.iterations - len(done), s.iterations * s.samples - sum(done), gap,
                    self._compute_s)

    def _chosen(self, value: float) -> float:
        """Let the policy or a push take the place of the plan, as `planner.chosen` does in torch.

        Args:
            value: of the plan.

        Returns:
            The value of the plan that acts. One whose value is not finite takes no place.
        """
        s = self.settings
        own = float(self._policy_values[0])
        if s.policy_margin and math.isfinite(own) and not value > own + s.policy_margin:
            self._mean[:] = self._policy_actions[:, 0]
            value = own
        if s.pushes:
            best = s.policy_samples + int(np.argmax(self._policy_values[s.policy_samples:]))
            pushed = float(self._policy_values[best])
            if math.isfinite(pushed) and pushed > value + s.push_margin:
                self._mean[:] = self._policy_actions[:, best]
                value = pushed
        return value

    @property
    def mean(self) -> Array:
        """(H, A) the last plan, in [-1, 1]; changed by the next one."""
        return self._mean

    @property
    def latent(self) -> Array:
        """(1, Z) the latent of the last observation; changed by the next one."""
        return self._latent

    def value_of(self, latent: Array, actions: Array) -> float:
        """Discounted return of a plan by the bundle's model, in the plant's reward units.

        The last plan is forgotten.

        Args:
            latent: (1, Z) where it starts.
            actions: (H, A) in [-1, 1].
        """
        self._latent[:], self._mean[:] = latent, actions
        self._judge.run()
        self.reset()
        return float(self._judged[0]) / self.manifest.reward_scale

    def _expected(self, size: _Size) -> float:
        """Seconds of an iteration; one that was never done takes as long as the next larger."""
        larger = self._sizes[:self._sizes.index(size) + 1]
        return next((x.pace.expected_s for x in reversed(larger) if x.pace.expected_s), 0.0)

    def _surprise(self) -> float:
        """Distance between the latent foreseen for now and the one met, relative to its size."""
        if not self._has_predicted:
            return math.nan
        gap = float(np.linalg.norm(self._latent - self._predicted))
        return gap / max(float(np.linalg.norm(self._latent)), 1e-9)

    def warm_up(self, plans: int = 3) -> float:
        """Plan a few times on the middle observation; returns the slowest, in seconds.

        Every size of iteration is run, so that a budget is kept from the first tick on.
        """
        signal = self.manifest.observation
        middle = [(lo + hi) / 2 if math.isfinite(lo) and math.isfinite(hi) else 0.0
                  for lo, hi in zip(signal.low, signal.high, strict=True)]
        state = self._rng.bit_generator.state
        slowest = max(self.plan(middle).compute_s for _ in range(plans))
        for size in self._sizes[1:]:
            for _ in range(plans):
                before = self._clock()
                size.graph.run()
                size.pace.observe(self._clock() - before)
        self._rng.bit_generator.state = state
        self.reset()
        return slowest

    def _checked(self, observation: npt.ArrayLike) -> npt.NDArray[np.float64]:
        values = np.asarray(observation, float)
        names = self.manifest.observation.names
        if values.shape != (len(names),):
            raise ConfigError(
                explain('a plan was asked for', f'an observation of shape {values.shape}',
                        f'({len(names)},): {", ".join(names)}', 'give one number for each')
            )
        return values

    def _physical(self, action: Array) -> Array:
        command: Array = np.clip(self._middle + self._half * action, self._low, self._high)
        return command


def short_horizon(horizon: int) -> int:
    """Decisions that the short variants of the graphs look ahead: half of them, rounded up."""
    return (horizon + 1) // 2


def horizons(bundle: Bundle) -> tuple[int, ...]:
    """The horizons that a bundle has graphs for, the longest first."""
    longest = bundle.manifest.planner.horizon
    return (longest, short_horizon(longest)) if SHORT_STEP in bundle.graphs else (longest,)


def precisions(bundle: Bundle) -> tuple[str, ...]:
    """The precisions that a bundle has graphs for."""
    return PRECISIONS if PLAN_STEP_INT8 in bundle.graphs else PRECISIONS[:1]


def _graphs(bundle: Bundle, horizon: int, precision: str) -> tuple[str, str]:
    """Names of the first graph and of an iteration's."""
    if horizon not in horizons(bundle):
        raise ConfigError(
            explain(f'a horizon of {horizon} was asked for', f'bundle {bundle.hash[:16]} has no '
                    'graph of it', ', '.join(str(h) for h in horizons(bundle)),
                    'choose one of these, or export with another planner.horizon')
        )
    if precision not in precisions(bundle):
        raise ConfigError(
            explain(f"precision '{precision}' was asked for", f'bundle {bundle.hash[:16]} has no '
                    'graph of it', ', '.join(precisions(bundle)), 'choose one of these')
        )
    whole, exact = horizon == bundle.manifest.planner.horizon, precision == 'fp32'
    if whole:
        return PLAN_START, PLAN_STEP if exact else PLAN_STEP_INT8
    return SHORT_START, SHORT_STEP if exact else SHORT_STEP_INT8


def _settings(defaults: PlannerSettings, samples: int, iterations: int) -> PlannerSettings:
    """Change the budget; elites and policy plans keep their share."""
    if samples < 0 or iterations < 0:
        raise ConfigError(
            explain(f'{samples} samples and {iterations} iterations were asked for',
                    'negative numbers', "1 or more, or 0 for the bundle's own",
                    'correct the parameters')
        )
    samples = samples or defaults.samples
    share = samples / defaults.samples
    policy = max(1, round(defaults.policy_samples * share))
    elites = min(max(1, round(defaults.elites * share)), samples + policy)
    return replace(defaults, samples=samples, iterations=iterations or defaults.iterations,
                   elites=elites, policy_samples=policy)


def contract(period_s: float, observations: int, actions: int, horizon: int) -> dict[str, str]:
    """The facts that stand in every graph's own metadata, too."""
    return {'pruned_controller.period_s': repr(float(period_s)),
            'pruned_controller.observations': str(observations),
            'pruned_controller.actions': str(actions),
            HORIZON: str(horizon)}
