# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Bags without ROS: what is written is read back, and a planner run again sends the same."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core import recording
from pruning_core.cli import DONE, FAILED, REFUSED
from pruning_core.errors import AgentError, BundleError, ConfigError
from pruning_core.recording import BagWriter, read, record, replay
from pruning_core.runtime.archive import pack
from pruning_core.runtime.choice import Choice
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
    """A bag as of a robot: plans cut short in every way, plans that were lost, others' topics."""
    now = [0.0]
    planner = Planner(bundle, seed=7, samples=16, iterations=2, horizon=1, clock=lambda: now[0])
    planner.warm_up()
    for size in planner._sizes:
        size.pace.expected_s = 0.001 * size.samples
    other = Planner(bundle, iterations=1)
    start, rng = 10**18, np.random.default_rng(0)
    path = tmp_path / 'robot'
    with BagWriter(path) as bag:
        content = pack(bundle)
        types = rosbags.typesys.get_typestore(rosbags.typesys.Stores.ROS2_JAZZY).types
        dim = types['std_msgs/msg/MultiArrayDimension'](bundle.hash, len(content), len(content))
        bag._message('/pruner/bundle', 'std_msgs/msg/UInt8MultiArray', start,
                     types['std_msgs/msg/MultiArrayLayout']([dim], 0),
                     np.frombuffer(content, np.uint8))
        bag.numbers('/force_sensor/trace', start, [1.0, 2.0, 3.0])
        bag.numbers('/laser/trace', start, [1.0], 'echo')
        for k in range(20):
            angle = rng.uniform(-3, 3)
            # The clock stands still: these hold any number of refinements of one size.
            budget = (None, 0.0, 0.009, 0.005, 0.0021)[k % 5]
            planner.plan([np.cos(angle), np.sin(angle), angle], budget)
            for size in planner._sizes:
                size.pace.expected_s = 0.001 * size.samples
            if k % 4 != 1:  # every fourth is lost on the way
                bag.trace(start + k * PERIOD_NS, planner.trace())
        other.plan([1.0, 0.0, 0.0])
        bag.trace(start + 20 * PERIOD_NS, other.trace())
    return path


def test_each_plan_is_made_again_whatever_was_lost_in_between(of_a_robot, bundle):
    recording = read(of_a_robot)
    assert len(recording.ticks) == 16
    assert {t.samples for t in recording.ticks} == {(16, 16), (), (8, 8), (4, 4), (2, 2), (16,)}
    assert {t.choice.horizon for t in recording.ticks} == {1, 2}
    result, = replay(recording, [bundle])
    assert (result.ticks, result.equal, result.difference) == (16, 16, 0.0)
    assert result.recorded_s.tolist() == [t.compute_s for t in recording.ticks]


def test_what_a_bag_holds_is_what_the_planner_said(bundle, tmp_path):
    planner = Planner(bundle, seed=3)
    with BagWriter(tmp_path / 'run') as bag:
        plan = planner.plan([0.6, 0.8, 1 / 3])
        said = planner.trace()
        bag.trace(10**18, said)
    found, = read(tmp_path / 'run').ticks
    assert found.model == bundle.hash and found.choice == said.choice
    assert found.noise == said.noise and found.samples == said.samples
    assert found.compute_s == said.compute_s == plan.compute_s > 0
    for name in ('observation', 'mean', 'action'):
        np.testing.assert_array_equal(getattr(found, name), getattr(said, name))


@pytest.mark.parametrize('choice', [
    Choice(16, 2, 1, 2, 'fp32'), Choice(12, 1, 2, 1, 'fp32'), Choice(16, 1, 2, 1, 'int8')])
def test_it_is_told_by_what_planner(bundle, choice):
    planner = Planner(bundle, **{**asdict(choice), 'precision': 'fp32'})
    planner.precision = choice.precision  # networks as small as this have no integers
    planner.plan([1.0, 0.0, 0.5])
    assert planner.trace().choice == choice
    assert Trace.arrived(*planner.trace().travelling()).choice == choice


def test_what_is_made_again_surprises_nobody(bundle):
    """The plan before it was another one; what that foresaw says nothing about this."""
    planner = Planner(bundle)
    planner.plan([1.0, 0.0, 0.5])
    trace = planner.trace()
    planner.plan([-1.0, 0.0, 0.5])
    assert np.isnan(planner.repeat(trace).residual)


def test_plans_that_are_no_numbers_compare(bag, bundle):
    first, second, *_ = read(bag).ticks
    lost = replace(second, action=np.full_like(second.action, np.nan))
    for ticks in ((first, lost), (lost, first)):
        result, = replay(recording.Recording(ticks, {}), [bundle])
        assert result.equal == 1 and result.difference == np.inf
        assert json.loads(json.dumps(result.to_json(), allow_nan=False))['equal'] == 1
    never = replace(first, mean=np.full_like(first.mean, np.nan))
    planner = Planner(bundle, **asdict(first.choice))
    never = replace(never, action=planner.repeat(never).action)
    result, = replay(recording.Recording((never,), {}), [bundle])
    assert (result.equal, result.difference) == (1, 0.0)


def test_a_plan_of_another_planner_is_refused(of_a_robot, bundle, four_parts):
    trace = read(of_a_robot).ticks[0]
    with pytest.raises(ConfigError, match='made with Choice') as error:
        Planner(bundle).repeat(trace)
    four_parts(error)
    with pytest.raises(ConfigError, match=r'refinements of \[7, 7\] samples'):
        Planner(bundle, samples=16, iterations=2, horizon=1).repeat(
            replace(trace, samples=(7, 7)))
    with pytest.raises(ConfigError, match=r'refinements of \[16, 16, 16\] samples'):
        Planner(bundle, samples=16, iterations=2, horizon=1).repeat(
            replace(trace, samples=(16, 16, 16)))


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1), st.booleans(),
       st.integers(0, 2**32 - 1))
def test_a_state_of_the_noise_goes_through_numbers(state, inc, has, word):
    whole = {'bit_generator': 'PCG64', 'state': {'state': state, 'inc': inc},
             'has_uint32': int(has), 'uinteger': word}
    assert state_of(tuple(int(float(x)) for x in words(whole))) == whole


@pytest.mark.parametrize('at, value', [
    (0, 2.0), (1, 0.5), (1, -1.0), (1, np.nan), (1, np.inf), (1, 1e12), (4, 0.0), (4, 4096.0),
    (5, 9.0), (3, 3.0), (1, 1.0), (2, 1.0), ('noise', 2.0**32), ('has', 2.0)])
def test_numbers_that_are_no_trace_are_refused(bag, at, value, four_parts):
    dimensions, numbers = read(bag).ticks[0].travelling()
    sizes = dict(dimensions)
    before = sizes['planner'] + sizes['observation'] + sizes['mean']
    numbers[{'noise': before, 'has': before + 8}.get(at, at)] = value
    with pytest.raises(AgentError, match='a trace of a plan was read') as error:
        Trace.arrived(dimensions, numbers)
    four_parts(error)


@pytest.mark.parametrize('change', [
    lambda d, n: ([d[0], *d[2:]], n[d[1][1]:]),
    lambda d, n: (d, n[:-1]),
    lambda d, n: ([d[0], (d[1][0], d[1][1] - 1), (d[2][0], d[2][1] + 1), *d[3:]], n),
    lambda d, n: ([*d[:3], ('mean', d[3][1] + 1), *d[4:]], [*n[:9], 0.0, *n[9:]]),
    lambda d, n: ([], []),
])
def test_sections_that_are_no_trace_are_refused(bag, change, four_parts):
    trace = read(bag).ticks[0]
    with pytest.raises(AgentError, match='a trace of a plan was read') as error:
        Trace.arrived(*change(*trace.travelling()))
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


def with_topic(path, topic):
    with BagWriter(path) as bag:
        bag.numbers(topic, 10**18, [1.0])


@pytest.mark.parametrize('make, said', [
    (lambda path: None, 'no such folder'),
    (lambda path: broken(path), 'cannot be read'),
    (lambda path: with_topic(path, '/command'), 'earlier versions do not publish it'),
    (lambda path: with_topic(path, '/controller/trace'), 'record a controller that plans'),
])
def test_bags_that_cannot_be_read(tmp_path, make, said, four_parts):
    make(tmp_path / 'x')
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
