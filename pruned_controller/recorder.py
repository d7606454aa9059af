# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps every message of the package's topics in a bag (MCAP), without `ros2 bag`.

Messages are written as they came over the wire, with the time at which they were sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray, String, UInt8MultiArray, UInt64

from pruned_controller.conversions import LATCHED
from pruning_core.recording import BagWriter

# Best effort matches every publisher; deep, because a bag should miss nothing.
_STREAM = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
_METRIC = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.VOLATILE)
_TOPICS: tuple[tuple[str, type, QoSProfile], ...] = (
    ('/joint_states', JointState, _STREAM), ('/observation', Float64MultiArray, _STREAM),
    ('/command', Float64MultiArray, _METRIC), ('/reward', Float64, _METRIC),
    ('/episode_return', Float64, _METRIC), ('/diagnostics', DiagnosticArray, _METRIC),
    *((f'/controller/{name}', Float64, _METRIC) for name in (
        'latency', 'lateness', 'observation_age', 'reward', 'stability')),
    ('/controller/trace', Float64MultiArray, _METRIC),
    ('/controller/deadline_misses', UInt64, _METRIC),
    ('/controller/mode', String, LATCHED), ('/controller/model', String, LATCHED),
    ('/pruner/status', String, LATCHED), ('/pruner/bundle', UInt8MultiArray, LATCHED),
)


class Recorder:
    """Writes while the node spins; `close` it when nothing spins any more."""

    def __init__(self, node: Node, path: Path) -> None:
        """Open the bag and subscribe.

        Raises:
            AgentError: something is at `path` already.
            MissingExtra: rosbags is not installed.
        """
        self._bag = BagWriter(path)
        for topic, kind, qos in _TOPICS:
            node.create_subscription(kind, topic, self._keep(topic, kind), qos, raw=True)

    def _keep(self, topic: str, kind: Any) -> Callable[[bytes, Any], None]:
        name = f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'

        def keep(data: bytes, info: Any) -> None:
            sent = info['source_timestamp'] or time.time_ns()
            self._bag.write(topic, name, sent, data)

        return keep

    def close(self) -> None:
        """Finish the bag."""
        self._bag.close()
