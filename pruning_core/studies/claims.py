# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What several studies share: trainings with their history, plans, and saying what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruning_core.autoencoder import Array, Autoencoder, AutoencoderConfig, Watchers, train
from pruning_core.budgets import Parameters
from pruning_core.errors import AgentError, explain
from pruning_core.groups import UnitGraph
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.history import HISTORY, History, Recorder, read_history
from pruning_core.plans import Plan
from pruning_core.selection import Limits, select
from pruning_core.sparsity import SparsityPressure
from pruning_core.studies.runner import Context


def train_recorded(model: Autoencoder, images: Array, config: AutoencoderConfig,
                   tracker: ImportanceTracker, pressure: SparsityPressure, context: Context
                   ) -> History:
    """Train an autoencoder, and keep the history of its importance in the trial's folder."""
    recorder = Recorder(context.folder / HISTORY, tracker, pressure,
                        config.importance.record_every)
    try:
        train(model, images, config, np.random.default_rng(config.seed),
              Watchers([tracker], pressure, lambda update: recorder.step()),
              progress=context.progress)
    finally:
        recorder.close()
    return read_history(context.folder / HISTORY)


def lowest_of_all(graph: UnitGraph, scores: Mapping[str, Any], share_: float) -> Plan:
    """Plan to remove this share of the parameters, the same share of every group.

    Raises:
        AgentError: a group has no scores yet; a cut by them would be one by number.
    """
    empty = [g.name for g in graph.free if not np.isfinite(scores[g.name]).any()]
    if empty:
        raise AgentError(
            explain(f'{share_:.0%} of the parameters were to be removed by their scores',
                    f'nothing was measured yet for {", ".join(empty)}',
                    'more updates before a cut than the warm-up of importance has',
                    'train longer before it, or set a shorter warm-up'))
    return select(graph.groups, scores, Parameters(share_), Limits(floor=1, multiple=1))


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
