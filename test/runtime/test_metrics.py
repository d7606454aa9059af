# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Quantiles in fixed memory, and a file that survives crashes and full disks."""

from __future__ import annotations

import errno
import json
import math
import resource
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.runtime.metrics import JsonlWriter, LatencyStats, read_jsonl

QUANTILES = {'p50_s': 0.5, 'p90_s': 0.9, 'p99_s': 0.99, 'p999_s': 0.999}


def counted(values):
    stats = LatencyStats()
    for value in values:
        stats.add(value)
    return stats


@pytest.mark.parametrize('draw', [
    lambda rng: rng.lognormal(-6, 1, 5000),
    lambda rng: rng.uniform(1e-6, 2e-6, 5000),
    lambda rng: np.concatenate([np.full(4990, 1e-3), np.full(10, 50.0)]),
    lambda rng: np.full(7, 0.0123),
], ids=['spread', 'narrow', 'rare stalls', 'constant'])
def test_summary_agrees_with_numpy(draw):
    values = draw(np.random.default_rng(0))
    found = counted(values).summary()
    assert found.count == len(values)
    assert found.mean_s == pytest.approx(values.mean(), rel=1e-9)
    assert found.std_s == pytest.approx(values.std(), rel=1e-6, abs=1e-12)
    assert (found.min_s, found.max_s) == (values.min(), values.max())
    for name, q in QUANTILES.items():
        exact = np.quantile(values, q, method='inverted_cdf')
        assert getattr(found, name) == pytest.approx(exact, rel=0.0051), name


@pytest.mark.parametrize(('q', 'value'), [(0, 1), (0.25, 1), (0.26, 2), (0.75, 3), (1, 4)])
def test_quantile_is_the_smallest_value_that_enough_samples_reach(q, value):
    assert counted([4, 2, 1, 3]).quantile(q) == pytest.approx(value, rel=0.0051)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=40), st.floats(0, 1))
def test_quantiles_stay_between_extremes_and_rise(values, q):
    stats = counted(values)
    assert min(values) <= stats.quantile(q) <= max(values)
    assert stats.quantile(q / 2) <= stats.quantile(q)


@pytest.mark.parametrize('bad', [math.nan, -1e-9, -math.inf, math.inf])
def test_what_is_no_duration_is_rejected_and_counted(bad):
    """The age of an observation that never came is infinite; the tick must not fail over it."""
    stats = counted([0.5, bad, 0.5])
    assert (stats.count, stats.rejected) == (2, 1)
    assert stats.summary().max_s == 0.5


@pytest.mark.parametrize('value', [0.0, 5e-324, 1e-6, 100.0, 1e9, 1e300])
def test_extreme_durations_are_counted(value):
    assert counted([value]).summary().p50_s == value


def test_nothing_counted_is_nan_and_reset_forgets():
    stats = counted([1.0, -1.0])
    stats.reset()
    summary = stats.summary()
    assert (summary.count, stats.rejected) == (0, 0)
    assert all(math.isnan(getattr(summary, name)) for name in (*QUANTILES, 'mean_s', 'max_s'))


def test_memory_does_not_grow_with_samples():
    few, many = counted([0.01]), counted(np.random.default_rng(0).lognormal(-5, 2, 20_000))
    size = [sum(sys.getsizeof(v) for v in vars(stats).values()) for stats in (few, many)]
    assert size[1] <= size[0] + 200


# --- metrics.jsonl --------------------------------------------------------------------------


def test_every_record_is_a_whole_line_on_disk_at_once(tmp_path):
    path = tmp_path / 'new' / 'metrics.jsonl'
    writer = JsonlWriter(path)
    writer.write({'t': 0.5, 'n': np.int64(3), 'x': np.float32(0.5), 'ok': True, 'none': None})
    writer.write({'t': [1, math.nan, (math.inf,)], 'deep': {'x': -math.inf}, 'text': 'zwölf\n'})
    lines = path.read_text().splitlines()  # the writer is still open
    assert [json.loads(line) for line in lines] == list(read_jsonl(path)) == [
        {'t': 0.5, 'n': 3, 'x': 0.5, 'ok': True, 'none': None},
        {'t': [1, None, [None]], 'deep': {'x': None}, 'text': 'zwölf\n'}]
    writer.close()


@pytest.mark.parametrize(('left', 'kept'), [
    (b'', []),
    (b'{"a":1}\n', [{'a': 1}]),
    (b'{"a":1}\n{"b":', [{'a': 1}]),
    (b'{"a":1}\n{"b":2}', [{'a': 1}]),  # whole by chance; without its newline it is torn
    (b'{"a":', []),
    (b'{"a":1}\n\xc3', [{'a': 1}]),
])
def test_torn_last_line_is_left_out_and_removed(tmp_path, left, kept):
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(left)
    assert list(read_jsonl(path)) == kept
    writer = JsonlWriter(path)
    writer.write({'c': 3})
    writer.close()
    assert list(read_jsonl(path)) == [*kept, {'c': 3}]


@pytest.fixture
def limit_files():
    """Returns a function that bounds the size of files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_told_and_loses_nothing_once_there_is_room(tmp_path, limit_files):
    path = tmp_path / 'metrics.jsonl'
    writer = JsonlWriter(path)
    limit_files(100)
    with pytest.raises(OSError) as caught:
        for i in range(100):
            writer.write({'record': i})
    full = i
    limit_files(resource.RLIM_INFINITY)
    assert caught.value.errno == errno.EFBIG
    assert [r['record'] for r in read_jsonl(path)] == list(range(full))
    writer.write({'record': 'after'})
    writer.close()
    assert [r['record'] for r in read_jsonl(path)] in (
        [*range(full), 'after'], [*range(full + 1), 'after'])
