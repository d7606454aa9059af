# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Backing off from a plan whose agent does not stabilise: less is cut where stability lost most.

Of all groups the one whose removed units matter most for stability gets back half of what it
lost, the best-scored units first. The caller cuts again from the dense agent, lets it recover and
tests again, until a plan passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pruning_core.agent import Agent
from pruning_core.groups import Group
from pruning_core.plans import Plan

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GivenBack:
    """One step back.

    Attributes:
        plan: the smaller plan.
        group: which group got units back, and `units` how many.
        lost: sum of the stability scores of the units that were removed of it.
    """

    plan: Plan
    group: str
    units: int
    lost: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the plan."""
        return {'group': self.group, 'units': self.units, 'stability_score': self.lost}


def give_back(groups: Sequence[Group], plan: Plan, stability: Mapping[str, Array],
              scores: Mapping[str, Array], multiple: int) -> GivenBack | None:
    """Take half of one group's removal back.

    Args:
        groups: of the traced dense model.
        plan: what failed.
        stability: (units,) per group; NaN where a unit takes no part in stability.
        scores: (units,) per group that the plan was made by; the best come back first.
        multiple: what is given back is a multiple of this, so that widths stay one.

    Returns:
        None where nothing that matters for stability was removed.
    """
    lost = {name: float(np.nansum(stability[name][list(units)]))
            for name, units in plan.removed.items() if units}
    if not lost or max(lost.values()) <= 0:
        return None
    group = max(lost, key=lambda name: lost[name])
    removed = np.array(plan.removed[group])
    half = len(removed) - len(removed) // 2
    count = min(len(removed), multiple * -(-half // multiple))
    own = scores[group][removed]
    order = np.argsort(np.where(np.isnan(own), np.inf, own), kind='stable')
    units = {**plan.removed, group: removed[order[:len(removed) - count]].tolist()}
    smaller = Plan.removing(groups, units, budget=plan.budget, requested=plan.requested,
                            achieved=0.0, skipped=plan.skipped, allocation=plan.allocation,
                            score=plan.score)
    share = {'parameters': 1 - smaller.parameters_left / smaller.parameters,
             'macs': 1 - smaller.macs_left / smaller.macs}
    smaller = replace(smaller, achieved=share.get(plan.budget, plan.achieved))
    return GivenBack(smaller, group, count, lost[group])


def copy_of(agent: Agent) -> Agent:
    """An agent with the same weights, targets and noise, and fresh optimisers."""
    generator = torch.Generator()
    generator.set_state(agent.generator.get_state())
    other = Agent(agent.widths, agent.config, torch.Generator().manual_seed(0))
    other.components.load_state_dict(agent.components.state_dict())
    other.targets.load_state_dict(agent.targets.state_dict())
    other.generator, other.updates = generator, agent.updates
    return other
