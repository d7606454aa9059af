# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of importance counts bytes and positions of a cycle as it says."""


import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(scope='module')
def benchmark(load_benchmark):
    return load_benchmark('importance')


def test_bytes_are_counted_once_and_without_the_model(benchmark):
    base = torch.zeros(10)
    array = np.zeros((3, 4))
    held = benchmark.held([base, base[2:], {'a': (array, array[1:])}, nn.Linear(100, 100),
                           nn.Parameter(torch.zeros(50)), 'text', 3])
    assert held == 10 * 4 + 12 * 8


def test_three_signals_are_measured_at_their_updates(benchmark, make_agent, fill):
    """With every fifth, two of a cycle's ten updates are observed."""
    agent = make_agent()
    batch = fill().sample(np.random.default_rng(0), 8, 2)
    off, every, fifth = (benchmark.Side(agent, n) for n in (0, 1, 5))
    seen = []
    fifth.tracker.step = lambda step=fifth.tracker.step: (step(), seen.append(
        fifth.tracker.observed))
    for side in (off, every, fifth):
        for _ in range(2 * benchmark.CYCLE):
            side.update(batch)
    assert every.tracker.warm and every.tracker.updates == every.pressure.updates == 20
    assert [i for i, observed in enumerate(seen) if observed] == [0, 5, 10, 15]
    assert (off.cycle_s[0] > 0, off.cycle_s[1]) == (True, 0)
    assert every.cycle_s[1] > fifth.cycle_s[1] > 0


def test_growth_has_a_row_for_every_width(benchmark):
    rows = benchmark.growth([4, 8], 1)
    assert [r['parameters'] for r in rows] == [3 * 20, 3 * 72]
    assert all(r['ms'] > 0 and r['memory_over_parameters'] > 0 for r in rows)
