# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How the soak tells a machine that stood still from a controller that was late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def stalls(load_benchmark):
    return load_benchmark('soak_stalls')


@pytest.fixture(scope='module')
def misses(load_benchmark):
    return load_benchmark('soak_misses')


@pytest.mark.parametrize(('began', 'ended', 'still'), [
    (0.0, 0.9, 0.0), (0.0, 1.01, 0.01), (1.01, 1.5, 0.03), (1.0, 1.5, 0.04), (1.04, 2.0, 0.0),
    (0.5, 3.0, 0.09), (2.01, 2.02, 0.01)])
def test_time_that_any_processor_stood_still_counts_once(misses, began, ended, still):
    """Two processors often stand still together."""
    seen = [(1.0, 1.02), (1.01, 1.04), (1.01, 1.015), (2.0, 2.05)]
    assert misses.stood_still(seen, began, ended) == pytest.approx(still)
    assert misses.stood_still([], began, ended) == 0.0
    assert misses.longest(seen) == pytest.approx(0.05)
    assert misses.longest([]) == 0.0


def test_what_chance_alone_would_put_down_to_the_machine(misses):
    """A stall of 10 ms every second: a span of 60 ms has all of it 5 % of the time."""
    seen = [(float(t), t + 0.01) for t in range(400)]
    assert misses.by_chance(seen, 0.06, 0.0099) == pytest.approx(0.05, abs=0.01)
    assert misses.by_chance(seen, 0.06, 0.001) == pytest.approx(0.068, abs=0.01)
    assert misses.by_chance(seen, 0.06, 0.02) == 0.0
    assert misses.by_chance([], 0.06, 0.01) == 0.0


@pytest.fixture
def loop():
    """A loop of 20 ms whose ticks compute 8 ms; the tick due at 0.10 ends at 0.131, two late."""
    started = [0.02 * k for k in range(6)] + [0.14, 0.16, 0.18]
    latency = [0.008] * 5 + [0.031, 0.008, 0.008, 0.008]
    sent = [a + b for a, b in zip(started, latency, strict=True)]
    counts = [(sent[0] + 0.001, 0), (sent[6] + 0.001, 1)]
    return counts, sent, latency, [False] * 6 + [True] * 3, 0.02


def test_a_miss_is_the_tick_before_the_one_that_tells_of_it(misses, loop):
    miss, = misses.misses_of(*loop)
    assert (miss.skipped, miss.in_swap) == (1, True)
    assert miss.began == pytest.approx(0.08)
    assert miss.ended == pytest.approx(0.14)
    counts, *rest = loop
    assert misses.misses_of([*counts, (0.1691, 4)], *rest)[1].skipped == 3
    assert misses.misses_of(counts[:1], *rest) == []


@pytest.mark.parametrize(('seen', 'machine'), [
    ([], False), ([(0.105, 0.112)], True), ([(0.105, 0.110)], False),
    ([(0.105, 0.109), (0.115, 0.119)], True),  # together
    ([(0.02, 0.07)], False), ([(0.145, 0.19)], False)])  # before and after
def test_a_miss_is_the_machines_where_stalls_make_up_half_of_its_excess(misses, loop, seen,
                                                                        machine):
    miss, = misses.misses_of(*loop)
    assert miss.by_machine(seen, 0.02, 0.008) is machine


def test_a_controller_too_slow_for_its_period_cannot_put_it_down_to_the_machine(misses, loop):
    miss, = misses.misses_of(*loop)
    assert not miss.by_machine([(0.08, 0.14)], 0.02, 0.021)


def may_be_first():
    return subprocess.run(['chrt', '-f', '99', 'true'], stderr=subprocess.DEVNULL,
                          check=False).returncode == 0


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(not may_be_first(), reason='needs SCHED_FIFO (ulimit -r 99, or root)')
def test_a_watcher_that_was_stopped_for_a_while_saw_a_stall_that_long(stalls, misses, tmp_path):
    """A stopped process is what a processor that stands still looks like from within."""
    began = time.monotonic()
    watch = stalls.Stalls(tmp_path)
    try:
        first = watch._processes[0]
        until(lambda: os.sched_getscheduler(first.pid) == os.SCHED_FIFO)
        time.sleep(0.1)
        assert watch.watched
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(first.pid, signal.SIGCONT)
        time.sleep(0.3)
        assert 0.25 < misses.longest(watch.since(began)) < 5.0
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
        [sys.executable, '-c', code, str(BENCHMARKS), str(tmp_path)],
        stdout=subprocess.PIPE, text=True, check=True)
    until(lambda: not any(Path(f'/proc/{pid}/cmdline').exists() for pid in done.stdout.split()))
