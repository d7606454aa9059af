# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Stability candidates of plants with a goal: V(e) = e'Pe from the discrete Riccati equation.

The plant is linearised at its goal, and P and the LQR gain K come from its cost (method section
5). The robot monitors V along its windows and falls back on u = -K e. This is evidence, not a
proof: swing-up under a torque limit is not monotone in V, so decrease is asked over K steps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_discrete_are

from pruning_core.config import EnvConfig
from pruning_core.env import make_raw
from pruning_core.errors import EnvError, explain
from pruning_core.linearise import linearise
from pruning_core.plants import PENDULUM, GymPlant
from pruning_core.runtime.errormap import Lyapunov

Array = npt.NDArray[np.float64]


def riccati(a: Array, b: Array, q: Array, r: Array) -> tuple[Array, Array]:
    """Solve the discrete algebraic Riccati equation.

    Args:
        a: (E, E) error dynamics.
        b: (E, A) input matrix.
        q: (E, E) cost of the error.
        r: (A, A) cost of the action.

    Returns:
        P (E, E) and the gain K (A, E) of u = -K e.
    """
    p = solve_discrete_are(a, b, q, r)
    return p, np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)


def pendulum(period_s: float) -> Lyapunov:
    """Closed form for Gymnasium's Pendulum-v1 (g = 10 m/s2, m = 1 kg, l = 1 m), upright.

    The environment integrates semi-implicitly: w' = w + (3g/2l sin(th) + 3/(ml2) u) dt, then
    th' = th + w' dt; its cost is th2 + 0.1 w2 + 0.001 u2.
    """
    steps = max(1, round(period_s / 0.05))
    dt = period_s / steps
    once = np.array([[1 + 15 * dt * dt, dt], [15 * dt, 1.0]])
    push = np.array([[3 * dt * dt], [3 * dt]])
    a, b = np.eye(2), np.zeros((2, 1))
    for _ in range(steps):  # the plant steps several times on one command
        a, b = once @ a, once @ b + push
    p, k = riccati(a, b, np.diag([1.0, 0.1]), np.array([[0.001]]))
    return Lyapunov(terms=('atan2(1,0)', '2'), P=p, K=k, goal_action=np.zeros(1), steps=20,
                    decrease=0.1, ball=1e-2 * float(np.trace(p)))


def declared(plant: GymPlant, period_s: float) -> Lyapunov:
    """Candidate of an environment that declares its goal, linearised numerically there.

    K is one second, delta a tenth, and the ball a thousandth of V at the largest errors.

    Raises:
        EnvError: the goal is no equilibrium, or cannot be stabilised.
    """
    goal = plant.goal
    a, b = linearise(plant, goal)
    try:
        p, k = riccati(a, b, np.diag(goal.error_cost), np.diag(goal.action_cost))
    except np.linalg.LinAlgError as error:
        raise EnvError(
            explain('the stability candidate of a plant was computed',
                    f'its Riccati equation has no solution ({error})',
                    'a plant that can be stabilised at its goal', 'correct its stability_goal')
        ) from error
    return Lyapunov(terms=goal.terms, P=(p + p.T) / 2, K=k, goal_action=goal.action,
                    steps=max(1, round(1.0 / period_s)), decrease=0.1,
                    ball=1e-3 * float(np.diag(p) @ goal.reach**2))


def candidate(env_id: str, period_s: float, action_repeat: int = 1) -> Lyapunov | None:
    """Return the stability candidate of a plant, or None where it has no known goal.

    Args:
        env_id: Gymnasium id, or 'module:Class'.
        period_s: seconds between two decisions.
        action_repeat: plant steps between them.

    Raises:
        EnvError: the environment declares a goal that cannot be used.
    """
    if env_id == PENDULUM:
        return pendulum(period_s)
    if getattr(make_raw(env_id).unwrapped, 'stability_goal', None) is None:
        return None
    return declared(GymPlant(EnvConfig(id=env_id, action_repeat=action_repeat,
                                       period_s=period_s)), period_s)
