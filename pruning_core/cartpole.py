# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Cart-pole swing-up as a Gymnasium environment: a force in, the pole upright out.

A cart of 1 kg on a rail of 4.8 m carries a pole of 0.1 kg and 1 m that hangs down at first. The
force is too small to lift the pole in one move, so it has to be swung. Frictionless equations of
motion as in Barto, Sutton and Anderson (1983), integrated with four Runge-Kutta steps per control
step, because semi-implicit Euler gains energy at this period.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

_GRAVITY, _CART_KG, _POLE_KG, _HALF_LENGTH_M = 9.81, 1.0, 0.1, 0.5
_SUBSTEPS = 4

Array = npt.NDArray[np.float32]
State = npt.NDArray[np.float64]


def derivative(state: State, force_n: float) -> State:
    """Rate of change of (position [m], velocity, angle [rad] from upright, angular velocity)."""
    _, velocity, angle, spin = state
    sine, cosine = math.sin(angle), math.cos(angle)
    total = _CART_KG + _POLE_KG
    push = (force_n + _POLE_KG * _HALF_LENGTH_M * spin * spin * sine) / total
    angular = (_GRAVITY * sine - cosine * push) / (
        _HALF_LENGTH_M * (4 / 3 - _POLE_KG * cosine * cosine / total))
    linear = push - _POLE_KG * _HALF_LENGTH_M * angular * cosine / total
    return np.array([velocity, linear, spin, angular])


def energy_j(state: State) -> float:
    """Kinetic and potential energy; without force it stays the same."""
    _, velocity, angle, spin = state
    moment = 4 / 3 * _POLE_KG * _HALF_LENGTH_M**2
    return float(
        0.5 * (_CART_KG + _POLE_KG) * velocity**2 + 0.5 * moment * spin**2
        + _POLE_KG * _HALF_LENGTH_M * velocity * spin * math.cos(angle)
        + _POLE_KG * _GRAVITY * _HALF_LENGTH_M * math.cos(angle))


class CartPoleSwingUp(gymnasium.Env[Array, Array]):
    """Swing the pole up and keep it there, in the middle of the rail.

    | observation | smallest | largest | unit |
    |---|---|---|---|
    | position of the cart | -2.4 | 2.4 | m |
    | velocity of the cart | -10 | 10 | m/s |
    | cosine of the angle from upright | -1 | 1 | 1 |
    | sine of the angle from upright | -1 | 1 | 1 |
    | angular velocity | -20 | 20 | rad/s |

    The action is a force from -10 to 10 N. The reward of a step is from 0 to 1:
    (1 + cos angle)/2 * (1 - (position/2.4)^2), so the most an episode of 250 steps can pay is
    below 250. The cart stops dead at the ends of the rail. Nothing ends an episode but its length:
    set `env.max_episode_steps` (an endless one is refused when it is trained on).
    """

    metadata = {'render_modes': []}
    dt = 0.04
    observation_signals = (
        ('cart position', 'm'), ('cart velocity', 'm/s'), ('cos(pole angle)', '1'),
        ('sin(pole angle)', '1'), ('pole angular velocity', 'rad/s'))
    action_signals = (('force', 'N'),)
    observation_space = Box(np.array([-2.4, -10, -1, -1, -20], np.float32),
                            np.array([2.4, 10, 1, 1, 20], np.float32))
    action_space = Box(np.array([-10], np.float32), np.array([10], np.float32))

    def __init__(self) -> None:
        """Hang the pole at the middle of the rail."""
        self.state: State = np.array([0.0, 0.0, math.pi, 0.0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[Array, dict[str, Any]]:
        """Hang the pole, nearly at rest, near the middle of the rail."""
        super().reset(seed=seed)
        self.state = np.array([0.0, 0.0, math.pi, 0.0]) + self.np_random.uniform(-0.1, 0.1, 4)
        return self._get_obs(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Apply a force (1,) [N] for `dt` seconds."""
        force = float(np.clip(action[0], -10, 10))
        h, state = self.dt / _SUBSTEPS, self.state
        for _ in range(_SUBSTEPS):
            k1 = derivative(state, force)
            k2 = derivative(state + h / 2 * k1, force)
            k3 = derivative(state + h / 2 * k2, force)
            k4 = derivative(state + h * k3, force)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            if abs(state[0]) >= 2.4:
                state[0], state[1] = math.copysign(2.4, state[0]), 0.0
        self.state = state
        upright = (1 + math.cos(state[2])) / 2
        reward = upright * (1 - (state[0] / 2.4) ** 2)
        return self._get_obs(), float(reward), False, False, {}

    def _get_obs(self) -> Array:
        position, velocity, angle, spin = self.state
        return np.clip(
            np.array([position, velocity, math.cos(angle), math.sin(angle), spin], np.float32),
            self.observation_space.low, self.observation_space.high)
