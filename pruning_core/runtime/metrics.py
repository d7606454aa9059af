# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Latency quantiles in fixed memory, and the metrics.jsonl file.

A control loop may run for months, so `LatencyStats` never stores samples: it counts them in
log-spaced bins, 1 % wide, which bounds the error of every quantile by half a bin.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_FIRST_S, _LAST_S, _RATIO = 1e-6, 100.0, 1.01
_BINS = math.ceil(math.log(_LAST_S / _FIRST_S) / math.log(_RATIO))
_PER_E = 1 / math.log(_RATIO)


@dataclass(frozen=True)
class LatencySummary:
    """Statistics of durations in seconds; NaN where nothing was measured."""

    count: int
    mean_s: float
    std_s: float
    min_s: float
    max_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    p999_s: float


class LatencyStats:
    """Durations counted in log-spaced bins from 1 microsecond to 100 seconds.

    Count, mean, standard deviation, minimum and maximum are exact; quantiles are within 0.5 %
    inside that range. NaN and negative durations are left out and counted in `rejected`.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._bins = [0] * _BINS
        self.count = 0
        self.rejected = 0
        self._mean = self._spread = 0.0  # Welford's running mean and sum of squares
        self._min, self._max = math.inf, -math.inf

    def add(self, seconds: float) -> None:
        """Count one duration."""
        if not 0 <= seconds < math.inf:
            self.rejected += 1
            return
        place = int(math.log(seconds / _FIRST_S) * _PER_E) if seconds > _FIRST_S else 0
        self._bins[place if place < _BINS else _BINS - 1] += 1
        self.count += 1
        step = seconds - self._mean
        self._mean += step / self.count
        self._spread += step * (seconds - self._mean)
        if seconds < self._min:
            self._min = seconds
        if seconds > self._max:
            self._max = seconds

    def quantile(self, q: float) -> float:
        """Quantile `q` in [0, 1], in seconds; NaN where nothing was counted."""
        if self.count == 0:
            return math.nan
        counts = np.cumsum(self._bins)
        place = int(np.searchsorted(counts, max(1, math.ceil(q * self.count))))
        middle = _FIRST_S * _RATIO ** (place + 0.5)
        return float(min(max(middle, self._min), self._max))

    def summary(self) -> LatencySummary:
        """All statistics at once."""
        if self.count == 0:
            return LatencySummary(0, *[math.nan] * 8)
        return LatencySummary(
            self.count, self._mean, math.sqrt(self._spread / self.count), self._min, self._max,
            *(self.quantile(q) for q in (0.5, 0.9, 0.99, 0.999)))


class JsonlWriter:
    """Appends records to a metrics.jsonl file, each a whole line, on disk at once.

    A torn last line, left by a crash, is removed when the file is opened again.
    """

    def __init__(self, path: str | Path) -> None:
        """Open `path` for appending; made if missing."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open('ab+')
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b'\n') + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; numbers that are not finite become null."""
        line = json.dumps(_finite(record), allow_nan=False, separators=(',', ':'))
        self._file.write(line.encode() + b'\n')
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics.jsonl file; a torn last line is left out."""
    for line in Path(path).read_bytes().split(b'\n')[:-1]:
        yield json.loads(line)
