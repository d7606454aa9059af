# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A plant with a declared goal in; its linear error dynamics e' = A e + B u there, out.

An environment declares its goal in an attribute `stability_goal`, a mapping of

| key | meaning |
|---|---|
| `state` | S numbers: the state to hold, an equilibrium under `action` |
| `action` | A numbers, in the plant's units |
| `terms` | E terms that make the error from the observation; see `runtime.errormap` |
| `error_cost`, `action_cost` | E and A positive numbers, the diagonals of Q and R |
| `reach` | E positive numbers: the largest errors that are worth testing from |

The derivatives are central differences through the environment's own `step`, in the coordinates
of the error: A = D(e o f) (De)^-1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pruning_core.errors import BundleError, EnvError, explain
from pruning_core.runtime.errormap import errors_of, read_term

Array = npt.NDArray[np.float64]
# Observations are often 32 bits wide: a much smaller step would differentiate their rounding.
_STEP = 1e-3
_DRIFT = 1e-3  # largest part of `reach` by which the goal may move in one period
_KEYS = ('state', 'action', 'terms', 'error_cost', 'action_cost', 'reach')


@dataclass(frozen=True, eq=False)
class Goal:
    """Where a plant is to be held, and what being away from it costs.

    Attributes:
        state: (S,), and `action` (A,) which holds it.
        terms: E terms of the error.
        error_cost: (E,) diagonal of Q; `action_cost` (A,) of R.
        reach: (E,) largest errors that are worth testing from.
    """

    state: Array
    action: Array
    terms: tuple[str, ...]
    error_cost: Array
    action_cost: Array
    reach: Array

    def errors(self, observations: Array) -> Array:
        """(N, O) observations -> (N, E) errors."""
        return errors_of(self.terms, observations)


class Steppable(Protocol):
    """What is differentiated."""

    def observe(self, states: Array) -> Array:
        """(N, S) -> (N, O)."""

    def step(self, states: Array, commands: Array) -> Array:
        """(N, S), (N, A) -> (N, S)."""


def goal_of(env: Any, name: str) -> Goal | None:
    """Read the goal that an environment declares, or None where it declares none.

    Raises:
        EnvError: the declaration cannot be used.
    """
    declared = getattr(env, 'stability_goal', None)
    if declared is None:
        return None
    try:
        if not isinstance(declared, Mapping) or set(declared) != set(_KEYS):
            found = sorted(declared) if isinstance(declared, Mapping) else type(declared).__name__
            raise ValueError(f'its keys are {found}')
        numbers = {k: np.atleast_1d(np.asarray(declared[k], float))
                   for k in _KEYS if k != 'terms'}
        goal = Goal(terms=tuple(str(t) for t in declared['terms']), **numbers)
        for term in goal.terms:
            read_term(term)
        e = len(goal.terms)
        if goal.error_cost.shape != (e,) or goal.reach.shape != (e,):
            raise ValueError(f'{e} terms need {e} numbers in error_cost and in reach')
        if goal.action_cost.shape != goal.action.shape:
            raise ValueError('action and action_cost differ in length')
        positive = np.concatenate([goal.error_cost, goal.action_cost, goal.reach])
        if not (np.isfinite(np.concatenate([*numbers.values()])).all() and (positive > 0).all()):
            raise ValueError('costs and reach must be above 0, all numbers finite')
    except (TypeError, ValueError, BundleError) as error:
        raise EnvError(
            explain(f"the goal of environment '{name}' was read", f'it cannot be used ({error})',
                    f'a mapping with {", ".join(_KEYS)}', 'correct its stability_goal')
        ) from error
    return goal


def jacobian(function: Callable[[Array], Array], at: Array, step: float = _STEP) -> Array:
    """Central differences of a function R^n -> R^m: (m, n)."""
    columns = []
    for i in range(len(at)):
        shift = np.zeros(len(at))
        shift[i] = step * max(1.0, abs(at[i]))
        columns.append((function(at + shift) - function(at - shift)) / (2 * shift[i]))
    out: Array = np.stack(columns, axis=1)
    return out


def linearise(plant: Steppable, goal: Goal) -> tuple[Array, Array]:
    """Linear error dynamics of a plant at its goal.

    Returns:
        A (E, E) and B (E, A) of e(t+1) = A e(t) + B (u(t) - goal action).

    Raises:
        EnvError: the goal is no equilibrium, or the error does not determine the state there.
    """
    def error(state: Array) -> Array:
        row: Array = goal.errors(plant.observe(state[None]))[0]
        return row

    def after(state: Array, action: Array) -> Array:
        return error(plant.step(state[None], action[None])[0])

    drift = np.abs(after(goal.state, goal.action)) + np.abs(error(goal.state))
    if (drift > _DRIFT * goal.reach).any():
        raise EnvError(
            explain('a plant was to be linearised at its goal',
                    f'its error there, and after one step, adds up to {drift.tolist()}',
                    'an equilibrium: an error of 0, now and after a step of the goal action',
                    'correct state, action or terms of its stability_goal')
        )
    errors = jacobian(error, goal.state)
    if errors.shape[0] != errors.shape[1] or np.linalg.cond(errors) > 1e8:
        raise EnvError(
            explain('a plant was to be linearised at its goal',
                    f'{errors.shape[1]} state channels and {errors.shape[0]} error terms of rank '
                    f'{np.linalg.matrix_rank(errors, tol=1e-6)}',
                    'as many independent terms as the state has channels',
                    'correct the terms of its stability_goal')
        )
    a: Array = jacobian(lambda s: after(s, goal.action), goal.state) @ np.linalg.inv(errors)
    b = jacobian(lambda u: after(goal.state, u), goal.action)
    return a, b
