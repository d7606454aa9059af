# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster of two workers on loopback, one of them killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from toy_trials import Given, toy, traces

from pruning_core.progress import silent
from pruning_core.studies.runner import Cluster, Trial, run_trials

distributed = pytest.importorskip(
    'distributed', reason='Dask is not installed: the extra [cluster]')


@pytest.fixture
def cluster(monkeypatch):
    """Two workers, each a process of its own."""
    here = os.path.dirname(__file__)
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([here, os.environ.get('PYTHONPATH', '')]))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True,
                                  host='127.0.0.1', dashboard_address=None) as cluster:
        yield cluster


def test_nothing_is_lost_and_nothing_done_twice(cluster, tmp_path):
    trials = [Trial(f't{i}', toy, Given(i, seconds=0.4)) for i in range(6)]
    killed = []

    def kill():
        """Kill the first worker that is seen at work."""
        while not killed:
            for trial in trials:
                path = tmp_path / trial.name / 'attempts.jsonl'
                if path.is_file() and not (tmp_path / trial.name / 'result.json').is_file():
                    try:
                        pid = json.loads(path.read_text())['pid']
                    except ValueError:
                        continue  # not yet written to its end
                    killed.append((trial.name, pid))
                    os.kill(killed[0][1], signal.SIGKILL)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    pool = Cluster(cluster.scheduler_address.replace('tcp://', 'dask://'))
    found = run_trials(trials, tmp_path, pool, silent)
    thread.join()
    assert not found.failed
    assert [found.results[t.name]['square'] for t in trials] == [0, 1, 4, 9, 16, 25]
    again = {t.name: traces(tmp_path, t.name) for t in trials}
    # What the killed worker was at was begun anew; everything else ran once.
    assert again.pop(killed[0][0]) == 2
    assert set(again.values()) == {1}
