# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How the soak tells a machine that stood still from a controller that was late."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.fixture(scope='module')
def stalls():
    path = Path(__file__).resolve().parents[2] / 'benchmarks' / 'soak_stalls.py'
    spec = importlib.util.spec_from_file_location('soak_stalls', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(('began', 'ended', 'still'), [
    (0.0, 0.9, 0.0), (0.0, 1.01, 0.01), (1.01, 1.5, 0.03), (1.0, 1.5, 0.04), (1.04, 2.0, 0.0),
    (0.5, 3.0, 0.09), (2.01, 2.02, 0.01)])
def test_time_that_any_processor_stood_still_counts_once(stalls, began, ended, still):
    """Two processors often stand still together."""
    seen = [(1.0, 1.02), (1.01, 1.04), (1.01, 1.015), (2.0, 2.05)]
    assert stalls.stood_still(seen, began, ended) == pytest.approx(still)
    assert stalls.stood_still([], began, ended) == 0.0
    assert stalls.longest(seen) == pytest.approx(0.05)
    assert stalls.longest([]) == 0.0


def test_what_chance_alone_would_put_down_to_the_machine(stalls):
    """A stall of 10 ms every second: a span of 60 ms has all of it 5 % of the time."""
    seen = [(float(t), t + 0.01) for t in range(400)]
    assert stalls.by_chance(seen, 0.06, 0.0099) == pytest.approx(0.05, abs=0.01)
    assert stalls.by_chance(seen, 0.06, 0.001) == pytest.approx(0.068, abs=0.01)
    assert stalls.by_chance(seen, 0.06, 0.02) == 0.0
    assert stalls.by_chance([], 0.06, 0.01) == 0.0


def may_be_first():
    return subprocess.run(['chrt', '-f', '99', 'true'], stderr=subprocess.DEVNULL,
                          check=False).returncode == 0


@pytest.mark.skipif(not may_be_first(), reason='needs SCHED_FIFO (ulimit -r 99, or root)')
def test_a_watcher_that_was_stopped_for_a_while_saw_a_stall_that_long(stalls, tmp_path):
    """A stopped process is what a processor that stands still looks like from within."""
    began = time.monotonic()
    watch = stalls.Stalls(tmp_path)
    try:
        time.sleep(0.5)
        assert watch.watched
        first = watch._processes[0]
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(first.pid, signal.SIGCONT)
        time.sleep(0.3)
        assert 0.25 < stalls.longest(watch.since(began)) < 5.0
        assert watch.since(time.monotonic() + 60) == []
    finally:
        watch.close()
    file = next(tmp_path.glob('stalls_*.txt'))
    file.write_text('1.0000 2.0000\n3.0000 3.0')  # a line that is being written
    assert watch.since(0.0)[:1] == [(1.0, 2.0)]
    assert all(begin != 3.0 for begin, _ in watch.since(0.0))


def test_a_watcher_ends_with_its_parent(tmp_path):
    code = ('import sys; sys.path.insert(0, sys.argv[1]); from soak_stalls import Stalls\n'
            'from pathlib import Path; s = Stalls(Path(sys.argv[2]))\n'
            'print(*[p.pid for p in s._processes])')
    done = subprocess.run(
        [sys.executable, '-c', code, str(Path(__file__).resolve().parents[2] / 'benchmarks'),
         str(tmp_path)], stdout=subprocess.PIPE, text=True, check=True)
    end = time.monotonic() + 30
    while any(Path(f'/proc/{pid}/cmdline').exists() for pid in done.stdout.split()):
        assert time.monotonic() < end, 'a watcher was left behind'
        time.sleep(0.05)
