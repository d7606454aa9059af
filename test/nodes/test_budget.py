# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The time that a tick gives to its planner."""

from __future__ import annotations

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray

from pruned_controller import controller_node
from pruned_controller.controller_node import ControllerNode
from pruning_core.runtime.loop import PeriodicLoop, Tick


class Still(PeriodicLoop):
    """A loop whose ticks are made by the test."""

    def start(self):
        """Do nothing."""


def test_the_budget_reaches_the_planner_as_it_is_set_and_as_it_is_changed(
        node, bundles, tmp_path, monkeypatch):
    monkeypatch.setattr(controller_node, 'PeriodicLoop', Still)
    controller = node(ControllerNode, bundle=bundles[0].path, store=tmp_path / 'store',
                      planner__budget=0.02, observation_timeout=60.0)
    assert controller.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert controller.trigger_activate() == TransitionCallbackReturn.SUCCESS
    planner, asked = controller._desk.switch.active.planner, []
    plan = planner.plan
    monkeypatch.setattr(planner, 'plan', lambda values, budget_s=None: (
        asked.append(budget_s), plan(values, budget_s))[1])
    controller._on_observation(Float64MultiArray(data=[1.0, 0.0, 0.0]))
    controller._on_tick(Tick(0, 0, 15_000_000, 0, 0.05))
    controller.set_parameters([Parameter('planner.budget', value=0.01)])
    controller._on_tick(Tick(1, 0, 0, 0, 0.05))
    assert asked == pytest.approx([0.005, 0.01]), 'counted from when the tick was due'
