# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What is believed of a stamp: a table, and the promises that hold for any of them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pruning_core.runtime.arrival import StampCheck

NOW = 1e6


def test_a_message_without_a_stamp_is_as_old_as_its_arrival():
    assert StampCheck(0.5).judge(0.0, NOW) == StampCheck(0.5).judge(NOW, NOW)


@pytest.mark.parametrize(('ahead_s', 'future'), [(0.0, 0), (0.04, 0), (0.06, 1), (1e9, 1)])
def test_only_clocks_that_are_close_are_forgiven(ahead_s, future):
    check = StampCheck(0.5, tolerance_s=0.05)
    arrival = check.judge(NOW + ahead_s, NOW)
    assert arrival.delay_s == 0.0, 'a stamp never makes an observation younger than its arrival'
    assert bool(arrival.problem) == bool(future)
    assert check.future == future


def test_time_on_the_way_counts_as_age():
    assert StampCheck(0.5).judge(NOW - 0.3, NOW).delay_s == pytest.approx(0.3)


def test_overtaken_messages_are_dropped_and_counted():
    check = StampCheck(0.5)
    assert not check.judge(NOW, NOW).problem
    assert 'overtaken' in check.judge(NOW - 0.02, NOW).problem
    assert not check.judge(NOW, NOW).problem, 'the same stamp again is no step back'
    assert not check.judge(NOW + 0.02, NOW + 0.02).problem
    assert (check.reordered, check.jumps, check.future) == (1, 0, 0)


def test_a_clock_that_was_set_back_is_followed_and_not_mistaken_for_disorder():
    check = StampCheck(0.5)
    check.judge(NOW, NOW)
    first = check.judge(NOW - 3600, NOW + 0.02)
    assert not first.problem
    assert first.delay_s == pytest.approx(3600.02), 'too old to act on, and that is the cause'
    assert not check.judge(NOW - 3600 + 0.02, NOW + 0.04).problem
    assert (check.reordered, check.jumps) == (0, 1)


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1)), max_size=40))
@example([(0.05, 0.0), (0.03, 0.0)])  # overtaken, by a clock that is ahead
def test_whatever_is_stamped_the_age_is_never_negative_and_disorder_never_lasts(steps):
    """However the clocks jump, two messages in order of a steady clock end every disorder."""
    check, now = StampCheck(0.5), NOW
    for offset, passed in steps:
        now += passed
        assert check.judge(now + offset, now).delay_s >= 0
    now += 1e5
    check.judge(now, now)
    assert check.judge(now + 0.02, now + 0.02).problem == ''
