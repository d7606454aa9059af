# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of runs as SVG text; matplotlib is the extra [viz].

Colours mean the same everywhere: orange is the dense agent, blue the pruned one, and grey is what
both are held against. Text stays text, so that a picture can be searched and read aloud.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning_core.errors import MissingExtra, explain
from pruning_core.importance.crossovers import crossovers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pruning_core.importance.history import History

DENSE, PRUNED, LIMIT = '#d9741a', '#2166ac', '#8a8a8a'
_STYLE: Any = {
    'svg.fonttype': 'none', 'svg.hashsalt': 'pruned_controller', 'font.family': 'sans-serif',
    'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.titlelocation': 'left', 'axes.titlesize': 10, 'axes.titleweight': 'bold',
    'axes.grid': True, 'grid.color': '#e4e4e4', 'grid.linewidth': 0.6, 'axes.axisbelow': True,
    'legend.frameon': False,
}


@contextmanager
def _figure(rows: int, columns: int, width: float, height: float, **options: Any
            ) -> Iterator[tuple[Figure, Any]]:
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure as NewFigure
    except ModuleNotFoundError as error:
        raise MissingExtra(
            explain('a picture was asked for', "'matplotlib' is not installed",
                    'an installation with the extra [viz]',
                    "run: pip install 'pruned_controller[viz]'")
        ) from error
    with matplotlib.rc_context(_STYLE):
        figure = NewFigure(figsize=(width, height), layout='constrained')
        FigureCanvasSVG(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False, **options)


def _svg(figure: Figure) -> str:
    """SVG element, to stand in a page or, with a declaration before it, in a file."""
    text = io.StringIO()
    figure.savefig(text, format='svg', metadata={'Date': None, 'Creator': None})
    whole = text.getvalue()
    return whole[whole.index('<svg'):]


def timeline(result: Mapping[str, Any]) -> str:
    """Plan latency, reward and stability over the whole run, tick by tick.

    Args:
        result: of the demo; see `pruned_controller.demo`.
    """
    ticks, period_ms = result['ticks'], 1e3 * result['period_s']
    t = np.array([x['t'] for x in ticks], float)
    names = {result[k]['hash'][:16]: k for k in ('dense', 'pruned') if k in result}
    who = np.array([names.get(x['model'], '') for x in ticks])
    with _figure(3, 1, 8.6, 6.2, sharex=True) as (figure, axes):
        from matplotlib.ticker import LogFormatter

        latency, reward, stability = axes[:, 0]
        milliseconds = 1e3 * np.array([x['latency_s'] for x in ticks], float)
        for name, colour in (('dense', DENSE), ('pruned', PRUNED)):
            mine = who == name
            if mine.any():
                latency.plot(t[mine], milliseconds[mine], '.', ms=3, color=colour, label=name)
        latency.axhline(period_ms, color=LIMIT, lw=1.2)
        latency.text(1.0, period_ms, f'period {period_ms:g} ms', ha='right', va='top',
                     color='#555', transform=latency.get_yaxis_transform())
        latency.set(yscale='log', ylabel='ms')
        for which in (latency.yaxis.set_major_formatter, latency.yaxis.set_minor_formatter):
            which(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        latency.set_title('Time from observation to command', pad=14)
        if names and len(t):
            latency.legend(loc='upper left', bbox_to_anchor=(1.0, 1.0), markerscale=3)
        measured = result['rewards']
        reward.plot([x['t'] for x in measured], [x['reward'] for x in measured], lw=0.8,
                    color='#444')
        reward.set(ylabel='reward per step', title='Reward of the plant')
        ratio = np.array([x.get('stability', np.nan) for x in ticks], float)
        ratio[~np.isfinite(ratio)] = np.nan
        stability.plot(t, ratio, lw=0.8, color='#444')
        stability.set(ylabel='share', xlabel='seconds since the start', ylim=(-0.02, 1.02),
                      title='Stability: share of windows over which V decreased')
        _mark(axes[:, 0], result['events'])
        return _svg(figure)


def _mark(axes: Sequence[Axes], events: Sequence[Mapping[str, Any]]) -> None:
    """A thin line through all rows at every event, named at the top."""
    for event in events:
        for axis in axes:
            axis.axvline(event['t'], color='#bbb', lw=0.8, ls=':')
    last = -math.inf
    for event in events[:-1]:
        if event['t'] - last < 0.02 * events[-1]['t']:
            continue  # two names would stand on each other; the page's list has them all
        last = event['t']
        axes[0].annotate(event['what'].partition(':')[0], (last, 1.0), (2, 2),
                         xycoords=('data', 'axes fraction'), textcoords='offset points',
                         ha='left', va='bottom', fontsize=7, color='#555')


def returns(result: Mapping[str, Any]) -> str:
    """Return per seed, dense beside pruned."""
    with _figure(1, 1, 4.2, 3.0) as (figure, axes):
        axis = axes[0, 0]
        for offset, name, colour in ((-0.16, 'dense', DENSE), (0.16, 'pruned', PRUNED)):
            values = result.get(name, {}).get('returns', [])
            axis.bar(np.arange(len(values)) + offset, values, 0.3, color=colour, label=name)
        seeds = result['seeds']
        axis.set_xticks(range(len(seeds)), [str(s) for s in seeds])
        axis.set(xlabel='seed of the episode', ylabel='return',
                 title='Return on the running plant')
        axis.legend(loc='upper left', bbox_to_anchor=(1.0, 1.0))
        return _svg(figure)


def groups(plan: Mapping[str, Any]) -> str:
    """Units kept and removed in every group."""
    names = list(plan['sizes'])
    sizes = np.array([plan['sizes'][n] for n in names])
    kept = sizes - np.array([len(plan['removed'].get(n, ())) for n in names])
    with _figure(1, 1, 4.6, 0.9 + 0.24 * len(names)) as (figure, axes):
        from matplotlib.ticker import MaxNLocator

        axis, rows = axes[0, 0], np.arange(len(names))
        axis.barh(rows, sizes, 0.7, color='#e6d5c3', label='removed')
        axis.barh(rows, kept, 0.7, color=PRUNED, label='kept')
        for row, (k, n) in enumerate(zip(kept, sizes, strict=True)):
            axis.text(n, row, f' {k} of {n} kept', va='center', fontsize=8)
        axis.set_yticks(rows, names)
        axis.invert_yaxis()
        axis.set(xlim=(0, 1.4 * sizes.max()), xlabel='units', title='What was kept')
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.legend(loc='upper center', bbox_to_anchor=(0.4, -0.12), ncols=2)
        axis.grid(visible=False)
        return _svg(figure)


def learning_curve(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns, losses and the importance of groups over the decisions of one training run."""
    def column(*path: str) -> tuple[list[int], list[float]]:
        x, y = [], []
        for record in records:
            value: Any = record
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, (int, float)):
                x.append(record['decisions'])
                y.append(float(value))
        return x, y

    with _figure(3, 1, 7.0, 7.4, sharex=True) as (figure, axes):
        curve, losses, importance = axes[:, 0]
        curve.plot(*column('return'), '.-', color='#bbb', lw=0.8, label='while training')
        for key, colour, text in (('planned', PRUNED, 'planned, evaluation seeds'),
                                  ('policy', DENSE, 'policy alone, evaluation seeds')):
            x, y = column('evaluation', key)
            if x:
                curve.plot(x, y, 'o-', ms=4, color=colour, label=text)
        curve.set(ylabel='return', title='Return per episode')
        curve.legend(loc='lower right')
        for key in ('consistency', 'reward', 'value'):
            losses.plot(*column(key), lw=1, label=key)
        losses.set(yscale='log', ylabel='loss', title='Model losses')
        losses.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), fontsize=7)
        first: Mapping[str, Any] = next(
            (r['importance'] for r in records if r.get('importance')), {})
        signal = 'fisher' if 'fisher' in first else next(iter(first), '')
        colours = ('#1b9e77', '#d95f02', '#7570b3', '#e7298a', '#66a61e', '#e6ab02')
        for i, group in enumerate(first.get(signal, ())):
            importance.plot(*column('importance', signal, group), lw=1.1, color=colours[i % 6],
                            ls='-' if i < 6 else '--', label=group)
        importance.set(yscale='log', xlabel='decisions', ylabel=signal or 'importance',
                       title='Importance of groups (mean over units, smoothed)')
        if first:
            importance.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), fontsize=7)
        return _svg(figure)


def importance(history: History) -> str:
    """Importance of groups over a training run, with the crossovers marked.

    One row per signal, the coupling views dashed; where there was pressure, two more rows with the
    coefficients and with what they did to the norms.

    Args:
        history: see `importance.history`.
    """
    stressed = bool(np.any(history.pressure > 0))
    rows = len(history.signals) + 2 * stressed
    with _figure(rows, 1, 8.2, 2.3 * rows, sharex=True) as (figure, axes):
        looks = _looks(history.groups)
        for axis, (signal, values) in zip(axes[:, 0], history.signals.items(), strict=False):
            for g, group in enumerate(history.groups):
                axis.plot(history.updates, values[:, g], lw=1.2, label=group, **looks[group])
            for view, colour in (('encoder->policy', '#000'), ('encoder->all', '#777')):
                if view in history.views:
                    axis.plot(history.updates,
                              history.view_signals[signal][:, history.views.index(view)],
                              ls=':', lw=1.2, color=colour, label=view)
            met = crossovers(history.updates, values, history.groups)
            axis.plot([c.update for c in met], [c.value for c in met], 'o', ms=3.5, mfc='none',
                      mec='#000', mew=0.8, label='crossover')
            axis.set(yscale='log', ylabel=signal)
            axis.set_title(f'{signal.capitalize()}: {len(met)} lasting crossovers')
        if stressed:
            pressure, norm = axes[-2:, 0]
            for g, group in enumerate(history.groups):
                pressure.plot(history.updates, history.pressure[:, g], lw=1, **looks[group])
                known = history.norm[np.isfinite(history.norm[:, g]), g]
                if len(known) and known[0] > 0:
                    norm.plot(history.updates, history.norm[:, g] / known[0], lw=1.2,
                              **looks[group])
            pressure.set(ylabel='lambda', title='Sparsity pressure')
            norm.set(ylabel='share', title='Norm, as a share of what it was')
        axes[-1, 0].set(xlabel='updates')
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside right upper',
                      fontsize=7)
        return _svg(figure)


def _looks(groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour by component, line style by depth; couplings black."""
    colours = ('#1b9e77', '#d95f02', '#7570b3', '#e7298a', '#66a61e', '#e6ab02', '#1f78b4')
    components = list(dict.fromkeys(g.partition('.')[0] for g in groups if '.' in g))
    looks: dict[str, dict[str, Any]] = {}
    for group in groups:
        component, dot, _ = group.partition('.')
        depth = sum(g.partition('.')[0] == component for g in looks)
        looks[group] = {'color': colours[components.index(component) % 7] if dot else '#000',
                        'ls': ('-', '--', '-.', ':')[depth % 4]}
    return looks
