# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The demo as a user starts it: it ends by itself with its files, or cleanly when interrupted."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pruning_core.checkpoint import load_run
from pruning_core.export import export
from pruning_core.recording import read, replay
from pruning_core.runtime.archive import unpack
from pruning_core.runtime.bundle import open_bundle


def demo(*arguments):
    return subprocess.Popen([sys.executable, '-m', 'pruned_controller.demo', *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_file_where_its_folder_should_be_is_named(tmp_path):
    (tmp_path / 'out').write_text('mine')
    run = demo('--out', tmp_path / 'out')
    said, errors = run.communicate(timeout=60)
    assert run.returncode == 2 and 'Traceback' not in errors
    assert str(tmp_path / 'out') in errors and 'a folder that can be written' in errors
    assert (tmp_path / 'out').read_text() == 'mine'


def nodes_of(folder):
    """Processes that were started with that run folder in their arguments."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            command = (entry / 'cmdline').read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command and b'_node' in command:
            found.append(int(entry.name))
    return found


def test_it_ends_by_itself_with_table_picture_and_page(tmp_path, tiny_agent):
    out = tmp_path / 'out'
    # Nothing removed and nothing learned: the gate's comparison must come out as exactly equal.
    run = demo('--agent', tiny_agent, '--sparsity', 0, '--recovery-updates', 0, '--episodes', 1,
               '--gate-violation', 0, '--out', out)
    said, errors = run.communicate(timeout=180)
    assert run.returncode == 0, errors
    result = json.loads((out / 'result.json').read_text())
    assert [len(result[k]['returns']) for k in ('dense', 'pruned')] == [1, 1]
    assert result['dense']['hash'] != result['pruned']['hash']
    assert result['dense']['parameters'] == result['pruned']['parameters']
    assert result['job']['gates']['return']['difference'] == 0.0
    for side in ('dense', 'pruned'):
        # An episode is 200 steps of 50 ms on a plant that waits for nobody, longer only where the
        # machine stalls; every period of it is either a tick or a miss. Some slack for messages
        # that a stall delays at either end.
        periods = result[side]['seconds'] / result['period_s']
        assert periods >= 190
        assert abs(result[side]['ticks'] + result[side]['missed'] - periods) <= 15
    assert 'deadlines missed' in said and f"{result['pruned']['returns'][0]:.1f}" in said
    page = (out / 'report.html').read_text()
    assert page.count('<svg') == 5 and '>Gates</h2>' in page
    assert 'http://' not in page.replace('http://www.w3.org', '').replace('http://purl.org', '') \
        .replace('http://creativecommons.org', ''), 'the page needs no network'
    assert ElementTree.parse(out / 'picture.svg').getroot().tag.endswith('svg')
    recording = read(out / 'bag')
    assert len(recording.ticks) >= result['dense']['ticks'] + result['pruned']['ticks']
    pruned = unpack(recording.archives[result['pruned']['hash']], tmp_path / 'store',
                    result['pruned']['hash'])
    replayed = replay(recording, [open_bundle(out / 'dense'), pruned])
    assert {r.hash for r in replayed} == {result[k]['hash'] for k in ('dense', 'pruned')}
    for side in replayed:  # a live run, made again
        assert side.equal == side.ticks and side.difference == 0.0
    assert nodes_of(out) == []


def test_a_bundle_that_is_there_is_swapped_in_without_pruning(tmp_path, tiny_agent):
    """Called pruned because its manifest says that it was larger once."""
    cut, out = tmp_path / 'cut', tmp_path / 'out'
    shutil.copytree(tiny_agent, cut)
    (cut / 'lineage.json').write_text('{"dense": {"parameters": 1000000, "macs": 1000000}}')
    given, _ = export(load_run(cut), cut / 'bundle')
    run = demo('--agent', tiny_agent, '--bundle', cut, '--episodes', 1, '--out', out)
    said, errors = run.communicate(timeout=180)
    assert run.returncode == 0, errors
    result = json.loads((out / 'result.json').read_text())
    assert [len(result[k]['returns']) for k in ('dense', 'pruned')] == [1, 1]
    assert result['pruned']['hash'] == given.hash != result['dense']['hash']
    assert 'swapped in' in said and 'job' not in result and not (out / 'pruner.log').exists()
    assert nodes_of(out) == []


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_stops_its_nodes_and_keeps_what_was_measured(tmp_path, tiny_agent, number):
    out = tmp_path / 'out'
    run = demo('--agent', tiny_agent, '--out', out)
    deadline = time.monotonic() + 60
    log = out / 'controller.log'
    while not (log.exists() and 'bundle' in log.read_text()):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.1)
    time.sleep(2.0)
    assert len(nodes_of(out)) >= 2
    run.send_signal(number)
    _, errors = run.communicate(timeout=20)
    assert run.returncode == 130 and 'interrupted' in errors and 'Traceback' not in errors
    assert nodes_of(out) == []
    assert json.loads((out / 'result.json').read_text())['kind'] == 'demo'


def test_interrupted_before_anything_ran_it_leaves_no_folder(tmp_path, tiny_agent):
    out = tmp_path / 'runs' / 'out'
    run = demo('--agent', tiny_agent, '--out', out)
    assert run.stdout.readline().startswith('exporting')
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130 and 'Traceback' not in errors
    assert not out.exists()


@pytest.mark.parametrize('arguments, words', [
    (['--agent', 'pendulum_dens'], ('pendulum_dens', "did you mean 'pendulum_dense'")),
    (['--bundle', 'pendulum_dens'], ('pendulum_dens', "did you mean 'pendulum_dense'")),
    (['--sparsity', '1.5'], ('1.5', 'from 0 to below 1')),
    (['--score', 'fischer'], ('fischer', "did you mean 'fisher'")),
])
def test_wrong_options_are_answered_before_anything_runs(tmp_path, arguments, words):
    out = tmp_path / 'out'
    run = demo(*arguments, '--out', out)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 2 and 'Traceback' not in errors
    for word in words:
        assert word in errors
    assert not out.exists() or not any(out.iterdir())


def test_results_in_a_folder_in_use_are_refused(tmp_path):
    (tmp_path / 'mine.txt').write_text('precious')
    run = demo('--out', tmp_path)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 2 and 'something is there' in errors
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']
