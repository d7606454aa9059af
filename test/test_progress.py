# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What long work says: few lines where there is no terminal, a bar where there is one, JSON."""

from __future__ import annotations

import io
import json
import time

import pytest

from pruning_core.progress import Bar, JsonLines, Lines, for_people


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal, as asked."""

    def make(is_one):
        stream = io.StringIO()
        stream.isatty = lambda: is_one
        monkeypatch.setattr('sys.stderr', stream)
        return stream

    return make


def test_lines_come_every_half_minute_and_at_the_end_of_a_phase():
    now, stream = [0.0], io.StringIO()
    told = Lines(stream, lambda: now[0])
    for done in range(1, 101):
        now[0] += 1.0
        told('train', done, 100, loss=0.123456, best='no')
    told('export', 1, 1)
    told('export', 1, 1)
    assert stream.getvalue().splitlines() == [
        'train 30/100, loss=0.1235, best=no', 'train 60/100, loss=0.1235, best=no',
        'train 90/100, loss=0.1235, best=no', 'train 100/100, loss=0.1235, best=no', 'export 1/1']


def test_people_get_a_bar_on_a_terminal_and_lines_in_a_log(terminal):
    stream = terminal(True)
    bar = for_people()
    assert isinstance(bar, Bar)
    bar('train', 1, 2, loss=0.123456, best='no')
    bar('train', 2, 2, loss=0.1)
    assert '2/2' in stream.getvalue() and 'loss=0.1' in stream.getvalue()
    stream = terminal(False)
    log = for_people()
    assert isinstance(log, Lines)
    log('train', 2, 2)
    assert stream.getvalue() == 'train 2/2\n'


def test_json_lines_are_at_most_ten_a_second_and_the_last_is_there(monkeypatch):
    now, stream = [100.0], io.StringIO()
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    told = JsonLines(stream)
    for done in range(1, 1001):
        now[0] += 1 / 512
        told('train', done, 1000)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[-1] == {'phase': 'train', 'done': 1000, 'total': 1000}
    assert 17 <= len(lines) <= 21  # of 1.95 seconds
