# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, UInt8MultiArray

from pruning_core.errors import ConfigError, explain
from pruning_core.runtime.trace import Trace

# Observations: only the newest counts, and any publisher matches. Commands and metrics: reliable.
# Latched: who comes late still gets the last message; both ends must ask for it.
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
METRIC = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)


def to_array(message: Float64MultiArray) -> npt.NDArray[np.float64]:
    """Return the numbers of a message, flat."""
    return np.asarray(message.data, float)


def to_message(values: npt.ArrayLike, label: str = '') -> Float64MultiArray:
    """Return numbers as a message; a label names its one dimension."""
    message = Float64MultiArray(data=np.asarray(values, float).ravel().tolist())
    if label:
        count = len(message.data)
        message.layout.dim = [MultiArrayDimension(label=label, size=count, stride=count)]
    return message


def trace_message(trace: Trace) -> Float64MultiArray:
    """Return what a plan came from; the hash of its model labels the first dimension."""
    dimensions, numbers = trace.travelling()
    message = Float64MultiArray(data=numbers)
    message.layout.dim = [MultiArrayDimension(label=label, size=size, stride=size)
                          for label, size in dimensions]
    return message


def label_of(message: Float64MultiArray) -> str:
    """Return the label of a message's first dimension; of a command: the hash of its model."""
    return str(message.layout.dim[0].label) if message.layout.dim else ''


def offered(period_s: float) -> QoSProfile:
    """How commands are published: what receivers may rely on, and see broken.

    A receiver that requests a deadline or a lease is told when the controller is late, hangs or is
    gone; one that requests neither matches all the same. The lease is renewed by each command, so
    that a process that lives without commanding does not count as alive.
    """
    return QoSProfile(
        depth=1, reliability=ReliabilityPolicy.RELIABLE,
        deadline=Duration(seconds=2 * period_s), liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=Duration(seconds=max(1.0, 10 * period_s)))


def archive_message(content: bytes, hash: str) -> UInt8MultiArray:
    """Return a bundle archive as a message; its hash is the label of the one dimension."""
    message = UInt8MultiArray(data=array('B', content))
    message.layout.dim = [MultiArrayDimension(label=hash, size=len(content), stride=len(content))]
    return message


def archive_of(message: UInt8MultiArray) -> tuple[bytes, str]:
    """Return archive and hash of a message.

    Raises:
        ConfigError: the message carries no hash.
    """
    if not message.layout.dim or not message.layout.dim[0].label:
        raise ConfigError(
            explain('a bundle message was received', 'it carries no hash',
                    'the hash as the label of its first dimension',
                    'publish bundles with the pruner node')
        )
    return bytes(message.data), str(message.layout.dim[0].label)
