# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A running controller, its model changed under it: by good bundles alone, and back again."""

from __future__ import annotations

import json
import math

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray, String, UInt8MultiArray
from std_srvs.srv import Trigger

from pruned_controller.controller_node import ControllerNode
from pruned_controller.conversions import (
    COMMAND,
    LATCHED,
    METRIC,
    NEWEST,
    archive_message,
    label_of,
    to_message,
)
from pruning_core.runtime.archive import pack

GOOD = TransitionCallbackReturn.SUCCESS


class Robot:
    """What stands around a controller: observations in, and everything it says."""

    def __init__(self, until):
        self.node, self.until = rclpy.create_node('robot'), until
        self.observation, self.commands, self.models, self.modes = None, [], [], []
        self.facts = {}
        node = self.node
        self._states = node.create_publisher(Float64MultiArray, 'observation', NEWEST)
        self.bundles = node.create_publisher(UInt8MultiArray, '/pruner/bundle', LATCHED)
        node.create_subscription(Float64MultiArray, 'command',
                                 lambda m: self.commands.append(list(m.data)), COMMAND)
        node.create_subscription(String, '/controller/model',
                                 lambda m: self.models.append(json.loads(m.data)['hash']), LATCHED)
        node.create_subscription(String, '/controller/mode',
                                 lambda m: self.modes.append(m.data), LATCHED)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, METRIC)
        self._clients = {name: node.create_client(Trigger, f'/controller/{name}')
                         for name in ('reload', 'rollback')}
        node.create_timer(0.02, self._observe)

    def _observe(self):
        if self.observation is not None:
            self._states.publish(to_message(self.observation))

    def _on_diagnostics(self, message):
        self.facts = {v.key: v.value for s in message.status for v in s.values}

    def call(self, name):
        assert self._clients[name].wait_for_service(30)
        future = self._clients[name].call_async(Trigger.Request())
        self.until(future.done, f'an answer of {name}')
        return future.result().success, future.result().message

    def more(self, count=3):
        """Waits for some more commands and returns them."""
        have = len(self.commands)
        self.until(lambda: len(self.commands) >= have + count, 'more commands')
        return [c[0] for c in self.commands[have:]]

    def runs(self, bundle):
        self.until(lambda: self.models and self.models[-1] == bundle.hash, 'the other model')


@pytest.fixture
def around(until):
    """Returns a function that makes what stands around a controller; it ends when none spins."""
    made = []

    def make():
        made.append(Robot(until))
        return made[-1]
    yield make
    for robot in made:
        robot.node.destroy_node()


@pytest.fixture
def controlled(node, around, spin, bundles, tmp_path):
    """A configured controller and the robot around it."""
    controller = node(ControllerNode, bundle=bundles[0].path, store=tmp_path / 'store',
                      observation_timeout=0.3, hold_ticks=20)
    robot = around()
    assert controller.trigger_configure() == GOOD
    spin(controller, robot.node)
    return controller, robot


def test_good_bundles_are_taken_and_bad_ones_leave_the_running_one(controlled, bundles, until):
    controller, robot = controlled
    first, second, slower = bundles
    robot.observation = [1.0, 0.0, 0.5]
    assert controller.trigger_activate() == GOOD
    until(lambda: robot.modes and robot.modes[-1] == 'planning', 'planning')
    assert robot.call('rollback')[0] is False

    robot.bundles.publish(archive_message(pack(second), second.hash))
    robot.runs(second)
    damaged = bytearray(pack(first))
    damaged[len(damaged) // 2] ^= 1
    for message, words in (
            (archive_message(bytes(damaged), first.hash), 'damaged'),
            (archive_message(pack(first), second.hash), 'as announced'),
            (archive_message(pack(slower), slower.hash), 'as the running one'),
            (archive_message(b'no archive', first.hash), 'archive'),
            (UInt8MultiArray(data=pack(first)), 'carries no hash')):
        robot.bundles.publish(message)
        until(lambda words=words: words in robot.facts.get('rejected_bundle', ''), words)
        robot.more()
    assert robot.models == [first.hash, second.hash]

    assert robot.call('rollback')[0]
    robot.runs(first)
    (first.path / 'policy.onnx').rename(first.path / 'hidden')
    try:
        success, message = robot.call('reload')
    finally:
        (first.path / 'hidden').rename(first.path / 'policy.onnx')
    assert not success
    assert 'policy.onnx is missing' in message
    robot.more()
    assert robot.models == [first.hash, second.hash, first.hash]
    assert robot.facts['errors'] == '0'
    assert all(len(c) == 1 and math.isfinite(c[0]) and -2 <= c[0] <= 2 for c in robot.commands)


def test_before_the_first_observation_the_fallback_acts_and_no_tick_fails(controlled, until):
    controller, robot = controlled
    assert controller.trigger_activate() == GOOD
    assert set(robot.more()) == {0.0}
    until(lambda: int(robot.facts.get('ticks', 0)) > 0, 'diagnostics')
    assert robot.facts['errors'] == '0'
    assert int(robot.facts['mode_fallback']) > 0


def test_command_of_an_earlier_activation_is_not_held(controlled, until):
    controller, robot = controlled
    robot.observation = [1.0, 0.0, 0.5]
    assert controller.trigger_activate() == GOOD
    until(lambda: robot.modes and robot.modes[-1] == 'planning', 'planning')
    assert abs(robot.more()[-1]) > 0.01
    robot.observation = None
    until(lambda: robot.modes[-1].startswith('hold'), 'a stale observation')
    assert controller.trigger_deactivate() == GOOD
    until(lambda: robot.commands[-1] == [0.0], 'the safe command')
    until(lambda: robot.modes[-1] == 'inactive', 'the last word')
    assert controller.trigger_activate() == GOOD
    assert set(robot.more()) == {0.0}


def test_a_transition_that_the_state_does_not_have_is_answered_and_the_node_lives(
        controlled, until):
    controller, robot = controlled
    client = robot.node.create_client(ChangeState, '/controller/change_state')
    assert client.wait_for_service(30)

    def change(transition):
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        until(future.done, 'an answer')
        return future.result().success
    assert not change(Transition.TRANSITION_DEACTIVATE), 'it is inactive'
    assert not change(Transition.TRANSITION_CONFIGURE), 'it is configured'
    assert not change(99)
    assert change(Transition.TRANSITION_ACTIVATE)
    assert not change(Transition.TRANSITION_ACTIVATE)
    robot.observation = [1.0, 0.0, 0.5]
    until(lambda: robot.modes and robot.modes[-1] == 'planning', 'planning')


def test_an_exception_in_a_transition_is_logged_and_leaves_nothing_behind(
        node, bundles, tmp_path, monkeypatch, capfd):
    controller = node(ControllerNode, bundle=bundles[0].path, store=tmp_path / 'store')
    assert controller.trigger_configure() == GOOD

    def fail(self):
        raise RuntimeError('on purpose')
    monkeypatch.setattr(ControllerNode, '_configure', fail)
    monkeypatch.setattr(ControllerNode, '_activate', lambda self, state: fail(self))
    assert controller.trigger_activate() == TransitionCallbackReturn.ERROR
    assert 'on purpose' in capfd.readouterr().err
    assert controller.trigger_configure() == TransitionCallbackReturn.ERROR
    monkeypatch.undo()
    assert controller.trigger_configure() == GOOD
    assert controller.trigger_activate() == GOOD


def test_each_command_names_its_model(controlled, bundles, until):
    controller, robot = controlled
    labels = []
    robot.node.create_subscription(
        Float64MultiArray, 'command', lambda m: labels.append(label_of(m)), COMMAND)
    robot.observation = [1.0, 0.0, 0.5]
    assert controller.trigger_activate() == GOOD
    until(lambda: len(labels) > 5, 'commands')
    assert set(labels) == {bundles[0].hash}


def test_faults_can_be_made_only_where_they_were_enabled_at_configuring(node, bundles, tmp_path):
    controller = node(ControllerNode, bundle=bundles[0].path, store=tmp_path / 'store')
    assert controller.trigger_configure() == GOOD
    result, = controller.set_parameters([Parameter('fault_injection.plan', value='nan')])
    assert not result.successful
    assert 'fault_injection.enabled is false' in result.reason
