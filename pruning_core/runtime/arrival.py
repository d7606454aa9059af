# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How old an observation is, from a stamp that cannot be trusted.

A sender's clock may run ahead, jump, or its messages may overtake each other. Age is counted on
the receiver's monotonic clock from the moment of arrival, plus what the stamp says was lost on the
way. A stamp from the future beyond a tolerance is not believed; one older than the newest seen
came out of order, and the message is dropped; a step back by more than the timeout is a clock that
was set, and is followed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arrival:
    """What is to be done with one message.

    Attributes:
        delay_s: seconds it was under way.
        problem: why it must not be used; empty where it may.
    """

    delay_s: float
    problem: str = ''


class StampCheck:
    """Judges the stamps of one topic, in order of arrival.

    Attributes:
        reordered: messages that were overtaken by a newer one, and dropped.
        jumps: times that the sender's clock was set back.
        future: messages with a stamp from the future.
    """

    def __init__(self, timeout_s: float, tolerance_s: float = 0.05) -> None:
        """Start afresh.

        Args:
            timeout_s: age beyond which an observation is not used; see the module.
            tolerance_s: how far the clocks of two machines may be apart.
        """
        self._timeout_s, self._tolerance_s = timeout_s, min(tolerance_s, timeout_s)
        self._newest_s = 0.0
        self.reordered = self.jumps = self.future = 0

    def judge(self, stamp_s: float, now_s: float) -> Arrival:
        """Judge one message.

        Args:
            stamp_s: when it was measured, by the sender's clock; 0 for a message without a stamp.
            now_s: the receiver's clock of the same kind.
        """
        if stamp_s <= 0:
            return Arrival(0.0)
        ahead = stamp_s - now_s
        delay_s = max(0.0, -ahead)
        if ahead > self._tolerance_s:
            self.future += 1
            return Arrival(0.0, f'stamped more than {self._tolerance_s:g} s in the future')
        behind = self._newest_s - stamp_s
        if 0 < behind <= self._timeout_s:
            self.reordered += 1
            return Arrival(delay_s, 'overtaken by a newer one')
        self.jumps += behind > self._timeout_s
        self._newest_s = stamp_s
        return Arrival(delay_s)
