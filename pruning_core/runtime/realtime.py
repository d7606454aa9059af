# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the operating system that make a Python loop punctual: tried, never required.

Each is asked for by a parameter, tried once, and reported as it came out, so that a diagnostic
shows what the loop really runs with. None of them makes this hard real time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from pruning_core.errors import ConfigError, explain

NOT_ASKED = 'not asked for'
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_RANGE = re.compile(r'(\d+)(?:-(\d+))?')
_OTHERS = 1  # real-time priority of the threads beside the control loop
_SHARE = 0.5  # part of the slack that a collection may be expected to take
_FULL_EVERY = 1000  # ticks between two full collections
_PATIENCE = (50, 16_384)  # ticks before what did not fit is tried again: at first, and at most


def cores(text: str) -> frozenset[int]:
    """Read a list of CPU cores such as '1' or '0,2-3'; empty for none.

    Raises:
        ConfigError: it has another form, or names a core that this process may not use.
    """
    allowed = os.sched_getaffinity(0)
    chosen: set[int] = set()
    for part in filter(None, (p.strip() for p in text.split(','))):
        found = _RANGE.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        # A range is clipped before it is made: '0-99999999999' must not fill the memory.
        named = set(range(first, min(last, max(allowed) + 1) + 1))
        if not named or not named <= allowed:
            raise ConfigError(
                explain(f"cores '{text}' were asked for", f"'{part}' is not to be had",
                        f'cores of {sorted(allowed)}, such as 0,2-3',
                        'correct the parameter, or leave it empty')
            )
        chosen |= named
    return frozenset(chosen)


@dataclass(frozen=True)
class RealTimeSettings:
    """What is asked for.

    Attributes:
        cores: that the control thread stays on; empty: any.
        priority: SCHED_FIFO priority of the control thread, 1 to 99; 0: an ordinary thread. The
            other threads of the process get the lowest real-time priority.
        lock_memory: keep all pages of this process in memory.
        freeze_gc: collect garbage only in the slack of the control loop, in bounded portions.
        switch_interval_s: how long another Python thread may keep the interpreter; 0: Python's
            own 5 ms.
    """

    cores: frozenset[int] = frozenset()
    priority: int = 0
    lock_memory: bool = False
    freeze_gc: bool = False
    switch_interval_s: float = 0.0


class RealTime:
    """Applies the settings and remembers how each came out.

    Attributes:
        achieved: one line per setting.
    """

    def __init__(self, settings: RealTimeSettings) -> None:
        """Nothing is changed yet."""
        self._settings = settings
        self._interval_s: float | None = None
        self._frozen = False
        self._lifted: set[int] = set()  # threads
        self.achieved = dict.fromkeys(
            ('cores', 'priority', 'other_threads', 'lock_memory', 'freeze_gc', 'switch_interval'),
            NOT_ASKED)

    def prepare_process(self) -> None:
        """Apply what holds for the whole process; call it once everything is loaded."""
        s = self._settings
        if s.lock_memory:
            self._try('lock_memory', lock_memory)
        if s.switch_interval_s:
            self._interval_s = sys.getswitchinterval()
            sys.setswitchinterval(s.switch_interval_s)
            self.achieved['switch_interval'] = f'{sys.getswitchinterval():g} s'
        if s.freeze_gc:
            gc.collect()
            gc.freeze()
            gc.disable()
            self._frozen = True
            self.achieved['freeze_gc'] = 'collected in the slack of the loop'

    def prepare_thread(self) -> None:
        """Apply what holds for the calling thread alone: the control loop's."""
        s = self._settings
        if s.cores:
            self._try('cores', lambda: pin(s.cores))
        if s.priority:
            self._try('priority', lambda: be_first(s.priority))

    def lift_others(self) -> None:
        """Put every other thread of the process before all ordinary processes, too.

        They share an interpreter with the control thread: one that holds it and is kept from
        running by somebody else's work keeps the control thread from running, whatever its
        priority. Threads come and go, so that this is called now and then.
        """
        if not self._settings.priority:
            return
        try:
            for entry in os.listdir('/proc/self/task'):
                thread = int(entry)
                with contextlib.suppress(ProcessLookupError):
                    if os.sched_getscheduler(thread) == os.SCHED_OTHER:
                        os.sched_setscheduler(thread, os.SCHED_RR | os.SCHED_RESET_ON_FORK,
                                              os.sched_param(_OTHERS))
                        self._lifted.add(thread)
            self.achieved['other_threads'] = f'SCHED_RR {_OTHERS}'
        except OSError as error:
            self.achieved['other_threads'] = f'refused: {error}'

    def restore(self) -> None:
        """Take back what would change how the process behaves without its loop."""
        for thread in self._lifted:
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        self._lifted.clear()
        if self._interval_s is not None:
            sys.setswitchinterval(self._interval_s)
            self._interval_s = None
        if self._frozen:
            gc.unfreeze()
            gc.enable()
            self._frozen = False

    def _try(self, name: str, does: Callable[[], str]) -> None:
        try:
            self.achieved[name] = does()
        except (OSError, AttributeError, ValueError) as error:
            self.achieved[name] = f'refused: {error}'


def pin(chosen: frozenset[int]) -> str:
    """Keep the calling thread on some cores; raises OSError where that is refused."""
    os.sched_setaffinity(0, chosen)
    return 'core ' + ','.join(str(c) for c in sorted(os.sched_getaffinity(0)))


def be_first(priority: int) -> str:
    """Run the calling thread before all ordinary ones; raises OSError where that is refused."""
    # Children, such as the trial of a bundle, start as ordinary processes.
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    return f'SCHED_FIFO {os.sched_getparam(0).sched_priority}'


def lock_memory() -> str:
    """Keep all pages in memory from their first use on; raises OSError where that is refused.

    Not before their first use: each thread has a stack of 8 MB, of which it uses a hundredth.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return 'locked'


class _Work:
    """Whether work is expected to fit; what does not is tried again, ever more seldom.

    One time that the machine stood still must not be the last, and work that is too long for this
    machine must not cost a deadline every second.
    """

    def __init__(self) -> None:
        """Know nothing, and expect it to fit."""
        self._expected_s = 0.0
        self._patience = _PATIENCE[0]
        self._waited = 0

    def fits(self, slack_s: float) -> bool:
        """Whether it should be tried now."""
        if self._expected_s <= _SHARE * slack_s:
            return True
        self._waited += 1
        return self._waited >= self._patience

    def took(self, seconds: float, slack_s: float) -> None:
        """Learn from having tried."""
        again, self._waited = self._waited >= self._patience, 0
        self._expected_s = seconds if again else max(seconds, 0.99 * self._expected_s)
        if seconds <= _SHARE * slack_s:
            self._patience = _PATIENCE[0]
        elif again:
            self._patience = min(2 * self._patience, _PATIENCE[1])


class SlackCollector:
    """Collects garbage in the slack of a loop, where a collection is expected to fit.

    Attributes:
        collections: that were made.
        longest_s: the longest of them.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start with nothing known about how long a collection takes."""
        self._clock = clock
        self.collections, self.longest_s = 0, 0.0
        self._young, self._full = _Work(), _Work()
        self._since_full = 0

    def __call__(self, slack_s: float) -> None:
        """Collect, if it fits into `slack_s` seconds by all that is known."""
        if slack_s <= 0:
            return
        self._since_full += 1
        due = ((2, self._full),) if self._since_full >= _FULL_EVERY else ()
        for generation, work in (*due, (0, self._young)):
            if not work.fits(slack_s):
                continue
            began = self._clock()
            gc.collect(generation)
            took = self._clock() - began
            work.took(took, slack_s)
            self.longest_s = max(took, self.longest_s)
            self.collections += 1
            if generation == 2:
                self._since_full = 0
            return
