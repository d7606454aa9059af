# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""From an observation to the error e of a plant with a goal, and V(e) = e'Pe over it.

Terms are the few forms below, read once and never evaluated as code:

| term | value |
|---|---|
| `i` | obs[i] |
| `i-c` | obs[i] - c |
| `cos(i)`, `sin(i)` | of obs[i] |
| `atan2(i,j)` | angle of the point (obs[j], obs[i]) |
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.errors import BundleError, explain

Array = npt.NDArray[np.float64]
Vector = Sequence[float] | npt.NDArray[np.floating]
Term = Callable[[Any], Any]  # observation(s), channels first -> a number, or one per observation

_INDEX = re.compile(r'(\d+)(?:-(\d+(?:\.\d+)?))?')
_CALL = re.compile(r'(cos|sin|atan2)\((\d+)(?:,(\d+))?\)')
_ONE: Mapping[str, Callable[..., Any]] = {
    'cos': math.cos, 'sin': math.sin, 'atan2': math.atan2}
_MANY: Mapping[str, Callable[..., Any]] = {'cos': np.cos, 'sin': np.sin, 'atan2': np.arctan2}


def read_term(text: str, functions: Mapping[str, Callable[..., Any]] = _ONE) -> tuple[Term, int]:
    """Read one term.

    Args:
        text: the term.
        functions: what cos, sin and atan2 mean; math's are the quickest for one observation.

    Returns:
        A function of the observation, and the largest index that it uses.

    Raises:
        BundleError: the term has another form.
    """
    plain, call = _INDEX.fullmatch(text), _CALL.fullmatch(text)
    if plain:
        i, c = int(plain[1]), float(plain[2] or 0)
        return lambda obs: obs[i] - c, i
    if call and (call[1] == 'atan2') == (call[3] is not None):
        i = int(call[2])
        if call[1] == 'atan2':
            j = int(call[3])
            angle = functions['atan2']
            return lambda obs: angle(obs[i], obs[j]), max(i, j)
        function = functions[call[1]]
        return lambda obs: function(obs[i]), i
    raise BundleError(
        explain(f'error term {text!r} was read', 'it has an unknown form',
                "'i', 'i-c', 'cos(i)', 'sin(i)' or 'atan2(i,j)' with indices of the observation",
                'correct the stability candidate and export again')
    )


def errors_of(terms: Sequence[str], observations: Array) -> Array:
    """(N, O) observations -> (N, E) errors, one column a term."""
    channels = np.asarray(observations, float).T
    return np.stack([read_term(text, _MANY)[0](channels) for text in terms], axis=1)


@dataclass(frozen=True, eq=False)
class Lyapunov:
    """A quadratic stability candidate and its LQR gain.

    Attributes:
        terms: E terms that make the error e from the observation.
        P: (E, E) symmetric; V = e'Pe.
        K: (A, E); the fallback acts with goal_action - K e, in the robot's units.
        goal_action: (A,) action that holds the goal.
        steps: K of the finite-step test, in control periods.
        decrease: delta: the test asks V(t+K) <= (1 - delta) V(t).
        ball: V below this is at the goal, where no decrease is asked.
    """

    terms: tuple[str, ...]
    P: Array
    K: Array
    goal_action: Array
    steps: int
    decrease: float
    ball: float
    _read: tuple[Term, ...] = field(init=False, repr=False)
    needs: int = field(init=False, repr=False)  # observations that the terms read

    def __post_init__(self) -> None:
        """Check shapes and numbers.

        Raises:
            BundleError: they do not fit together.
        """
        read = [read_term(t) for t in self.terms]
        object.__setattr__(self, '_read', tuple(function for function, _ in read))
        object.__setattr__(self, 'needs', 1 + max((index for _, index in read), default=0))
        for name in ('P', 'K', 'goal_action'):
            array = np.asarray(getattr(self, name), float)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        e, a = len(self.terms), self.goal_action.size
        problems = [text for bad, text in (
            (e == 0, 'no terms'),
            (self.P.shape != (e, e), f'P has shape {self.P.shape}, not {(e, e)}'),
            (self.K.shape != (a, e), f'K has shape {self.K.shape}, not {(a, e)}'),
            (not all(np.isfinite(x).all() for x in (self.P, self.K, self.goal_action)),
             'numbers that are not finite'),
            (self.P.shape == (e, e) and not np.allclose(self.P, self.P.T), 'P is not symmetric'),
            (not (isinstance(self.steps, int) and 1 <= self.steps <= 10_000),
             f'steps are {self.steps!r}'),
            (not 0 <= self.decrease < 1, f'decrease is {self.decrease!r}'),
            (not 0 <= self.ball < math.inf, f'ball is {self.ball!r}'),
        ) if bad]
        if problems:
            raise BundleError(
                explain('a stability candidate was read', '; '.join(problems),
                        'E terms, symmetric finite P (E, E), K (A, E), steps of 1 or more, '
                        'decrease in [0, 1), ball of 0 or more', 'export the bundle again')
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as plain values; the terms are read again there."""
        return type(self).from_json, (self.to_json(),)

    def error(self, observation: Vector) -> Array:
        """(O,) observation -> (E,) error.

        Raises:
            BundleError: the observation is too short for the terms.
        """
        if len(observation) < self.needs:
            raise BundleError(
                explain('an error was computed', f'{len(observation)} observations',
                        f'{self.needs} or more, for terms {", ".join(self.terms)}',
                        'use the bundle with the plant it was made for')
            )
        return np.array([term(observation) for term in self._read])

    def value(self, observation: Vector) -> float:
        """V of an observation."""
        e = self.error(observation)
        return float(e @ self.P @ e)

    def errors(self, observations: Array) -> Array:
        """(N, O) observations -> (N, E) errors."""
        return errors_of(self.terms, observations)

    def values(self, observations: Array) -> Array:
        """(N, O) observations -> (N,) V."""
        e = self.errors(observations)
        return np.asarray(np.einsum('ne,ef,nf->n', e, self.P, e))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {'terms': list(self.terms), 'P': self.P.tolist(), 'K': self.K.tolist(),
                'goal_action': self.goal_action.tolist(), 'steps': self.steps,
                'decrease': self.decrease, 'ball': self.ball}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Lyapunov:
        """Rebuild from `to_json`.

        Raises:
            BundleError: a field is missing or does not fit.
        """
        try:
            return cls(tuple(str(t) for t in values['terms']), np.asarray(values['P'], float),
                       np.asarray(values['K'], float), np.asarray(values['goal_action'], float),
                       values['steps'], float(values['decrease']), float(values['ball']))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BundleError(
                explain('a stability candidate was read', f'it is not whole ({error!r})',
                        'the fields of runtime.errormap.Lyapunov', 'export the bundle again')
            ) from error
