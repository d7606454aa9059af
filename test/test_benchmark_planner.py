# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the planner: its paired losses, and the returns that it reads."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

from pruning_core import checkpoint, zoo
from pruning_core.networks import Widths, build, count_parameters
from pruning_core.runtime.bench import operations

BENCHMARKS = Path(__file__).resolve().parent.parent / 'benchmarks'
STORED = json.loads((BENCHMARKS / 'returns.json').read_text())


@pytest.fixture(scope='module')
def bench():
    """The two programs, which import each other by name."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module('planner'), importlib.import_module('returns')
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_losses_are_paired_on_the_seeds_that_both_know(bench):
    planner, _ = bench
    found = planner.losses({
        'dense|int8': {'1': -100.0, '2': -200.0, '3': -300.0}, 'dense|fp32': {'1': -90.0},
        'dense|light': {'1': -50.0, '2': -150.0},
        'pruned 9 %|fp32': {'1': -110.0, '2': -210.0, '4': -1000.0},
        'pruned 9 %|policy': {'1': -50.0, '2': -170.0}})
    full, policy = found['pruned 9 %|fp32'], found['pruned 9 %|policy']
    # The full budget against the precision of which more is known, the smaller against 128 x 3.
    assert full['percent'] == pytest.approx(100 * 10 / 150)
    assert full['half_width'] == pytest.approx(0.0)
    assert (full['seeds'], full['mean']) == (2, pytest.approx(-440.0))
    assert policy['percent'] == pytest.approx(100 * 10 / 100)
    assert policy['half_width'] > 10


def test_losses_of_what_has_no_seed_in_common_are_left_out(bench):
    planner, _ = bench
    assert planner.losses({'pruned 9 %|fp32': {'1': -1.0}, 'dense|light': {'1': -1.0}}) == {
        'dense|light': pytest.approx({'percent': 0.0, 'seeds': 1, 'half_width': 0.0,
                                      'mean': -1.0})}


def test_file_of_returns_is_read_back_as_it_was_written(bench):
    _, returns = bench
    text = returns._lines(STORED)
    assert json.loads(text) == STORED
    assert max(map(len, text.splitlines())) < 5000  # a line an entry, not one for all


def test_stored_returns_belong_to_agents_of_these_sizes():
    dense = checkpoint.load_run(zoo.find('pendulum_dense'))
    assert STORED['agents']['dense']['parameters'] == count_parameters(dense.agent.components)
    for name, agent in STORED['agents'].items():
        widths = Widths.from_json(agent['widths'])
        assert count_parameters(build(widths)) == agent['parameters'], name
        if name.startswith('pruned'):
            asked = float(name.split()[1]) / 100
            assert 1 - agent['parameters'] / STORED['agents']['dense']['parameters'] >= asked
            assert f'--sparsity {asked}' in agent['command']
    for key, by_seed in STORED['returns'].items():
        assert key.partition('|')[0] in STORED['agents']
        assert all(math.isfinite(r) and r <= 0 for r in by_seed.values())  # costs alone


def test_the_reference_is_dense_and_the_best_is_the_smallest():
    work = {name: operations(agent['widths'], 5, 512, 25, 6)
            for name, agent in STORED['agents'].items() if not name.startswith('small')}
    assert max(work, key=work.get) == 'dense'
    assert min(work, key=work.get) == STORED['best']
