# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs with real children: however they end, the record tells the truth and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import rclpy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from pruned_controller.conversions import LATCHED
from pruned_controller.job import (
    CANCELLED,
    DONE,
    FAILED,
    INTERRUPTED,
    RECORD,
    RUNNING,
    Job,
    JobRequest,
    history,
    last_id,
)
from pruned_controller.pruner_node import PrunerNode
from pruning_core.errors import ConfigError

TINY = """
network: {latent: 4, encoder_hidden: 8, hidden: 8}
agent: {horizon: 2, batch_size: 8}
planner: {horizon: 2, samples: 4, policy_samples: 1, elites: 2, iterations: 1}
training: {episodes: %d, random_episodes: 1, update_ratio: 0.01, collect_samples: 0,
           evaluate_every: 0, threads: 1}
env: {max_episode_steps: 20}
"""
SAY = """
import json, os, signal, subprocess, sys, time
def say(**record):
    print(json.dumps(record), flush=True)
"""
FOREVER = 'while True: time.sleep(60)\n'


@pytest.fixture
def start(tmp_path, child, until):
    """Returns a function that starts a job on a child of this text; it ends with the test."""
    jobs = []

    def begin(text, number=1):
        child(SAY + text)
        request = JobRequest(number, 'train', tmp_path / f'job-{number:04d}', ['train'],
                             {'config': 'a.yaml'})
        reports = []
        jobs.append(Job(request, reports.append))
        return jobs[-1], reports
    yield begin
    for job in jobs:
        if job.running:
            job.cancel()


def record_of(job):
    return json.loads((job.request.folder / RECORD).read_text())


def gone(pid):
    """Whether a process has ended; one that nobody has waited for yet has, too."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] in 'ZX'
    except FileNotFoundError:
        return True


def test_success_is_reported_step_by_step_and_kept(start, until):
    job, reports = start("""
say(phase='train', done=1, total=4)
say(phase='recover', done=1, total=2)
print('a line for people', file=sys.stderr)
say(result={'bundle': 'there', 'return': -150.5})
""")
    until(lambda: not job.running and reports and reports[-1] == job.status,
          'the end of the job')
    assert [(r['phase'], r['percent']) for r in reports] == [
        ('train', 25.0), ('recover', 50.0), ('recover', 100.0)]
    assert [r['state'] for r in reports] == [RUNNING, RUNNING, DONE]
    last = reports[-1]
    assert last['result'] == {'bundle': 'there', 'return': -150.5}
    assert (last['job'], last['kind'], last['settings']) == (1, 'train', {'config': 'a.yaml'})
    assert record_of(job) == last == job.status
    assert history(job.request.folder.parent) == [last]
    assert 'a line for people' in (job.request.folder / 'log.txt').read_text()


def test_facts_of_a_phase_are_kept_until_the_next(start, until):
    """Such as the importance, which not every report has."""
    job, reports = start("""
say(phase='train', done=1, total=4, importance='latent most', updates='1/9')
say(phase='train', done=1, total=4, updates='2/9')
say(phase='recover', done=1, total=2)
say(result={'bundle': 'there'})
""")
    until(lambda: not job.running and len(reports) == 4)
    assert [r['facts'] for r in reports] == [
        {'importance': 'latent most', 'updates': '1/9'},
        {'importance': 'latent most', 'updates': '2/9'}, {}, {}]


def test_child_is_asked_for_json_and_to_end_with_its_parent(start, until):
    job, _ = start("say(result={'arguments': sys.argv[1:]})")
    until(lambda: not job.running)
    assert job.status['result']['arguments'] == [
        '-m', 'pruning_core', 'train', '--progress', 'json', '--stop-with-stdin']


@pytest.mark.parametrize(('text', 'error'), [
    ("say(error='ConfigError: no such file'); sys.exit(2)", 'ConfigError: no such file'),
    ('sys.exit(3)', 'code 3 without a result'),
    ('raise ValueError', 'code 1 without a result'),
    ('os.kill(os.getpid(), 9)', 'code -9 without a result'),
    ('pass', 'code 0 without a result'),
    ("say(result={'bundle': 'torn'}); sys.exit(1)", 'code 1'),
    ("print('{\"result\": {\"bundle', end='')", 'code 0 without a result'),
], ids=['said why', 'exit', 'exception', 'killed', 'no result', 'result but a failure', 'torn'])
def test_failing_child(start, until, text, error):
    job, reports = start(text)
    until(lambda: not job.running and reports and reports[-1] == job.status)
    assert job.status['state'] == FAILED
    assert error in job.status['error']
    assert 'result' not in job.status
    assert record_of(job) == reports[-1] == job.status


@pytest.mark.parametrize('line', [
    'no JSON', '', '{"phase": "tra', '7', 'null', '[1, 2]', '"the result"', '{}', '{"phase": "x"}',
    '{"phase": "x", "done": "some", "total": null}', '{"phase": "x", "done": 1, "total": 0}',
    '\\xff\\xfe'])
def test_output_that_cannot_be_read_does_not_end_the_job(start, until, line):
    job, _ = start(f"""
sys.stdout.buffer.write(b'{line}\\n')
sys.stdout.flush()
say(result={{'bundle': 'there'}})
""")
    until(lambda: 'job' not in {t.name for t in threading.enumerate()}, 'the end of the reader')
    assert job.status['state'] == record_of(job)['state'] == DONE
    assert job.status['result'] == {'bundle': 'there'}


# --- cancelling ------------------------------------------------------------------------------


FAMILY = """
def ignore():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
pids = [os.getpid()]
for output in {outputs}:
    pids.append(subprocess.Popen(['sleep', '300'], stdin=subprocess.DEVNULL, stdout=output,
                                 stderr=subprocess.DEVNULL, preexec_fn=ignore).pid)
say(phase=' '.join(map(str, pids)), done=0, total=1)
"""
STUBBORN = 'signal.signal(signal.SIGINT, signal.SIG_IGN)\n'


@pytest.mark.parametrize('text', [
    FAMILY.format(outputs='[]'),
    STUBBORN + FAMILY.format(outputs='[]'),
    STUBBORN + FAMILY.format(outputs='[None]'),
    FAMILY.format(outputs='[None, None]'),
    FAMILY.format(outputs='[subprocess.DEVNULL]'),
], ids=['child that listens', 'deaf child', 'deaf family', 'deaf grandchildren',
        'deaf grandchild that has closed our pipe'])
def test_cancel_ends_the_whole_family(start, until, text):
    job, reports = start(text + FOREVER)
    until(lambda: reports, 'the first report')
    pids = [int(pid) for pid in reports[0]['phase'].split()]
    (job.request.folder / '.run.abc').mkdir()
    job.cancel()
    until(lambda: not job.running and reports and reports[-1] == job.status,
          'the end of the job')
    assert job.status['state'] == CANCELLED
    assert record_of(job) == reports[-1] == job.status
    assert not (job.request.folder / '.run.abc').exists()
    try:
        until(lambda: all(gone(pid) for pid in pids), 'the end of every process', 10)
    finally:
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_cancelling_twice_or_late_changes_nothing(start, until):
    job, reports = start("say(result={'bundle': 'there'})")
    until(lambda: not job.running and reports and reports[-1] == job.status)
    job.cancel()
    job.cancel()
    assert job.status['state'] == record_of(job)['state'] == DONE


def test_child_that_finishes_in_spite_of_being_cancelled_is_done(start, until):
    job, reports = start("""
def finish(*_):
    say(result={'bundle': 'there'})
    sys.exit(0)
signal.signal(signal.SIGINT, finish)
say(phase='ready', done=0, total=1)
""" + FOREVER)
    until(lambda: reports)
    job.cancel()
    until(lambda: not job.running and reports and reports[-1] == job.status)
    assert (job.status['state'], job.status['result']) == (DONE, {'bundle': 'there'})


# --- after a crash ---------------------------------------------------------------------------

PARENT = """
import sys, time
from pathlib import Path
from pruned_controller.job import Job, JobRequest
folder, *arguments = sys.argv[1:]
job = Job(JobRequest(7, 'train', Path(folder) / 'job-0007', arguments, {}),
          lambda status: print(status['phase'], flush=True))
print(job._process.pid, flush=True)
time.sleep(300)
"""


def test_record_survives_the_crash_of_the_node_and_the_child_does_not(tmp_path, until):
    """The real command line tool, its parent killed without a word."""
    config = tmp_path / 'tiny.yaml'
    config.write_text(TINY % 100_000)
    folder = tmp_path / 'job-0007'
    parent = subprocess.Popen(
        [sys.executable, '-c', PARENT, str(tmp_path), 'train', '--config', str(config), '--out',
         str(folder / 'run'), '--threads', '1'], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline()  # it trains
    finally:
        parent.kill()
        parent.wait()
    assert json.loads((folder / RECORD).read_text())['state'] == RUNNING
    try:
        until(lambda: gone(pid), 'the end of the orphan', 30)
    finally:
        if not gone(pid):
            os.killpg(pid, signal.SIGKILL)
    (folder / '.run.abc').mkdir()
    for _ in range(2):  # a restarted node, and one after it
        status, = history(tmp_path)
        assert (status['job'], status['state'], status['eta_s']) == (7, INTERRUPTED, None)
    assert json.loads((folder / RECORD).read_text()) == status
    assert not (folder / '.run.abc').exists()


def test_history_is_in_order_of_the_jobs(tmp_path):
    for number in (10, 2, 9):
        folder = tmp_path / f'job-{number:04d}'
        folder.mkdir()
        (folder / RECORD).write_text(json.dumps({'job': number, 'state': DONE}))
    (tmp_path / 'job-0011').mkdir()
    assert [s['job'] for s in history(tmp_path)] == [2, 9, 10]
    assert history(tmp_path / 'nowhere') == []


@pytest.mark.parametrize('text', [
    '', '{"job": 1', '[]', 'null', '7', '{}', '{"state": "done"}',
    '{"job": "first", "state": "done"}', '{"job": null, "state": "running"}', '\udcff'])
def test_record_that_cannot_be_read_does_not_hide_the_others(tmp_path, text):
    for number, content in ((1, text), (2, json.dumps({'job': 2, 'state': DONE}))):
        folder = tmp_path / f'job-{number:04d}'
        folder.mkdir()
        (folder / RECORD).write_bytes(content.encode(errors='surrogateescape'))
    assert [s['job'] for s in history(tmp_path)] == [2]


# --- through the node, with the real command line tool ----------------------------------------


@pytest.fixture
def pruner(node, spin, tmp_path, until):
    """Returns a function that calls a service, and the statuses that were published."""
    config = tmp_path / 'tiny.yaml'
    config.write_text(TINY % 100_000)
    pruner = node(PrunerNode, runs=tmp_path / 'runs', config=config, nice=0)
    client_node = rclpy.create_node('client')
    statuses = []
    client_node.create_subscription(
        String, '/pruner/status', lambda m: statuses.append(json.loads(m.data)), LATCHED)
    clients = {name: client_node.create_client(Trigger, f'/pruner/{name}')
               for name in ('train', 'prune', 'cancel')}
    spin(pruner, client_node)

    def call(name):
        assert clients[name].wait_for_service(30)
        future = clients[name].call_async(Trigger.Request())
        until(future.done, f'an answer of {name}', 30)
        return future.result().success, future.result().message
    yield call, statuses
    client_node.destroy_node()


def test_one_job_at_a_time_and_cancel_makes_room(pruner, until, tmp_path):
    call, statuses = pruner
    until(lambda: statuses)
    assert statuses == [{'job': 0, 'state': 'idle'}]
    refused, said = call('cancel')
    assert not refused and 'no job is running' in said and '~/status' in said
    assert call('train') == (True, 'job 1 accepted')
    for name in ('train', 'prune'):
        success, message = call(name)
        assert not success
        assert message.startswith('busy: job 1 (train) is running')
    until(lambda: statuses[-1].get('phase') not in (None, 'start'), 'progress')
    assert call('cancel') == (True, 'job 1 is being cancelled')
    until(lambda: statuses[-1]['state'] == CANCELLED, 'the end of job 1')
    assert [p.name for p in (tmp_path / 'runs').glob('job-*')] == ['job-0001']
    assert call('train') == (True, 'job 2 accepted')
    until(lambda: statuses[-1]['job'] == 2, 'a status of job 2')
    assert call('cancel')[0]
    until(lambda: (statuses[-1]['job'], statuses[-1]['state']) == (2, CANCELLED), 'its end')
    assert [(s['job'], s['state']) for s in history(tmp_path / 'runs')] == [
        (1, CANCELLED), (2, CANCELLED)]


def test_two_pruners_never_share_a_folder(node, tmp_path, four_parts):
    """The second one would sweep away what the job of the first is writing."""
    node(PrunerNode, runs=tmp_path / 'runs')
    (tmp_path / 'runs' / '.run.abc').mkdir()
    with pytest.raises(ConfigError) as caught:
        PrunerNode()
    four_parts(caught, 'another pruner', 'one pruner per folder')
    assert (tmp_path / 'runs' / '.run.abc').is_dir()


def test_children_stay_on_their_cores(start, child, until, tmp_path):
    core = min(os.sched_getaffinity(0))
    child(SAY + 'time.sleep(0.2)\nsay(result={"cores": sorted(os.sched_getaffinity(0))})')
    job = Job(JobRequest(5, 'train', tmp_path / 'job-0005', [], {}), lambda s: None,
              frozenset({core}))
    until(lambda: not job.running)
    assert job.status['result'] == {'cores': [core]}


def test_disk_that_is_full_does_not_hide_how_a_job_ended(start, until, monkeypatch):
    def full(folder, status):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('pruned_controller.job.write_record', full)
    job, reports = start("say(result={'bundle': 'there'})")
    until(lambda: not job.running and reports and reports[-1] == job.status)
    assert job.status['state'] == DONE
    assert 'No space left' in job.status['record']


def test_a_number_is_never_given_twice_even_where_its_record_is_torn(tmp_path):
    assert last_id(tmp_path) == 0
    for name, text in (('job-0002', '{}'), ('job-0003', '{"job": 3, "sta'), ('job-old', '')):
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORD).write_text(text)
    assert last_id(tmp_path) == 3


def test_a_pruning_that_ended_well_must_say_where_its_bundle_is(tmp_path):
    for number, result in ((1, {'bundle': 'there'}), (2, {}), (3, None)):
        folder = tmp_path / f'job-{number:04d}'
        folder.mkdir()
        (folder / RECORD).write_text(json.dumps(
            {'job': number, 'kind': 'prune', 'state': DONE, 'result': result}))
    assert [s['job'] for s in history(tmp_path)] == [1]
