# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One page and one picture of a run folder: of the demo, of pruning, or of training.

The page is a single file that needs no network: styles and pictures stand in it. What it shows is
read from the files in the folder, so that it can be made again at any time.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning_core import checkpoint as files
from pruning_core import figures
from pruning_core.doctor import examine
from pruning_core.errors import AgentError, explain
from pruning_core.importance.history import HISTORY, read_history

RESULT, PAGE, PICTURE, CURVE = 'result.json', 'report.html', 'picture.svg', 'learning_curve.svg'
IMPORTANCE_CURVES = 'importance.svg'
_PLAN = 'plan.json'
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>\n'
_CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:60rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin:1.8rem 0 .4rem}
p.lead{font-size:1.1rem;margin-top:0}table{border-collapse:collapse;margin:.5rem 0}
td,th{padding:.2rem .9rem .2rem 0;text-align:left;border-bottom:1px solid #e4e4e4;
font-variant-numeric:tabular-nums}th{font-weight:600}td.n,th.n{text-align:right}
svg{max-width:100%;height:auto}.row{display:flex;flex-wrap:wrap;gap:1rem}
.small{color:#666;font-size:.85rem}code{background:#f4f4f4;padding:.1rem .3rem}
"""


def write_report(folder: str | Path) -> Path:
    """Write `report.html` and `picture.svg` into a run folder; returns the page.

    Raises:
        AgentError: nothing in the folder can be reported on, or a file in it is damaged.
        MissingExtra: matplotlib is not installed.
    """
    folder = Path(folder)
    if (folder / RESULT).is_file():
        title, body, picture = _demo(_read(folder / RESULT))
    elif (folder / _PLAN).is_file():
        title, body, picture = _pruning(folder)
    elif (folder / files.METRICS).is_file():
        title, body, picture = _training(folder)
    else:
        raise AgentError(
            explain(f"a report of '{folder}' was asked for",
                    f'none of {RESULT}, {_PLAN} and {files.METRICS} is in it'
                    if folder.is_dir() else 'there is no such folder',
                    'a folder that training, pruning or the demo wrote', 'name such a folder')
        )
    page = (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>{_text(title)}</title>'
            f'<style>{_CSS}</style></head><body><h1>{_text(title)}</h1>\n{body}\n</body></html>\n')
    files.write_atomically(folder / PICTURE,
                           lambda p: p.write_text(_DECLARATION + picture, 'utf-8'))
    files.write_atomically(folder / PAGE, lambda p: p.write_text(page, 'utf-8'))
    return folder / PAGE


def draw_training(folder: str | Path) -> Path:
    """Draw `learning_curve.svg`, and `importance.svg` where importance was recorded.

    Returns:
        The learning curve.

    Raises:
        AgentError: the folder has no metrics of training.
        MissingExtra: matplotlib is not installed.
    """
    folder = Path(folder)
    picture = _DECLARATION + figures.learning_curve(_episodes(folder))
    files.write_atomically(folder / CURVE, lambda p: p.write_text(picture, 'utf-8'))
    if (folder / HISTORY).is_file():
        curves = _DECLARATION + figures.importance(read_history(folder / HISTORY))
        files.write_atomically(folder / IMPORTANCE_CURVES, lambda p: p.write_text(curves, 'utf-8'))
    return folder / CURVE


def text_table(result: Mapping[str, Any]) -> str:
    """Dense against pruned as plain text, for a terminal."""
    header, *rows = _comparison(result)
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ['  '.join(cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i])
                       for i, cell in enumerate(row)).rstrip() for row in table]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])


def _comparison(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the table: what, dense, pruned, and pruned as a share of dense."""
    sides = [result[k] for k in ('dense', 'pruned') if k in result]
    names = [k for k in ('dense', 'pruned') if k in result]
    both = len(sides) == 2

    def row(name: str, texts: Sequence[str], values: Sequence[float] = ()) -> tuple[str, ...]:
        factor = ''
        if both and len(values) == 2 and values[1] > 0 and math.isfinite(values[0] / values[1]):
            factor = f'{values[0] / values[1]:.1f} x'
        return (name, *texts, factor) if both else (name, *texts)

    def numbers(name: str, values: Sequence[float], form: str) -> tuple[str, ...]:
        return row(name, [form.format(v) for v in values], values)

    table = [row('', names),
             numbers('parameters', [s['parameters'] for s in sides], '{:,}'),
             row('plans x refinements',
                 [f"{s['samples']} x {s['iterations']}" for s in sides]),
             numbers('multiply-adds per decision', [s['macs'] / 1e6 for s in sides], '{:,.1f} M'),
             numbers('bundle', [s['bytes'] / 1e3 for s in sides], '{:,.0f} kB')]
    for key, name in (('p50_s', 'plan latency, median'), ('p99_s', 'plan latency, 99 %')):
        table.append(numbers(name, [1e3 * s['latency'][key] for s in sides], '{:.1f} ms'))
    table.append(row('deadlines missed', [
        f"{s['missed']} of {s['missed'] + s['ticks']}" for s in sides]))
    for i, seed in enumerate(result['seeds']):
        table.append(row(f'return, seed {seed}', [
            f"{s['returns'][i]:.1f}" if i < len(s['returns']) else '-' for s in sides]))
    table.append(row('return, mean', [
        f"{sum(s['returns']) / len(s['returns']):.1f}" if s['returns'] else '-' for s in sides]))
    return table


def _demo(result: Mapping[str, Any]) -> tuple[str, str, str]:
    picture = figures.timeline(result)
    title = f"{result['env_id']}: dense against pruned, on the running plant"
    parts = [f'<p class="lead">{_text(_lead(result))}</p>', _table(_comparison(result)), picture,
             '<div class="row">', figures.returns(result)]
    if 'plan' in result:
        parts.append(figures.groups(result['plan']))
    parts.append('</div>')
    if 'job' in result:
        job = result['job']
        parts.append('<h2>The pruning job</h2>')
        parts.append(_table([('setting', ''), *(
            (k, str(v)) for k, v in job.items() if k not in ('gates', 'id', 'seconds')),
            ('took', f"{job['seconds']:.0f} s, beside the running controller")]))
        parts += _gates(job.get('gates', {}))
    parts.append('<h2>What happened</h2>')
    parts.append(_table([('second', 'event'), *(
        (f"{e['t']:.1f}", e['what']) for e in result['events'])]))
    machine = result['machine']
    versions = ', '.join(f'{name} {version}' for name, version in result['versions'].items())
    parts.append(
        f'<p class="small">Made by <code>{_text(result["command"])}</code> on '
        f'{_text(machine["cpu"])}, {machine["cores"]} cores; {_text(versions)}. Latency is the '
        "time from reading an observation to the command. Returns are the plant's own, which "
        'steps in real time whether or not a command has come; both agents had the same seeds. A '
        'deadline counts as missed for every whole period without a decision.</p>')
    return title, '\n'.join(parts), picture


def _lead(result: Mapping[str, Any]) -> str:
    dense, pruned = result.get('dense'), result.get('pruned')
    if dense is None or pruned is None or not pruned['returns'] or not dense['returns']:
        return 'The run ended before the pruned agent had controlled the plant.'

    def mean(side: Mapping[str, Any]) -> float:
        return float(sum(side['returns']) / len(side['returns']))

    return (f"{1 - pruned['parameters'] / dense['parameters']:.0%} of the parameters are gone. "
            f"A plan takes {1e3 * pruned['latency']['p50_s']:.1f} ms instead of "
            f"{1e3 * dense['latency']['p50_s']:.0f} ms, {pruned['missed']} deadlines are missed "
            f"instead of {dense['missed']}, and the mean return of an episode is "
            f'{mean(pruned):.0f} instead of {mean(dense):.0f}. What the dense agent lacks, it '
            'loses to missed deadlines: without a clock it controls as well (see the gate).')


def _gates(gates: Mapping[str, Any]) -> list[str]:
    """Rows of what was checked before the bundle was published."""
    if not gates:
        return []
    ret, latency = gates['return'], gates['latency']
    rows = [('gate', 'measured', 'allowed'),
            ('return, planned without a clock',
             f"{ret['pruned']:.1f} against {ret['dense']:.1f} dense on {ret['seeds']} seeds; "
             f"difference {ret['difference']:+.1f} ({ret['low']:+.1f} to {ret['high']:+.1f})",
             f"a loss of {ret['allowed_loss']:.0%}"),
            ('latency', f"99 % of plans within {1e3 * latency['p99_s']:.1f} ms",
             f"{1e3 * latency['allowed_share'] * latency['period_s']:.0f} ms"
             if latency['allowed_share'] > 0 else 'anything'),
            ('cut = masked', f"{gates['mask_equivalence']:.1e}", '1e-4'),
            ('torch = onnxruntime', f"{gates['parity']:.1e}", '1e-4')]
    return ['<h2>Gates</h2>', _table(rows, numeric=False)]


def _pruning(folder: Path) -> tuple[str, str, str]:
    plan = _read(folder / _PLAN)
    picture = figures.groups(plan)
    events = [r for r in _records(folder) if r.get('event') == 'pruned']
    parts = [f'<p class="lead">{plan["parameters"] - plan["parameters_left"]:,} of '
             f'{plan["parameters"]:,} parameters removed ({plan["achieved"]:.1%}, '
             f'{plan["requested"]:.1%} asked for), ranked by {_text(plan["score"])}.</p>', picture]
    if events:
        failed = events[-1]['failed']
        parts += _gates(events[-1]['gates'])
        parts.append(f'<p>Refused: {_text("; ".join(failed))}</p>' if failed else
                     '<p>Every gate passed; the bundle is in <code>bundle/</code>.</p>')
    if plan['skipped']:
        parts.append('<h2>Groups that gave less than the budget wanted</h2>')
        parts.append(_table([('group', 'why'), *map(tuple, plan['skipped'])]))
    return f'Pruning of {folder.name}', '\n'.join(parts), picture


def _training(folder: Path) -> tuple[str, str, str]:
    records = _episodes(folder)
    picture = figures.learning_curve(records)
    last = records[-1]
    parts = [f'<p class="lead">{last["episode"] + 1} episodes, {last["decisions"]:,} decisions, '
             f'{last["updates"]:,} updates in {last["seconds"]:.0f} s.</p>', picture]
    if (folder / files.EVALUATION).is_file():
        rows: list[tuple[str, ...]] = [('fixed seeds', 'episodes', 'mean', '95 % interval',
                                        'worst')]
        for name, e in _read(folder / files.EVALUATION).items():
            rows.append((name, str(len(e['seeds'])), f"{e['mean']:.1f}",
                         f"{e['low']:.1f} to {e['high']:.1f}", f"{e['worst']:.1f}"))
        parts += ['<h2>Returns</h2>', _table(rows)]
    if (folder / HISTORY).is_file():
        diagnosis = examine(folder)
        parts += ['<h2>Importance</h2>', figures.importance(read_history(folder / HISTORY))]
        parts.append(_table([('condition', 'group', 'update', 'what'), *(
            (f.condition, f.group, '' if f.update is None else str(f.update), f.text)
            for f in diagnosis.findings)], numeric=False) if diagnosis.findings else
            '<p>None of the break conditions was met.</p>')
        parts.append(_table([('fact', ''), *((k, str(v)) for k, v in diagnosis.facts.items())]))
    return f'Training of {folder.name}', '\n'.join(parts), picture


def _table(rows: Sequence[Sequence[str]], *, numeric: bool = True) -> str:
    """The first row is the header; columns after the first are right-aligned where `numeric`."""
    def cells(row: Sequence[str], tag: str) -> str:
        right = ' class="n"' if numeric and len(row) > 2 else ''
        return ''.join(f'<{tag}{right if i else ""}>{_text(c)}</{tag}>'
                       for i, c in enumerate(row))

    return ('<table><thead><tr>' + cells(rows[0], 'th') + '</tr></thead><tbody>'
            + ''.join(f'<tr>{cells(row, "td")}</tr>' for row in rows[1:]) + '</tbody></table>')


def _text(value: object) -> str:
    return html.escape(str(value))


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text('utf-8'))
    except (ValueError, OSError) as error:
        raise AgentError(
            explain(f"'{path}' was read", f'it is damaged ({error})', 'JSON as it was written',
                    'make the run again')
        ) from error
    if not isinstance(value, dict):
        raise AgentError(
            explain(f"'{path}' was read", f'a {type(value).__name__}', 'a JSON object',
                    'make the run again')
        )
    return value


def _records(folder: Path) -> list[dict[str, Any]]:
    path = folder / files.METRICS
    if not path.is_file():
        return []
    records = []
    for line in path.read_text('utf-8').splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:  # the last line of a run that was cut off
            continue
    return records


def _episodes(folder: Path) -> list[dict[str, Any]]:
    records = [r for r in _records(folder) if 'episode' in r]
    if not records:
        raise AgentError(
            explain(f"a learning curve of '{folder}' was asked for", 'no episodes in its metrics',
                    f'{files.METRICS} of a training run', 'name the folder of a training run')
        )
    return records
