# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The loop on a clock that the test moves; the real clock only where threads are the point."""

from __future__ import annotations

import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import ConfigError
from pruning_core.runtime.loop import MonotonicClock, PeriodicLoop

MS = 1_000_000
PERIOD_S, PERIOD = 0.01, 10 * MS


class FakeClock:
    """Time passes by waiting, by work and by waking up late."""

    def __init__(self, now_ns=123_456_789):
        self.began = self.now = now_ns
        self.worked = 0
        self.oversleep = iter(())

    def now_ns(self):
        return self.now

    def worked_ns(self):
        return self.worked

    def wait_until(self, deadline_ns, stop):
        self.now = max(self.now, deadline_ns) + next(self.oversleep, 0)


def done(work, *, period_s=PERIOD_S, oversleep=(), slew=None):
    """Runs one tick for each duration of `work`, in ns; returns loop, ticks and clock."""
    clock, ticks = FakeClock(), []
    clock.oversleep = iter(oversleep)

    def tick(t):
        ticks.append(t)
        clock.now += work[t.index]
        if slew is not None:
            loop.slew(slew)

    loop = PeriodicLoop(period_s, tick, clock=clock)
    loop.run(len(work))
    return loop, ticks, clock


def deadlines(ticks, clock):
    return [(t.deadline_ns - clock.began) / PERIOD for t in ticks]


def test_deadlines_are_absolute_and_do_not_drift():
    """Neither the work nor waking up late may push the grid."""
    loop, ticks, clock = done([3 * MS] * 1000, oversleep=[MS // 2] * 1000)
    assert deadlines(ticks, clock) == list(range(1000))
    assert [t.lateness_s for t in ticks] == pytest.approx([0.0005] * 1000)
    assert (loop.ticks, loop.missed, loop.skipped, loop.late) == (1000, 0, 0, 0)
    assert [t.index for t in ticks] == list(range(1000))
    assert {t.period_s for t in ticks} == {PERIOD_S}


def test_period_that_is_no_whole_number_of_nanoseconds_stays_within_half_of_one():
    _, ticks, clock = done([0] * 301, period_s=1 / 30)
    assert ticks[-1].deadline_ns - clock.began == 300 * 33_333_333


@pytest.mark.parametrize(('work_ms', 'on_grid', 'missed', 'skipped'), [
    ([9, 9, 9], [0, 1, 2], 0, 0),
    ([10, 10, 10], [0, 1, 2], 0, 0),  # to the nanosecond in time
    ([11, 1, 1], [0, 2, 3], 1, 1),
    ([20, 1, 1], [0, 2, 3], 1, 1),
    ([21, 1, 1], [0, 3, 4], 1, 2),
    ([1, 55, 1], [0, 1, 7], 1, 5),
    ([15, 15, 15], [0, 2, 4], 3, 3),
])
def test_misses_are_whole_periods_and_never_caught_up_with_a_burst(work_ms, on_grid, missed,
                                                                   skipped):
    loop, ticks, clock = done([w * MS for w in work_ms])
    assert deadlines(ticks, clock) == on_grid
    assert (loop.missed, loop.skipped) == (missed, skipped)


def test_each_tick_is_told_what_the_one_before_it_cost():
    _, ticks, _ = done([35 * MS, MS, 12 * MS, MS, MS])
    assert [t.skipped for t in ticks] == [0, 3, 0, 1, 0]


@given(st.lists(st.integers(0, 60 * MS), min_size=1, max_size=30),
       st.lists(st.integers(0, 4 * MS), max_size=30))
def test_any_load_stays_on_the_grid(work, oversleep):
    loop, ticks, clock = done(work, oversleep=oversleep)
    grid = deadlines(ticks, clock)
    assert grid[0] == 0
    assert all(g == int(g) for g in grid)
    assert [b - a - 1 for a, b in zip(grid, grid[1:], strict=False)] == [
        t.skipped for t in ticks[1:]]
    for t, last in zip(ticks[1:], ticks, strict=False):
        ended = last.start_ns + work[last.index]
        assert ended <= t.deadline_ns  # no tick is due in the past
        assert not t.skipped or t.deadline_ns - PERIOD < ended  # nor later than need be
    assert loop.missed == sum(t.skipped > 0 for t in ticks[1:]) + (
        clock.now > ticks[-1].deadline_ns + PERIOD)


@pytest.mark.parametrize(('oversleep_us', 'late'), [(0, 0), (1000, 0), (1001, 3), (5000, 3)])
def test_late_starts_are_counted_apart_from_misses(oversleep_us, late):
    loop, _, _ = done([0] * 3, oversleep=[oversleep_us * 1000] * 3)
    assert (loop.late, loop.missed) == (late, 0)


@pytest.mark.parametrize(('work_ms', 'oversleep_ms', 'slow'), [
    (11, 0, 1), (9, 2, 0), (10, 1, 0), (30, 0, 1), (1, 25, 0)])
def test_misses_by_slow_compute_are_told_from_those_by_a_late_start(work_ms, oversleep_ms, slow):
    loop, _, _ = done([work_ms * MS], oversleep=[oversleep_ms * MS])
    assert (loop.missed, loop.slow) == (1, slow)


@pytest.mark.parametrize(('work_ms', 'worked_ms', 'oversleep_ms', 'counted'), [
    (11, 11, 0, (1, 0)), (11, 3, 0, (1, 1)), (30, 10, 0, (1, 1)), (9, 3, 5, (0, 0)),
    (9, 3, 0, (0, 0))])
def test_a_slow_tick_that_was_kept_waiting_is_told_from_one_that_worked(
        work_ms, worked_ms, oversleep_ms, counted):
    clock = FakeClock()
    clock.oversleep = iter([oversleep_ms * MS])

    def tick(t):
        clock.now += work_ms * MS
        clock.worked += worked_ms * MS
    loop = PeriodicLoop(PERIOD_S, tick, clock=clock)
    loop.run(1)
    assert (loop.slow, loop.held_up) == counted


def test_time_that_a_tick_sleeps_is_not_time_that_it_works():
    """The real clock: a tick that only waits was held up."""
    loop = PeriodicLoop(0.005, lambda t: time.sleep(0.02))
    loop.run(2)
    assert (loop.slow, loop.held_up) == (2, 2)


def test_slack_is_what_is_left_of_the_period_and_only_after_a_tick_in_time():
    clock, slack = FakeClock(), []
    work = iter([3 * MS, 12 * MS, 9 * MS])

    def tick(t):
        clock.now += next(work)
    PeriodicLoop(PERIOD_S, tick, clock=clock, on_slack=slack.append).run(3)
    assert slack == pytest.approx([0.007, 0.001])


def test_work_in_the_slack_that_fails_or_takes_long_moves_no_deadline():
    clock, ticks, told = FakeClock(), [], []

    def work(slack_s):
        clock.now += 4 * MS
        raise ValueError
    loop = PeriodicLoop(PERIOD_S, ticks.append, clock=clock, on_slack=work, on_error=told.append)
    loop.run(5)
    assert deadlines(ticks, clock) == [0, 1, 2, 3, 4]
    assert len(told) == 5
    assert (loop.errors, loop.missed) == (0, 0)


# --- phase ----------------------------------------------------------------------------------


@pytest.mark.parametrize(('offset_s', 'moved'), [
    (0.0, 0), (0.00005, 0.005), (-0.00005, -0.005), (1.0, 0.01), (-1.0, -0.01),
])
def test_slew_moves_the_grid_gently_and_once(offset_s, moved):
    _, ticks, clock = done([0] * 4, slew=offset_s)
    assert deadlines(ticks, clock) == pytest.approx([k * (1 + moved) for k in range(4)])
    clock, moments = FakeClock(), []
    loop = PeriodicLoop(PERIOD_S, lambda t: moments.append(t), clock=clock)
    loop.slew(offset_s)
    loop.run(3)
    assert deadlines(moments, clock) == pytest.approx([0, 1 + moved, 2 + moved])


def test_repeated_slew_locks_onto_a_phase():
    """An arrival 4 ms after the grid is met after some ticks, and then held."""
    clock, ticks = FakeClock(), []
    arrival = clock.began + 4 * MS

    def tick(t):
        ticks.append(t)
        off = (arrival - t.start_ns) % PERIOD
        loop.slew((off if off < PERIOD / 2 else off - PERIOD) * 1e-9)

    loop = PeriodicLoop(PERIOD_S, tick, clock=clock)
    loop.run(60)
    phases = [(t.start_ns - arrival) % PERIOD for t in ticks]
    assert phases[0] == 6 * MS
    assert phases[45:] == [0] * 15
    assert loop.skipped == 0


# --- errors and stopping --------------------------------------------------------------------


def test_tick_that_raises_is_counted_told_and_keeps_the_grid():
    clock, told, started = FakeClock(), [], []

    def tick(t):
        started.append(t)
        clock.now += 12 * MS if t.index == 1 else MS
        if t.index % 2:
            raise ValueError(t.index)

    loop = PeriodicLoop(PERIOD_S, tick, on_error=told.append, clock=clock)
    loop.run(4)
    assert deadlines(started, clock) == [0, 1, 3, 4]
    assert [type(e) for e in told] == [ValueError, ValueError]
    assert [e.args for e in told] == [(1,), (3,)]
    assert (loop.ticks, loop.errors, loop.missed, loop.skipped) == (4, 2, 1, 1)


@pytest.mark.parametrize('period_s', [0.0, -0.01, math.nan, math.inf, 1e-10])
def test_period_that_is_none_is_refused(period_s):
    """Below half a nanosecond the grid would have no width."""
    with pytest.raises(ConfigError, match='control period.*allowed: seconds above 0'):
        PeriodicLoop(period_s, lambda tick: None)


def test_stop_ends_a_long_wait_at_once_and_no_tick_follows():
    ticks, first = [], threading.Event()
    loop = PeriodicLoop(3600.0, lambda t: (ticks.append(t), first.set()))
    assert not loop.alive
    loop.start()
    assert first.wait(10)
    assert loop.alive
    assert loop.stop(10)
    assert (loop.alive, len(ticks)) == (False, 1)
    assert loop.stop()  # again, as on shutdown after deactivate


def test_start_hook_runs_once_in_the_thread_of_the_loop_and_may_fail():
    seen, ticked, told = [], threading.Event(), []

    def start():
        seen.append(threading.current_thread().name)
        raise OSError('refused')
    loop = PeriodicLoop(3600.0, lambda t: ticked.set(), on_start=start, on_error=told.append,
                        name='here')
    loop.start()
    assert ticked.wait(10)
    assert loop.stop(10)
    assert seen == ['here']
    assert [type(e) for e in told] == [OSError]


def test_how_long_a_tick_lasts_already_can_be_seen_from_outside():
    entered, release = threading.Event(), threading.Event()
    loop = PeriodicLoop(3600.0, lambda t: (entered.set(), release.wait(10)))
    assert loop.busy_s == 0
    loop.start()
    assert entered.wait(10)
    first = loop.busy_s
    assert first > 0
    threading.Event().wait(0.02)
    assert loop.busy_s >= first + 0.02
    release.set()
    assert loop.stop(10)
    assert loop.busy_s == 0


def test_stop_waits_for_the_tick_that_runs_and_tells_where_it_does_not_end():
    entered, release = threading.Event(), threading.Event()
    loop = PeriodicLoop(1.0, lambda t: (entered.set(), release.wait(10)))
    loop.start()
    assert entered.wait(10)
    assert not loop.stop(timeout_s=0.01)
    release.set()
    assert loop.stop(10)
    assert loop.ticks == 1


def test_a_tick_may_stop_its_own_loop():
    ended = threading.Event()
    loop = PeriodicLoop(0.001, lambda t: (loop.stop(), ended.set()))
    loop.start()
    assert ended.wait(10)
    assert loop.stop(10)
    assert loop.ticks == 1


def test_real_clock_never_starts_a_tick_early():
    clock, early = MonotonicClock(), []
    enough = threading.Event()

    def tick(t):
        early.append(clock.now_ns() < t.deadline_ns)
        if t.index == 20:
            enough.set()

    loop = PeriodicLoop(0.002, tick)
    loop.start()
    assert enough.wait(20)
    assert loop.stop(10)
    assert not any(early)
    assert loop.errors == 0
