# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the operating system: tried, reported as they came out, and taken back."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import threading

import pytest

from pruning_core.errors import ConfigError
from pruning_core.runtime import realtime
from pruning_core.runtime.realtime import (
    NOT_ASKED,
    RealTime,
    RealTimeSettings,
    SlackCollector,
    cores,
)

ALL = sorted(os.sched_getaffinity(0))


def in_thread(does):
    """What a function returns in a thread of its own, which may be pinned or set back."""
    found = []
    thread = threading.Thread(target=lambda: found.append(does()))
    thread.start()
    thread.join()
    return found[0]


def test_cores_are_read():
    assert cores('') == frozenset()
    assert cores(f'{ALL[0]}') == {ALL[0]}
    assert cores(f' {ALL[0]} , {ALL[0]}-{ALL[0]} ,') == {ALL[0]}


@pytest.mark.parametrize('text', ['a', '-1', '1-', '3-2', '100000', '0-99999999999', '1.5', '0;1'])
def test_cores_that_are_not_to_be_had_are_refused(text, four_parts):
    with pytest.raises(ConfigError) as caught:
        cores(text)
    four_parts(caught, text)


def test_nothing_is_changed_that_was_not_asked_for():
    before = sys.getswitchinterval()
    made = RealTime(RealTimeSettings())
    made.prepare_process()
    made.prepare_thread()
    made.restore()
    assert set(made.achieved.values()) == {NOT_ASKED}
    assert sys.getswitchinterval() == before
    assert gc.isenabled()


def test_process_settings_are_applied_and_taken_back():
    before = sys.getswitchinterval()
    made = RealTime(RealTimeSettings(freeze_gc=True, switch_interval_s=1e-3))
    made.prepare_process()
    try:
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert sys.getswitchinterval() == pytest.approx(1e-3)
        assert made.achieved['switch_interval'] == '0.001 s'
    finally:
        made.restore()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert sys.getswitchinterval() == before
    made.restore()
    assert gc.isenabled(), 'a second time changes nothing'


def test_thread_settings_hold_for_the_thread_alone():
    made = RealTime(RealTimeSettings(cores=frozenset({ALL[0]})))

    def pinned():
        made.prepare_thread()
        return os.sched_getaffinity(0)
    assert in_thread(pinned) == {ALL[0]}
    assert sorted(os.sched_getaffinity(0)) == ALL
    assert made.achieved['cores'] == f'core {ALL[0]}'


def test_priority_is_given_or_its_refusal_is_told():
    made = RealTime(RealTimeSettings(priority=7))

    def first():
        made.prepare_thread()
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    if in_thread(first) == os.SCHED_FIFO:
        assert made.achieved['priority'] == 'SCHED_FIFO 7'
    else:
        assert made.achieved['priority'].startswith('refused: ')
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_refusal_is_no_failure(monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, 'Operation not permitted')
    monkeypatch.setattr(realtime.os, 'sched_setscheduler', refuse)
    monkeypatch.setattr(realtime, 'lock_memory', refuse)
    made = RealTime(RealTimeSettings(priority=50, lock_memory=True))
    made.prepare_process()
    made.prepare_thread()
    assert made.achieved['priority'] == 'refused: [Errno 1] Operation not permitted'
    assert made.achieved['lock_memory'].startswith('refused')


LOCKING = """
import threading
from pruning_core.runtime.realtime import lock_memory

def held(name):
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

try:
    lock_memory()
except OSError as error:
    raise SystemExit(f'refused: {error}')
before, end = held('VmRSS'), threading.Event()
threads = [threading.Thread(target=end.wait) for _ in range(8)]
for thread in threads:
    thread.start()
print(held('VmLck'), held('VmRSS') - before)
end.set()
"""


def test_locked_memory_holds_no_page_that_was_never_used():
    done = subprocess.run([sys.executable, '-c', LOCKING], capture_output=True, text=True,
                          check=False)
    if done.stderr.startswith('refused'):
        pytest.skip(done.stderr)
    locked, more = map(int, done.stdout.split())  # KiB
    assert locked > 0
    assert more < 8 * 1024  # the stacks of these threads have 64 MiB


def test_other_threads_are_lifted_and_put_back_or_the_refusal_is_told():
    """A helper that holds the interpreter must not wait for somebody else's work."""
    started, end, ids = threading.Event(), threading.Event(), []

    def helper():
        ids.append(threading.get_native_id())
        started.set()
        end.wait(30)
    thread = threading.Thread(target=helper)
    thread.start()
    assert started.wait(10)
    made = RealTime(RealTimeSettings(priority=7))
    try:
        made.lift_others()
        policy = os.sched_getscheduler(ids[0]) & ~os.SCHED_RESET_ON_FORK
        if policy == os.SCHED_RR:
            assert made.achieved['other_threads'] == 'SCHED_RR 1'
            child = subprocess.run(
                [sys.executable, '-c', 'import os; print(os.sched_getscheduler(0))'],
                capture_output=True, text=True, check=True)
            assert int(child.stdout) == os.SCHED_OTHER, 'children are ordinary processes'
        else:
            assert made.achieved['other_threads'].startswith('refused: ')
    finally:
        made.restore()
        end.set()
        thread.join()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_ordinary_loops_lift_nobody():
    made = RealTime(RealTimeSettings())
    made.lift_others()
    assert made.achieved['other_threads'] == NOT_ASKED
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_collection_is_made_only_where_the_longest_so_far_fits():
    times = iter([0.0, 0.004, 1.0, 1.004])
    collector = SlackCollector(clock=lambda: next(times))
    collector(0.0)
    collector(-1.0)
    assert collector.collections == 0
    collector(0.001)  # nothing is known yet: it is tried once
    assert collector.longest_s == pytest.approx(0.004)
    collector(0.007)  # less than twice as long
    assert collector.collections == 1
    collector(0.009)
    assert collector.collections == 2


@pytest.mark.parametrize('full', [False, True])
def test_a_collection_during_which_the_machine_stood_still_is_not_the_last(full):
    """By the longest so far, none would ever fit again, and the process would grow for good."""
    now, stalled = [0.0], [0.0]

    def clock():
        now[0] += stalled[0] or 0.0002
        return now[0]
    collector = SlackCollector(clock)
    for _ in range(999 if full else 100):
        collector(0.012)
    before = collector.collections
    stalled[0] = 0.025
    collector(0.012)
    assert collector.longest_s > 0.02
    stalled[0] = 0.0
    for _ in range(2500):
        collector(0.012)
    assert collector.collections - before > 2000
    assert collector.longest_s < 0.03


def test_collections_that_really_take_long_are_tried_seldom_but_not_never():
    now, tried = [0.0], []

    def clock():
        now[0] += 0.01
        return now[0]
    collector = SlackCollector(clock)
    for tick in range(20_000):
        before = collector.collections
        collector(0.012)
        if collector.collections > before:
            tried.append(tick)
    assert 5 < len(tried) < 500, 'one in 40 ticks at the most'
    assert tried[-1] > 19_000


def test_a_full_collection_that_does_not_fit_keeps_no_young_one_waiting(monkeypatch):
    made, now = [], [0.0]
    monkeypatch.setattr(gc, 'collect', made.append)

    def clock():
        now[0] += 0.01 if made[-1:] == [2] else 0.0001
        return now[0]
    collector = SlackCollector(clock)
    for _ in range(6000):
        collector(0.012)
    assert 2 in made
    assert made.count(0) > 5000


def test_garbage_does_go_away_while_the_collector_of_python_is_off():
    class Ring:
        alive = 0

        def __init__(self):
            Ring.alive += 1
            self.me = self

        def __del__(self):
            Ring.alive -= 1
    gc.disable()
    try:
        collector = SlackCollector()
        for _ in range(5000):
            Ring()
            collector(10.0)
    finally:
        gc.enable()
    assert Ring.alive < 1500
