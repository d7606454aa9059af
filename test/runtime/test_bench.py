# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Timings are of what they say, and floors count the operations that torch counts."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pruning_core.cli import DONE
from pruning_core.networks import count_plan_macs
from pruning_core.planner import plan_start, plan_step
from pruning_core.runtime.bench import (
    MatrixRate,
    Timing,
    bench,
    of_planner,
    operations,
    probes,
    rss_mb,
    time_together,
)
from pruning_core.runtime.planner import Planner


def test_operations_are_those_that_torch_counts(run):
    """Of one full plan; the rows that all plans share are counted for each, as torch does."""
    c, net, widths = run.config.planner, run.agent.components, run.agent.widths
    a = widths.actions
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        start = plan_start(net, torch.zeros(1, 3), torch.zeros(c.horizon, 1, c.policy_samples, a),
                           0.99)
        for _ in range(c.iterations):
            plan_step(net, start, torch.zeros(c.horizon, 1, a), torch.ones(c.horizon, 1, a),
                      torch.zeros(c.horizon, 1, c.samples, a), c, 0.99)
    found = operations(widths.to_json(), c.horizon, c.samples, c.policy_samples, c.iterations)
    # torch rolls the policy's plans out twice, to make them and to value them, and adds the
    # rewards up as a product, which here is part of the products before it.
    dynamics = sum(m.weight.numel() for m in net['dynamics'] if hasattr(m, 'in_features'))
    twice = 2 * c.policy_samples * c.horizon * dynamics
    sums = 2 * c.horizon * (c.iterations * c.samples + c.policy_samples)
    assert found == counter.get_total_flops() - twice - sums
    assert found == 2 * count_plan_macs(widths, c.horizon, c.samples, c.policy_samples,
                                        c.iterations)


def test_operations_of_a_planner_follow_its_settings(bundle):
    whole, short = Planner(bundle), Planner(bundle, horizon=1)
    assert of_planner(Planner(bundle, samples=64)) > of_planner(whole) > of_planner(short)


def test_work_is_timed_in_turns():
    order = []
    timings, rates = time_together({'a': lambda: order.append('a'), 'b': lambda: (
        order.append('b'), time.sleep(0.002))}, 0.0, least=4)
    assert order[2:] == ['a', 'b'] * 4  # after one call of each to warm up
    assert timings['a'].count == timings['b'].count == 4
    assert timings['b'].p50_s >= 0.002
    assert set(rates) == {'a', 'b'} and min(rates.values()) > 1e6


def test_a_turn_repeats_its_work_before_the_next_one(monkeypatch):
    """On a clock of which only the work takes time."""
    order, compared, now = [], [], [0.0]

    def work(name, seconds):
        order.append(name)
        now[0] += seconds

    monkeypatch.setattr('pruning_core.runtime.bench.time.perf_counter', lambda: now[0])
    monkeypatch.setattr(MatrixRate, 'during', lambda _, seconds: compared.append(seconds) or 1.0)
    timings, _ = time_together({'a': lambda: work('a', 0.01), 'b': lambda: work('b', 0.005)},
                               0.0, least=2, turn_s=0.0199)
    assert ''.join(order[2:]) == ('aa' + 'bbbb') * 2
    assert compared == pytest.approx([0.02] * 4), 'a turn, not a piece of work'
    assert (timings['a'].count, timings['b'].count) == (4, 8)
    assert timings['a'].p50_s == pytest.approx(0.01)


def test_quantiles():
    found = Timing.of([0.01 * i for i in range(1, 102)])
    assert found.p50_s == pytest.approx(0.51)
    assert found.p99_s == pytest.approx(1.0)


def test_rate_is_measured_for_as_long_as_was_asked():
    began = time.perf_counter()
    assert MatrixRate().during(0.02) > 1e6
    assert time.perf_counter() - began >= 0.02


def test_every_way_of_a_bundle_is_timed(bundle):
    rows = bench(bundle, seconds=0.05)
    assert [r.name for r in rows] == ['horizon 2, fp32', 'horizon 1, fp32', 'proposals alone']
    for row in rows:
        assert row.timing.p50_s <= row.timing.p99_s
        assert row.floor_ratio == pytest.approx(row.timing.p50_s * row.rate / row.operations)
    assert rows[0].operations > rows[1].operations > rows[2].operations > 0


def test_probes_are_observations_of_the_plant(bundle):
    found = probes(bundle)
    assert found.shape[1] == len(bundle.manifest.observation.names)
    assert (found >= bundle.manifest.observation.low).all()
    assert (found <= bundle.manifest.observation.high).all()


def test_memory_of_this_process():
    assert math.isnan(rss_mb()) or 10 < rss_mb() < 100_000


def test_command_prints_ways_and_what_was_fitted(folder, main, capsys):
    import os

    before = dict(os.environ)
    try:
        assert main('bench', '--bundle', folder, '--seconds', '0.05', '--share', '1000') == DONE
    finally:
        os.environ.clear()
        os.environ.update(before)
    out = capsys.readouterr().out
    assert 'horizon 2, fp32' in out and 'x its floor' in out and 'fitted to' in out
    assert (folder / 'fit.json').exists()


def test_command_says_what_is_wrong(tmp_path, main, capsys):
    assert main('bench', '--bundle', tmp_path / 'none') == 2
    assert 'there is no such folder' in capsys.readouterr().err
