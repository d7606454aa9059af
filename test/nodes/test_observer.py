# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Services are called as a patient client does: a request that got lost is asked again."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip('rclpy', reason='neither ROS 2 nor wheels of it are installed')

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from pruned_controller import observer as module
from pruned_controller.observer import Observer
from pruning_core.errors import JobError


@pytest.fixture
def observer(monkeypatch):
    monkeypatch.setattr(module, 'ASK_AGAIN_S', 0.5)
    it = Observer()
    yield it
    it.close()


def offering(name, answer):
    node = Node(name)
    node.create_service(Trigger, '/somebody/ask', answer)
    return node


def test_a_request_that_only_the_remains_of_a_node_got_is_asked_again(observer):
    remains = offering('remains', lambda request, response: response)  # never spun
    asked, made = [], []

    def answer(request, response):
        asked.append(request)
        response.success, response.message = True, 'alive'
        return response

    def appear():
        made.append(offering('alive', answer))
        executor = SingleThreadedExecutor()
        executor.add_node(made[0])
        made.append(executor)
        executor.spin()

    timer = threading.Timer(1.2, appear)
    timer.start()
    try:
        assert observer.call('/somebody/ask', 20.0) == (True, 'alive')
        assert asked
    finally:
        timer.join(0)
        made[1].shutdown()
        made[0].destroy_node()
        remains.destroy_node()


def test_the_first_answer_counts_however_late(observer):
    """A slow transition is not taken for a lost one, nor a repetition's refusal for its answer."""
    count = []

    def answer(request, response):
        count.append(1)
        if len(count) == 1:
            threading.Event().wait(1.3)
        response.success, response.message = len(count) == 1, f'{len(count)}'
        return response

    node = offering('slow', answer)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        assert observer.call('/somebody/ask', 20.0) == (True, '1')
    finally:
        executor.shutdown()
        thread.join(10)
        node.destroy_node()


def test_silence_is_told_in_words(observer):
    remains = offering('remains', lambda request, response: response)
    with pytest.raises(JobError, match='no answer after 1.2 s'):
        observer.call('/somebody/ask', 1.2)
    remains.destroy_node()
