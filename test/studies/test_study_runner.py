# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The runner: nothing lost, nothing twice, whatever fails, is killed or is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from toy_trials import Given, strike, toy, traces

from pruning_core.errors import ConfigError, MissingExtra
from pruning_core.progress import silent
from pruning_core.studies.runner import Cluster, Pool, Trial, plain, run_trials


def test_trials_run_after_those_they_need_and_never_again(here, tmp_path):
    trials = [Trial('s/c', toy, Given(1), ('s/a', 's/b')), Trial('s/a', toy, Given(2)),
              Trial('s/b', toy, Given(3), ('s/a',))]
    told: list[int] = []
    first = run_trials(trials, tmp_path, here, lambda _, done, total, **facts: told.append(done))
    assert told.count(3) == 1, 'a second end would open a second bar'
    assert {n: r['square'] for n, r in first.results.items()} == {'s/a': 4, 's/b': 13, 's/c': 18}
    assert first.results['s/a']['nan'] is None and first.skipped == 0
    again = run_trials(trials, tmp_path, here, silent)
    assert again.results == first.results and again.skipped == 3
    assert all(traces(tmp_path, t.name) == 1 for t in trials)


def test_a_failed_trial_stops_only_those_that_need_it(here, tmp_path):
    trials = [Trial('bad', toy, Given(fails=True)), Trial('heir', toy, Given(), ('bad',)),
              Trial('heir2', toy, Given(), ('heir',)), Trial('good', toy, Given(5)),
              Trial('orphan', toy, Given(), ('nobody',))]
    found = run_trials(trials, tmp_path, here, silent)
    assert found.results.keys() == {'good'}
    assert found.failed.keys() == {'bad', 'heir', 'heir2', 'orphan'}
    assert 'as it was told' in found.failed['bad'] and "'bad'" in found.failed['heir']
    assert 'Traceback' in (tmp_path / 'bad' / 'error.txt').read_text()
    events = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert {(e['trial'], e['event']) for e in events} >= {('bad', 'failed'), ('good', 'done')}
    mended = [Trial('bad', toy, Given(fails=True)), *trials[1:4]]
    run_trials(mended, tmp_path, here, silent)
    assert traces(tmp_path, 'bad') == 2 and traces(tmp_path, 'good') == 1


def test_an_interruption_keeps_what_is_done(here, tmp_path):
    trials = [Trial('a', toy, Given(2), weight=9), Trial('b', strike, Given())]
    with pytest.raises(KeyboardInterrupt):
        run_trials(trials, tmp_path, here, silent)
    found = run_trials([trials[0], Trial('c', toy, Given(1))], tmp_path, here, silent)
    assert found.results.keys() == {'a', 'c'} and traces(tmp_path, 'a') == 1


def test_a_folder_of_another_config_is_refused_before_anything_runs(here, tmp_path, four_parts):
    run_trials([Trial('a', toy, Given(2))], tmp_path, here, silent)
    with pytest.raises(ConfigError) as error:
        run_trials([Trial('z', toy, Given()), Trial('a', toy, Given(3))], tmp_path, here, silent)
    four_parts(error, 'value is 2 there and 3 here')
    assert traces(tmp_path, 'z') == 0


def test_what_measures_times_runs_last_with_nothing_beside_it(tmp_path, here):
    seen = []

    class Two(type(here)):
        pass

    def told(label, done, total, /, **facts):
        seen.append(done)

    trials = [Trial('time', toy, Given(1), weight=9, last=True),
              *(Trial(f't{i}', toy, Given(seconds=0.05)) for i in range(3))]
    run_trials(trials, tmp_path, Two(3), told)
    begun = {t.name: json.loads((tmp_path / t.name / 'attempts.jsonl').read_text())['time']
             for t in trials}
    assert begun['time'] > max(v for n, v in begun.items() if n != 'time') + 0.05
    assert seen == sorted(seen) and seen[-1] == 4


def test_a_process_that_dies_costs_nobody_a_result(tmp_path):
    """One trial kills its process once, another always; the others are not blamed for it."""
    trials = [Trial('once', toy, Given(1, dies=1)), Trial('always', toy, Given(2, dies=9)),
              *(Trial(f't{i}', toy, Given(i, seconds=0.2)) for i in range(3))]
    found = run_trials(trials, tmp_path, Pool(2), silent)
    assert found.results.keys() == {'once', 't0', 't1', 't2'}
    assert found.failed.keys() == {'always'} and 'died' in found.failed['always']


def test_two_studies_at_once_do_no_trial_twice(tmp_path, here):
    trials = [Trial(f't{i}', toy, Given(i, seconds=0.1)) for i in range(4)]
    threads = [threading.Thread(target=run_trials, args=(trials, tmp_path, type(here)(1), silent))
               for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [traces(tmp_path, t.name) for t in trials] == [1] * 4


def test_ends_with_its_parent(tmp_path):
    """Nothing works on where the study itself was killed."""
    code = ('import sys; sys.path.insert(0, sys.argv[2])\n'
            'from pathlib import Path\n'
            'from pruning_core.progress import silent\n'
            'from pruning_core.studies.runner import Pool, Trial, run_trials\n'
            'from toy_trials import Given, toy\n'
            'if __name__ == "__main__":\n'
            '    run_trials([Trial("a", toy, Given(seconds=60))], Path(sys.argv[1]), Pool(1),'
            ' silent)\n')
    script = tmp_path / 'study.py'
    script.write_text(code)
    study = subprocess.Popen([sys.executable, script, tmp_path / 'w', os.path.dirname(__file__)],
                             env={**os.environ, 'PYTHONPATH': os.pathsep.join(
                                 [os.path.dirname(__file__), *sys.path])})
    path = tmp_path / 'w' / 'a' / 'traces'
    for _ in range(600):
        if path.is_file() and path.read_text():
            break
        time.sleep(0.1)
    worker = int(path.read_text())
    study.kill()
    study.wait()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f'/proc/{worker}/stat').read_text().split()[2] == 'Z':
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail('the worker lives on')


def test_bad_executors(four_parts):
    with pytest.raises(ConfigError) as error:
        Pool(0)
    four_parts(error, 'processes')
    with pytest.raises(ConfigError) as error:
        Cluster('http://localhost:1')
    four_parts(error, 'dask://HOST:PORT')


def test_without_dask(monkeypatch, four_parts):
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(MissingExtra) as error:
        Cluster('dask://127.0.0.1:1')
    four_parts(error, '[cluster]')


def test_plain_values():
    assert plain({1: np.float32(2), 'a': (np.arange(2), float('inf'))}) == {
        '1': 2.0, 'a': [[0, 1], None]}
