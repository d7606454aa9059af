# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle tried in its own process: what would hurt the controller ends there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pruning_core.errors import BundleError
from pruning_core.export import export
from pruning_core.runtime.bundle import PLAN_STEP, write
from pruning_core.runtime.trial import TrialBench


@pytest.fixture
def bench():
    made = TrialBench(timeout_s=60.0)
    yield made
    made.close()


def test_a_good_bundle_passes_and_so_does_the_next(bench, bundle):
    for _ in range(2):
        bench.run(bundle.path, bundle.hash)


def test_another_bundle_than_the_announced_one_is_refused(bench, bundle, four_parts):
    with pytest.raises(BundleError) as caught:
        bench.run(bundle.path, 'f' * 64)
    four_parts(caught, 'code 2', 'as announced')
    bench.run(bundle.path, bundle.hash)


def test_graphs_that_do_not_fit_together_end_the_trial_only(bench, bundle, make_run, tmp_path):
    other = export(make_run(widths={'latent': 4}, seed=3), tmp_path / 'other')[0]
    mixed = write(tmp_path / 'mixed', bundle.manifest,
                  {**bundle.graphs, PLAN_STEP: other.graphs[PLAN_STEP]})
    with pytest.raises(BundleError, match='tried in a process of its own'):
        bench.run(mixed.path, mixed.hash)


@pytest.mark.parametrize(('text', 'words'), [
    ('import os; os.abort()', 'code -6'),
    ('bytes(1 << 40)', 'MemoryError'),
    ('import time; time.sleep(300)', 'not done after'),
], ids=['crash', 'memory', 'endless'])
def test_whatever_happens_there_is_a_refusal_here(bundle, monkeypatch, tmp_path, text, words):
    """The real child, with something hostile in place of onnxruntime."""
    (tmp_path / 'onnxruntime.py').write_text(text)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    bench = TrialBench(timeout_s=5.0)
    try:
        with pytest.raises(BundleError, match=words):
            bench.run(bundle.path, bundle.hash)
    finally:
        bench.close()


def test_without_the_process_in_between_a_bundle_is_refused_and_not_let_in(bench, bundle):
    bench._process.kill()
    bench._process.wait()
    with pytest.raises(BundleError, match='has ended'):
        bench.run(bundle.path, bundle.hash)


def test_nobody_is_left_when_the_controller_dies_in_the_middle_of_a_trial(tmp_path, bundle):
    """The parent is killed without a word; the process in between and the trial follow it."""
    (tmp_path / 'onnxruntime.py').write_text('import time; time.sleep(300)')
    parent = subprocess.Popen(
        [sys.executable, '-c', PARENT, str(bundle.path), bundle.hash], stdout=subprocess.PIPE,
        text=True, env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    server = int(parent.stdout.readline())
    wait(lambda: children(server), 'the trial')
    trial = children(server)
    parent.kill()
    parent.wait()
    wait(lambda: not any(alive(pid) for pid in (server, *trial)), 'the end of both')


PARENT = """
import sys
from pathlib import Path
from pruning_core.runtime.trial import TrialBench
bench = TrialBench(300.0)
print(bench._process.pid, flush=True)
bench.run(Path(sys.argv[1]), sys.argv[2])
"""


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


def children(pid):
    try:
        return [int(p) for p in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
    except OSError:
        return []


def wait(done, what, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_trials_are_ordinary_processes_whatever_the_controller_was_started_as(bundle):
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pytest.skip('real-time priorities are not permitted here')
    try:
        bench = TrialBench()
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    try:
        bench.run(bundle.path, bundle.hash)
        assert os.sched_getscheduler(bench._process.pid) == os.SCHED_OTHER
        assert os.getpriority(os.PRIO_PROCESS, bench._process.pid) > 0
    finally:
        bench.close()
