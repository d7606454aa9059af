# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Run one node until it is told to stop, and let it end in good order.

rclpy's own signal handler shuts communication down first, so that a node could not send its last,
safe command; here a signal only asks, and the node closes while it can still speak.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import rclpy
from rclpy._rclpy_pybind11 import InvalidHandle
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterException,
)
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from pruned_controller.executor import PromptExecutor
from pruning_core.errors import PruningError, explain

_PROFILES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')  # newer, older


class Closable(Protocol):
    """A node that ends in good order."""

    def close(self) -> None:
        """Stop what runs; called while communication still works."""


def _choose_transport() -> None:
    """Set Fast DDS up for a controller, where the environment does not; others do not look.

    Through shared memory a publisher shares locks with its receivers: one of ordinary priority
    that is kept from running keeps the control loop from running, and one that was killed leaves
    ports behind on which its successor is found seconds later.
    """
    os.environ.setdefault('FASTDDS_BUILTIN_TRANSPORTS', 'UDPv4')
    if not any(name in os.environ for name in _PROFILES):
        for name in _PROFILES:
            os.environ[name] = str(Path(__file__).with_name('fastdds.xml'))


def run_node(make: Callable[[], Node], arguments: Sequence[str] | None, threads: int = 3) -> int:
    """Make a node, spin it, close it; returns the exit code."""
    _choose_transport()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        node = make()
        executor = PromptExecutor(threads)
        executor.add_node(node)
        while rclpy.ok() and not stop.is_set():
            # A lifecycle node's cleanup destroys what the executor is just about to serve.
            try:
                executor.spin_once(timeout_sec=0.2)
            except InvalidHandle:
                pass
            except ExternalShutdownException:
                break
            except Exception:  # of one callback; a node that moves something lives on
                node.get_logger().error(f'a callback failed:\n{traceback.format_exc()}')
    except InvalidParameterTypeException as error:
        sys.stderr.write(f'{type(error).__name__}: ' + explain(
            'a parameter was set', str(error), 'a value of its own type',
            'a double needs a point: 50.0 instead of 50') + '\n')
        return 2
    except (PruningError, ParameterException,
            InvalidParameterValueException) as error:  # rclpy's have no common root
        sys.stderr.write(f'{type(error).__name__}: {error}\n')
        return 2
    finally:
        # Ctrl-C on `ros2 launch` comes twice; late, it would meet a Python without handlers.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
