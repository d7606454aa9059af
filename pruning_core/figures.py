# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of runs as SVG text; matplotlib is the extra [viz].

Colours mean the same everywhere: orange is the dense agent, blue the pruned one, and grey is what
both are held against. Text stays text, so that a picture can be searched and read aloud. Wide
pictures are drawn for the width that is asked for, so that a phone gets one it can show.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning_core.errors import missing
from pruning_core.importance.crossovers import crossovers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pruning_core.importance.history import History

DENSE, PRUNED, LIMIT = '#d9741a', '#2166ac', '#8a8a8a'
INK, LINE, SOFT = '#222222', '#444444', '#555555'
# Inches: of a screen's column, and of a phone.
WIDE, NARROW = 8.0, 4.0
_STYLE: Any = {
    'svg.fonttype': 'none', 'svg.hashsalt': 'pruned_controller', 'font.family': 'sans-serif',
    'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.titlelocation': 'left', 'axes.titlesize': 10, 'axes.titleweight': 'bold',
    'text.color': INK, 'axes.labelcolor': INK, 'axes.titlecolor': INK, 'axes.edgecolor': INK,
    'xtick.color': INK, 'ytick.color': INK,
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
        raise missing('a picture was asked for', 'matplotlib', 'viz') from error
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


def _legend(axis: Axes, width: float, **options: Any) -> None:
    """Put a long legend beside the axes, or below them where the picture is narrow."""
    if width > 6:
        axis.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), fontsize=7, **options)
    else:
        axis.legend(loc='upper center', bbox_to_anchor=(0.45, -0.3), ncols=2, fontsize=7,
                    **options)


def _milliseconds(axis: Any) -> None:
    """Plain numbers at the ticks of a logarithmic axis."""
    from matplotlib.ticker import LogFormatter

    for which in (axis.set_major_formatter, axis.set_minor_formatter):
        which(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def timeline(result: Mapping[str, Any], width: float = WIDE) -> str:
    """Plan latency, reward and stability over the whole run, tick by tick.

    Args:
        result: of the demo; see `pruned_controller.demo`.
        width: of the picture, in inches.
    """
    ticks, period_ms = result['ticks'], 1e3 * result['period_s']
    t = np.array([x['t'] for x in ticks], float)
    names = {result[k]['hash'][:16]: k for k in ('dense', 'pruned') if k in result}
    who = np.array([names.get(x['model'], '') for x in ticks])
    with _figure(3, 1, width, 6.2, sharex=True) as (figure, axes):
        latency, reward, stability = axes[:, 0]
        milliseconds = 1e3 * np.array([x['latency_s'] for x in ticks], float)
        for name, colour in (('dense', DENSE), ('pruned', PRUNED)):
            mine = who == name
            if mine.any():
                latency.plot(t[mine], milliseconds[mine], '.', ms=3, color=colour, label=name)
        latency.axhline(period_ms, color=LIMIT, lw=1.2)
        latency.text(1.0, period_ms, f'period {period_ms:g} ms', ha='right', va='top',
                     color=SOFT, transform=latency.get_yaxis_transform())
        latency.set(yscale='log', ylabel='ms')
        _milliseconds(latency.yaxis)
        latency.set_title('Time from observation to command', pad=28 if width < 6 else 14)
        if names and len(t):
            latency.legend(loc='lower right', bbox_to_anchor=(1.0, 1.09), markerscale=3, ncols=2,
                           borderaxespad=0)
        measured = result['rewards']
        reward.plot([x['t'] for x in measured], [x['reward'] for x in measured], lw=0.8,
                    color=LINE)
        reward.set(ylabel='reward per step', title='Reward of the plant')
        ratio = np.array([x.get('stability', np.nan) for x in ticks], float)
        ratio[~np.isfinite(ratio)] = np.nan
        stability.plot(t, ratio, lw=0.8, color=LINE)
        stability.set(ylabel='share', xlabel='seconds since the start', ylim=(-0.02, 1.02),
                      title='Windows over which V decreased')
        _mark(axes[:, 0], result['events'])
        return _svg(figure)


def _mark(axes: Sequence[Axes], events: Sequence[Mapping[str, Any]]) -> None:
    """A thin line through all rows at every event, named at the top."""
    for event in events:
        for axis in axes:
            axis.axvline(event['t'], color='#bbb', lw=0.8, ls=':')
    following = math.inf
    for event in reversed(events[:-1]):
        if following - event['t'] < 0.02 * events[-1]['t']:
            # Two names would stand on each other; what came of it says more, as the swap does
            # after the gates. The page's list has them all.
            continue
        following = event['t']
        axes[0].annotate(event['what'].partition(':')[0], (following, 1.0), (2, 2),
                         xycoords=('data', 'axes fraction'), textcoords='offset points',
                         ha='left', va='bottom', fontsize=7, color=SOFT)


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


def latency_quantiles(result: Mapping[str, Any]) -> str:
    """How long the slowest share of the ticks took, of both agents, down to one in a thousand.

    Args:
        result: of the demo; see `pruned_controller.demo`.
    """
    with _figure(1, 1, 4.2, 3.0) as (figure, axes):
        axis = axes[0, 0]
        for name, colour in (('dense', DENSE), ('pruned', PRUNED)):
            side = result.get(name, {})
            mine = sorted(1e3 * x['latency_s'] for x in result['ticks']
                          if side and x['model'] == side['hash'][:16])
            if mine:
                axis.plot([(len(mine) - i) / len(mine) for i in range(len(mine))], mine,
                          drawstyle='steps-post', lw=1.4, color=colour, label=name)
        period_ms = 1e3 * result['period_s']
        axis.axhline(period_ms, color=LIMIT, lw=1.2)
        axis.text(0.0, period_ms, f' period {period_ms:g} ms', ha='left', va='bottom', color=SOFT,
                  fontsize=8, transform=axis.get_yaxis_transform())
        axis.set(xscale='log', yscale='log', ylabel='ms', title='Slowest share of the ticks',
                 xlabel='share of ticks that took at least this long')
        axis.invert_xaxis()
        axis.xaxis.set_major_formatter(lambda x, _: f'{100 * x:g} %')
        _milliseconds(axis.yaxis)
        if axis.lines[:-1]:
            axis.legend(loc='best')
        return _svg(figure)


def gate_returns(evaluation: Mapping[str, Any]) -> str:
    """Return of both agents on the gate's seeds, one dot a seed; on the diagonal they are equal.

    Args:
        evaluation: `dense` and `gate`, as pruning writes them.
    """
    dense = np.asarray(evaluation['dense']['returns'], float)
    pruned = np.asarray(evaluation['gate']['returns'], float)
    with _figure(1, 1, 4.2, 3.4) as (figure, axes):
        axis = axes[0, 0]
        both = np.concatenate([dense, pruned])
        margin = 0.06 * max(float(np.ptp(both)), 1e-9)
        ends = [both.min() - margin, both.max() + margin]
        axis.plot(ends, ends, color=LIMIT, lw=1.2)
        axis.plot(dense, pruned, 'o', ms=4, color=PRUNED, alpha=0.8)
        axis.set(xlim=ends, ylim=ends, xlabel='dense', ylabel='pruned',
                 title='Return, seed by seed')
        axis.set_aspect('equal')
        return _svg(figure)


def trade(points: Sequence[Mapping[str, Any]], width: float = WIDE) -> str:
    """Return and plan latency against the share of the parameters that is gone.

    Args:
        points: each `name`, `removed` (share), `mean`, `low`, `high` (return) and `p50_s`, `p99_s`
            (None where no plan was timed).
        width: of the picture, in inches.
    """
    beside = width > 6
    with _figure(*(1, 2) if beside else (2, 1), width, 3.0 if beside else 5.6) as (figure, axes):
        returns_axis, latency = axes.flat
        for i, point in enumerate(points):
            x, colour = 100 * point['removed'], (DENSE, PRUNED)[min(i, 1)]
            returns_axis.errorbar(
                x, point['mean'], yerr=[[point['mean'] - point['low']],
                                        [point['high'] - point['mean']]],
                fmt='o', ms=5, capsize=3, color=colour)
            returns_axis.annotate(chr(ord('A') + i), (x, point['mean']), (5, 3), fontsize=8,
                                  textcoords='offset points')
            if point['p50_s'] is not None:
                latency.plot([x, x], [1e3 * point['p50_s'], 1e3 * point['p99_s']], '-', lw=1.2,
                             color=colour)
                latency.plot(x, 1e3 * point['p50_s'], 'o', ms=5, color=colour)
                latency.annotate(chr(ord('A') + i), (x, 1e3 * point['p50_s']), (5, 3),
                                 fontsize=8, textcoords='offset points')
        for axis in (returns_axis, latency):
            axis.set(xlabel='parameters removed, %', xlim=(-5, 105))
        returns_axis.set(ylabel='return', title='Return and its 95 % interval')
        latency.set(ylabel='ms', ylim=(0, None), title='Plan: median to 99 %')
        return _svg(figure)


def learning_curve(records: Sequence[Mapping[str, Any]], width: float = WIDE) -> str:
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

    with _figure(3, 1, width, 7.4 if width > 6 else 8.6, sharex=True) as (figure, axes):
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
        losses.legend(loc='lower right', bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize=7,
                      borderaxespad=0.2)
        first: Mapping[str, Any] = next(
            (r['importance'] for r in records if r.get('importance')), {})
        signal = 'fisher' if 'fisher' in first else next(iter(first), '')
        colours = ('#1b9e77', '#d95f02', '#7570b3', '#e7298a', '#66a61e', '#e6ab02')
        for i, group in enumerate(first.get(signal, ())):
            importance.plot(*column('importance', signal, group), lw=1.1, color=colours[i % 6],
                            ls='-' if i < 6 else '--', label=group)
        importance.set(yscale='log', xlabel='decisions', ylabel=signal or 'importance',
                       title='Importance of groups, mean over units')
        if first:
            _legend(importance, width)
        return _svg(figure)


def importance(history: History, width: float = WIDE) -> str:
    """Importance of groups over a training run, with the crossovers marked.

    One row per signal, the coupling views dashed; where there was pressure, two more rows with the
    coefficients and with what they did to the norms.

    Args:
        history: see `importance.history`.
        width: inches.
    """
    stressed = bool(np.any(history.pressure > 0))
    rows = len(history.signals) + 2 * stressed
    with _figure(rows, 1, width, 2.3 * rows, sharex=True) as (figure, axes):
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


def planning(result: Mapping[str, Any]) -> str:
    """Time of a plan against the share of the parameters that is gone, with its floor.

    Args:
        result: of `benchmarks/planner.py`.
    """
    sizes = result['parameters']
    names = [n for n in sizes if n == 'dense' or n.startswith('pruned')]
    gone = [100 * (1 - sizes[n] / sizes['dense']) for n in names]

    def times(way: str, quantile: str) -> list[float]:
        return [1e3 * result['timings'].get(f'{n}|{way}', {}).get(quantile, math.nan)
                for n in names]

    with _figure(1, 1, 7.4, 4.2) as (figure, axes):
        from matplotlib.ticker import LogFormatter

        axis = axes[0, 0]
        axis.plot(gone, times('fp32', 'p50_s'), 'o-', color=PRUNED, label='32-bit floats, median')
        axis.plot(gone, times('int8', 'p50_s'), 's-', color='#67a9cf',
                  label='8-bit integers, median')
        axis.plot(gone, [result['floor_ms'][n] for n in names], '--', color=LIMIT,
                  label='floor: the multiplications alone')
        for name, text, colour in (
                ('reference in torch (ELU)', 'reference in torch', DENSE),
                (f"{result['best']}|fitted", f"{result['best']}, fitted budget", PRUNED)):
            ms = 1e3 * result['timings'][name]['p50_s']
            axis.axhline(ms, color=colour, lw=0.9, ls=':')
            axis.text(1.0, ms, f'{text}, {ms:.3g} ms', ha='right', va='bottom', color=colour,
                      transform=axis.get_yaxis_transform())
        axis.set(yscale='log', xlabel='parameters removed, %', ylabel='ms',
                 title='Time of one full plan, 512 samples x 6 iterations, one thread')
        axis.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False))
        axis.legend(loc='center left', bbox_to_anchor=(0.0, 0.3))
        return _svg(figure)


def growth(result: Mapping[str, Any]) -> str:
    """Time of a plan against each of its sizes, on logarithmic axes, with the floor.

    Args:
        result: of `benchmarks/growth.py`.
    """
    with _figure(2, 3, 8.6, 5.0) as (figure, axes):
        from matplotlib.ticker import NullLocator, ScalarFormatter

        for axis, (name, found) in zip(axes.flat, result.items(), strict=False):
            axis.plot(found['values'], found['ms'], 'o-', color=PRUNED, label='measured')
            axis.plot(found['values'], found['floor_ms'], '--', color=LIMIT, label='floor')
            axis.set(xscale='log', yscale='log', xlabel=name,
                     title=f"exponent {found['exponent']:.2f}")
            axis.set_xticks(found['values'])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(ScalarFormatter())
            _milliseconds(axis.yaxis)
        for axis in axes[:, 0]:
            axis.set_ylabel('ms')
        axes[0, 0].legend(loc='upper left')
        return _svg(figure)
