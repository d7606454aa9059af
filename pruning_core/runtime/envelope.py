# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The region in which the plant may be: one interval per observation, any of them unbounded."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pruning_core.errors import ConfigError, explain, nearest
from pruning_core.runtime.bundle import Manifest

Array = npt.NDArray[np.float64]
_INNER = 0.05  # part of the width that counts as the edge, for a state that comes back
_ENTRY = re.compile(r'(.+?)\s+(\S+)\s+(\S+)')


class Envelope:
    """Intervals around observations."""

    def __init__(self, names: Sequence[str], low: npt.ArrayLike, high: npt.ArrayLike) -> None:
        """Take (O,) names, smallest and largest values."""
        self._names = tuple(names)
        self.low: Array = np.asarray(low, float)
        self.high: Array = np.asarray(high, float)
        width = self.high - self.low
        edge = np.where(np.isfinite(width), _INNER * width, 0.0)
        self._inner_low, self._inner_high = self.low + edge, self.high - edge

    @staticmethod
    def none(manifest: Manifest) -> Envelope:
        """Return the envelope that everything lies in."""
        names = manifest.observation.names
        return Envelope(names, [-math.inf] * len(names), [math.inf] * len(names))

    @staticmethod
    def of(manifest: Manifest, margin: float, entries: Sequence[str] = ()) -> Envelope:
        """Make an envelope of a bundle's limits and of a table.

        Args:
            manifest: names and limits of the observations.
            margin: part of its width by which each limit may be passed; negative: limits of the
                bundle are not checked.
            entries: 'name low high', each replacing the interval of one observation.

        Raises:
            ConfigError: an entry has another form, an unknown name, or no width.
        """
        signal = manifest.observation
        low, high = np.asarray(signal.low, float), np.asarray(signal.high, float)
        if margin < 0:
            low, high = np.full_like(low, -math.inf), np.full_like(high, math.inf)
        width = np.where(np.isfinite(high - low), high - low, 0.0)
        low, high = low - max(0.0, margin) * width, high + max(0.0, margin) * width
        for text in entries:
            name, least, most = _parsed(text)
            if name not in signal.names:
                raise ConfigError(
                    explain(f"envelope entry '{text}' was read",
                            f"no observation is called '{name}'" + nearest(name, signal.names),
                            ', '.join(signal.names), 'correct the parameter envelope')
                )
            i = signal.names.index(name)
            low[i], high[i] = least, most
        return Envelope(signal.names, low, high)

    def beyond(self, values: Array, strict: bool = False) -> str:
        """Say which observation is outside; empty where none is.

        Args:
            values: (O,) finite.
            strict: keep away from the edge, too.
        """
        low, high = (self._inner_low, self._inner_high) if strict else (self.low, self.high)
        out = (values < low) | (values > high)
        if not out.any():
            return ''
        i = int(np.argmax(out))
        return f'{self._names[i]} left its envelope, {self.low[i]:g} to {self.high[i]:g}'


def _parsed(text: str) -> tuple[str, float, float]:
    found = _ENTRY.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        low, high = float(found[2]), float(found[3])
        if not low < high:
            raise ValueError
    except ValueError:
        raise ConfigError(
            explain(f"envelope entry '{text}' was read", 'it has another form',
                    "'name low high' with low below high, such as 'angular velocity -6 6'",
                    'correct the parameter envelope')
        ) from None
    return found[1], low, high
