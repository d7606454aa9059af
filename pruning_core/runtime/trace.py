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
_SECTIONS = ('planner', 'observation', 'mean', 'noise', 'samples', 'action', 'compute_s')
_WORDS = 4  # of 32 bits in each of the two numbers of PCG64; a float64 holds one exactly


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

    def sections(self) -> list[tuple[str, list[float]]]:
        """Return names and numbers, in the order in which they travel."""
        c = self.choice
        numbers: tuple[Sequence[float] | Array, ...] = (
            [c.samples, c.iterations, c.horizon, c.threads, PRECISIONS.index(c.precision)],
            self.observation, self.mean.ravel(), self.noise, self.samples, self.action,
            [self.compute_s])
        return [(name, [float(x) for x in values])
                for name, values in zip(_SECTIONS, numbers, strict=True)]

    @classmethod
    def of(cls, model: str, names: Sequence[str], sizes: Sequence[int], numbers: Any) -> Trace:
        """Put a trace together again.

        Args:
            model: hash of the bundle.
            names: of the sections.
            sizes: how many numbers each has.
            numbers: of all of them, (N,).

        Raises:
            AgentError: this is no trace.
        """
        values = np.asarray(numbers, float).ravel()
        if tuple(names) != _SECTIONS or min(sizes) < 0 or sum(sizes) != len(values):
            raise _no_trace(f'{len(values)} numbers in sections of {list(sizes)}, '
                            f'named {", ".join(names) or "nothing"}')
        part = dict(zip(names, np.split(values, np.cumsum(sizes)[:-1]), strict=True))
        actions = len(part['action'])
        whole = np.concatenate([part[n] for n in ('planner', 'noise', 'samples')])
        if (len(part['planner']) != 5 or len(part['noise']) != 2 * _WORDS + 2 or not actions
                or len(part['mean']) % actions or len(part['compute_s']) != 1
                or not np.array_equal(whole, np.floor(whole)) or whole.min() < 0
                or part['planner'][4] >= len(PRECISIONS)):
            raise _no_trace('numbers that are none of a planner, or sections of other sizes')
        samples, iterations, horizon, threads, precision = (int(x) for x in part['planner'])
        return cls(model, Choice(samples, iterations, horizon, threads, PRECISIONS[precision]),
                   part['observation'], part['mean'].reshape(-1, actions),
                   tuple(int(x) for x in part['noise']), tuple(int(x) for x in part['samples']),
                   part['action'], float(part['compute_s'][0]))


def words(state: Mapping[str, Any]) -> tuple[int, ...]:
    """Return a state of numpy's PCG64 (`bit_generator.state`) as ten numbers below 2**32."""
    return (*(state['state'][name] >> 32 * i & 0xffffffff
              for name in ('state', 'inc') for i in range(_WORDS)),
            state['has_uint32'], state['uinteger'])


def state_of(noise: Sequence[int]) -> dict[str, Any]:
    """Return what `words` was made of."""
    def number(at: int) -> int:
        return sum(int(word) << 32 * i for i, word in enumerate(noise[at:at + _WORDS]))

    return {'bit_generator': 'PCG64', 'state': {'state': number(0), 'inc': number(_WORDS)},
            'has_uint32': int(noise[-2]), 'uinteger': int(noise[-1])}


def _no_trace(found: str) -> AgentError:
    return AgentError(
        explain('a trace of a plan was read', found, f'the sections {", ".join(_SECTIONS)}, as '
                'this version publishes them on ~/trace',
                'read the recording with the version that made it'))
