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

import numpy as np
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


def test_a_collection_is_made_only_where_it_is_expected_to_fit():
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


class Collections:
    """Stands for `gc.collect`: each takes as long as it is told to, by generation."""

    def __init__(self, monkeypatch):
        self.now, self.tick, self.made = 0.0, 0, []  # (tick, generation)
        self.takes = {0: 0.0002, 2: 0.002}
        monkeypatch.setattr(gc, 'collect', self._collect)
        self.collector = SlackCollector(lambda: self.now)

    def _collect(self, generation):
        self.made.append((self.tick, generation))
        self.now += self.takes[generation]

    def run(self, ticks, slack_s=0.012):
        for _ in range(ticks):
            self.collector(slack_s)
            self.tick += 1

    def of(self, generation, since=0):
        return [t for t, g in self.made if g == generation and t >= since]


@pytest.mark.parametrize('generation', [0, 2])
def test_a_collection_during_which_the_machine_stood_still_is_not_the_last(monkeypatch,
                                                                           generation):
    """By the longest so far, none would ever fit again, and the process would grow for good."""
    there = Collections(monkeypatch)
    there.run(999 if generation else 100)
    usual, there.takes[generation] = there.takes[generation], 0.025
    there.run(1)
    assert there.made[-1] == (there.tick - 1, generation)
    assert there.collector.longest_s == pytest.approx(0.025)
    there.takes[generation] = usual
    began = there.tick
    there.run(3500)
    assert len(there.of(0, began)) > 3300
    assert len(there.of(2, began)) >= 3


def test_collections_that_really_take_long_cost_a_deadline_ever_more_seldom(monkeypatch):
    there = Collections(monkeypatch)
    there.takes = {0: 0.02, 2: 0.03}
    there.run(200_000)
    tried = there.of(0)
    gaps = np.diff(tried)
    assert tried[1] <= 60 and (gaps[1:9] >= 1.9 * gaps[:8]).all()
    assert len(there.made) < 50
    assert there.tick - there.made[-1][0] <= 16_384, 'seldom, but not never'


def test_a_full_collection_that_does_not_fit_keeps_no_young_one_waiting(monkeypatch):
    there = Collections(monkeypatch)
    there.takes[2] = 0.01
    there.run(6000)
    assert 1 <= len(there.of(2)) < 6
    assert len(there.of(0)) > 5900


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
