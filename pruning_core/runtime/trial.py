# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Try a bundle in a process of its own, before the controller lets it into its own.

What reads an ONNX graph is a large C++ library; a hostile or damaged graph may crash it, fill the
memory or never return. A bundle that is offered to a running controller is therefore opened,
warmed up and run elsewhere first, with limits on memory and time.

    controller  --pipe-->  TrialBench (`... trial --serve`)  --fork-->  `... trial FOLDER HASH`

The process in between is started before control begins. Starting one holds the interpreter until
the new one runs, and on a loaded machine that can take many periods.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from pruning_core.errors import BundleError, PruningError, explain

_MEMORY = 4 << 30  # bytes of address space; onnxruntime and numpy reserve about one of these four
_PLANS = 3
_GRACE_S = 5.0  # beyond a trial's own time, for the answer to arrive


class TrialBench:
    """Tries bundles, one after the other, on behalf of a controller."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        """Start the process in between; it ends with this one, however this one ends."""
        self._timeout_s, self._lock = timeout_s, threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'pruning_core.runtime.trial', '--serve', str(timeout_s)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            errors='replace')

    def close(self) -> None:
        """End the process; a trial that runs ends with it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.kill()
        self._process.wait()

    def run(self, folder: Path, hash: str) -> None:
        """Try a bundle; returns where it did well.

        Raises:
            BundleError: it was refused, crashed its process, or did not come to an end.
        """
        with self._lock:
            problem = self._ask(folder, hash)
        if problem:
            raise BundleError(
                explain(f'bundle {hash[:16]} was tried in a process of its own', problem,
                        'a bundle that opens, warms up and plans finite commands',
                        'export it again')
            )

    def _ask(self, folder: Path, hash: str) -> str:
        """Hand a bundle over and wait for the word on it; empty: it is good."""
        given, taken = self._process.stdin, self._process.stdout
        assert given is not None and taken is not None
        try:
            given.write(json.dumps([str(folder), hash]) + '\n')
            given.flush()
            ready, _, _ = select.select([taken], [], [], self._timeout_s + _GRACE_S)
            line = taken.readline() if ready else ''
            return str(json.loads(line)) if line else 'the process that tries bundles has ended'
        except (OSError, ValueError) as error:
            return f'the process that tries bundles has ended ({error})'


def _serve(timeout_s: float) -> int:
    """Try what is named on standard input, line by line, until it closes."""
    # Even where a whole controller was started with a real-time priority.
    with contextlib.suppress(OSError):  # a sandbox that lets nobody choose
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(10)
    for line in sys.stdin:
        folder, hash = json.loads(line)
        sys.stdout.write(json.dumps(_outcome(folder, hash, timeout_s)) + '\n')
        sys.stdout.flush()
    return 0


def _outcome(folder: str, hash: str, timeout_s: float) -> str:
    """Run one trial; says what was wrong, or nothing."""
    child = subprocess.Popen(
        [sys.executable, '-m', 'pruning_core.runtime.trial', folder, hash],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors='replace')
    end = time.monotonic() + timeout_s
    try:
        while child.poll() is None:
            if _closed() or time.monotonic() > end:
                return f'it was not done after {timeout_s:g} s'
            time.sleep(0.02)
    finally:
        child.kill()
        _, said = child.communicate()
    if child.returncode == 0:
        return ''
    last = said.strip().splitlines()[-1:] or ['without a word']
    return f'it ended with code {child.returncode}: {last[0][:300]}'


def _closed() -> bool:
    """Whether whoever asked is gone; then nobody waits for the outcome."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _try(folder: str, hash: str) -> None:
    import numpy as np

    from pruning_core.runtime.bundle import open_bundle
    from pruning_core.runtime.planner import Planner

    bundle = open_bundle(folder, hash)
    planner = Planner(bundle)
    planner.warm_up(1)
    signal = bundle.manifest.observation
    low, high = np.maximum(signal.low, -10.0), np.minimum(signal.high, 10.0)
    rng = np.random.default_rng(0)
    for _ in range(_PLANS):
        action = planner.plan(rng.uniform(low, high)).action
        if not np.isfinite(action).all():
            raise BundleError(
                explain(f'bundle {hash[:16]} was asked for a plan', f'it gave {action.tolist()}',
                        'finite numbers', 'prune or train again')
            )


def main(arguments: list[str]) -> int:
    """Serve, or try the bundle named on the command line; returns the exit code."""
    if arguments[:1] == ['--serve']:
        return _serve(float(arguments[1]))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _try(*arguments)
    except PruningError as error:
        sys.stderr.write(f'{type(error).__name__}: {error}\n')
        return 2
    return 0


if __name__ == '__main__':
    raise SystemExit(main(sys.argv[1:]))
