# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What a planner is made with: its sizes, threads and precision."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ('fp32', 'int8')
MOST_PUSHES = 16  # lengths of a push; see `pushes`


@dataclass(frozen=True)
class Choice:
    """Settings of the planner; the keywords of `Planner`.

    Attributes:
        samples: plans per iteration.
        iterations: refinements.
        horizon: decisions looked ahead.
        threads: of onnxruntime.
        precision: of the refinements, one of `PRECISIONS`.
    """

    samples: int
    iterations: int
    horizon: int
    threads: int
    precision: str
