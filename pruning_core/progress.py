# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What long work says while it runs: a bar for a person, JSON lines for another process."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, TextIO


class Progress(Protocol):
    """Called by long work whenever something was done."""

    def __call__(self, phase: str, done: int, total: int, /, **facts: float | str) -> None:
        """Report that `done` of `total` parts of `phase` are done; `facts` are shown as given."""


def silent(phase: str, done: int, total: int, /, **facts: float | str) -> None:
    """Report nothing."""


class JsonLines:
    """One JSON object per report, at most ten a second and always the last of a phase."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to `stream`; None is standard output as it is now."""
        self._stream = stream or sys.stdout
        self._last = 0.0

    def __call__(self, phase: str, done: int, total: int, /, **facts: float | str) -> None:
        """Write a line."""
        now = time.monotonic()
        if done < total and now - self._last < 0.1:
            return
        self._last = now
        self.write({'phase': phase, 'done': done, 'total': total, **facts})

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record at once."""
        self._stream.write(json.dumps(record) + '\n')
        self._stream.flush()


class Bar:
    """One tqdm bar per phase, on standard error; quiet where that is no terminal."""

    def __init__(self) -> None:
        """Start without a bar."""
        self._bar: Any = None
        self._phase = ''
        self._drawn = 0.0

    def __call__(self, phase: str, done: int, total: int, /, **facts: float | str) -> None:
        """Move the bar of `phase`, opening it first where it is a new phase."""
        from tqdm import tqdm  # an extra; only people who look at a bar need it

        if phase != self._phase:
            self.close()
            self._phase = phase
            self._bar = tqdm(total=total, desc=f'{phase:10s}', disable=None, leave=True)
        self._bar.set_postfix(
            {k: f'{v:.4g}' if isinstance(v, float) else v for k, v in facts.items()},
            refresh=False)
        self._bar.update(done - self._bar.n)
        if time.monotonic() - self._drawn > 0.2:  # the facts change while the count stands still
            self._drawn = time.monotonic()
            self._bar.refresh()
        if done >= total:
            self.close()

    def close(self) -> None:
        """Close the open bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar, self._phase = None, ''
