# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What /diagnostics says of stability, of readings made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from pruning_core.runtime.errormap import Lyapunov
from pruning_core.runtime.monitor import StabilityMonitor

pytest.importorskip('rclpy', reason='diagnostics need the ROS messages')

V = Lyapunov(('0',), np.eye(1), np.zeros((1, 1)), np.zeros(1), 1, 0.1, 0.0)


def said(monitor):
    from pruned_controller.diagnostics import stability_status

    level, message, values = stability_status(SimpleNamespace(
        active=SimpleNamespace(monitor=monitor)))
    return level, message, values


def test_before_the_first_tick_and_after_a_reset():
    monitor = StabilityMonitor(V, level=4.0)
    for _ in range(2):
        level, message, values = said(monitor)
        assert (level, message) == (b'\x00', 'not measured yet')
        assert all(math.isnan(v) for v in values.values())
        monitor.update([3.0])
        monitor.reset()


def test_figures_and_the_edge_of_the_envelope():
    monitor = StabilityMonitor(V, low=(-1.0,), high=(1.0,), level=4.0)
    for x, u in ((2.0, 0.0), (1.0, 1.0)):
        monitor.update([x], command=[u], residual=0.25)
    level, message, values = said(monitor)
    assert (level, message) == (b'\x00', 'measured')
    assert values == {'share': 1.0, 'residual': 0.25, 'saturation': 0.5, 'chatter': 0.5,
                      'value': 1.0, 'envelope': 0.25}
    monitor.update([2.1])
    level, message, _ = said(monitor)
    assert level == b'\x01' and 'outside' in message
