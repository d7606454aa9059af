# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Bags without ROS: what is written is read back, and a planner run again sends the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core import recording
from pruning_core.cli import DONE, FAILED, REFUSED
from pruning_core.errors import AgentError, BundleError, ConfigError
from pruning_core.recording import BagWriter, read, record, replay
from pruning_core.runtime.archive import pack
from pruning_core.runtime.planner import Planner
from pruning_core.runtime.trace import Trace, state_of, words

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
        ('/controller/trace', 'std_msgs/msg/Float64MultiArray'),
        ('/controller/model', 'std_msgs/msg/String'), ('/reward', 'std_msgs/msg/Float64')}
    assert (bag / 'run.mcap').read_bytes()[:8] == b'\x89MCAP0\r\n'
    assert 'storage_identifier: mcap' in (bag / 'metadata.yaml').read_text()
    commands = [m for topic, _, _, m in said if topic == '/command']
    assert len(commands) == 24
    assert {m.layout.dim[0].label for m in commands} == {bundle.hash}
    assert sum(topic == '/episode_return' for topic, *_ in said) == 2


def test_the_planner_run_again_sends_the_same(bag, bundle):
    result, = replay(read(bag), [bundle])
    assert (result.ticks, result.equal, result.difference) == (24, 24, 0.0)
    assert len(result.recorded_s) == len(result.compute_s) == 24
    assert (result.compute_s > 0).all()


@pytest.mark.parametrize('other', [
    lambda t: replace(t, noise=(t.noise[0] ^ 1, *t.noise[1:])),
    lambda t: replace(t, mean=-t.mean - 0.5),
    lambda t: replace(t, observation=-t.observation),
    lambda t: replace(t, samples=t.samples[:1]),
])
def test_plans_follow_from_all_that_is_recorded(bag, bundle, other):
    recording = read(bag)
    result, = replay(replace(recording, ticks=tuple(map(other, recording.ticks))), [bundle])
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
    """A bag as of a controller: budgets that cut plans short, plans that were lost, a swap."""
    rng = np.random.default_rng(0)
    planner = Planner(bundle, seed=7, samples=16, iterations=2, horizon=1)
    planner.warm_up()
    other = Planner(bundle, iterations=1)
    start = 10**18
    path = tmp_path / 'robot'
    with BagWriter(path) as bag:
        content = pack(bundle)
        types = rosbags.typesys.get_typestore(rosbags.typesys.Stores.ROS2_JAZZY).types
        dim = types['std_msgs/msg/MultiArrayDimension'](bundle.hash, len(content), len(content))
        bag._message('/pruner/bundle', 'std_msgs/msg/UInt8MultiArray', start,
                     types['std_msgs/msg/MultiArrayLayout']([dim], 0),
                     np.frombuffer(content, np.uint8))
        for k in range(20):
            angle = rng.uniform(-3, 3)
            planner.plan([np.cos(angle), np.sin(angle), angle], (None, 0.0)[k % 3 == 2])
            if k % 4 != 1:  # every fourth is lost on the way
                bag.trace(start + k * PERIOD_NS, planner.trace())
        other.plan([1.0, 0.0, 0.0])
        bag.trace(start + 20 * PERIOD_NS, other.trace())
    return path


def test_each_plan_is_made_again_whatever_was_lost_in_between(of_a_robot, bundle):
    recording = read(of_a_robot)
    assert len(recording.ticks) == 16
    assert {t.samples for t in recording.ticks} == {(16, 16), (), (16,)}
    assert {t.choice.horizon for t in recording.ticks} == {1, 2}
    result, = replay(recording, [bundle])
    assert (result.ticks, result.equal, result.difference) == (16, 16, 0.0)


def test_what_a_bag_holds_is_what_the_planner_said(bundle, tmp_path):
    planner = Planner(bundle, seed=3)
    with BagWriter(tmp_path / 'run') as bag:
        planner.plan([0.6, 0.8, 1 / 3])
        said = planner.trace()
        bag.trace(10**18, said)
    found, = read(tmp_path / 'run').ticks
    assert found.model == bundle.hash and found.choice == said.choice
    assert found.noise == said.noise and found.samples == said.samples
    assert found.compute_s == said.compute_s > 0
    for name in ('observation', 'mean', 'action'):
        np.testing.assert_array_equal(getattr(found, name), getattr(said, name))


def test_a_plan_of_another_planner_is_refused(of_a_robot, bundle, four_parts):
    trace = read(of_a_robot).ticks[0]
    with pytest.raises(ConfigError, match='made with Choice') as error:
        Planner(bundle).repeat(trace)
    four_parts(error)
    with pytest.raises(ConfigError, match=r'refinements of \[7, 7\] samples'):
        Planner(bundle, samples=16, iterations=2, horizon=1).repeat(
            replace(trace, samples=(7, 7)))


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1), st.booleans(),
       st.integers(0, 2**32 - 1))
def test_a_state_of_the_noise_goes_through_numbers(state, inc, has, word):
    whole = {'bit_generator': 'PCG64', 'state': {'state': state, 'inc': inc},
             'has_uint32': int(has), 'uinteger': word}
    assert state_of(tuple(int(float(x)) for x in words(whole))) == whole


@pytest.mark.parametrize('change', [
    lambda names, sizes, numbers: (names[1:], sizes[1:], numbers[sizes[0]:]),
    lambda names, sizes, numbers: (names, sizes, numbers[:-1]),
    lambda names, sizes, numbers: (names, [sizes[0] - 1, sizes[1] + 1, *sizes[2:]], numbers),
    lambda names, sizes, numbers: (names, sizes, [0.5, *numbers[1:]]),
    lambda names, sizes, numbers: (names, sizes, [-1.0, *numbers[1:]]),
    lambda names, sizes, numbers: (names, sizes, [float('nan'), *numbers[1:]]),
    lambda names, sizes, numbers: (names, sizes, [*numbers[:4], 9.0, *numbers[5:]]),
    lambda names, sizes, numbers: ([], [], []),
])
def test_what_is_no_trace_is_said(bag, change, four_parts):
    sections = read(bag).ticks[0].sections()
    names, sizes = [n for n, _ in sections], [len(v) for _, v in sections]
    with pytest.raises(AgentError, match='a trace of a plan was read') as error:
        Trace.of('x', *change(names, sizes, [x for _, v in sections for x in v]))
    four_parts(error)


def test_the_command_line(main, capsys, bundle, of_a_robot, tmp_path):
    assert main('record', bundle.path, '--out', tmp_path / 'bag', '--seed', 9, '--json') == DONE
    assert json.loads(capsys.readouterr().out)['decisions'] == 12
    again = ('replay', tmp_path / 'bag', '--bundle', bundle.path)
    assert main(*again, '--json') == DONE
    facts = json.loads(capsys.readouterr().out)
    assert facts['models'][0]['equal'] == facts['decisions'] == 12
    assert main(*again, '--exact') == DONE
    assert main(*again, '--seed', 9) == FAILED
    assert 'the bag itself says where the noise stood' in capsys.readouterr().err
    # The bundle is in this one.
    assert main('replay', of_a_robot) == DONE
    assert f'{bundle.hash[:16]} equal' in capsys.readouterr().out


def test_exact_means_every_plan_of_the_bag(main, capsys, bundle, of_a_robot, monkeypatch):
    assert main('replay', of_a_robot, '--exact') == DONE
    assert main('replay', of_a_robot, '--exact', '--bundle', bundle.path) == DONE, 'in both'
    whole = recording.read

    def changed(how):
        def with_another(path):
            found = whole(path)
            return replace(found, ticks=(*found.ticks[:-1], how(found.ticks[-1])))
        monkeypatch.setattr(recording, 'read', with_another)

    changed(lambda t: replace(t, model='f' * 64))
    assert main('replay', of_a_robot, '--exact') == REFUSED, 'its bundle is not at hand'
    changed(lambda t: replace(t, action=t.action + 0.01))
    assert main('replay', of_a_robot) == DONE
    capsys.readouterr()
    assert main('replay', of_a_robot, '--exact', '--json') == REFUSED
    assert json.loads(capsys.readouterr().out)['models'][0]['equal'] == 15
    assert main('replay', '--agent', 'x', '--state', '1,2', '--exact') == FAILED


def broken(path):
    path.mkdir()
    (path / 'run.mcap').write_bytes(b'not a bag')


def without_plans(path):
    with BagWriter(path) as bag:
        bag.number('/reward', 10**18, 1.0)


@pytest.mark.parametrize('make, said', [
    (lambda path, bag: None, 'no such folder'),
    (lambda path, bag: broken(path), 'cannot be read'),
    (lambda path, bag: without_plans(path), "no messages on 'trace'"),
])
def test_bags_that_cannot_be_read(tmp_path, bag, make, said, four_parts):
    make(tmp_path / 'x', bag)
    with pytest.raises(AgentError, match=said) as error:
        read(tmp_path / 'x')
    four_parts(error)


def test_a_bundle_that_did_not_run(bag, bundle, main, capsys, tmp_path, four_parts):
    with pytest.raises(BundleError, match='the bundles that ran') as error:
        replay(read(bag), [])
    four_parts(error)
    assert main('record', bundle.path, '--out', bag) == FAILED
    assert 'something is there' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main('record', bundle.path, '--out', tmp_path / 'n', '--episodes', 0)
