# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""MPPI over onnxruntime: an observation in, a command within limits out.

A tick encodes the observation and lets the policy propose plans (`plan_start.onnx`), then refines
a sampling distribution one fused graph at a time (`plan_step.onnx`). From the first graph on a
valid action exists, so that the planner can stop after any iteration: with a budget it starts
another one only if the slowest recent iteration would still fit.
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
from pruning_core.runtime.bundle import (
    PLAN_START,
    PLAN_STEP,
    WORLD_MODEL,
    Bundle,
    PlannerSettings,
)

Array = npt.NDArray[np.float32]
_INPUTS = {
    PLAN_START: {'observation', 'noise'},
    PLAN_STEP: {'latent', 'mean', 'std', 'noise', 'policy_actions', 'policy_values', 'elites'},
    WORLD_MODEL: {'observation', 'latent', 'action'},
}
_FORGETTING = 0.98  # per plan; how fast the slowest iteration seen is forgotten


@dataclass(frozen=True)
class Plan:
    """What one tick decided.

    Attributes:
        action: (A,) command in the robot's units, within its limits.
        policy_action: (A,) what the policy alone would do, in the same units.
        value: predicted discounted return of the best plan, in the plant's reward units.
        reward: predicted reward of the first decision, in the plant's reward units.
        iterations: refinements that were done.
        samples: plans valued per refinement.
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
    residual: float
    compute_s: float


def session(content: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a graph for a control loop: fixed threads, none of them spinning between ticks.

    Raises:
        BundleError: onnxruntime does not take the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime's own classes share no public root
        raise BundleError(
            explain('an ONNX graph was loaded', f'onnxruntime refused it ({error})'[:500],
                    f'a graph that onnxruntime {onnxruntime.__version__} reads',
                    'update onnxruntime, or export the bundle again')
        ) from error


class Planner:
    """Plans on one bundle, warm-started from the last decision.

    Attributes:
        manifest: of the bundle; `hash` its identity.
        settings: the planner settings in use.
    """

    def __init__(self, bundle: Bundle, *, seed: int = 0, samples: int = 0, iterations: int = 0,
                 threads: int = 1, clock: Callable[[], float] = time.perf_counter) -> None:
        """Open the graphs, check their contract and allocate every buffer.

        Args:
            bundle: a verified bundle.
            seed: of the sampling noise; same seed and observations, same commands.
            samples: plans per iteration; 0 takes the bundle's default.
            iterations: refinements; 0 takes the bundle's default.
            threads: for onnxruntime; 1 is best for pruned agents.
            clock: seconds; for tests.

        Raises:
            BundleError: a graph does not load or does not match the manifest.
            ConfigError: a setting is out of range.
        """
        self.manifest, self.hash = bundle.manifest, bundle.hash
        self.settings = _settings(bundle.manifest.planner, samples, iterations)
        if threads < 1:
            raise ConfigError(explain(f'{threads} planner threads were asked for', 'less than 1',
                                      '1 or more', 'correct the parameter'))
        self._clock = clock
        self._rng = np.random.default_rng(seed)
        self._start = session(bundle.graphs[PLAN_START], threads)
        self._step = session(bundle.graphs[PLAN_STEP], threads)
        self._model = session(bundle.graphs[WORLD_MODEL], 1)
        self._check_contract(bundle)
        s, action = self.settings, self.manifest.action
        o, a = len(self.manifest.observation.names), len(action.names)
        self._low, self._high = np.asarray(action.low, 'f4'), np.asarray(action.high, 'f4')
        self._middle, self._half = (self._low + self._high) / 2, (self._high - self._low) / 2
        self._observation = np.zeros((1, o), 'f4')
        self._policy_noise = np.zeros((s.horizon, s.policy_samples, a), 'f4')
        self._noise = np.zeros((s.horizon, s.samples, a), 'f4')
        self._mean = np.zeros((s.horizon, a), 'f4')
        self._wide = np.full((s.horizon, a), s.max_std, 'f4')
        self._elites = np.asarray([s.elites], np.int64)
        self._predicted: Array | None = None
        self._slowest_s = 0.0

    def _check_contract(self, bundle: Bundle) -> None:
        """Compare the inputs and the metadata of the graphs with the manifest."""
        m = bundle.manifest
        expected = contract(m.period_s, len(m.observation.names), len(m.action.names),
                            m.planner.horizon)
        opened = {PLAN_START: self._start, PLAN_STEP: self._step, WORLD_MODEL: self._model}
        for name, graph in opened.items():
            inputs = {i.name for i in graph.get_inputs()}
            if inputs != _INPUTS[name]:
                raise BundleError(
                    explain(f'{name} of bundle {bundle.hash[:16]} was loaded',
                            f'its inputs are {", ".join(sorted(inputs))}',
                            ', '.join(sorted(_INPUTS[name])), 'export the bundle again')
                )
            found = graph.get_modelmeta().custom_metadata_map
            wrong = {k: (found.get(k), v) for k, v in expected.items() if found.get(k) != v}
            if wrong:
                key, (was, should) = next(iter(wrong.items()))
                raise BundleError(
                    explain(f'{name} of bundle {bundle.hash[:16]} was loaded',
                            f'its {key} is {was}', f'{should}, as its manifest says',
                            'export the bundle again')
                )

    def reset(self) -> None:
        """Forget the last plan, as when the plant was moved by hand."""
        self._mean[:] = 0
        self._predicted = None

    def plan(self, observation: npt.ArrayLike, budget_s: float | None = None) -> Plan:
        """Plan one decision.

        Args:
            observation: (O,) in the robot's units.
            budget_s: seconds to stay within, if at least the first graph does; None for all
                iterations.

        Raises:
            ConfigError: the observation has another shape.
        """
        began = self._clock()
        s = self.settings
        self._observation[0] = self._checked(observation)
        self._rng.standard_normal(dtype=np.float32, out=self._policy_noise)
        self._policy_noise *= self.manifest.planner.policy_noise
        self._policy_noise[:, 0] = 0  # plan 0 is the policy itself
        latent, policy_actions, policy_values = self._start.run(
            None, {'observation': self._observation, 'noise': self._policy_noise})
        mean, std = self._shifted(), self._wide
        value, done = float(policy_values[0]), 0
        now = self._clock()
        while done < s.iterations:
            if budget_s is not None and now - began + self._slowest_s > budget_s:
                break
            self._rng.standard_normal(dtype=np.float32, out=self._noise)
            mean, std, _, values = self._step.run(None, {
                'latent': latent, 'mean': mean, 'std': std, 'noise': self._noise,
                'policy_actions': policy_actions, 'policy_values': policy_values,
                'elites': self._elites})
            value = float(values[0])
            done += 1
            before, now = now, self._clock()
            self._slowest_s = max(now - before, self._slowest_s * _FORGETTING)
        if done == 0:
            mean = policy_actions[:, 0]
            self._slowest_s *= _FORGETTING  # or one long stall would end planning for good
        # One plan that is not finite must not spoil all later ones through the warm start.
        self._mean = mean if np.isfinite(mean).all() else np.zeros_like(mean)
        action = np.clip(mean[0], -1, 1)
        encoded, predicted, reward = self._model.run(
            ['encoded', 'next_latent', 'reward'],
            {'observation': self._observation, 'latent': latent, 'action': action[None]})
        residual = math.nan
        if self._predicted is not None:
            gap = float(np.linalg.norm(encoded - self._predicted))
            residual = gap / max(float(np.linalg.norm(encoded)), 1e-9)
        self._predicted = predicted
        scale = self.manifest.reward_scale
        return Plan(self._physical(action), self._physical(policy_actions[0, 0]), value / scale,
                    float(reward[0, 0]) / scale, done, s.samples, residual, self._clock() - began)

    def warm_up(self, plans: int = 3) -> float:
        """Plan a few times on the middle observation; returns the slowest, in seconds."""
        signal = self.manifest.observation
        middle = [(lo + hi) / 2 if math.isfinite(lo) and math.isfinite(hi) else 0.0
                  for lo, hi in zip(signal.low, signal.high, strict=True)]
        state = self._rng.bit_generator.state
        slowest = max(self.plan(middle).compute_s for _ in range(plans))
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

    def _shifted(self) -> Array:
        """The last plan, moved on by one decision."""
        mean = np.zeros_like(self._mean)
        mean[:-1] = self._mean[1:]
        return mean

    def _physical(self, action: Array) -> Array:
        command: Array = np.clip(self._middle + self._half * action, self._low, self._high)
        return command


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
    proposals = max(1, round(defaults.policy_samples * share))
    elites = min(max(1, round(defaults.elites * share)), samples + proposals)
    return replace(defaults, samples=samples, iterations=iterations or defaults.iterations,
                   elites=elites, policy_samples=proposals)


def contract(period_s: float, observations: int, actions: int, horizon: int) -> dict[str, str]:
    """The facts that stand in every graph's own metadata, too."""
    return {'pruned_controller.period_s': repr(float(period_s)),
            'pruned_controller.observations': str(observations),
            'pruned_controller.actions': str(actions),
            'pruned_controller.horizon': str(horizon)}


