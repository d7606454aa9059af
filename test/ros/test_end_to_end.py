# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The main job over DDS: the dense agent runs, is pruned by service call, swapped, compared."""

import json
import math
import time

import numpy as np

from pruned_controller.demo import JOINT_MAP
from pruning_core import zoo
from pruning_core.checkpoint import load_run
from pruning_core.export import export
from pruning_core.runtime.bundle import open_bundle

EPISODES = 2


def controlled(system, episodes=EPISODES):
    """Start the plant's seeds again; the record of that many whole episodes."""
    accepted, said = system.observer.call('/plant/reset')
    assert accepted, said
    time.sleep(0.2)
    system.observer.begin()
    record = system.observer.record
    system.until('whole episodes', lambda: len(record.returns) >= episodes, 20.0 * episodes)
    return record


def test_prune_by_service_call_swap_and_control(system):
    dense, _ = export(load_run(zoo.find('pendulum_dense')), system.folder / 'dense')
    system.start('plant', output='joint_states', max_episode_steps=120)
    system.start('pruner', runs=system.folder / 'jobs', agent='pendulum_dense',
                 recovery_updates=300, gate_latency_share=0.0)  # however slow this machine is
    system.start('controller', bundle=dense.path, store=system.folder / 'bundles',
                 input='joint_states', joint_map=JOINT_MAP)
    system.activate()
    observer = system.observer
    system.until('the dense model', lambda: observer.model.get('hash') == dense.hash)
    before = controlled(system)

    asked = time.monotonic()
    accepted, said = observer.call('/pruner/prune')
    answered = time.monotonic() - asked
    assert accepted and said == 'job 1 accepted'
    assert answered < 5.0, 'the answer waited for the work'
    again, refusal = observer.call('/pruner/prune')
    assert not again and 'busy: job 1 (prune) is running' in refusal and '~/cancel' in refusal
    phases = set()

    def ended():
        phases.add(observer.status.get('phase'))
        return observer.status.get('state') not in ('idle', 'running', None)

    ticks = len(observer.ticks)
    system.until('the end of the job', ended, 400.0)
    assert observer.status['state'] == 'done', observer.status
    assert {'recover', 'evaluate', 'latency'} <= phases
    assert len(observer.ticks) > ticks + 20, 'the controller stood still while the job ran'

    result = observer.status['result']
    system.until('the swap', lambda: observer.model.get('hash') == result['hash'])
    published = open_bundle(result['bundle'])
    assert published.hash == result['hash']
    assert published.manifest.parameters <= 0.05 * dense.manifest.parameters
    assert published.manifest.gates['return']['loss'] <= 0.1
    assert observer.model['parameters'] == published.manifest.parameters
    kept = open_bundle(system.folder / 'bundles' / result['hash'][:16])
    assert kept.hash == published.hash, 'the robot keeps what it received'

    after = controlled(system)
    latencies = np.array([s for _, s in after.latency])
    assert len(latencies) > 100 and np.isfinite(latencies).all()
    assert math.isfinite(observer.reward) and math.isfinite(observer.stability)
    assert np.median(latencies) < np.median([s for _, s in before.latency])
    mean_before, mean_after = np.mean(before.returns), np.mean(after.returns)
    assert mean_after >= mean_before - 0.25 * abs(mean_before)

    back, said = observer.call('/controller/rollback')
    assert back, said
    system.until('the dense model again', lambda: observer.model['hash'] == dense.hash)
    status = json.loads((system.folder / 'jobs' / 'job-0001' / 'job.json').read_text())
    assert status['state'] == 'done' and status['result'] == result
