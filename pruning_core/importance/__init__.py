# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Importance of structural groups and units (arXiv 2601.19794, section 3.2; docs/importance.md).

| room | what it holds |
|---|---|
| `slices` | sums over the slices of every unit, in one pass over each weight |
| `posterior` | the Gamma posterior of each unit's mean gradient |
| `ranking` | normalised ranks, their agreement |
| `views` | a coupling group seen through one consumer, or all of them |
| `tracker` | the signals, gathered and smoothed while a model trains |
"""

from pruning_core.importance.tracker import SIGNALS, ImportanceTracker

__all__ = ['SIGNALS', 'ImportanceTracker']
