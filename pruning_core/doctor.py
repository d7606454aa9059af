# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's break conditions, looked for in a run: its folder in, named findings out.

| condition | when (arXiv 2601.19794, section 3) |
|---|---|
| broken gradients | not finite, so that the update was left out of the importance |
| vanishing gradients | a group's stay 10,000 times below what is usual in the run |
| exploding gradients | a group's raw gradient jumps to 100 times its recent median |
| gamma too high | the EMA lags the changes of the raw signal |
| gamma too low | the EMA's noise reorders groups whose smoothed order stands |
| collapse | a group lost its weights under pressure: lambda_max is too high |
| phases do not separate | neighbouring groups are pressed on together, or not for a whole period |

A finding names the group and the update. What is no condition but tells how far to trust the
ranking stands among the facts: the agreement of the three signals, and each group's resilience.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pruning_core import checkpoint as files
from pruning_core import config as configuration
from pruning_core.config import Config
from pruning_core.importance import SIGNALS
from pruning_core.importance.crossovers import crossovers
from pruning_core.importance.history import HISTORY, History, read_history
from pruning_core.importance.ranking import agreement
from pruning_core.sparsity import SEPARATE, neighbour_correlation, resiliences

Array = npt.NDArray[np.float64]
_LASTS = 5  # rows that a state must last, and over which means are taken
_VANISHED, _EXPLODED = 1e-4, 100.0
_REORDERED = 0.2  # 1 - Kendall's tau between neighbouring rows
_PAIRS = 500  # of such rows, at most: a long run is looked at as fast as a short one


class Finding(NamedTuple):
    """One break condition.

    Attributes:
        condition: its name, as in the table above.
        group: where; empty where it concerns the whole run.
        update: when it was first seen; None where it concerns the whole run.
        text: figures, and what to do.
    """

    condition: str
    group: str
    update: int | None
    text: str

    def __str__(self) -> str:
        """One line."""
        where = f', {self.group}' if self.group else ''
        when = f' at update {self.update}' if self.update is not None else ''
        return f'{self.condition}{where}{when}: {self.text}'


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and what else is worth knowing."""

    findings: tuple[Finding, ...]
    facts: dict[str, Any]


def examine(folder: str | Path) -> Diagnosis:
    """Look for break conditions in a training run, finished or interrupted.

    Raises:
        AgentError: the folder has no importance history, or a damaged one.
        ConfigError: its configuration cannot be read.
    """
    folder = Path(folder)
    history = read_history(folder / HISTORY)
    config = configuration.load(folder / files.CONFIG)
    collapsed: dict[str, int] = {}
    metrics = folder / files.METRICS
    for line in metrics.read_text('utf-8').splitlines() if metrics.is_file() else ():
        try:
            collapsed.update(json.loads(line).get('collapsed', {}))
        except (ValueError, AttributeError, TypeError):  # the torn last line of a run cut off
            continue
    return diagnose(history, config, collapsed)


def diagnose(history: History, config: Config, collapsed: dict[str, int]) -> Diagnosis:
    """Look for break conditions.

    Args:
        history: importance over time.
        config: of the run.
        collapsed: update by group, from the collapse guard.
    """
    findings = (*_broken(history), *_vanishing(history), *_exploding(history),
                *_gamma(history, config.importance.gamma),
                *(_collapse(g, t, config) for g, t in sorted(collapsed.items())),
                *_phases(history, config))
    return Diagnosis(findings, _facts(history, config))


def _broken(history: History) -> Iterator[Finding]:
    for g, group in enumerate(history.groups):
        rows = np.flatnonzero(history.broken[:, g])
        if len(rows):
            yield Finding('broken gradients', group, int(history.updates[rows[0]]),
                          f'{int(history.broken[:, g].sum())} updates had a gradient that was not '
                          'finite and were left out; lower agent.learning_rate')


def _vanishing(history: History) -> Iterator[Finding]:
    """Heads that start at zero have no gradient upstream at first: that does not count."""
    known = np.isfinite(history.raw)
    if not known.any():
        return
    usual = float(np.median(history.raw[known]))
    for g, group in enumerate(history.groups):
        raw = history.raw[:, g]
        low = known[:, g] & (raw <= _VANISHED * usual)
        alive = np.flatnonzero(known[:, g] & ~low)
        start = alive[0] if len(alive) else 0
        for row in _runs(low, start, _LASTS):
            yield Finding('vanishing gradients', group, int(history.updates[row]),
                          f'mean |gradient| {raw[row]:.1e} where {usual:.1e} is usual here; '
                          'its importance cannot be ranked')
            break


def _runs(mask: npt.NDArray[np.bool_], start: int, length: int) -> Iterator[int]:
    """First rows, from `start` on, of stretches in which the mask holds for `length` rows."""
    count = 0
    for row in range(start, len(mask)):
        count = count + 1 if mask[row] else 0
        if count == length:
            yield row - length + 1


def _exploding(history: History) -> Iterator[Finding]:
    for g, group in enumerate(history.groups):
        raw = history.raw[:, g]
        for row in range(_LASTS, len(raw)):
            recent = raw[max(0, row - 4 * _LASTS):row]
            recent = recent[np.isfinite(recent) & (recent > 0)]
            if len(recent) >= _LASTS and raw[row] > _EXPLODED * np.median(recent):
                yield Finding('exploding gradients', group, int(history.updates[row]),
                              f'mean |gradient| {raw[row]:.1e} after a median of '
                              f'{np.median(recent):.1e}; lower agent.learning_rate')
                break


def _gamma(history: History, gamma: float) -> Iterator[Finding]:
    """Hold the EMA of the gradient against the raw gradient that it smooths."""
    if len(history.updates) < 6 * _LASTS:
        return
    for g, group in enumerate(history.groups):
        late = _lag(history, g)
        if late is not None:
            update, rows = late
            lag = rows * int(np.median(np.diff(history.updates)))
            yield Finding('gamma too high', group, update,
                          f'the EMA needs {lag:.0f} updates for half of a change of the raw '
                          f'gradient; lower importance.gamma, now {gamma:g}')
    smooth = np.stack([_centred(history.signals['gradient'][:, g])
                       for g in range(len(history.groups))], axis=1)
    ema = history.signals['gradient'][_LASTS:-_LASTS]
    pairs = np.unique(np.linspace(0, len(ema) - 2, _PAIRS).astype(int))
    noisy, steady = (1 - np.nanmedian([agreement(v[i], v[i + 1]) for i in pairs])
                     for v in (ema, smooth[_LASTS:-_LASTS]))
    if noisy > _REORDERED and steady < noisy / 2:
        yield Finding('gamma too low', '', None,
                      f"Kendall's tau between one row of the history and the next is "
                      f'{1 - noisy:.2f} on the median, {1 - steady:.2f} after smoothing over '
                      f'{2 * _LASTS + 1} rows; raise importance.gamma, now {gamma:g}')


def _centred(values: Array) -> Array:
    """Moving average over `_LASTS` rows on either side: smooth, and not late."""
    kernel = np.ones(2 * _LASTS + 1)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), kernel, 'same')
    count = np.convolve(known, kernel, 'same')
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _lag(history: History, g: int) -> tuple[int, float] | None:
    """Median rows that the EMA takes for half of a change, and the first such change.

    A change is where the log of the raw gradient has other means over `_LASTS` rows before and
    after, by more than a factor of two and more than its noise explains. None where there is none,
    or the EMA keeps up: it is late where it needs longer than those rows.
    """
    known = np.isfinite(history.raw[:, g]) & (history.raw[:, g] > 0) & (
        history.signals['gradient'][:, g] > 0)
    raw, ema = np.log(history.raw[known, g]), np.log(history.signals['gradient'][known, g])
    updates, w = history.updates[known], _LASTS
    if len(raw) < 4 * w:
        return None
    noise = 1.4826 * float(np.median(np.abs(np.diff(raw)))) / math.sqrt(2)
    least = max(math.log(2), 4 * noise * math.sqrt(2 / w))
    means = np.convolve(raw, np.ones(w) / w, 'valid')
    jump = means[w:] - means[:-w]  # at row i + w: the w rows from it on, less the w before it
    changes = [i for i in range(len(jump)) if abs(jump[i]) > least
               and abs(jump[i]) == np.abs(jump[max(0, i - w):i + w + 1]).max()]
    lags = []
    for i in changes:
        row, before, after = i + w, means[i], means[i + w]
        covered = (ema[row:] - before) / (after - before)
        done = np.flatnonzero(covered >= 0.5)
        lags.append(done[0] if len(done) else len(covered))
    if not lags or np.median(lags) <= w:
        return None
    return int(updates[changes[0] + w]), float(np.median(lags))


def _collapse(group: str, update: int, config: Config) -> Finding:
    return Finding('collapse', group, update,
                   f'its norm fell below {config.sparsity.collapse:.0%} of what it was, and the '
                   f'pressure on it was taken off; lower sparsity.lambda_max, now '
                   f'{config.sparsity.lambda_max:g}')


def _phases(history: History, config: Config) -> Iterator[Finding]:
    settings, count = config.sparsity, len(history.groups)
    if settings.schedule not in ('cosine', 'frequencies'):
        return
    alike = neighbour_correlation(settings.schedule, count)
    if alike > SEPARATE:
        yield Finding('phases do not separate', '', None,
                      f'the pressures on neighbours among {count} groups correlate by '
                      f'{alike:.2f}; use sparsity.schedule: frequencies')
    seen = int(history.updates[-1]) if len(history.updates) else 0
    if seen < settings.period:
        yield Finding('phases do not separate', '', seen,
                      f'of a period of {settings.period} updates only {seen} were seen; lower '
                      'sparsity.period')


def _facts(history: History, config: Config) -> dict[str, Any]:
    facts: dict[str, Any] = {'rows': len(history.updates)}
    if not len(history.updates):
        return facts
    facts['updates'] = int(history.updates[-1])
    for i, a in enumerate(SIGNALS):
        for b in SIGNALS[i + 1:]:
            tau = agreement(history.signals[a][-1], history.signals[b][-1])
            if math.isfinite(tau):
                facts[f"Kendall's tau, {a} and {b}"] = round(tau, 3)
    for signal in SIGNALS:
        found = crossovers(history.updates, history.signals[signal], history.groups)
        facts[f'crossovers, {signal}'] = len(found)
    answers = resiliences(config.sparsity, history.updates, history.pressure, history.norm)
    for group, answer in zip(history.groups, answers, strict=True):
        if answer is not None:
            swing = config.sparsity.lambda_max - config.sparsity.lambda_min
            change = math.expm1(answer.slope * swing)
            facts[f'resilience, {group}'] = (
                f'{change:+.1%} of its norm under full pressure, {answer.lag:.0f} updates later '
                f'(explains {answer.explained:.0%})')
    return facts
