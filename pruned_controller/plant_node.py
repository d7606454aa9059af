# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The plant: any Gymnasium environment, stepped in real time whether or not a command has come.

Each period it takes the newest command, steps, and publishes what a robot would. A controller that
is slow therefore pays for it in return, as on a robot. With `lock_step` it waits for each command
instead, which is repeatable and says nothing about latency. With `command_timeout` it stops
obeying a command that nobody renews, as an actuator should.
"""

from __future__ import annotations

import math
import threading
import time

import numpy as np
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray
from std_srvs.srv import Trigger

from pruned_controller.conversions import COMMAND, METRIC, NEWEST, to_array, to_message
from pruned_controller.node_main import run_node
from pruned_controller.parameters import PLANT, declare, read
from pruning_core.config import EnvConfig
from pruning_core.env import describe, make_raw
from pruning_core.errors import ConfigError, explain
from pruning_core.runtime.errormap import read_term
from pruning_core.runtime.faults import Fault, FaultInjector
from pruning_core.runtime.loop import PeriodicLoop, Tick


class PlantNode(Node):
    """See the module; topics, services and parameters stand in the README."""

    def __init__(self) -> None:
        """Make the environment and start stepping.

        Raises:
            EnvError: the environment is unknown or unusable.
            ConfigError: a parameter is unknown or the joint terms do not fit.
        """
        super().__init__('plant')
        declare(self, PLANT)
        s = self._settings = read(self, PLANT)
        if s['output'] not in ('observation', 'joint_states'):
            raise ConfigError(
                explain(f"output '{s['output']}' was asked for", 'it is not known',
                        'observation, joint_states', "set the parameter 'output' to one of these")
            )
        self._env = make_raw(s['env_id'], s['max_episode_steps'])
        self._spec = describe(self._env, EnvConfig(id=s['env_id']))
        self._positions = [read_term(t)[0] for t in s['joint_positions']]
        self._velocities = [read_term(t)[0] for t in s['joint_velocities']]
        self._low = np.asarray(self._spec.action_low)
        self._high = np.asarray(self._spec.action_high)
        self._safe = np.clip(np.zeros_like(self._low), self._low, self._high)
        self._command, self._commanded_s = self._safe, -math.inf
        self._timeout_s = s['command_timeout'] or math.inf
        self._faults = FaultInjector() if s['fault_injection.enabled'] else None
        if self._faults is not None:
            self._faults.choose(Fault(s['fault_injection.observation']))
        self._lock = threading.Lock()
        self._episode = 0
        self._observation = np.zeros(len(self._spec.observation_names))
        self._total = 0.0
        self._restart_asked = True
        self._resting = False
        if s['output'] == 'joint_states':
            self._states = self.create_publisher(JointState, 'joint_states', NEWEST)
        else:
            self._states = self.create_publisher(Float64MultiArray, 'observation', NEWEST)
        self._reward = self.create_publisher(Float64, 'reward', METRIC)
        self._return = self.create_publisher(Float64, 'episode_return', METRIC)
        self.create_subscription(Float64MultiArray, 'command', self._on_command, COMMAND)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self._step_lock = threading.Lock()
        self._loop = PeriodicLoop(self._spec.period_s, self._on_tick, on_error=self._on_error)
        self._loop.start()
        self.get_logger().info(
            f"{s['env_id']} at {1 / self._spec.period_s:g} Hz, publishing {s['output']}"
            + (', in lock-step' if s['lock_step'] else ''))

    def close(self) -> None:
        """Stop stepping."""
        self._loop.stop()
        self._env.close()

    def _on_command(self, message: Float64MultiArray) -> None:
        command = to_array(message)
        if command.shape != self._low.shape or not np.isfinite(command).all():
            self.get_logger().error(
                explain('a command was received', f'{command.tolist()}',
                        f'{len(self._low)} finite numbers: {", ".join(self._spec.action_names)}',
                        'it was ignored; check who publishes on this topic'),
                throttle_duration_sec=1.0)
            return
        with self._lock:
            self._command = np.clip(command, self._low, self._high)
            self._commanded_s = time.monotonic()
        if self._settings['lock_step']:
            self._advance()

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._restart_asked, self._resting = True, False
        response.success = True
        response.message = f"starts again with seed {self._settings['seed']} at the next step"
        return response

    def _on_tick(self, tick: Tick) -> None:
        if self._settings['lock_step'] and not self._restart_asked:
            self._publish()  # again, for whoever came late
        else:
            self._advance()

    def _advance(self) -> None:
        with self._step_lock:
            if self._restart_asked:
                self._restart_asked, self._episode = False, 0
                self._start_episode()
            elif not self._resting:
                self._step()
        self._publish()

    def _start_episode(self) -> None:
        observation, _ = self._env.reset(seed=self._settings['seed'] + self._episode)
        self._observation, self._total = np.asarray(observation, float), 0.0

    def _step(self) -> None:
        with self._lock:
            fresh = time.monotonic() - self._commanded_s <= self._timeout_s
            command = (self._command if fresh else self._safe).astype(np.float32)
        observation, reward, terminated, truncated, _ = self._env.step(command)
        self._observation = np.asarray(observation, float)
        self._total += float(reward)
        self._reward.publish(Float64(data=float(reward)))
        if terminated or truncated:
            self._return.publish(Float64(data=self._total))
            self._episode += 1
            self._resting = 0 < self._settings['episodes'] <= self._episode
            if not self._resting:
                self._start_episode()

    def _publish(self) -> None:
        now = self.get_clock().now()
        values, stamp_s = self._observation, now.nanoseconds * 1e-9
        if self._faults is not None:
            sent = self._faults.observation(values, stamp_s, stamp_s)
            if sent is None:
                return
            values, stamp_s = sent
        obs = values.tolist()
        if self._settings['output'] == 'observation':
            self._states.publish(to_message(obs))
            return
        message = JointState(name=self._settings['joint_names'],
                             position=[term(obs) for term in self._positions],
                             velocity=[term(obs) for term in self._velocities])
        message.header.stamp = Time(nanoseconds=round(stamp_s * 1e9)).to_msg()
        self._states.publish(message)

    def _on_error(self, error: BaseException) -> None:
        self.get_logger().error(f'a step failed: {type(error).__name__}: {error}',
                                throttle_duration_sec=1.0)


def main(arguments: list[str] | None = None) -> int:
    """Run the plant."""
    return run_node(PlantNode, arguments, threads=2)


if __name__ == '__main__':
    raise SystemExit(main())
