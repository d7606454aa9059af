# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A control loop in its own thread, on absolute deadlines.

Deadlines lie on a grid: after an overrun the loop skips whole periods and counts them, it never
runs a burst to catch up. Missed deadlines, late starts and skipped periods are kept apart, since
they have different cures. The grid can be moved gently (`slew`), which locks its phase to the
arrival of observations.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pruning_core.errors import ConfigError, explain

_MAX_SLEW = 0.01  # share of the period that one tick may move the grid by
_LATE = 0.1  # a start later than this share of the period counts as late


class Clock(Protocol):
    """Monotonic time, and sleeping on it."""

    def now_ns(self) -> int:
        """Nanoseconds."""

    def worked_ns(self) -> int:
        """Nanoseconds that the calling thread was on a processor."""

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> None:
        """Return at the deadline, or as soon as `stop` is set."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """Nanoseconds of `time.monotonic`."""
        return time.monotonic_ns()

    def worked_ns(self) -> int:
        """Nanoseconds of `time.thread_time`."""
        return time.thread_time_ns()

    def wait_until(self, deadline_ns: int, stop: threading.Event) -> None:
        """Wait on `stop`, so that stopping is prompt, until the deadline."""
        remaining = deadline_ns - time.monotonic_ns()
        if remaining > 0:
            stop.wait(remaining * 1e-9)


@dataclass(frozen=True)
class Tick:
    """One turn of the loop.

    Attributes:
        index: number of the tick, from 0.
        deadline_ns: when it was due; `start_ns` when it started.
        skipped: whole periods that the tick before it made the loop skip.
        period_s: time until the next deadline.
    """

    index: int
    deadline_ns: int
    start_ns: int
    skipped: int
    period_s: float

    @property
    def lateness_s(self) -> float:
        """Seconds between due and started."""
        return (self.start_ns - self.deadline_ns) * 1e-9


class PeriodicLoop:
    """Calls `tick` once a period.

    Attributes:
        ticks: ticks done.
        missed: ticks whose work ended after the next deadline.
        slow: those of them whose own work took longer than a period; the others began too late.
        held_up: those of the slow ones that were on a processor for less than a period: kept from
            it by other threads, by a lock or by the host of the machine.
        skipped: whole periods left out because of them.
        late: ticks that started later than a tenth of the period after they were due.
        errors: ticks that raised.
    """

    def __init__(self, period_s: float, tick: Callable[[Tick], None], *,
                 on_error: Callable[[BaseException], None] = lambda error: None,
                 on_start: Callable[[], None] = lambda: None,
                 on_slack: Callable[[float], None] = lambda slack_s: None,
                 clock: Clock | None = None, name: str = 'control loop') -> None:
        """Prepare a loop; `start` runs it.

        Args:
            period_s: seconds between deadlines.
            tick: the work; what it raises is counted and handed to `on_error`, and the loop goes
                on.
            on_error: see `tick`.
            on_start: called once in the thread, before its first tick; what it raises is handed
                to `on_error`.
            on_slack: called after a tick that was in time, with the seconds left until the next.
            clock: time; for tests.
            name: of the thread.

        Raises:
            ConfigError: the period is not a positive number.
        """
        if not (math.isfinite(period_s) and round(period_s * 1e9) > 0):
            raise ConfigError(
                explain(f'a control period of {period_s} s was asked for',
                        'less than a nanosecond, or no number',
                        'seconds above 0', 'correct the period')
            )
        self._period_ns = round(period_s * 1e9)
        self._tick, self._on_error = tick, on_error
        self._on_start, self._on_slack = on_start, on_slack
        self._clock: Clock = clock or MonotonicClock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._slew_ns = 0
        self._next_ns = 0
        self._skipped_before = 0
        self._began_ns = 0  # of the tick that runs; 0 between two of them
        self.ticks = self.missed = self.slow = self.held_up = 0
        self.skipped = self.late = self.errors = 0

    def start(self) -> None:
        """Start the thread; its first deadline is when it runs."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Ask the loop to end and wait for it; returns whether it did."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def busy_s(self) -> float:
        """Seconds since the present tick began; 0 between two ticks."""
        began = self._began_ns
        return (self._clock.now_ns() - began) * 1e-9 if began else 0.0

    def slew(self, offset_s: float) -> None:
        """Move the coming deadlines by `offset_s`, at most 1 % of the period."""
        limit = _MAX_SLEW * self._period_ns
        self._slew_ns = round(min(max(offset_s * 1e9, -limit), limit))

    def run(self, ticks: int) -> None:
        """Do a number of ticks in the calling thread, from now; for tests and recordings."""
        self._next_ns = self._clock.now_ns()
        for _ in range(ticks):
            self._once()

    def _run(self) -> None:
        try:
            self._on_start()
        except Exception as error:
            self._tell(error)
        self._next_ns = self._clock.now_ns()
        while not self._stop.is_set():
            self._once()

    def _once(self) -> None:
        self._clock.wait_until(self._next_ns, self._stop)
        if self._stop.is_set():
            return
        due, start = self._next_ns, self._clock.now_ns()
        self.late += start - due > _LATE * self._period_ns
        self._began_ns, worked = start, self._clock.worked_ns()
        try:
            self._tick(Tick(self.ticks, due, start, self._skipped_before, self._period_ns * 1e-9))
        except Exception as error:
            self.errors += 1
            self._tell(error)
        self._began_ns = 0
        self.ticks += 1
        due += self._period_ns + self._slew_ns
        self._slew_ns = 0
        ended = self._clock.now_ns()
        over = ended - due
        self._skipped_before = 0
        if over > 0:
            self.missed += 1
            slow = ended - start > self._period_ns
            self.slow += slow
            self.held_up += slow and self._clock.worked_ns() - worked <= self._period_ns
            # The next deadline still ahead; the ones in between are gone.
            self._skipped_before = -(-over // self._period_ns)
            self.skipped += self._skipped_before
            due += self._skipped_before * self._period_ns
        self._next_ns = due
        if over <= 0:
            try:
                self._on_slack(-over * 1e-9)
            except Exception as error:
                self._tell(error)

    def _tell(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):  # whatever happens, the next tick comes
            self._on_error(error)
