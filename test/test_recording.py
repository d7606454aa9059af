# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Bags without ROS: what is written is read back, and a planner run again sends the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pruning_core import recording
from pruning_core.cli import DONE, FAILED, REFUSED
from pruning_core.errors import AgentError, BundleError
from pruning_core.recording import BagWriter, read, record, replay
from pruning_core.runtime.archive import pack
from pruning_core.runtime.planner import Planner

rosbags = pytest.importorskip('rosbags', reason='bags need the extra [bags]')

PERIOD_NS = 50_000_000


@pytest.fixture(scope='module')
def bundle(trained, tmp_path_factory):
    from pruning_core.checkpoint import load_run
    from pruning_core.export import export

    return export(load_run(trained), tmp_path_factory.mktemp('bundle') / 'bundle')[0]


@pytest.fixture(scope='module')
def bag(bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp('bag') / 'run'
    record(bundle, path, episodes=2, seed=3)
    return path


def messages(path):
    """What another reader of bags sees: (topic, type, time, message)."""
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        return [(c.topic, c.msgtype, t, reader.deserialize(data, c.msgtype))
                for c, t, data in reader.messages()]


def test_a_bag_is_one_of_ros_2(bag, bundle):
    said = messages(bag)
    assert {(topic, kind) for topic, kind, _, _ in said} >= {
        ('/observation', 'std_msgs/msg/Float64MultiArray'),
        ('/command', 'std_msgs/msg/Float64MultiArray'),
        ('/controller/latency', 'std_msgs/msg/Float64'),
        ('/controller/model', 'std_msgs/msg/String'), ('/reward', 'std_msgs/msg/Float64')}
    assert (bag / 'run.mcap').read_bytes()[:8] == b'\x89MCAP0\r\n'
    assert 'storage_identifier: mcap' in (bag / 'metadata.yaml').read_text()
    commands = [m for topic, _, _, m in said if topic == '/command']
    assert len(commands) == 24
    assert {m.layout.dim[0].label for m in commands} == {bundle.hash}
    assert sum(topic == '/episode_return' for topic, *_ in said) == 2


def test_the_planner_run_again_sends_the_same(bag, bundle):
    result, = replay(read(bag), [bundle], seed=3)
    assert (result.ticks, result.equal, result.difference) == (24, 24, 0.0)
    assert result.trial_plans == 0
    assert len(result.recorded_s) == len(result.compute_s) == 24
    assert (result.compute_s > 0).all()


def test_another_planner_does_not(bag, bundle):
    result, = replay(read(bag), [bundle], seed=4)
    assert result.equal < 24 and result.difference > 1e-3


def test_an_interrupted_recording_is_whole_up_to_there(bundle, tmp_path, monkeypatch):
    plan, calls = Planner.plan, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return plan(self, *arguments)

    monkeypatch.setattr(Planner, 'plan', interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(bundle, tmp_path / 'run')
    monkeypatch.setattr(Planner, 'plan', plan)
    recording = read(tmp_path / 'run')
    result, = replay(recording, [bundle])
    assert result.ticks == result.equal == 10 - 1 - 3, 'three plans warm up'


@pytest.fixture
def of_a_robot(bundle, tmp_path):
    """A bag as of a controller: joint states at twice its rate, stamps, a swap, trial plans."""
    types = rosbags.typesys.get_typestore(rosbags.typesys.Stores.ROS2_JAZZY).types
    planner = Planner(bundle)
    planner.warm_up()
    start, rng = 10**18, np.random.default_rng(0)
    angles = rng.uniform(-1, 1, 40)
    path = tmp_path / 'robot'
    with BagWriter(path) as bag:
        bag.text('/controller/model', start, json.dumps({'hash': bundle.hash}))
        content = pack(bundle)
        dim = types['std_msgs/msg/MultiArrayDimension'](bundle.hash, len(content), len(content))
        bag._message('/pruner/bundle', 'std_msgs/msg/UInt8MultiArray', start,
                     types['std_msgs/msg/MultiArrayLayout']([dim], 0),
                     np.frombuffer(content, np.uint8))
        for i, angle in enumerate(angles):
            measured = start + i * PERIOD_NS // 2
            stamp = types['builtin_interfaces/msg/Time'](*divmod(measured, 10**9))
            header = types['std_msgs/msg/Header'](stamp, '')
            numbers = [np.array([value]) for value in (angle, 2 * angle)]
            # Recorded late, as over a slow network: the stamp counts.
            bag._message('/joint_states', 'sensor_msgs/msg/JointState', measured + 4_000_000,
                         header, ['arm'], *numbers, np.zeros(0))
        observations = np.stack([np.cos(angles), np.sin(angles), 2 * angles], 1)
        for _ in range(5):  # on trial, before the first command
            planner.plan(observations[0])
        planner.reset()
        for k in range(20):
            plan = planner.plan(observations[2 * k])
            age_ns, latency_ns = 6_000_000 + 100_000 * k, 9_000_000
            sent = start + k * PERIOD_NS + age_ns + latency_ns
            bag.numbers('/command', sent, plan.action)
            bag.number('/controller/latency', sent + 200_000, 1e-9 * latency_ns)
            bag.number('/controller/observation_age', sent + 300_000, 1e-9 * age_ns)
        bag.numbers('/command', sent + 3 * PERIOD_NS, [0.0])  # the safe one, at the end
    return path


ENTRIES = ['cos(arm.position)', 'sin(arm.position)', 'arm.velocity']


def test_commands_find_the_observations_they_came_from(of_a_robot, bundle):
    recording = read(of_a_robot, ENTRIES)
    assert (len(recording.ticks), recording.unmatched) == (20, 1)
    result, = replay(recording, [bundle])
    assert (result.equal, result.trial_plans) == (20, 5)
    assert result.recorded_s == pytest.approx(0.009)


def test_the_command_line(main, capsys, bundle, of_a_robot, tmp_path):
    assert main('record', bundle.path, '--out', tmp_path / 'bag', '--json') == DONE
    assert json.loads(capsys.readouterr().out)['decisions'] == 12
    assert main('replay', tmp_path / 'bag', '--bundle', bundle.path, '--json') == DONE
    facts = json.loads(capsys.readouterr().out)
    assert facts['models'][0]['equal'] == facts['decisions'] == 12
    again = ('replay', tmp_path / 'bag', '--bundle', bundle.path)
    assert main(*again, '--exact') == DONE
    assert main(*again, '--seed', 9) == DONE
    capsys.readouterr()
    # Other noise, other commands: told as always, and in the exit code where that is asked for.
    assert main(*again, '--seed', 9, '--exact', '--json') == REFUSED
    assert json.loads(capsys.readouterr().out)['models'][0]['equal'] < 12
    # The bundle is in this one.
    assert main('replay', of_a_robot, '--joint-map', '[' + ','.join(ENTRIES) + ']') == DONE
    assert f'{bundle.hash[:16]} equal' in capsys.readouterr().out


def test_exact_means_every_command_of_the_bag(main, bundle, of_a_robot, monkeypatch):
    joints = ('--joint-map', '[' + ','.join(ENTRIES) + ']', '--exact')
    assert main('replay', of_a_robot, *joints) == DONE
    assert main('replay', of_a_robot, *joints, '--bundle', bundle.path) == DONE, 'in the bag, too'
    whole = recording.read

    def with_another(*given):
        """The last ticks are those of a bundle that is not at hand."""
        found = whole(*given)
        return replace(found, ticks=tuple(
            replace(t, model='f' * 64) if i >= 15 else t for i, t in enumerate(found.ticks)))

    monkeypatch.setattr(recording, 'read', with_another)
    assert main('replay', of_a_robot, *joints) == REFUSED
    assert main('replay', '--agent', 'x', '--state', '1,2', '--exact') == FAILED


def broken(path):
    path.mkdir()
    (path / 'run.mcap').write_bytes(b'not a bag')


@pytest.mark.parametrize('make, words', [
    (lambda path, bag: None, 'no such folder'),
    (lambda path, bag: broken(path), 'cannot be read'),
    (lambda path, bag: shutil.copytree(bag, path) / 'metadata.yaml', "no messages on 'joint_st"),
])
def test_bags_that_cannot_be_read(tmp_path, bag, make, words, four_parts):
    make(tmp_path / 'x', bag)
    with pytest.raises(AgentError, match=words) as error:
        read(tmp_path / 'x', ENTRIES)
    four_parts(error)


def test_a_bag_of_joints_asks_for_the_map(of_a_robot):
    with pytest.raises(AgentError, match='give --joint-map'):
        read(of_a_robot)


def test_a_bundle_that_did_not_run(bag, bundle, main, capsys, tmp_path, four_parts):
    with pytest.raises(BundleError, match='the bundles that ran') as error:
        replay(read(bag), [])
    four_parts(error)
    assert main('record', bundle.path, '--out', bag) == FAILED
    assert 'something is there' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main('record', bundle.path, '--out', tmp_path / 'n', '--episodes', 0)
