# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A ROS client that watches controller, pruner and plant, and calls their services.

It knows nothing that a user with `ros2 topic echo` and `ros2 service call` would not: the demo and
the end-to-end tests see the system through it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64, String, UInt64
from std_srvs.srv import Trigger

from pruned_controller.conversions import LATCHED, METRIC
from pruning_core.errors import JobError, explain

ASK_AGAIN_S = 5.0  # without an answer; longer than a machine stalls


@dataclass
class ModelRecord:
    """What was seen while one bundle ran, since the last `Observer.begin`."""

    latency: list[tuple[float, float]] = field(default_factory=list)  # (time, seconds)
    returns: list[float] = field(default_factory=list)
    modes: dict[str, int] = field(default_factory=dict)
    misses_at_start: int = 0
    misses: int = 0

    @property
    def seconds(self) -> float:
        """Time from the first tick seen to the last one."""
        return self.latency[-1][0] - self.latency[0][0] if self.latency else 0.0


class Observer:
    """Subscribes to everything; callbacks run in a thread of its own."""

    def __init__(self) -> None:
        """Join the ROS network; signals are left to the program."""
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node('demo')
        self.began = time.monotonic()
        self.model: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        self.mode = ''
        self.reward = float('nan')
        self.stability = float('nan')
        self.ticks: list[dict[str, Any]] = []
        self.rewards: list[dict[str, Any]] = []
        self.record = ModelRecord()
        self._misses = 0
        self._latest: dict[str, float] = {}
        node = self.node
        for topic, does in (('latency', self._on_latency), ('lateness', self._keep('lateness_s')),
                            ('reward', self._keep('reward')),
                            ('stability', self._keep('stability'))):
            node.create_subscription(Float64, f'/controller/{topic}', does, METRIC)
        node.create_subscription(UInt64, '/controller/deadline_misses', self._on_misses, METRIC)
        node.create_subscription(String, '/controller/model', self._on_model, LATCHED)
        node.create_subscription(String, '/controller/mode', self._on_mode, LATCHED)
        node.create_subscription(String, '/pruner/status', self._on_status, LATCHED)
        node.create_subscription(Float64, '/reward', self._on_reward, METRIC)
        node.create_subscription(Float64, '/episode_return', self._on_return, METRIC)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name='observer', daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        """Leave the ROS network."""
        self._executor.shutdown()
        self._thread.join(2.0)
        self.node.destroy_node()
        rclpy.try_shutdown()

    @property
    def now(self) -> float:
        """Seconds since the observer began."""
        return time.monotonic() - self.began

    def begin(self) -> None:
        """Start a fresh record."""
        self.record = ModelRecord(misses_at_start=self._misses, misses=self._misses)

    def call(self, service: str, timeout_s: float = 10.0) -> tuple[bool, str]:
        """Call a Trigger service; returns its answer.

        Raises:
            JobError: nobody offers it, or it does not answer in time.
        """
        response = self.request(Trigger, service, Trigger.Request(), timeout_s)
        return bool(response.success), str(response.message)

    def transition(self, node: str, transition: int, timeout_s: float = 30.0) -> bool:
        """Ask a lifecycle node for a transition; returns whether it was made.

        Raises:
            JobError: nobody offers it, or it does not answer in time.
        """
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.request(ChangeState, f'{node}/change_state', request, timeout_s).success)

    def set_parameter(self, node: str, name: str, value: object) -> SetParametersResult:
        """Set a parameter of a node; returns whether it was taken, or why not.

        Raises:
            JobError: the node does not answer.
        """
        request = SetParameters.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg()])
        return self.request(SetParameters, f'{node}/set_parameters', request, 50.0).results[0]

    def request(self, kind: Any, service: str, request: Any, timeout_s: float) -> Any:
        """Call any service; returns the first answer.

        A request is lost where it meets the service's remains of a node that was killed, or the
        node itself before it knows of this client. It is asked again then, and each answer counts.

        Raises:
            JobError: nobody offers it, or it does not answer in time.
        """
        client = self.node.create_client(kind, service)
        try:
            if not client.wait_for_service(timeout_s):
                raise self._silent(service, f'nobody offers it after {timeout_s:g} s')
            answers: SimpleQueue[Any] = SimpleQueue()
            end = time.monotonic() + timeout_s
            while (left_s := end - time.monotonic()) > 0:
                client.call_async(request).add_done_callback(answers.put)
                with contextlib.suppress(Empty):
                    return answers.get(timeout=min(ASK_AGAIN_S, left_s)).result()
            raise self._silent(service, f'no answer after {timeout_s:g} s')
        finally:
            self.node.destroy_client(client)

    @staticmethod
    def _silent(service: str, what: str) -> JobError:
        return JobError(
            explain(f"service '{service}' was called", what, 'a running node of that name',
                    'look at the log of that node; check on both sides that ROS_DOMAIN_ID is the '
                    'same, that ROS_AUTOMATIC_DISCOVERY_RANGE and ROS_LOCALHOST_ONLY allow it, '
                    'and that no firewall stops UDP from port 7400 on')
        )

    def _keep(self, name: str) -> Callable[[Float64], None]:
        def keep(message: Float64) -> None:
            self._latest[name] = message.data
            if name == 'reward':
                self.reward = message.data
            elif name == 'stability':
                self.stability = message.data
        return keep

    def _on_latency(self, message: Float64) -> None:
        self.record.latency.append((self.now, message.data))
        kind = self.mode.partition(':')[0]
        self.record.modes[kind] = self.record.modes.get(kind, 0) + 1
        self.ticks.append({'t': round(self.now, 3), 'latency_s': message.data,
                           'model': self.model.get('hash', '')[:16], **self._latest})

    def _on_misses(self, message: UInt64) -> None:
        self._misses = self.record.misses = message.data

    def _on_model(self, message: String) -> None:
        self.model = json.loads(message.data)

    def _on_mode(self, message: String) -> None:
        self.mode = message.data

    def _on_status(self, message: String) -> None:
        self.status = json.loads(message.data)

    def _on_reward(self, message: Float64) -> None:
        self.rewards.append({'t': round(self.now, 3), 'reward': message.data})

    def _on_return(self, message: Float64) -> None:
        self.record.returns.append(message.data)
