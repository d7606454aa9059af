# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Plans that push: one action is held at a limit for a while, then the policy goes on.

Where the best command is a limit, as it often is where torque is scarce, the mean of many sampled
plans reaches it late or never, and a policy that is off by one decision stays so. A few plans that
go there at once are valued beside the policy's own. The graph that rolls out the policy proposes
them, by its noise: so much is added that the action is clipped to the limit, whatever the policy
says. The best of many values is likely to be one that is wrong: a push must be worth more than
what would act else by a margin before it acts.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

_BEYOND = 2.0  # the whole range of a scaled action: from anywhere in it to the limit


class Proposing(Protocol):
    """Settings of a planner, in a configuration or in a manifest."""

    @property
    def horizon(self) -> int:
        """Decisions looked ahead."""

    @property
    def policy_samples(self) -> int:
        """Plans of the policy."""

    @property
    def pushes(self) -> int:
        """Lengths of the pushes."""


def push_noise(horizon: int, lengths: int, actions: int) -> npt.NDArray[np.float32]:
    """Noise of the policy's plans that makes them push.

    Args:
        horizon: H decisions.
        lengths: how many of 1, 2, 4, ... decisions a limit is held for; none is longer than H.
        actions: A.

    Returns:
        (H, 2 A lengths, A), to be added to actions in [-1, 1] and clipped: for each action, limit
        and length a plan in which the other actions are the policy's.
    """
    held = _held(horizon, lengths)
    noise = np.zeros((horizon, actions, 2, len(held), actions), np.float32)
    for action in range(actions):
        for side, sign in enumerate((-1, 1)):
            for i, decisions in enumerate(held):
                noise[:decisions, action, side, i, action] = sign * _BEYOND
    return noise.reshape(horizon, -1, actions)


def proposals(planner: Proposing, actions: int) -> int:
    """How many plans are proposed before any is sampled: by the policy, and pushes."""
    return planner.policy_samples + 2 * actions * len(_held(planner.horizon, planner.pushes))


def _held(horizon: int, lengths: int) -> list[int]:
    return sorted({min(2**i, horizon) for i in range(lengths)})
