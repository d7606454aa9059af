# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Experiments of the paper and its open questions: one file each, run by `studies.study`.

`python -m pruning_core study NAME` runs one; docs/findings.md says what came out.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruning_core.studies.study import Study

NAMES = ('latent', 'scores', 'ema', 'schedule', 'timing', 'coupling', 'stress', 'stability')


def find(name: str) -> Study:
    """The study of that name."""
    study: Study = importlib.import_module(f'pruning_core.studies.{name}').STUDY
    return study
