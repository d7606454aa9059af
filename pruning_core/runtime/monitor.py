# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Online stability in fixed memory: the share of recent windows in which V decreased.

A window is K control periods long; it counts as decreasing where V(t) <= (1 - delta) V(t - K), or
where V(t) is within the small ball around the goal (method section 5).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pruning_core.runtime.errormap import Lyapunov


@dataclass(frozen=True)
class StabilityReading:
    """One reading.

    Attributes:
        value: V now; NaN where the plant has no candidate.
        share: share of recent windows in which V decreased; NaN before the first whole window.
        valid: whether `share` is measurable.
    """

    value: float
    share: float
    valid: bool


class StabilityMonitor:
    """Follows V along the observations of a control loop."""

    def __init__(self, lyapunov: Lyapunov | None, windows: int = 200) -> None:
        """Watch the last `windows` windows of a candidate; None measures nothing."""
        self._lyapunov = lyapunov
        self._values: deque[float] = deque(maxlen=lyapunov.steps if lyapunov else 1)
        self._decreased: deque[bool] = deque(maxlen=windows)
        self._count = 0

    def reset(self) -> None:
        """Forget the past, as when the plant was moved by hand or another model took over."""
        self._values.clear()
        self._decreased.clear()
        self._count = 0

    def update(self, observation: Sequence[float]) -> StabilityReading:
        """Take one observation per control period."""
        if self._lyapunov is None:
            return StabilityReading(math.nan, math.nan, False)
        value = self._lyapunov.value(observation)
        if not math.isfinite(value):
            return self._reading(math.nan)
        if len(self._values) == self._values.maxlen:
            allowed = (1 - self._lyapunov.decrease) * self._values[0]
            if len(self._decreased) == self._decreased.maxlen:
                self._count -= self._decreased[0]
            self._decreased.append(value <= max(allowed, self._lyapunov.ball))
            self._count += self._decreased[-1]
        self._values.append(value)
        return self._reading(value)

    def _reading(self, value: float) -> StabilityReading:
        if not self._decreased:
            return StabilityReading(value, math.nan, False)
        return StabilityReading(value, self._count / len(self._decreased), True)
