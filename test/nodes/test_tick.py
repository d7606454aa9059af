# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What reaches the tick of a controller by its node, and what the node makes of it."""

from __future__ import annotations

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray

from pruned_controller import controller_node
from pruned_controller.controller_node import ControllerNode
from pruning_core.runtime.loop import PeriodicLoop, Tick
from pruning_core.runtime.pilot import Steered
from pruning_core.runtime.trace import Trace


class Still(PeriodicLoop):
    """A loop whose ticks are made by the test."""

    def start(self):
        """Do nothing."""


@pytest.fixture
def controller(node, bundles, tmp_path, monkeypatch):
    """An active controller whose ticks are made by the test."""
    monkeypatch.setattr(controller_node, 'PeriodicLoop', Still)

    def make(**parameters):
        made = node(ControllerNode, bundle=bundles[0].path, store=tmp_path / 'store',
                    observation_timeout=60.0, **parameters)
        assert made.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert made.trigger_activate() == TransitionCallbackReturn.SUCCESS
        return made
    return make


def test_the_budget_reaches_the_planner_as_it_is_set_and_as_it_is_changed(
        controller, monkeypatch):
    c = controller(planner__budget=0.02)
    planner, asked = c._desk.switch.active.planner, []
    plan = planner.plan
    monkeypatch.setattr(planner, 'plan', lambda values, budget_s=None: (
        asked.append(budget_s), plan(values, budget_s))[1])
    c._on_observation(Float64MultiArray(data=[1.0, 0.0, 0.0]))
    c._on_tick(Tick(0, 0, 15_000_000, 0, 0.05))
    c.set_parameters([Parameter('planner.budget', value=0.01)])
    c._on_tick(Tick(1, 0, 0, 0, 0.05))
    assert asked == pytest.approx([0.005, 0.01]), 'counted from when the tick was due'


@pytest.mark.parametrize(('phase', 'moves'), [(0.003, True), (-1.0, False)])
def test_ticks_follow_observations_where_that_is_asked_for(controller, monkeypatch, phase, moves):
    c = controller(phase=phase)
    moved = []
    monkeypatch.setattr(c._loop, 'slew', moved.append)
    c._on_observation(Float64MultiArray(data=[1.0, 0.0, 0.0]))
    c._on_tick(Tick(0, 0, 0, 0, 0.05))
    (offset,) = moved
    assert (offset != 0) == moves


def test_each_topic_carries_what_its_name_says(controller, monkeypatch):
    c = controller(publish_every=2)
    planner = c._desk.switch.active.planner
    planner.plan([1.0, 0.0, 0.0])
    steered = Steered(None, 0.011, 0.022, -0.5, 0.75, 0.0, planner.trace)
    monkeypatch.setattr(c._pilot, 'tick', lambda tick, wanted: steered)
    sent = []
    for name, publisher in c._metrics.items():
        monkeypatch.setattr(publisher, 'publish', lambda m, name=name: sent.append((name, m.data)))
    traces = []
    monkeypatch.setattr(c._trace, 'publish', traces.append)
    c._loop.skipped = 7
    c._on_tick(Tick(1, 0, 0, 0, 0.05))
    assert not sent, 'every second tick'
    c._on_tick(Tick(2, 0, 4_000_000, 0, 0.05))
    assert dict(sent) == {'latency': 0.011, 'lateness': 0.004, 'observation_age': 0.022,
                          'reward': -0.5, 'stability': 0.75, 'deadline_misses': 7}
    assert not traces, 'nobody listens'
    monkeypatch.setattr(c._trace, 'get_subscription_count', lambda: 1)
    c._on_tick(Tick(3, 0, 0, 0, 0.05))
    assert not traces
    c._on_tick(Tick(4, 0, 0, 0, 0.05))
    (message,) = traces
    found = Trace.arrived([(d.label, d.size) for d in message.layout.dim], message.data)
    assert planner.repeat(found).action.tolist() == found.action.tolist()
    assert found.model == planner.hash
    monkeypatch.setattr(c._pilot, 'tick', lambda tick, wanted: steered._replace(trace=None))
    c._on_tick(Tick(6, 0, 0, 0, 0.05))
    assert len(traces) == 1, 'without a plan there is none'
