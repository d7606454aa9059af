# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""rclpy's executor with threads, made to wait for the thread that it hands a callback to.

rclpy 7 (Jazzy) looks for work again as soon as a callback was handed over. Until a thread has
begun it, the callback counts as work that nobody does, and is handed over again, a thousand
times and more: a busy loop, which lets go of the interpreter so briefly and so often that no other
thread gets hold of it, neither the one that should begin nor a control loop of any priority
(`benchmarks/executor.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rclpy.executors import MultiThreadedExecutor

_PATIENCE_S = 0.05  # where every thread is busy; whoever spins wants to look at other things too


class _PromptPool(ThreadPoolExecutor):
    """Threads; who hands work over goes on when one of them has begun it."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        begun = threading.Event()

        def do() -> Any:
            begun.set()
            return work(*given, **named)

        future = super().submit(do)
        begun.wait(_PATIENCE_S)
        return future


class PromptExecutor(MultiThreadedExecutor):
    """Runs callbacks in threads, and does not spin while one of them starts."""

    def __init__(self, threads: int) -> None:
        """Make the threads.

        Args:
            threads: callbacks at a time; more than there are callback groups, so that none waits.
        """
        super().__init__(num_threads=threads)
        self._executor = _PromptPool(threads, 'callbacks')
