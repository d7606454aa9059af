# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of stability: failing states, and regions of attraction side by side, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning_core.decrease import Tested
from pruning_core.figures import DENSE, LIMIT, PRUNED, _figure, _svg
from pruning_core.plants import PendulumPlant

if TYPE_CHECKING:
    from pruning_core.stability_gate import Judged

_AXES = ('angle from upright, rad', 'angular velocity, rad/s')


def _labels(plant: object, terms: Sequence[str]) -> tuple[str, str]:
    if isinstance(plant, PendulumPlant):
        return _AXES
    return f'error {terms[0]}', f'error {terms[1]}' if len(terms) > 1 else 'V'


def _weightiest(judged: Judged) -> list[int]:
    """The two errors that V is largest for, at the edge of what is tested."""
    value = np.diag(judged.lyapunov.P) * np.asarray(judged.plant.reach)**2
    return sorted(int(i) for i in np.argsort(value)[-2:])


def failing_states(judged: Judged, tested: Tested) -> str:
    """Tested states in the plane of the two errors that weigh most; those that fail stand out.

    Args:
        judged: plant and candidate.
        tested: from `decrease.check`.
    """
    errors = judged.lyapunov.errors(judged.plant.observe(tested.states))
    chosen = _weightiest(judged)
    x, y = errors[:, chosen[0]], errors[:, chosen[1]] if len(chosen) > 1 else tested.before
    labels = _labels(judged.plant, [judged.lyapunov.terms[i] for i in chosen])
    with _figure(1, 1, 5.2, 4.0) as (figure, axes):
        axis, bad = axes[0, 0], tested.failed
        axis.plot(x[~bad], y[~bad], 'o', ms=3, color=PRUNED, alpha=0.5, label='passes')
        axis.plot(x[bad], y[bad], 'X', ms=7, color=DENSE, label='fails')
        d = tested.decrease
        axis.set(xlabel=labels[0], ylabel=labels[1],
                 title=f'{d.violations} of {d.states} states fail (at most {d.bound:.1%}, 95 %)')
        axis.legend(loc='upper left', bbox_to_anchor=(1.0, 1.0))
        return _svg(figure)


def regions(maps: Mapping[str, Mapping[str, Any]], labels: tuple[str, str] = _AXES) -> str:
    """Maps of the region of attraction side by side.

    Args:
        maps: title -> `region.Region.to_json`.
        labels: of the two errors.
    """
    with _figure(1, len(maps), 0.9 + 3.1 * len(maps), 3.2, sharey=True) as (figure, axes):
        image = None
        for axis, (title, region) in zip(axes[0], maps.items(), strict=True):
            first, second = (np.asarray(e) for e in region['edges'])
            image = axis.pcolormesh(first, second, np.asarray(region['success']).T, vmin=0, vmax=1,
                                    cmap='RdYlBu', edgecolors='white', linewidth=0.3,
                                    rasterized=True)  # hundreds of paths say no more
            axis.set(xlabel=labels[0], title=f"{title}: {region['share']:.1%} of "
                     f"{len(np.asarray(region['success']).ravel())} cells")
            axis.grid(visible=False)
        axes[0, 0].set_ylabel(labels[1])
        if image is not None:
            figure.colorbar(image, ax=axes[0].tolist(), label='share of runs that reach the goal')
        return _svg(figure)


def tradeoff(table: Sequence[Mapping[str, Any]], names: Sequence[tuple[str, str]]) -> str:
    """Figures of the study over sparsity, one line per score.

    Args:
        table: of `studies.stability.table`.
        names: (key, axis label) of each panel.
    """
    styles = {'task': (PRUNED, 'o-'), 'stability-aware': (DENSE, 's--')}
    with _figure(1, len(names), 2.9 * len(names), 2.7) as (figure, axes):
        for axis, (key, label) in zip(axes[0], names, strict=True):
            for score, (colour, style) in styles.items():
                mine = [r for r in table if r['score'] == score]
                x = [100 * r['sparsity'] for r in mine]
                axis.plot(x, [r[key] for r in mine], style, ms=4, color=colour, label=score)
                spans = [r.get(f'{key} interval') for r in mine]
                if all(spans):
                    low, high = np.array(spans, float).T
                    axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
            dense = next(r[key] for r in table if r['sparsity'] == 0)
            axis.axhline(dense, color=LIMIT, lw=0.8, ls=':')
            axis.set(xlabel='parameters removed, %', title=label)
            if key.startswith('reached'):  # a share: small differences must look small
                axis.set_ylim(-0.03, 1.03)
        axes[0, 0].legend(loc='best', fontsize=8)
        return _svg(figure)
