# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What long work says while it runs: a bar on a terminal, lines in a log, JSON for a process."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
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


class Lines:
    """One line for people every 30 seconds, and where a phase comes to its end; for logs."""

    def __init__(self, stream: TextIO | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `stream`; None is standard error as it is now."""
        self._stream = stream or sys.stderr
        self._clock = clock
        self._last = clock()
        self._said = ''

    def __call__(self, phase: str, done: int, total: int, /, **facts: float | str) -> None:
        """Write a line."""
        now = self._clock()
        if done < total and now - self._last < 30.0:
            return
        self._last = now
        line = f'{phase} {done}/{total}{shown(facts)}\n'
        if line != self._said:  # some ends are told twice
            self._said = line
            self._stream.write(line)
            self._stream.flush()


def shown(facts: Mapping[str, float | str]) -> str:
    """Return facts as text, each after a comma: `, loss=0.123`."""
    return ''.join(f', {k}={v:.4g}' if isinstance(v, float) else f', {k}={v}'
                   for k, v in facts.items())


class Bar:
    """One tqdm bar per phase, on standard error."""

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
            self._bar = tqdm(total=total, desc=f'{phase:10s}', leave=True)
        self._bar.set_postfix_str(shown(facts).removeprefix(', '), refresh=False)
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


def for_people() -> Progress:
    """Return a bar where standard error is a terminal, lines where it is a file or a pipe."""
    return Bar() if sys.stderr.isatty() else Lines()
