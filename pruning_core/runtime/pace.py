# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How long a piece of work in a control loop is expected to take, on a machine that may stall."""

from __future__ import annotations


class Pace:
    """How long a piece of work is expected to take: rises fast, falls slowly, forgets stalls.

    Work that does not fit is tried again after a while, and later where it still took too long, up
    to some hundred ticks: a machine that has become slower must not be asked every other tick.

    Attributes:
        expected_s: seconds; 0 while nothing is known.
    """

    _RETURN = 0.05  # part of the way back to the best that one rest takes
    _SLOWEST_RETURN = _RETURN / 8

    def __init__(self) -> None:
        """Know nothing yet."""
        self.expected_s = self._best_s = 0.0
        self._return = self._RETURN
        self._rested = False

    def observe(self, seconds: float) -> float:
        """Learn from one piece of work; returns by how much slower than expected it was seen."""
        if self.expected_s == 0:
            self.expected_s = self._best_s = seconds
            return 1.0
        before = self.expected_s
        off = seconds - before
        self.expected_s += (0.5 if off > 0 else 0.05) * off
        if off <= 0:
            self._return = self._RETURN
        elif self._rested:
            self._return = max(self._return / 2, self._SLOWEST_RETURN)
        self._rested = False
        self._best_s = min(1.02 * self._best_s, seconds)
        return max(1.0, self.expected_s / before)

    def slow(self, factor: float) -> None:
        """Expect what was seen of other work on this machine."""
        self.expected_s *= factor

    def rest(self) -> None:
        """Come back a little to the best that was seen: one stall must not end it for good."""
        self._rested = True
        self._best_s *= 0.999  # which may itself have been a stall
        self.expected_s += self._return * (self._best_s - self.expected_s)
