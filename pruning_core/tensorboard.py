# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Records of `metrics.jsonl` as TensorBoard scalars, beside it, where they are asked for.

Every number of a record becomes one scalar, named by its path (`importance/fisher/latent`), at the
decision at which it was written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pruning_core.errors import missing

FOLDER = 'tensorboard'
_COUNTERS = ('episode', 'decisions')


class TensorBoard:
    """Writes into `FOLDER` of a run folder."""

    def __init__(self, folder: Path, decisions: int = 0) -> None:
        """Open a new event file.

        Args:
            folder: the run folder.
            decisions: at which a resumed run goes on; scalars after it are not shown any more.

        Raises:
            MissingExtra: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing('training.tensorboard was set', 'tensorboard', 'viz') from error
        self._writer: Any = SummaryWriter(str(folder / FOLDER), purge_step=decisions + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of one record of training; what is not finite has no point."""
        for name, value in _scalars(record):
            self._writer.add_scalar(name, value, record['decisions'])
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def _scalars(record: Mapping[str, Any], path: str = '') -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f'{path}{key}/')
        elif isinstance(value, (int, float)) and math.isfinite(value) and key not in _COUNTERS:
            yield path + key, float(value)
