# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Faults injected into the running controller: it goes on, says so, and commands stay safe."""

import math
import shutil
import signal
import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from std_msgs.msg import Float64MultiArray, UInt8MultiArray

from pruned_controller.conversions import COMMAND, LATCHED, METRIC, NEWEST, archive_message
from pruning_core.runtime.archive import pack
from pruning_core.runtime.bundle import PLAN_STEP, POLICY, open_bundle, write

GOOD = [1.0, 0.0, 0.0]


class Robot:
    """Stands in for a plant: sends what the test wants, and keeps every command."""

    def __init__(self, system):
        node = system.observer.node
        self.system, self.observation, self.commands = system, GOOD, []
        self.diagnostics = {}
        self._sender = node.create_publisher(Float64MultiArray, 'observation', NEWEST)
        self.bundles = node.create_publisher(UInt8MultiArray, '/pruner/bundle', LATCHED)
        node.create_subscription(
            Float64MultiArray, 'command', lambda m: self.commands.append(list(m.data)), COMMAND)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, METRIC)
        node.create_timer(0.02, self._send)

    def _send(self):
        if self.observation is not None:
            self._sender.publish(Float64MultiArray(data=self.observation))

    def _on_diagnostics(self, message):
        self.diagnostics = {v.key: v.value for s in message.status for v in s.values}

    def until_mode(self, mode, reason='', limit_s=15.0):
        self.system.until(f'mode {mode}', lambda: self.system.observer.mode.startswith(mode)
                          and reason in self.system.observer.mode, limit_s)

    def until_commands(self, count=10):
        wanted = len(self.commands) + count
        self.system.until('commands', lambda: len(self.commands) >= wanted)

    def assert_safe(self):
        assert self.commands
        for command in self.commands:
            assert len(command) == 1 and math.isfinite(command[0]) and abs(command[0]) <= 2.0


@pytest.fixture
def robot(system, tiny_bundle):
    system.start('controller', bundle=tiny_bundle, store=system.folder / 'store',
                 hold_ticks=3, observation_timeout=0.2, recover_ticks=3)
    robot = Robot(system)
    system.activate()
    robot.until_mode('planning')
    yield robot
    robot.assert_safe()


def test_what_is_missing_is_said_and_configuring_can_be_tried_again(system, tiny_bundle):
    cases = [('', "'bundle' is empty"), (str(system.folder / 'none'), 'no such folder')]
    damaged = system.folder / 'damaged'
    shutil.copytree(tiny_bundle, damaged)
    policy = bytearray((damaged / 'policy.onnx').read_bytes())
    policy[len(policy) // 2] ^= 1
    (damaged / 'policy.onnx').write_bytes(bytes(policy))
    cases.append((str(damaged), 'policy.onnx'))
    for bundle, words in cases:
        system.start('controller', **({'bundle': bundle} if bundle else {}))
        assert not system.change(Transition.TRANSITION_CONFIGURE)
        system.until(words, lambda words=words: words in system.processes.log('controller'))
        assert not system.change(Transition.TRANSITION_CONFIGURE), 'it lives and answers still'
        assert system.processes.signal('controller', signal.SIGINT) == 0


@pytest.mark.parametrize('observation, reason', [
    ([math.nan, 0.0, 0.0], 'not finite'),
    ([math.inf, 0.0, 0.0], 'not finite'),
    ([1.0, 0.0], 'shape'),
    (None, 'older than'),
])
def test_unusable_observations_lead_to_the_fallback_and_back(robot, observation, reason):
    robot.observation = observation
    robot.until_mode('fallback', reason)
    robot.until_commands(5)
    assert robot.commands[-1] == [0.0]
    robot.observation = GOOD
    robot.until_mode('planning')


def test_a_damaged_bundle_is_refused_and_the_running_one_stays(robot, tiny_bundle):
    observer = robot.system.observer
    bundle = open_bundle(tiny_bundle)
    content = bytearray(pack(bundle))
    content[len(content) // 2] ^= 0xFF
    for message in (archive_message(bytes(content), bundle.hash),
                    archive_message(pack(bundle), 'f' * 64),
                    archive_message(b'not an archive', bundle.hash),
                    archive_message(b'', bundle.hash),
                    UInt8MultiArray()):
        robot.diagnostics = {}
        robot.bundles.publish(message)
        robot.system.until('word of it', lambda: robot.diagnostics.get('rejected_bundle'))
        robot.until_commands(5)
        assert observer.model['hash'] == bundle.hash
        robot.until_mode('planning')
    stored = list((robot.system.folder / 'store').glob('*'))
    assert {p.name for p in stored} <= {bundle.hash, 'state.json'}, 'nothing of them was kept'


def test_deactivation_sends_the_safe_command_last(robot):
    robot.until_commands(5)
    assert robot.system.change(Transition.TRANSITION_DEACTIVATE)
    time.sleep(0.3)
    count = len(robot.commands)
    assert robot.commands[-1] == [0.0]
    time.sleep(0.3)
    assert len(robot.commands) == count, 'an inactive controller is silent'
    assert robot.system.change(Transition.TRANSITION_ACTIVATE)
    robot.until_commands(5)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_controller_with_the_safe_command(robot, number):
    robot.until_commands(5)
    assert robot.system.processes.signal('controller', number) == 0
    time.sleep(0.3)
    assert robot.commands[-1] == [0.0]
    assert 'Traceback' not in robot.system.processes.log('controller')


def test_rollback_without_a_former_bundle_is_refused_in_words(robot):
    accepted, said = robot.system.observer.call('/controller/rollback')
    assert not accepted and 'there is none' in said and '~/reload' in said
    robot.until_commands(5)


def test_parameters_can_be_corrected_while_unconfigured_and_not_later(system, tiny_bundle):
    system.start('controller', store=system.folder / 'store')
    assert not system.change(Transition.TRANSITION_CONFIGURE), 'it has no bundle'
    assert system.set_parameter('/controller', 'bundle', str(tiny_bundle)).successful
    system.activate()
    late = system.set_parameter('/controller', 'hold_ticks', 3)
    assert not late.successful and 'is configured' in late.reason and 'cleanup' in late.reason
    assert system.change(Transition.TRANSITION_DEACTIVATE)
    assert system.change(Transition.TRANSITION_CLEANUP)
    assert system.set_parameter('/controller', 'hold_ticks', 3).successful
    system.activate()


def test_another_size_of_plan_is_taken_while_running_and_is_no_rollback(robot):
    observer = robot.system.observer
    assert robot.system.set_parameter('/controller', 'planner.samples', 7).successful
    robot.system.until('the size', lambda: 'replaces' in robot.system.processes.log('controller'))
    robot.until_commands(5)
    accepted, said = observer.call('/controller/rollback')
    assert not accepted and 'there is none' in said
    assert observer.mode == 'planning'


def test_graphs_that_do_not_run_together_are_refused(robot, tiny_bundle, tmp_path):
    bundle = open_bundle(tiny_bundle)
    graphs = {**bundle.graphs, PLAN_STEP: bundle.graphs[POLICY]}
    mixed = write(tmp_path / 'mixed', bundle.manifest, graphs)
    robot.bundles.publish(archive_message(pack(mixed), mixed.hash))
    robot.system.until('word of it', lambda: robot.diagnostics.get('rejected_bundle'))
    robot.until_commands(5)
    assert robot.system.observer.model['hash'] == bundle.hash


def test_the_node_outlives_cleanup_under_traffic(robot):
    for _ in range(15):
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP,
                           Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert robot.system.change(transition)
    robot.until_mode('planning')


def test_clean_up_and_configure_again(robot):
    change = robot.system.change
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP,
                       Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert change(transition)
    robot.until_mode('planning')
    robot.until_commands(5)
