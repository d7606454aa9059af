# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of studies: panels of lines with intervals, as SVG text.

Every study says what goes into its panels; how they look is settled here once, so that the same
thing looks the same in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning_core.figures import LIMIT, _figure, _svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by people who see no colours by their markers, and in their order of lightness.
_COLOURS = ('#2166ac', '#d9741a', '#1b9e77', '#7570b3', '#e7298a', '#66a61e', '#a6761d', '#333333',
            '#67a9cf', '#b2182b', '#01665e', '#8a8a8a', '#c51b7d')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')

Point = tuple[float, Mapping[str, Any] | float | None]


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what it shows.
        x, y: labels of the axes.
        lines: points by name; a point's value is an estimate (`value`, `low`, `high`), a number,
            or None where there is none.
        ticks: names of positions on the x axis; the numbers themselves where it is empty.
        logarithmic: the axes to be so: '', 'x', 'y' or 'xy'.
        reference: where a thin line marks what everything is held against; None for none.
        joined: draw lines between the points.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[Point]]
    ticks: Mapping[float, str] = field(default_factory=dict)
    logarithmic: str = ''
    reference: float | None = None
    joined: bool = True


def panels(content: Sequence[Panel], columns: int = 2, width: float = 8.6,
           height: float = 2.9) -> str:
    """Draw panels side by side, row by row; one legend where all have the same lines.

    Args:
        content: the panels.
        columns: in a row.
        width: of the picture, in inches.
        height: of a row, in inches.

    Returns:
        SVG; empty where there are no panels.
    """
    if not content:
        return ''
    used = min(columns, len(content))
    columns, width = used, width * used / columns
    rows = -(-len(content) // columns)
    shared = len({tuple(p.lines) for p in content}) == 1
    with _figure(rows, columns, width, height * rows + 0.3 * shared) as (figure, axes):
        from matplotlib.transforms import offset_copy

        handles: dict[str, Any] = {}
        for axis, panel in zip(axes.flat, content, strict=False):
            handles = _draw(axis, panel)
            if not shared and len(handles) > 1:
                # In inches: below the label of the axis, however high the axis comes out.
                below = offset_copy(axis.transAxes, figure, y=-0.42 if panel.x else -0.6)
                axis.legend(handles.values(), handles.keys(), fontsize=7, ncols=2,
                            loc='upper center', bbox_to_anchor=(0.45, 0), bbox_transform=below)
        for axis in axes.flat[len(content):]:
            axis.set_visible(False)
        if shared and len(handles) > 1:
            figure.legend(handles.values(), handles.keys(), loc='outside lower center',
                          ncols=min(len(handles), 5), fontsize=8)
        return _svg(figure)


def _draw(axis: Axes, panel: Panel) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    many = len(panel.lines)
    for k, (name, points) in enumerate(panel.lines.items()):
        kept = [(x, v if isinstance(v, Mapping) else {'value': v, 'low': v, 'high': v})
                for x, v in points if v is not None]
        if not kept:
            continue
        x = np.array([p[0] for p in kept], float)
        value, low, high = (np.array([p[1][key] for p in kept], float)
                            for key in ('value', 'low', 'high'))
        if panel.ticks:  # beside each other where they would hide each other
            x = x + (k - (many - 1) / 2) * min(0.12, 0.7 / many)
        spread = bool(np.any(high > low))
        marker = _MARKERS[k % len(_MARKERS)] if len(kept) < 30 else ''
        shown = axis.errorbar(
            x, value, yerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)]
            if spread else None, fmt=f'{marker}{"-" if panel.joined else ""}', ms=4, capsize=2,
            elinewidth=0.9, lw=1.2, color=_COLOURS[k % len(_COLOURS)])
        handles[name] = shown
    if panel.reference is not None:
        axis.axhline(panel.reference, color=LIMIT, lw=1.0, ls=':')
    if 'x' in panel.logarithmic:
        axis.set_xscale('log', base=2)
    if 'y' in panel.logarithmic:
        axis.set_yscale('log')
    if panel.ticks:
        axis.set_xticks(list(panel.ticks), list(panel.ticks.values()))
        if max(len(t) for t in panel.ticks.values()) > 7 and len(panel.ticks) > 4:
            axis.tick_params(axis='x', rotation=35)
            for label in axis.get_xticklabels():
                label.set_horizontalalignment('right')
    elif 'x' in panel.logarithmic:
        where = sorted({float(x) for points in panel.lines.values() for x, _ in points})
        axis.set_xticks(where, [f'{x:g}' for x in where])
        axis.minorticks_off()
    axis.set(xlabel=panel.x, ylabel=panel.y, title=panel.title)
    return handles
