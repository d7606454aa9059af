# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The launch files as users start them, under ROS 2 launch."""

from __future__ import annotations

import math
import os
import time

import pytest
import yaml

pytest.importorskip('launch_pytest', reason='ROS 2 launch is not installed; it comes with ROS 2')

import launch_pytest
import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_share_path
from launch import LaunchContext, LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription, RegisterEventHandler, Shutdown, TimerAction
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch_pytest.actions import ReadyToTest
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

try:
    SHARE = get_package_share_path('pruned_controller')
except PackageNotFoundError:
    pytest.skip('pruned_controller is not built; colcon build, then source install/setup.sh',
                allow_module_level=True)

LIMIT_S = 60.0  # only ends a test that hangs
NODES = {'controller_node', 'plant_node', 'pruner_node'}


@pytest.fixture
def domain(monkeypatch):
    """Keep to this machine, in a domain that nobody else here is likely to use."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')


@pytest.fixture
def store(tmp_path):
    """The demo's own parameters, with received bundles kept away from those of the user."""
    parameters = yaml.safe_load((SHARE / 'config' / 'demo.yaml').read_text())
    parameters['/**/controller']['ros__parameters']['store'] = str(tmp_path / 'bundles')
    path = tmp_path / 'demo.yaml'
    path.write_text(yaml.safe_dump(parameters))
    return path


class Started:
    """A launch file, with the exit code and the output of each process it started."""

    def __init__(self, name, **arguments):
        self.codes, self.output = {}, ''
        self.description = LaunchDescription([
            RegisterEventHandler(OnProcessExit(on_exit=self._ended)),
            RegisterEventHandler(OnProcessIO(on_stdout=self._said, on_stderr=self._said)),
            IncludeLaunchDescription(
                str(SHARE / 'launch' / name),
                launch_arguments={k: str(v) for k, v in arguments.items()}.items())])

    def _ended(self, event, context):
        self.codes[event.process_name.rpartition('-')[0]] = event.returncode

    def _said(self, event):
        self.output += event.text.decode()

    def run(self):
        """Run until it ends by itself; returns the exit code of `ros2 launch`."""
        self.description.add_action(TimerAction(period=LIMIT_S, actions=[
            Shutdown(reason='the limit')], cancel_on_shutdown=True))
        service = LaunchService(noninteractive=True)
        service.include_launch_description(self.description)
        began = time.monotonic()
        code = service.run()
        assert time.monotonic() - began < LIMIT_S, self.output
        return code


class Probe:
    """A node beside those under test."""

    def __init__(self):
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node('probe', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def close(self):
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def until(self, condition, what):
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, f'{what} did not come about in {LIMIT_S:g} s'
            self._executor.spin_once(timeout_sec=0.05)

    def call(self, kind, name):
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, f'service {name}')
        future = client.call_async(kind.Request())
        self.until(future.done, f'an answer of {name}')
        self.node.destroy_client(client)
        return future.result()

    def listen(self, kind, name):
        received = []
        self.node.create_subscription(kind, name, lambda m: received.append(m.data), 10)
        return received


@pytest.fixture
def probe(domain):
    probe = Probe()
    yield probe
    probe.close()


@launch_pytest.fixture
def demo(domain, trained, store):
    started = Started('demo.launch.py', agent=trained, params_file=store)
    started.description.add_action(ReadyToTest())
    return started.description, started


@pytest.mark.launch(fixture=demo)
def test_demo_runs_and_ends_in_good_order(demo, probe):
    _, started = demo
    probe.until(lambda: {'controller', 'plant', 'pruner'} <= set(probe.node.get_node_names()),
                'the three nodes')
    probe.until(lambda: probe.call(GetState, '/controller/get_state').current_state.label
                == 'active', 'an active controller')
    latency = probe.listen(Float64, '/controller/latency')
    reward = probe.listen(Float64, '/controller/reward')
    probe.until(lambda: len(latency) >= 5, 'latencies')
    assert all(0 < s < LIMIT_S for s in latency)
    # A predicted reward means that observations come and that the controller plans on them.
    probe.until(lambda: any(math.isfinite(r) for r in reward), 'a plan')
    answer = probe.call(Trigger, '/pruner/cancel')
    assert not answer.success and 'no job is running' in answer.message
    yield
    assert started.codes == dict.fromkeys(NODES | {'pruning-core'}, 0)
    assert 'Traceback' not in started.output


def test_demo_ends_when_the_controller_refuses_its_bundle(domain, store, tmp_path):
    started = Started('demo.launch.py', bundle=tmp_path / 'nothing', params_file=store)
    started.run()
    assert started.codes['controller_node'] == 0
    assert set(started.codes) == NODES
    assert 'configure refused' in started.output
    assert 'there is no such folder' in started.output


def test_demo_ends_with_the_plant(domain, store, tmp_path):
    parameters = yaml.safe_load(store.read_text())
    parameters['/**/plant']['ros__parameters']['env_id'] = 'Nowhere-v0'
    store.write_text(yaml.safe_dump(parameters))
    started = Started('demo.launch.py', bundle=tmp_path / 'nothing', params_file=store,
                      autostart='false')  # so that the controller does not end it
    started.run()
    assert started.codes['plant_node'] == 2
    assert set(started.codes) == NODES
    assert 'Nowhere-v0' in started.output


def test_demo_ends_when_there_is_no_agent_to_export(domain, store):
    started = Started('demo.launch.py', agent='nobody', params_file=store)
    started.run()
    assert started.codes == {'plant_node': 0, 'pruner_node': 0, 'pruning-core': 2}
    assert "agent 'nobody' was asked for" in started.output


def test_controller_says_that_it_needs_a_bundle(domain):
    started = Started('controller.launch.py')
    assert started.run() == 1
    assert started.codes == {}
    with pytest.raises(RuntimeError, match=r"missing required argument 'bundle' \(description: "
                                           r"'Bundle folder to start with"):
        IncludeLaunchDescription(
            str(SHARE / 'launch' / 'controller.launch.py')).execute(LaunchContext())


@launch_pytest.fixture
def pruning(domain, tmp_path):
    started = Started('pruning.launch.py', sparsity=1, runs=tmp_path / 'runs', namespace='there')
    started.description.add_action(ReadyToTest())
    return started.description, started


@pytest.mark.launch(fixture=pruning)
def test_pruner_takes_arguments_over_its_file(pruning, probe, tmp_path):
    _, started = pruning
    client = probe.node.create_client(GetParameters, '/there/pruner/get_parameters')
    probe.until(client.service_is_ready, 'the pruner')
    future = client.call_async(GetParameters.Request(names=['sparsity', 'runs', 'agent']))
    probe.until(future.done, 'its parameters')
    sparsity, runs, agent = future.result().values
    assert sparsity.double_value == 1.0
    assert runs.string_value == str(tmp_path / 'runs')
    assert agent.string_value == 'pendulum_dense'
    yield
    assert started.codes == {'pruner_node': 0}


@pytest.mark.parametrize('path', sorted((SHARE / 'launch').glob('*.launch.py')),
                         ids=lambda p: p.name)
def test_arguments_are_shown_with_their_descriptions(path):
    include = IncludeLaunchDescription(str(path))
    description = include.launch_description_source.get_launch_description(LaunchContext())
    arguments = {a.name: a for a in description.get_launch_arguments()}
    assert {'namespace', 'log_level', 'params_file'} <= set(arguments)
    assert all(a.description and 'no description' not in a.description
               for a in arguments.values())
    required = {name for name, a in arguments.items() if a.default_value is None}
    assert required == ({'bundle'} if path.name == 'controller.launch.py' else set())
