# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The time that a tick gives to its planner."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn

from pruned_controller import controller_node
from pruned_controller.controller_node import ControllerNode
from pruning_core.runtime.loop import PeriodicLoop, Tick


class Still(PeriodicLoop):
    """A loop whose ticks are made by the test."""

    def start(self):
        """Do nothing."""


@pytest.mark.parametrize(('budget', 'late_s', 'given'), [
    (0.02, 0.0, 0.02),
    (0.02, -0.001, 0.02),  # woken early
    (0.02, 0.015, 0.005),
    (0.02, 0.03, 0.0),  # the policy alone: a command is better than none
    (0.0, 0.015, None)])
def test_the_budget_counts_from_when_the_tick_was_due(node, bundles, tmp_path, monkeypatch, budget,
                                                      late_s, given):
    monkeypatch.setattr(controller_node, 'PeriodicLoop', Still)
    controller = node(ControllerNode, bundle=bundles[0].path, store=tmp_path / 'store',
                      planner__budget=budget, observation_timeout=60.0)
    assert controller.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert controller.trigger_activate() == TransitionCallbackReturn.SUCCESS
    planner, asked = controller._desk.switch.active.planner, []
    plan = planner.plan
    monkeypatch.setattr(planner, 'plan', lambda values, budget_s=None: (
        asked.append(budget_s), plan(values, budget_s))[1])
    controller._observe(np.array([1.0, 0.0, 0.0]), 0.0)
    controller._on_tick(Tick(0, 0, round(late_s * 1e9), 0, 0.05))
    assert asked == [None if given is None else pytest.approx(given)]
