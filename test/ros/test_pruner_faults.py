# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What the pruner answers to wrong requests, cancellation and being killed."""

import os
import signal
from pathlib import Path

import pytest


def set_parameter(system, name, value):
    return system.set_parameter('/pruner', name, value)


@pytest.fixture
def pruner(system, tiny_agent):
    # A job that takes minutes, so that there is time to do something to it.
    system.start('pruner', runs=system.folder / 'jobs', agent=tiny_agent, sparsity=0.3,
                 recovery_updates=1_000_000)
    system.until('the pruner', lambda: system.observer.status.get('state') == 'idle')
    return system


def jobs(system):
    return sorted(p.name for p in (system.folder / 'jobs').glob('job-*'))


def leftovers(system):
    """Everything a job left that is neither record nor log, nor the lock of the folder."""
    return [p for p in (system.folder / 'jobs').rglob('*')
            if p.is_file() and p.name not in ('job.json', 'log.txt', '.lock')]


def descendants(system):
    """Processes that do a job of this system's pruner."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            command = (entry / 'cmdline').read_bytes().split(b'\0')
        except OSError:
            continue
        if b'--stop-with-stdin' in command and str(system.folder).encode() in b' '.join(command):
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize('name, value, words', [
    ('sparsity', 1.5, ('pruning.sparsity', '1.5', 'from 0 to below 1')),
    ('score', 'fischer', ('fischer', "did you mean 'fisher'", 'gradient')),
    ('agent', 'pendulum_dens', ('pendulum_dens', "did you mean 'pendulum_dense'")),
])
def test_wrong_settings_are_answered_at_once(pruner, name, value, words):
    assert set_parameter(pruner, name, value).successful
    accepted, said = pruner.observer.call('/pruner/prune')
    assert not accepted
    for word in words:
        assert word in said
    assert jobs(pruner) == [] and pruner.observer.status['state'] == 'idle'


def test_parameters_out_of_range_are_refused_by_name(pruner):
    answer = set_parameter(pruner, 'recovery_updates', -1)
    assert not answer.successful and 'recovery_updates' in answer.reason


def test_training_without_a_configuration_says_which_parameter(pruner):
    accepted, said = pruner.observer.call('/pruner/train')
    assert not accepted and "'config' is empty" in said and 'ros2 param set' in said


def test_training_with_an_unknown_key_says_which(pruner, tmp_path):
    (tmp_path / 'wrong.yaml').write_text('training:\n  epsodes: 3\n')
    assert set_parameter(pruner, 'config', str(tmp_path / 'wrong.yaml')).successful
    accepted, said = pruner.observer.call('/pruner/train')
    assert not accepted and 'training.epsodes' in said and 'episodes' in said
    assert jobs(pruner) == []


def test_training_by_service_makes_an_agent_that_can_be_pruned(system, tiny_agent, tmp_path):
    lines = (tiny_agent / 'config.yaml').read_text()
    (tmp_path / 'tiny.yaml').write_text(lines)
    system.start('pruner', runs=system.folder / 'jobs', config=tmp_path / 'tiny.yaml',
                 sparsity=0.3, recovery_updates=3, gate_return_loss=100.0, gate_violation=0.0)
    observer = system.observer
    system.until('the pruner', lambda: observer.status.get('state') == 'idle')
    assert observer.call('/pruner/train') == (True, 'job 1 accepted')
    system.until('the agent', lambda: observer.status['state'] == 'done', 120.0)
    folder = observer.status['result']['folder']
    assert (Path(folder) / 'agent.safetensors').is_file()
    assert set_parameter(system, 'agent', folder).successful
    assert observer.call('/pruner/prune')[0]
    system.until('the bundle', lambda: observer.status['state'] not in ('running', 'idle')
                 and observer.status['job'] == 2, 120.0)
    assert observer.status['state'] == 'done', observer.status
    assert observer.status['result']['removed'] >= 0.3


def test_cancel_ends_the_job_and_leaves_nothing_half_written(pruner):
    observer = pruner.observer
    cancelled, said = observer.call('/pruner/cancel')
    assert not cancelled and 'no job is running' in said
    assert observer.call('/pruner/prune')[0]
    pruner.until('recovery', lambda: observer.status.get('phase') == 'recover', 60.0)
    assert observer.call('/pruner/cancel')[0]
    pruner.until('the end', lambda: observer.status['state'] == 'cancelled', 10.0)
    assert leftovers(pruner) == [] and descendants(pruner) == []
    accepted, said = observer.call('/pruner/prune')
    assert accepted and said == 'job 2 accepted', 'the next job is taken'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_pruner_takes_its_job_along_and_tells_so_afterwards(pruner, tiny_agent, number):
    observer = pruner.observer
    assert observer.call('/pruner/prune')[0]
    pruner.until('recovery', lambda: observer.status.get('phase') == 'recover', 60.0)
    code = pruner.processes.signal('pruner', number)
    assert code == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    pruner.until('the end of the child', lambda: descendants(pruner) == [], 10.0)
    observer.status = {}
    pruner.start('pruner', runs=pruner.folder / 'jobs', agent=tiny_agent)
    pruner.until('its status', lambda: observer.status.get('job') == 1, 20.0)
    wanted = 'interrupted' if number == signal.SIGKILL else 'cancelled'
    assert observer.status['state'] == wanted
    assert leftovers(pruner) == []


def test_a_dying_job_is_told_and_the_pruner_goes_on(pruner):
    observer = pruner.observer
    assert observer.call('/pruner/prune')[0]
    pruner.until('recovery', lambda: observer.status.get('phase') == 'recover', 60.0)
    for pid in descendants(pruner):
        os.kill(pid, signal.SIGKILL)
    pruner.until('the end', lambda: observer.status['state'] == 'failed', 10.0)
    assert 'ended with code -9' in observer.status['error']
    assert 'log.txt' in observer.status['error'] and leftovers(pruner) == []


def test_a_result_that_fails_its_gate_is_told_and_not_published(system, tiny_agent):
    system.start('pruner', runs=system.folder / 'jobs', agent=tiny_agent, sparsity=0.3,
                 recovery_updates=0, gate_latency_share=1e-9)
    observer = system.observer
    system.until('the pruner', lambda: observer.status.get('state') == 'idle')
    assert observer.call('/pruner/prune')[0]
    system.until('the end', lambda: observer.status['state'] not in ('idle', 'running'), 120.0)
    assert observer.status['state'] == 'failed'
    assert '99 % of plans take up to' in observer.status['error']
    assert not list(system.folder.rglob('manifest.json')), 'no bundle of it exists'
