# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Plants that start anywhere: states and commands in, next states and observations out.

A stability test starts thousands of runs from states of its own choosing. `PendulumPlant` steps
all of them at once, bit for bit as Gymnasium's Pendulum-v1 does, and can be made heavier, longer
or weaker than the one an agent was trained on; `GymPlant` sets and steps any Gymnasium environment
that shows its state, one run at a time.

Letters: N runs, S state channels, E errors, O observations, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pruning_core.config import EnvConfig
from pruning_core.env import describe, make_raw
from pruning_core.errors import EnvError, explain
from pruning_core.linearise import goal_of, jacobian

Array = npt.NDArray[np.float64]
PENDULUM = 'Pendulum-v1'


@dataclass(frozen=True)
class Limits:
    """What the sensors and actuators of a plant can do, in its own units.

    Attributes:
        observation_scale: (O,) factors that the agent's input is multiplied with.
        action_low: (A,) smallest commands, and `action_high` the largest, of the nominal plant:
            what the agent's -1 and 1 mean.
    """

    observation_scale: Array
    action_low: Array
    action_high: Array


class Plant(Protocol):
    """What a closed loop needs of a plant."""

    limits: Limits
    reach: Array  # (E,) largest errors that are worth testing from

    def states_at(self, errors: Array) -> Array:
        """(N, E) errors from the goal -> (N, S) states that have them."""

    def observe(self, states: Array) -> Array:
        """(N, S) states -> (N, O) observations in the plant's units."""

    def step(self, states: Array, commands: Array) -> Array:
        """One control period: (N, S) states and (N, A) commands -> (N, S) next states."""


@dataclass(frozen=True)
class Pendulum:
    """Parameters of the pendulum; the defaults are Gymnasium's.

    Attributes:
        mass_kg: of the rod.
        length_m: of the rod.
        torque_nm: largest torque of the motor.
    """

    mass_kg: float = 1.0
    length_m: float = 1.0
    torque_nm: float = 2.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            EnvError: a parameter is not above 0.
        """
        for name in ('mass_kg', 'length_m', 'torque_nm'):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise EnvError(explain(f'a pendulum with {name} {value!r} was asked for',
                                       'it is out of range', 'a finite number above 0',
                                       'correct the parameter'))


NOMINAL = Pendulum()


class PendulumPlant:
    """Pendulum-v1 for N states (angle from upright in rad, speed in rad/s) at once."""

    GRAVITY, MAX_SPEED, DT_S = 10.0, 8.0, 0.05

    def __init__(self, parameters: Pendulum = NOMINAL, action_repeat: int = 1) -> None:
        """Take the parameters, and the plant steps per control period."""
        self.parameters, self.action_repeat = parameters, action_repeat
        nominal = NOMINAL.torque_nm
        self.reach = np.array([np.pi, self.MAX_SPEED])
        self.limits = Limits(np.array([1.0, 1.0, 1.0 / self.MAX_SPEED]), np.array([-nominal]),
                             np.array([nominal]))

    def states_at(self, errors: Array) -> Array:
        """Angle and speed are the error itself."""
        return np.array(errors, float)

    def observe(self, states: Array) -> Array:
        """(N, 2) -> (N, 3): cosine and sine of the angle, and the speed."""
        angle, speed = states[:, 0], states[:, 1]
        observation = np.stack([np.cos(angle), np.sin(angle), speed], axis=1)
        return observation.astype(np.float32).astype(float)  # what a 32-bit sensor gives

    def step(self, states: Array, commands: Array) -> Array:
        """(N, 2) states and (N, 1) torques in N m -> (N, 2) next states."""
        p = self.parameters
        angle, speed = states[:, 0], states[:, 1]
        # Gymnasium computes with the command's 32 bits, too.
        torque = np.clip(commands[:, 0].astype(np.float32), -p.torque_nm, p.torque_nm)
        push = 3.0 / (p.mass_kg * p.length_m**2) * torque
        for _ in range(self.action_repeat):
            gain = 3 * self.GRAVITY / (2 * p.length_m)
            speed = speed + (gain * np.sin(angle) + push) * self.DT_S
            speed = np.clip(speed, -self.MAX_SPEED, self.MAX_SPEED)
            angle = angle + speed * self.DT_S
        return np.stack([angle, speed], axis=1)


class GymPlant:
    """Any Gymnasium environment with a declared goal and a `state`, stepped one run at a time."""

    def __init__(self, config: EnvConfig) -> None:
        """Make the environment.

        Raises:
            EnvError: it is unknown, declares no goal, has no `state` to be set, or none that an
                observation can be made of.
        """
        env = make_raw(config.id)
        self._env: Any = env.unwrapped
        self._repeat = config.action_repeat
        spec = describe(env, config)
        self.limits = Limits(np.asarray(spec.observation_scale), np.asarray(spec.action_low),
                             np.asarray(spec.action_high))
        seen, _ = env.reset(seed=0)
        goal = goal_of(self._env, config.id)
        if goal is None or getattr(self._env, 'state', None) is None:
            missing = 'no attribute `state`' if goal else 'no attribute `stability_goal`'
            raise EnvError(
                explain(f"environment '{config.id}' was to start from chosen states",
                        f'it has {missing}',
                        'environments that keep their state in `state`, as those of classic '
                        'control do, and declare a goal; see docs/stability.md',
                        'add it, or look at the value alone, which needs no goal')
            )
        self.goal = goal
        self.reach = goal.reach
        self._observing = getattr(self._env, '_get_obs', None)
        if self._observing is None and not self._observes_itself(seen):
            raise EnvError(
                explain(f"environment '{config.id}' was to be observed in chosen states",
                        'its observation is not its `state`, and it has no method _get_obs()',
                        'a method _get_obs() that returns the observation of `state`, as '
                        'Pendulum-v1 has', 'add it, and return it from reset and step, too')
            )
        self._inverse = np.linalg.pinv(jacobian(
            lambda s: goal.errors(self.observe(s[None]))[0], goal.state))

    def _observes_itself(self, seen: Any) -> bool:
        """Whether the observation is the state, at a reset and after steps that move it."""
        same = _is_state(seen, self._env.state)
        for share in (0.25, 0.75, 0.5):
            low, high = self.limits.action_low, self.limits.action_high
            action = low + share * (high - low)
            seen = self._env.step(action.astype(np.float32))[0]
            same = same and _is_state(seen, self._env.state)
        return same

    def states_at(self, errors: Array) -> Array:
        """To first order around the goal; V is then computed of the states as they are."""
        states: Array = self.goal.state + errors @ self._inverse.T
        return states

    def observe(self, states: Array) -> Array:
        """(N, S) -> (N, O); the state itself where the environment observes it whole."""
        if self._observing is None:
            return states.copy()
        rows = []
        for state in states:
            self._env.state = state.copy()
            rows.append(np.asarray(self._observing(), float))
        return np.stack(rows)

    def step(self, states: Array, commands: Array) -> Array:
        """(N, S) states and (N, A) commands -> (N, S) next states."""
        out = np.empty_like(states)
        for i, (state, command) in enumerate(zip(states, commands, strict=True)):
            self._env.state = state.copy()
            for _ in range(self._repeat):
                self._env.step(command.astype(np.float32))
            out[i] = np.asarray(self._env.state, float)
        return out


def _is_state(observation: Any, state: Any) -> bool:
    try:
        seen, held = np.asarray(observation, float), np.asarray(state, float)
    except (TypeError, ValueError):  # a mapping, an object
        return False
    return seen.shape == held.shape and np.allclose(seen, held, rtol=1e-5, atol=1e-6)


def make_plant(config: EnvConfig) -> PendulumPlant | GymPlant:
    """Return the fastest exact plant of an environment.

    Raises:
        EnvError: the environment is unknown, or cannot start from chosen states.
    """
    if config.id == PENDULUM:
        return PendulumPlant(action_repeat=config.action_repeat)
    return GymPlant(config)
