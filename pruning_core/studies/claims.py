# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What several studies share: cutting the lowest units of a group, and saying what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruning_core.groups import UnitGraph
from pruning_core.plans import Plan


def lowest(graph: UnitGraph, scores: Mapping[str, Any], groups: Sequence[str], share_: float
           ) -> Plan:
    """Plan to remove this share of the units of some groups, the lowest scores first."""
    return Plan.removing(graph.groups, {
        name: np.argsort(scores[name], kind='stable')[:round(share_ * graph[name].size)]
        for name in groups})


def spoken(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Claims with their estimates as people read them."""
    return {name: f"{c['verdict']}: {c['value']:.3g} ({c['low']:.3g} to {c['high']:.3g}), "
                  f"n = {c['n']}" for name, c in found.items()}
