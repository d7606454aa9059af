# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""All that one plan came from, as numbers: any of them can be made again, alone.

A plan follows from its observation, from the plan before it, from where the noise stood, and from
the refinements that there was time for. A controller publishes these with every plan; `replay`
makes each plan again from them, whatever was missed in between. The numbers travel as one array of
float64, whose sections are named like the dimensions of a `std_msgs/MultiArrayLayout`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.errors import AgentError, explain
from pruning_core.runtime.choice import PRECISIONS, Choice

Array = npt.NDArray[np.float64]
SECTIONS = ('planner', 'observation', 'mean', 'noise', 'samples', 'action', 'compute_s')
_FORMAT = 1  # rises when the same numbers would be planned differently
_WORDS, _BITS = 4, 32  # of each of the two numbers of PCG64; a float64 holds a word exactly


@dataclass(frozen=True)
class Trace:
    """One plan.

    Attributes:
        model: hash of the bundle.
        choice: settings of the planner.
        observation: (O,) what it was made on, as the graphs saw it: rounded to float32.
        mean: (H, A) the plan before, in [-1, 1].
        noise: where the generator stood, as `words` returns it.
        samples: of each refinement that was done.
        action: (A,) what was decided, in the robot's units; what was sent may differ, where the
            supervisor had reason to.
        compute_s: seconds that it took.
    """

    model: str
    choice: Choice
    observation: Array
    mean: Array
    noise: tuple[int, ...]
    samples: tuple[int, ...]
    action: Array
    compute_s: float

    def travelling(self) -> tuple[list[tuple[str, int]], list[float]]:
        """Return the dimensions of a message, labels and sizes, and its numbers.

        The first dimension is the whole, labelled with the hash of the model; the others are the
        sections, one after the other.
        """
        c = self.choice
        sections: tuple[Sequence[float] | Array, ...] = (
            [_FORMAT, c.samples, c.iterations, c.horizon, c.threads,
             PRECISIONS.index(c.precision)],
            self.observation, self.mean.ravel(), self.noise, self.samples, self.action,
            [self.compute_s])
        numbers = [float(x) for values in sections for x in values]
        return [(self.model, len(numbers)),
                *((n, len(values)) for n, values in zip(SECTIONS, sections, strict=True))], numbers

    @classmethod
    def arrived(cls, dimensions: Sequence[tuple[str, int]], numbers: npt.ArrayLike) -> Trace:
        """Put together again what `travelling` returned.

        Raises:
            AgentError: this is no trace.
        """
        values = np.asarray(numbers, float).ravel()
        names, sizes = [n for n, _ in dimensions[1:]], [s for _, s in dimensions[1:]]
        if tuple(names) != SECTIONS or min(sizes) < 0 or sum(sizes) != len(values):
            raise _no_trace(f'{len(values)} numbers in sections of {sizes}, '
                            f'named {", ".join(names) or "nothing"}')
        part = dict(zip(names, np.split(values, np.cumsum(sizes)[:-1]), strict=True))
        whole = np.concatenate([part[n] for n in ('planner', 'noise', 'samples')])
        if (not (np.isfinite(whole).all() and np.array_equal(whole, np.floor(whole))
                 and whole.min() >= 0 and whole.max() < 2**_BITS)
                or len(part['planner']) != 6 or len(part['noise']) != 2 * _WORDS + 2
                or len(part['compute_s']) != 1):
            raise _no_trace('numbers that are none of a planner')
        form, samples, iterations, horizon, threads, precision = map(int, part['planner'])
        if form != _FORMAT:
            raise _no_trace(f'format {form}, not {_FORMAT}')
        done = tuple(int(x) for x in part['samples'])
        if (precision >= len(PRECISIONS) or not 1 <= threads <= 1024 or not len(part['action'])
                or len(part['mean']) != horizon * len(part['action']) or part['noise'][-2] > 1
                or len(done) > iterations or not all(0 < n <= samples for n in done)):
            raise _no_trace('settings, a plan and refinements that do not go together')
        return cls(dimensions[0][0],
                   Choice(samples, iterations, horizon, threads, PRECISIONS[precision]),
                   part['observation'], part['mean'].reshape(horizon, -1),
                   tuple(int(x) for x in part['noise']), done, part['action'],
                   float(part['compute_s'][0]))


def words(state: Mapping[str, Any]) -> tuple[int, ...]:
    """Return a state of numpy's PCG64 (`bit_generator.state`) as ten numbers below 2**32."""
    return (*(state['state'][name] >> _BITS * i & 2**_BITS - 1
              for name in ('state', 'inc') for i in range(_WORDS)),
            state['has_uint32'], state['uinteger'])


def state_of(noise: Sequence[int]) -> dict[str, Any]:
    """Return what `words` was made of."""
    def number(at: int) -> int:
        return sum(int(word) << _BITS * i for i, word in enumerate(noise[at:at + _WORDS]))

    return {'bit_generator': 'PCG64', 'state': {'state': number(0), 'inc': number(_WORDS)},
            'has_uint32': int(noise[-2]), 'uinteger': int(noise[-1])}


def _no_trace(found: str) -> AgentError:
    return AgentError(
        explain('a trace of a plan was read', found, f'the sections {", ".join(SECTIONS)}, as '
                'this version publishes them on ~/trace',
                'read the recording with the version that made it'))
