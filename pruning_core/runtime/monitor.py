# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Online stability in fixed memory: what the last control periods say of the closed loop.

| figure | meaning |
|---|---|
| share | of the last windows, those in which V decreased |
| residual | mean relative error of the model's one-step prediction |
| saturation | share of commands at a limit of an actuator |
| chatter | mean change of the command from period to period, as a share of its range |
| envelope | V now over the largest V below which all tested states were stable; 1 is its edge |

A window is K control periods long; it counts as decreasing where V(t) <= (1 - delta) V(t - K),
or where V(t) is within the small ball around the goal (method section 5): the test that
`pruning_core.decrease` makes offline. A figure that cannot be measured is NaN and its flag False.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pruning_core.runtime.bundle import Manifest
from pruning_core.runtime.errormap import Lyapunov

_AT_LIMIT = 1e-3  # of the range: closer than this to a limit is saturated


@dataclass(frozen=True)
class StabilityReading:
    """One reading.

    Attributes:
        value: V now; NaN where the plant has no candidate.
        share: share of recent windows in which V decreased; NaN before the first whole window.
        valid: whether `share` is measurable.
        residual: mean of the recent prediction errors; `residual_valid` whether there are any.
        saturation: share of recent commands at a limit; `chatter` mean change as a share of the
            range; `commands_valid` whether there are two or more.
        envelope: V over the tested level; `envelope_valid` whether both are known.
    """

    value: float
    share: float
    valid: bool
    residual: float = math.nan
    residual_valid: bool = False
    saturation: float = math.nan
    chatter: float = math.nan
    commands_valid: bool = False
    envelope: float = math.nan
    envelope_valid: bool = False


class _Recent:
    """Mean of the last n numbers, in constant time and memory."""

    def __init__(self, size: int) -> None:
        self._numbers = array('d', bytes(8 * size))
        self._size = size
        self.clear()

    def clear(self) -> None:
        self._next, self.count, self._sum = 0, 0, 0.0

    def add(self, number: float) -> None:
        if self.count == self._size:
            self._sum -= self._numbers[self._next]
        else:
            self.count += 1
        self._numbers[self._next] = number
        self._sum += number
        self._next += 1
        if self._next == self._size:
            self._next = 0
            self._sum = math.fsum(self._numbers)  # no rounding error outlives a lap

    @property
    def mean(self) -> float:
        return self._sum / self.count if self.count else math.nan


_NOTHING = StabilityReading(math.nan, math.nan, False)


class StabilityMonitor:
    """Follows a control loop, one `update` per control period.

    Attributes:
        reading: the newest one.
    """

    def __init__(self, lyapunov: Lyapunov | None, windows: int = 200, *,
                 low: Sequence[float] = (), high: Sequence[float] = (), level: float = math.nan
                 ) -> None:
        """Watch the last `windows` periods.

        Args:
            lyapunov: the plant's candidate; None leaves `share` and `envelope` unmeasured.
            windows: periods, and windows of V, that are remembered.
            low: smallest command per actuator; without limits saturation and chatter are not
                measured.
            high: largest command per actuator.
            level: the largest V below which all tested states were stable; NaN where unknown.
        """
        self._lyapunov = lyapunov
        self._values: deque[float] = deque(maxlen=lyapunov.steps if lyapunov else 1)
        self._decreased = _Recent(windows)
        self._residuals, self._saturated, self._changes = (_Recent(windows) for _ in range(3))
        self._limits = tuple((lo, hi, hi - lo) for lo, hi in zip(low, high, strict=True))
        self._last: tuple[float, ...] = ()
        self._level = level if level > 0 else math.nan
        self.reading = _NOTHING

    @classmethod
    def of(cls, manifest: Manifest, windows: int = 200) -> StabilityMonitor:
        """Watch the plant of a bundle, with its limits and what its stability gate tested."""
        stability = manifest.gates.get('stability')
        level = stability.get('passing_level') if isinstance(stability, dict) else None
        return cls(manifest.lyapunov, windows, low=manifest.action.low, high=manifest.action.high,
                   level=float(level) if isinstance(level, (int, float)) else math.nan)

    def reset(self) -> None:
        """Forget the past, as when the plant was moved by hand or another model took over."""
        self._values.clear()
        for recent in (self._decreased, self._residuals, self._saturated, self._changes):
            recent.clear()
        self._last = ()
        self.reading = _NOTHING

    def update(self, observation: Sequence[float], *, command: Sequence[float] = (),
               residual: float = math.nan) -> StabilityReading:
        """Take what one control period brought.

        Args:
            observation: (O,) in the robot's units.
            command: (A,) that was sent, in the robot's units; empty where none is known.
            residual: relative error of the model's prediction of this observation; NaN where
                there was no prediction.
        """
        value = self._take_value(observation)
        if math.isfinite(residual):
            self._residuals.add(residual)
        if self._limits and len(command) == len(self._limits):
            self._take_command(tuple(command))
        envelope = value / self._level
        self.reading = StabilityReading(
            value, self._decreased.mean, self._decreased.count > 0,
            self._residuals.mean, self._residuals.count > 0,
            self._saturated.mean, self._changes.mean, self._changes.count > 0,
            envelope, math.isfinite(envelope))
        return self.reading

    def _take_value(self, observation: Sequence[float]) -> float:
        if self._lyapunov is None:
            return math.nan
        value = self._lyapunov.value(observation)
        if not math.isfinite(value):
            return math.nan
        if len(self._values) == self._values.maxlen:
            allowed = (1 - self._lyapunov.decrease) * self._values[0]
            self._decreased.add(float(value <= max(allowed, self._lyapunov.ball)))
        self._values.append(value)
        return value

    def _take_command(self, command: tuple[float, ...]) -> None:
        if not all(map(math.isfinite, command)):
            return
        near, change = False, 0.0
        for i, (u, (low, high, span)) in enumerate(zip(command, self._limits, strict=True)):
            near = near or min(u - low, high - u) <= _AT_LIMIT * span
            if self._last:
                change = max(change, abs(u - self._last[i]) / span)
        self._saturated.add(float(near))
        if self._last:
            self._changes.add(change)
        self._last = command
