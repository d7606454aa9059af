# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A callback is handed to a thread once, however long the thread takes to begin it."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip('rclpy', reason='neither ROS 2 nor wheels of it are installed')

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from pruned_controller.executor import PromptExecutor


@pytest.fixture
def serving(ros):
    """Returns a node and an executor that serves it."""
    ros()
    node, executor = Node('served'), PromptExecutor(2)
    executor.add_node(node)
    yield node, executor
    executor.shutdown(timeout_sec=5)
    node.destroy_node()


def counted(executor):
    pool, handed = executor._executor, []
    submit = pool.submit
    pool.submit = lambda task, *more: handed.append(task) or submit(task, *more)
    return handed


def test_while_a_thread_starts_the_executor_does_not_spin(serving):
    node, executor = serving
    executor._executor._initializer = lambda: time.sleep(0.4)  # each thread, before its work
    handed, ran = counted(executor), threading.Event()
    timer = node.create_timer(0.01, lambda: (timer.cancel(), ran.set()))

    def wake():  # as the end of each other callback does
        while not ran.wait(0.0005):
            executor.wake()

    waker = threading.Thread(target=wake, daemon=True)
    waker.start()
    began = time.monotonic()
    while not ran.is_set():
        executor.spin_once(timeout_sec=0.1)
    took_s = time.monotonic() - began
    waker.join(10)
    # rclpy's own executor hands the same callback over some hundred times here.
    assert len(handed) <= len({id(task) for task in handed}) * (2 + took_s / 0.05)


def test_callbacks_side_by_side(serving):
    node, executor = serving
    both = threading.Barrier(2, timeout=20)
    met = []

    def meet(timer):
        timer.cancel()
        both.wait()
        met.append(timer)

    for _ in range(2):
        made = []
        made.append(node.create_timer(0.01, lambda made=made: meet(made[0]),
                                      callback_group=ReentrantCallbackGroup()))
    end = time.monotonic() + 20
    while len(met) < 2 and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
    assert len(met) == 2


def test_whoever_spins_goes_on_where_every_thread_is_busy(serving):
    node, executor = serving
    release, calls = threading.Event(), []
    timer = node.create_timer(0.01, lambda: (calls.append(0), release.wait(30)),
                              callback_group=ReentrantCallbackGroup())
    try:
        for _ in range(20):
            executor.spin_once(timeout_sec=0.05)
        assert len(calls) == 2  # one a thread
        timer.cancel()
    finally:
        release.set()


def test_an_exception_of_a_callback_reaches_whoever_spins(serving):
    node, executor = serving

    def fail():
        timer.cancel()
        raise ValueError('of the callback')

    timer = node.create_timer(0.01, fail)
    with pytest.raises(ValueError, match='of the callback'):
        for _ in range(100):
            executor.spin_once(timeout_sec=0.05)
