# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The table of faults, each made through a public parameter or by a real signal.

A pendulum that a real agent holds upright stands in the loop; it steps on each command, so that
what happens to it depends on the commands and not on how fast this machine is. Each row asks for
the reaction that ROS shows, for commands that are safe from the first to the last, and for the
pendulum: upright all along where the controller could see it, upright again where it could not.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import signal
import time
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, UInt8MultiArray
from std_srvs.srv import Trigger

from pruned_controller.conversions import (
    COMMAND,
    LATCHED,
    METRIC,
    NEWEST,
    archive_message,
    label_of,
)
from pruned_controller.demo import JOINT_MAP
from pruning_core import zoo
from pruning_core.checkpoint import load_run
from pruning_core.export import export
from pruning_core.runtime.archive import pack
from pruning_core.runtime.bundle import open_bundle, write

PERIOD_S = 0.05
UPRIGHT, FALLEN = 0.35, 0.8  # rad from upright


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
    """The shipped agent's bundle; it can hold the pendulum."""
    return export(load_run(zoo.find('pendulum_dense')), tmp_path_factory.mktemp('d') / 'dense')[0]


def relabelled(bundle, folder, seed):
    """The same agent under another identity."""
    manifest = dataclasses.replace(bundle.manifest, seeds={'training': seed})
    return write(folder, manifest, bundle.graphs)


class Stand:
    """Plant and controller as processes, and everything that can be seen of them."""

    def __init__(self, system, bundle):
        self.system, self.bundle = system, bundle
        self.angles, self.states, self.commands, self.labels = [], [], [], []
        self.diagnostics, self.levels = {}, {}
        node = system.observer.node
        self.bundles = node.create_publisher(UInt8MultiArray, '/pruner/bundle', LATCHED)
        node.create_subscription(JointState, 'joint_states', self._on_states, NEWEST)
        node.create_subscription(Float64MultiArray, 'command', self._on_command, COMMAND)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, METRIC)
        self.start_plant()
        self.start_controller(bundle=bundle.path)
        system.activate()

    def start_plant(self, **more):
        self.system.start('plant', **{
            'output': 'joint_states', 'lock_step': True, 'max_episode_steps': 1_000_000_000,
            **more})

    def start_controller(self, **more):
        self.system.start(
            'controller', store=self.system.folder / 'store', input='joint_states',
            joint_map=JOINT_MAP, fallback='lqr', observation_timeout=0.4, hold_ticks=2,
            recover_ticks=4, max_consecutive_misses=4, **{
                'planner.samples': 32, 'planner.iterations': 1, 'swap.shadow_ticks': 3,
                # A machine that stands still for a moment makes a tick or two of ten miss.
                'swap.window_ticks': 10, 'swap.max_worse': 0.25,
                'fault_injection.enabled': True}, **more)
        self.system.observer.mode = ''  # the latched word of one that died counts no more

    def _on_states(self, message):
        self.angles.append(message.position[0])
        self.states.append((message.position[0], message.velocity[0]))

    def _on_command(self, message):
        self.commands.append(list(message.data))
        self.labels.append(label_of(message))

    def _on_diagnostics(self, message):
        self.diagnostics = {v.key: v.value for s in message.status for v in s.values}
        self.levels = {s.name: (s.level, s.message) for s in message.status}

    @property
    def mode(self):
        return self.system.observer.mode

    def until(self, what, condition, limit_s=60.0):
        return self.system.until(what, condition, limit_s)

    def until_mode(self, mode, reason=''):
        self.until(f'mode {mode} {reason}',
                   lambda: self.mode.startswith(mode) and reason in self.mode)

    def until_commands(self, count=5):
        have = len(self.commands)
        self.until('commands', lambda: len(self.commands) >= have + count)

    def until_upright(self):
        """Planning, and upright for a second of the plant's time."""
        self.until_mode('planning')
        have = len(self.angles)

        def steady():
            recent = self.angles[have:][-20:]
            return len(recent) == 20 and max(map(abs, recent)) < UPRIGHT
        self.until('the pendulum upright', steady)

    def fault(self, name, value):
        answer = self.system.set_parameter('/controller', f'fault_injection.{name}', value)
        assert answer.successful, answer.reason

    def clear(self):
        for name, value in (('observation', ''), ('plan', ''), ('stall', 0.0), ('ticks', 0)):
            self.fault(name, value)

    def assert_safe(self):
        assert self.commands
        for command in self.commands:
            assert len(command) == 1
            assert math.isfinite(command[0])
            assert abs(command[0]) <= 2.0
        assert all(len(label) == 64 for label in self.labels), 'each command names one model'

    def assert_never_fell(self, since):
        assert max(map(abs, self.angles[since:])) < FALLEN


@pytest.fixture(scope='module')
def running(make_system, tmp_path_factory, dense):
    """One stand for all rows that leave it running."""
    system = make_system(tmp_path_factory.mktemp('stand'))
    try:
        yield Stand(system, dense)
    finally:
        system.close()


@pytest.fixture
def stand(running):
    """The stand with the pendulum upright; every command since then is looked at."""
    running.clear()
    running.until_upright()
    running.commands.clear()
    running.labels.clear()
    yield running
    running.clear()
    running.until_upright()
    running.assert_safe()
    running.system.processes.check()


# --- what the controller cannot see through --------------------------------------------------


@pytest.mark.parametrize(('kind', 'mode', 'reason'), [
    ('nan', 'fallback', 'not finite'),
    ('inf', 'fallback', 'not finite'),
    ('short', 'fallback', 'shape (2,)'),
    ('long', 'fallback', 'shape (4,)'),
    ('huge', 'fallback', 'left its envelope'),
    ('drop', 'fallback', 'older than 0.4 s'),
    ('old', 'fallback', 'older than 0.4 s'),
    ('future', 'fallback', 'in the future'),
    ('jump', 'fallback', 'older than 0.4 s'),
])
def test_faulty_observations_lead_to_the_fallback_by_name_and_back(stand, kind, mode, reason):
    stand.fault('observation', kind)
    stand.until_mode(mode, reason)
    stand.until_commands(3)
    stand.until('an error in the diagnostics', lambda: stand.levels.get(
        'controller: control loop', (b'', ''))[0] == b'\x02')


def test_denormal_numbers_are_numbers(stand):
    stand.fault('observation', 'denormal')
    stand.until_commands(5)


def test_overtaken_observations_are_dropped_and_the_others_suffice(stand):
    since = len(stand.angles)
    stand.fault('observation', 'reorder')
    stand.until('the count', lambda: int(stand.diagnostics.get('reordered', 0)) >= 5)
    stand.until_commands(5)
    stand.assert_never_fell(since)


# --- what goes wrong in the controller, the pendulum in sight --------------------------------


@pytest.mark.parametrize('kind', ['nan', 'inf', 'short', 'raise'])
def test_failing_inference_is_bridged_by_the_fallback(stand, kind):
    since = len(stand.angles)
    stand.fault('plan', kind)
    stand.until_mode('fallback', 'no finite command')
    stand.until_commands(20)
    stand.assert_never_fell(since)
    if kind == 'raise':
        stand.until('its traceback', lambda: 'injected: inference failed'
                    in stand.system.processes.log('controller'))


def test_commands_beyond_their_limits_are_cut(stand):
    stand.fault('plan', 'huge')
    stand.until('a command at its limit', lambda: stand.commands and stand.commands[-1] == [2.0])


def test_stalls_are_counted_whole_and_the_cause_is_named(stand):
    stand.until('diagnostics', lambda: stand.diagnostics.get('skipped'))
    before = dict(stand.diagnostics)
    stand.fault('ticks', 3)
    stand.fault('stall', 2.5 * PERIOD_S)
    # A stall is slow compute, not a late start; it sleeps; and it costs two whole periods. The
    # machine may add stalls of its own, so all of it is waited for, not the third miss.
    least = {'missed': 3, 'slow': 3, 'held_up': 3, 'skipped': 3 * 2}
    stand.until(f'counts of {least} more than {before}', lambda: all(
        int(stand.diagnostics[name]) - int(before[name]) >= n for name, n in least.items()))
    stand.until('the log', lambda: 'by slow compute' in stand.system.processes.log('controller'))


def test_ticks_and_skipped_periods_add_up_to_the_time_that_passed(stand):
    """No burst ever catches up, and no period is lost from the count."""
    def counted():
        stand.diagnostics = {}
        stand.until('diagnostics', lambda: stand.diagnostics)
        return time.monotonic(), sum(int(stand.diagnostics[k]) for k in ('ticks', 'skipped'))
    began, first = counted()
    stand.fault('ticks', 2)
    stand.fault('stall', 3.3 * PERIOD_S)
    time.sleep(2.0)
    ended, last = counted()
    periods = (ended - began) / PERIOD_S
    # The phase lock may move the grid by 1 %; a report may be some periods old when it arrives.
    assert abs((last - first) - periods) < 0.02 * periods + 25


def test_misses_in_a_row_lead_over_the_policy_to_the_fallback(stand):
    since = len(stand.angles)
    stand.fault('stall', 1.2 * PERIOD_S)
    stand.until_mode('policy', 'deadlines missed in a row')
    stand.until_mode('fallback', 'by the policy alone')
    stand.assert_never_fell(since)


def test_faults_are_refused_where_they_are_not_known(stand):
    answer = stand.system.set_parameter('/controller', 'fault_injection.plan', 'nam')
    assert not answer.successful
    assert "did you mean 'nan'" in answer.reason


# --- bundles ---------------------------------------------------------------------------------


def test_swaps_good_and_bad_in_turn_leave_each_command_with_one_model(stand, tmp_path):
    since = len(stand.angles)
    accepted = [stand.bundle.hash]
    for i in range(2):
        good = relabelled(stand.bundle, tmp_path / f'good-{i}', 100 + i)
        bad = bytearray(pack(good))
        bad[len(bad) // 3] ^= 1
        stand.diagnostics = {}
        stand.bundles.publish(archive_message(bytes(bad), good.hash))
        stand.until('the refusal', lambda: stand.diagnostics.get('rejected_bundle'))
        stand.bundles.publish(archive_message(pack(good), good.hash))
        stand.until('the swap', lambda good=good: stand.system.observer.model['hash'] == good.hash)
        # Before the next archive comes: what was said before the swap was of no probation, too.
        stand.until('its probation',
                    lambda good=good: stand.diagnostics.get('proven') == good.hash)
        accepted.append(good.hash)
    assert set(stand.labels) <= set(accepted)
    changes = [b for a, b in zip(stand.labels, stand.labels[1:], strict=False) if a != b]
    assert changes == accepted[1:], 'each once, and never back and forth'
    stand.assert_never_fell(since)
    assert stand.system.observer.call('/controller/rollback')[0]
    stand.until('the one before', lambda: stand.labels[-1] == accepted[-2])


def test_a_bundle_that_fails_at_work_is_changed_back_and_not_taken_again(stand, tmp_path):
    since = len(stand.angles)
    other = relabelled(stand.bundle, tmp_path / 'other', 7)
    stand.until_commands(12)  # the one that runs has done well for a window
    before = stand.labels[-1]
    stand.bundles.publish(archive_message(pack(other), other.hash))
    stand.until('the swap', lambda: stand.labels[-1] == other.hash)
    stand.fault('plan', 'nan')
    stand.until('the way back', lambda: stand.labels[-1] == before)
    stand.fault('plan', '')
    stand.until('word of it', lambda: 'was changed back to' in
                stand.system.processes.log('controller'))
    stand.bundles.publish(archive_message(pack(other), other.hash))
    stand.until('the refusal', lambda: 'was changed back before'
                in stand.diagnostics.get('rejected_bundle', ''))
    stand.assert_never_fell(since)


# --- traffic and transitions -----------------------------------------------------------------


def test_a_storm_of_parameter_calls_and_readers_leaves_the_loop_alone(stand):
    since = len(stand.angles)
    node = stand.system.observer.node
    get = node.create_client(GetParameters, '/controller/get_parameters')
    all_of_them = node.create_client(ListParameters, '/controller/list_parameters')
    reset = node.create_client(Trigger, '/controller/reset_fallback')
    for client in (get, all_of_them, reset):
        assert client.wait_for_service(30.0)
    ticks = len(stand.commands)
    for _ in range(60):  # as fast as it answers: more would be dropped by the services' queues
        futures = [get.call_async(GetParameters.Request(names=['bundle', 'hold_ticks'])),
                   all_of_them.call_async(ListParameters.Request()),
                   reset.call_async(Trigger.Request())]
        stand.until('the answers', lambda futures=futures: all(f.done() for f in futures))
    stand.until('ticks meanwhile', lambda: len(stand.commands) > ticks)
    stand.assert_never_fell(since)


def tasks(pid):
    return len(list(Path(f'/proc/{pid}/task').iterdir()))


def test_random_transitions_leak_no_thread_and_end_where_they_should(stand):
    pid = stand.system.processes.pid('controller')
    rng = random.Random(0)
    change = stand.system.change
    before = tasks(pid)
    active = True
    for _ in range(12):
        wanted = rng.choice([Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE])
        allowed = (wanted == Transition.TRANSITION_ACTIVATE) != active
        assert change(wanted) == allowed
        active = active != allowed
    if active:
        assert change(Transition.TRANSITION_DEACTIVATE)
    for _ in range(3):
        assert change(Transition.TRANSITION_CLEANUP)
        assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    stand.until_commands(3)
    assert tasks(pid) <= before + 4


# --- processes that die ----------------------------------------------------------------------


def test_plant_that_dies_is_noticed_and_taken_up_again(stand):
    stand.system.processes.signal('plant', signal.SIGKILL)
    stand.until_mode('fallback', 'older than 0.4 s')
    stand.until_commands(5)
    stand.start_plant()
    stand.until_mode('planning')


def test_observations_of_another_reliability_and_durability_are_heard(stand):
    """A sensor that publishes reliable and latched matches what the controller asks for."""
    stand.system.processes.signal('plant', signal.SIGKILL)
    stand.until_mode('fallback')
    node = stand.system.observer.node
    other = node.create_publisher(
        JointState, 'joint_states',
        QoSProfile(depth=3, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    timer = node.create_timer(0.02, lambda: other.publish(
        JointState(name=['pendulum'], position=[0.1], velocity=[0.0])))
    try:
        stand.until_mode('planning')
        stand.until_commands(5)
    finally:
        node.destroy_timer(timer)
        node.destroy_publisher(other)
    stand.start_plant()


def test_receivers_see_a_controller_that_dies_and_it_comes_back_with_its_last_good_bundle(stand):
    node, seen = stand.system.observer.node, []
    watch = node.create_subscription(
        Float64MultiArray, 'command', lambda m: None,
        QoSProfile(depth=1, deadline=Duration(seconds=2 * PERIOD_S),
                   liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
                   liveliness_lease_duration=Duration(seconds=1.0)),
        event_callbacks=SubscriptionEventCallbacks(
            deadline=lambda e: seen.append('deadline'),
            liveliness=lambda e: seen.append(('alive', e.alive_count))))
    try:
        stand.until('a live controller', lambda: ('alive', 1) in seen)
        last = stand.labels[-1]
        seen.clear()
        assert stand.system.processes.signal('controller', signal.SIGKILL) == -signal.SIGKILL
        stand.until('both losses', lambda: 'deadline' in seen and ('alive', 0) in seen)
        commands = len(stand.commands)
        stand.start_controller(bundle=stand.bundle.path, autostart=True, resume=True)
        stand.until('commands', lambda: len(stand.commands) > commands)
        assert set(stand.labels[commands:]) == {last}, 'no other model in between'
        stand.until_mode('planning')
    finally:
        node.destroy_subscription(watch)


def test_controller_that_is_killed_within_a_tick_leaves_its_plant_with_the_safe_command(stand):
    """A plant that times out, in real time: no command is renewed, so none acts on."""
    stand.system.processes.signal('plant', signal.SIGKILL)
    stand.until_mode('fallback')
    stand.start_plant(lock_step=False, command_timeout=0.2)
    stand.until_mode('planning')
    stand.fault('plan', 'crash')
    assert stand.system.processes.wait('controller', 30.0) == -signal.SIGKILL
    time.sleep(1.0)  # what was under way has arrived, and the command has timed out
    stand.states.clear()
    stand.until('two seconds of the plant', lambda: len(stand.states) >= 40)
    # Without torque the energy of a pendulum only wobbles, by the integrator's own error; the
    # largest torque would change it by more than ten.
    energy = [v * v / 6 + 5 * math.cos(a) for a, v in stand.states[:40]]
    assert max(energy) - min(energy) < 2.5
    stand.system.processes.signal('plant', signal.SIGKILL)
    stand.start_plant()
    stand.start_controller(bundle=stand.bundle.path, autostart=True, resume=True)


def test_open_files_do_not_grow_with_swaps(stand, tmp_path):
    pid = stand.system.processes.pid('controller')

    def files():
        return len(os.listdir(f'/proc/{pid}/fd'))
    other = relabelled(stand.bundle, tmp_path / 'files', 55)
    before = files()
    for message in (archive_message(b'junk', 'f' * 64), archive_message(pack(other), other.hash),
                    archive_message(pack(other)[:5000], other.hash)):
        stand.bundles.publish(message)
        stand.until_commands(5)
    stand.until('the swap', lambda: stand.labels[-1] == other.hash)
    assert open_bundle(stand.system.folder / 'store' / other.hash[:16]).hash == other.hash
    assert files() <= before + 3
