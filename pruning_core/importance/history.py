# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Importance over time: rows appended while a model trains, arrays when it is looked at.

The file is one line of JSON that names the groups and views, then rows of fixed size: the update
as a 64-bit integer and 32-bit floats. A row of the reference agent takes 416 bytes. Rows are only
ever appended, so that memory does not grow with the run, a torn last row is seen as such, and a
resumed run cuts the file where its checkpoint was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.errors import AgentError, explain
from pruning_core.importance.tracker import SIGNALS, ImportanceTracker
from pruning_core.sparsity import SparsityPressure

Array = npt.NDArray[np.float64]
HISTORY = 'importance_history.bin'
_PER_GROUP = (*SIGNALS, 'raw', 'broken', 'pressure', 'norm')
_SCHEMA = 1


@dataclass(frozen=True)
class History:
    """Importance of G groups and V views at T updates.

    Attributes:
        groups: names; `views` those of the coupling views.
        updates: (T,) ascending.
        signals: (T, G) smoothed importance, by signal.
        raw: (T, G) mean |gradient| since the row before, not smoothed.
        broken: (T, G) updates since the row before with a gradient that was not finite.
        pressure: (T, G) L1 coefficient; `norm` the groups' norms, NaN without any pressure.
        views: names of the coupling views, and `view_signals` (T, V) their importance.
    """

    groups: tuple[str, ...]
    views: tuple[str, ...]
    updates: npt.NDArray[np.int64]
    signals: dict[str, Array]
    raw: Array
    broken: Array
    pressure: Array
    norm: Array
    view_signals: dict[str, Array]


def _row(groups: Sequence[str], views: Sequence[str]) -> np.dtype[np.void]:
    return np.dtype([('update', '<i8'), *((n, '<f4', (len(groups),)) for n in _PER_GROUP),
                     *((f'view.{n}', '<f4', (len(views),)) for n in SIGNALS)])


class Recorder:
    """Appends a row to the history every so many updates."""

    def __init__(self, path: Path, tracker: ImportanceTracker, pressure: SparsityPressure,
                 every: int, state: Mapping[str, Any] | None = None) -> None:
        """Start a history, or go on with one.

        Args:
            path: the file; written over where there is no state.
            tracker: whose importance.
            pressure: whose coefficients and norms.
            every: updates between two rows.
            state: `state_dict` to go on from; what was written after it is cut off.
        """
        self._tracker, self._pressure, self._every = tracker, pressure, every
        self._groups = [g.name for g in tracker.groups]
        self._views = [v.name for v in tracker.views]
        self._dtype = _row(self._groups, self._views)
        # Since the last row: sum of raw gradients, of how many updates, and broken ones.
        self._raw = np.zeros((3, len(self._groups)))
        self._bounds = np.cumsum([0, *(g.size for g in tracker.groups)])
        self._file = path.open('wb' if state is None else 'rb+')
        if state is None:
            header = {'schema': _SCHEMA, 'groups': self._groups, 'views': self._views}
            self._file.write(json.dumps(header).encode() + b'\n')
        else:
            self._raw[:] = state['raw']
            self._file.truncate(state['bytes'])
            self._file.seek(0, os.SEEK_END)

    def step(self) -> None:
        """Take note of an update that the tracker has just closed."""
        count = len(self._groups)
        if self._tracker.observed:
            raw = self._tracker.aggregate(self._tracker.raw)[:count]
            known = np.isfinite(raw)
            infinite = np.isinf(self._tracker.raw[:self._bounds[-1]])
            broken = np.logical_or.reduceat(infinite, self._bounds[:-1])
            self._raw += np.stack([np.where(known, raw, 0.0), known, broken])
        if self._tracker.updates % self._every:
            return
        row = np.zeros((), self._dtype)
        row['update'] = self._tracker.updates
        for signal in SIGNALS:
            values = self._tracker.aggregated(signal)
            row[signal], row[f'view.{signal}'] = values[:count], values[count:]
        row['raw'] = np.where(self._raw[1] > 0, self._raw[0] / np.maximum(self._raw[1], 1), np.nan)
        row['broken'] = self._raw[2]
        row['pressure'], row['norm'] = self._pressure.coefficients, self._pressure.norms
        self._raw[:] = 0
        self._file.write(row.tobytes())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: bytes of the file, now on disk, and sums of the row begun."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {'bytes': self._file.tell(), 'raw': self._raw.tolist()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_history(path: str | Path) -> History:
    """Read a history; a torn last row is left out.

    Raises:
        AgentError: there is none, or it is damaged.
    """
    try:
        header, newline, rows = Path(path).read_bytes().partition(b'\n')
        values = json.loads(header)
        if not newline or values['schema'] != _SCHEMA:
            raise ValueError(f'schema {values.get("schema")}')
        groups, views = tuple(values['groups']), tuple(values['views'])
        dtype = _row(groups, views)
        table = np.frombuffer(rows, dtype, len(rows) // dtype.itemsize)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AgentError(
            explain(f"the importance history '{path}' was asked for",
                    'there is none' if isinstance(error, FileNotFoundError)
                    else f'it is damaged ({type(error).__name__}: {error})',
                    'the file that training wrote, with importance.record_every above 0',
                    'name the folder of a training run')
        ) from error

    def column(name: str) -> Array:
        return table[name].astype(np.float64)

    return History(groups, views, table['update'].astype(np.int64),
                   {s: column(s) for s in SIGNALS}, column('raw'), column('broken'),
                   column('pressure'), column('norm'), {s: column(f'view.{s}') for s in SIGNALS})
