# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""When the machine itself stood still, as the soak's misses are to be told from the controller's.

On each processor a process of the highest real-time priority sleeps for 2 ms at a time. No process
may keep it from waking up; where it wakes up late, the processor was not there: taken by the host
of a virtual machine, by firmware, by the kernel itself, or asleep.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SHORTEST_S = 0.003  # that counts
_SLEEP_S = 0.002


class Stalls:
    """Watches every processor; without the permission for real-time priorities none is seen."""

    def __init__(self, folder: Path) -> None:
        """Start the watchers; each writes into a file of its own."""
        self._files = [folder / f'stalls_{core}.txt' for core in sorted(os.sched_getaffinity(0))]
        self._processes = []
        for core, file in zip(sorted(os.sched_getaffinity(0)), self._files, strict=True):
            file.write_text('')
            self._processes.append(subprocess.Popen(
                [sys.executable, __file__, str(core), str(file), str(os.getpid())]))

    @property
    def watched(self) -> bool:
        """Whether they run."""
        return all(process.poll() is None for process in self._processes)

    def since(self, began: float) -> list[tuple[float, float]]:
        """Begin and end (`time.monotonic`) of each stall since a time, on any processor."""
        rows = (line.split() for file in self._files for line in file.read_text().splitlines(True)
                if line.endswith('\n'))
        return sorted((float(a), float(b)) for a, b in rows if float(b) >= began)

    def close(self) -> None:
        """End the watchers."""
        for process in self._processes:
            process.kill()
            process.wait()


def watch(core: int, file: Path, parent: int) -> int:
    """Write down each time that a processor stood still, until the parent is gone."""
    try:
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
    except OSError:
        return 1
    with file.open('a', buffering=1) as out:
        while os.getppid() == parent:
            due = time.monotonic() + _SLEEP_S
            time.sleep(_SLEEP_S)
            now = time.monotonic()
            if now - due > SHORTEST_S:
                out.write(f'{due:.4f} {now:.4f}\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(watch(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
