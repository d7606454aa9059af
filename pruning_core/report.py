# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One page and one picture of a run folder: of the demo, of pruning, or of training.

The page is a single file that needs no network: styles and pictures stand in it. What it shows is
read from the files in the folder, so that it can be made again at any time. Pictures (SVG) that
other commands left in the folder are shown, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pruning_core import checkpoint as files
from pruning_core import figures
from pruning_core.doctor import examine
from pruning_core.errors import AgentError, explain
from pruning_core.importance.history import HISTORY, read_history
from pruning_core.page import (
    code,
    figure,
    folded,
    image,
    markup_table,
    render,
    row,
    section,
    table,
    text,
)

RESULT, PAGE, PICTURE, CURVE = 'result.json', 'report.html', 'picture.svg', 'learning_curve.svg'
IMPORTANCE_CURVES = 'importance.svg'
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>\n'


def write_report(folder: str | Path) -> Path:
    """Write `report.html` and `picture.svg` into a run folder; returns the page.

    Raises:
        AgentError: nothing in the folder can be reported on, or a file in it is damaged.
        MissingExtra: matplotlib is not installed.
    """
    folder = Path(folder)
    if (folder / RESULT).is_file():
        title, body, picture = _demo(read_json(folder / RESULT))
    elif (folder / files.PLAN).is_file():
        title, body, picture = _pruning(folder)
    elif (folder / files.METRICS).is_file():
        title, body, picture = _training(folder)
    else:
        raise AgentError(
            explain(f"a report of '{folder}' was asked for",
                    f'none of {RESULT}, {files.PLAN} and {files.METRICS} is in it'
                    if folder.is_dir() else 'there is no such folder',
                    'a folder that training, pruning or the demo wrote', 'name such a folder')
        )
    body += '\n' + _pictures(folder) + '\n' + _origin(folder)
    files.write_atomically(folder / PICTURE,
                           lambda p: p.write_text(_DECLARATION + picture, 'utf-8'))
    files.write_atomically(folder / PAGE, lambda p: p.write_text(render(title, body), 'utf-8'))
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
    header, *rows = comparison_rows(result)
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ['  '.join(cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i])
                       for i, cell in enumerate(row)).rstrip() for row in table]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])


def comparison_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
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
    sides = result.get('alone', 'dense against pruned')
    title = f"{result['env_id']}: {sides}, on the running plant"
    parts = [
        f'<p class="lead">{text(_lead(result))}</p>',
        section('Compared', row(table(comparison_rows(result)),
                                figure('Whole returns of the plant, which waits for nobody; both '
                                       'agents had the same seeds.', figures.returns(result)))),
        section('Tick by tick', figure(
            'Every tick of the controller. The dotted lines are events.',
            partial(figures.timeline, result))),
        section('Latency', figure(
            'Each curve is one agent: further right, the slower and rarer ticks. Below the line a '
            'tick keeps its deadline.', figures.latency_quantiles(result))),
    ]
    if 'plan' in result:
        parts.append(_cut(result['plan']))
    if 'job' in result:
        job = result['job']
        parts.append(section('The pruning job', table(
            [('setting', 'value'), *(
                (k, str(v)) for k, v in job.items() if k not in ('gates', 'id', 'seconds')),
             ('took', f"{job['seconds']:.0f} s, beside the running controller")])))
        parts.append(_gates(job.get('gates', {})))
    parts.append(section('What happened', table([('second', 'event'), *(
        (f"{e['t']:.1f}", e['what']) for e in result['events'])])))
    machine = result['machine']
    versions = ', '.join(f'{name} {version}' for name, version in result['versions'].items())
    parts.append(section(
        'How it was made',
        f'<p class="small">By {code(result["command"])} on {text(machine["cpu"])}, '
        f'{machine["cores"]} cores; {text(versions)}. Latency is the time from reading an '
        "observation to the command. Returns are the plant's own, which steps in real time "
        'whether or not a command has come. A deadline counts as missed for every whole period '
        'without a decision.</p>'))
    return title, '\n'.join(parts), figures.timeline(result)


def _lead(result: Mapping[str, Any]) -> str:
    dense, pruned = result.get('dense'), result.get('pruned')
    alone = result.get(result.get('alone', ''))
    if alone and alone['returns']:
        return (f"{alone['parameters']:,} parameters. A plan takes "
                f"{1e3 * alone['latency']['p50_s']:.1f} ms; deadlines missed: {alone['missed']}; "
                f'mean return of an episode: '
                f"{sum(alone['returns']) / len(alone['returns']):.0f}.")
    if dense is None or pruned is None or not pruned['returns'] or not dense['returns']:
        return 'The run ended before the pruned agent had controlled the plant.'

    def mean(side: Mapping[str, Any]) -> float:
        return float(sum(side['returns']) / len(side['returns']))

    return (f"{1 - pruned['parameters'] / dense['parameters']:.0%} of the parameters are gone. "
            f"A plan takes {1e3 * pruned['latency']['p50_s']:.1f} ms instead of "
            f"{1e3 * dense['latency']['p50_s']:.0f} ms; deadlines missed: {pruned['missed']} "
            f"instead of {dense['missed']}; mean return of an episode: {mean(pruned):.0f} instead "
            f'of {mean(dense):.0f}.' + (
                ' What the dense agent lacks, it loses to missed deadlines: without a clock it '
                'controls as well (see the gate).'
                if dense['missed'] > dense['ticks'] and mean(dense) < mean(pruned) else ''))


def _gates(gates: Mapping[str, Any]) -> str:
    """What was checked before the bundle was published."""
    if not gates:
        return ''
    ret, latency = gates['return'], gates['latency']
    limit_s = latency['allowed_share'] * latency['period_s']
    rows = [('return, planned without a clock',
             f"{ret['pruned']:.1f} against {ret['dense']:.1f} dense on {ret['seeds']} seeds; "
             f"difference {ret['difference']:+.1f} ({ret['low']:+.1f} to {ret['high']:+.1f})",
             f"a loss of {ret['allowed_loss']:.0%}", ret['loss'] <= ret['allowed_loss']),
            ('latency', f"99 % of plans within {1e3 * latency['p99_s']:.1f} ms, half within "
             f"{1e3 * latency['p50_s']:.1f} ms",
             f'{1e3 * limit_s:.0f} ms' if limit_s > 0 else 'anything',
             limit_s <= 0 or latency['p99_s'] <= limit_s),
            *_further_gates(gates),
            ('cut = masked', f"{gates['mask_equivalence']:.1e}", '1e-4',
             gates['mask_equivalence'] <= 1e-4),
            ('torch = onnxruntime', f"{gates['parity']:.1e}", '1e-4', gates['parity'] <= 1e-4)]
    verdict = {True: '<span class="pass">passed</span>', False: '<span class="fail">failed</span>'}
    untested = '' if gates.get('stability') else (
        '<p>Stability was not tested: its gate was off, or the plant states no goal.</p>')
    return section('Gates', markup_table(
        [('gate', 'measured', 'allowed', ''), *(
            (*map(text, cells), verdict[bool(good)]) for *cells, good in rows)], numeric=False)
        + untested)


def _further_gates(gates: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Rows of the gates that only some agents have to pass."""
    rows = []
    latency, stability = gates['latency'], gates.get('stability')
    if math.isfinite(latency.get('allowed_p50_s', math.inf)):
        rows.append(('budget', f"half of the plans within {1e3 * latency['p50_s']:.1f} ms",
                     f"{1e3 * latency['allowed_p50_s']:g} ms",
                     latency['p50_s'] <= latency['allowed_p50_s']))
    if stability:
        rows.append(('stability',
                     f"from {stability['violations']} of {stability['states']} states the goal is "
                     f"not reached within {stability['periods']} periods; at most "
                     f"{stability['bound']:.1%} of all (95 %)", f"{stability['allowed']:.1%}",
                     stability['bound'] <= stability['allowed']))
    return rows


def _cut(plan: Mapping[str, Any]) -> str:
    """What was asked for and what went, group by group, and why a group gave less."""
    why = dict(plan['skipped'])
    rows = [('group', 'before', 'kept', 'removed')]
    for name, units in plan['sizes'].items():
        gone = len(plan['removed'].get(name, ()))
        rows.append((name, f'{units:,}', f'{units - gone:,}', f'{gone / units:.0%}'))
    rows.append(('all parameters', f"{plan['parameters']:,}", f"{plan['parameters_left']:,}",
                 f"{1 - plan['parameters_left'] / plan['parameters']:.1%}"))
    reasons = table([('group', 'why it gave less than the budget wanted'), *why.items()])
    return section(
        'What was cut',
        f'<p>Asked for: {text(budget_text(plan, "requested"))}; achieved: '
        f'{text(budget_text(plan, "achieved"))}. Units are ranked by '
        f'{text(plan["score"] or "the given scores")}; the budget is shared out as '
        f'{text(plan["allocation"])}.</p>',
        row(figure('Units of every group: kept and removed.', figures.groups(plan)),
            table(rows)), reasons if why else '')


def budget_text(plan: Mapping[str, Any], which: str) -> str:
    """The budget of a plan, `requested` or `achieved`, in its own measure."""
    measure = plan.get('budget', 'parameters')
    if measure == 'milliseconds':
        return f'{plan[which]:.1f} ms'
    return f'{plan[which]:.1%} of the {measure} gone'


def _pruning(folder: Path) -> tuple[str, str, str]:
    plan = read_json(folder / files.PLAN)
    events = [r for r in read_records(folder) if r.get('event') == 'pruned']
    gone = plan['parameters'] - plan['parameters_left']
    parts = [f'<p class="lead">{gone:,} of {plan["parameters"]:,} parameters removed '
             f'({gone / plan["parameters"]:.1%}; asked for: '
             f'{text(budget_text(plan, "requested"))}), ranked by {text(plan["score"])}.</p>']
    if events:
        failed = events[-1]['failed']
        parts.append(f'<p class="fail">Refused: {text("; ".join(failed))}</p>' if failed else
                     f'<p>Every gate passed; the bundle is in {code("bundle/")}.</p>')
        parts.append(_gates(events[-1]['gates']))
    parts.append(_cut(plan))
    if (folder / files.EVALUATION).is_file():
        evaluation = read_json(folder / files.EVALUATION)
        drawn = figure('One dot a seed of the gate. On the grey line the pruned agent does as '
                       'well as the dense one, above it better.',
                       figures.gate_returns(evaluation)) if {
                           'dense', 'gate'} <= set(evaluation) else ''
        parts.append(section('Returns', row(_returns(evaluation), drawn)))
    return f'Pruning of {folder.name}', '\n'.join(parts), figures.groups(plan)


def _training(folder: Path) -> tuple[str, str, str]:
    records = _episodes(folder)
    last = records[-1]
    parts = [f'<p class="lead">{last["episode"] + 1} episodes, {last["decisions"]:,} decisions, '
             f'{last["updates"]:,} updates in {last["seconds"]:.0f} s.</p>',
             section('Learning', figure(
                 'Returns, losses, and how important each group of units was while training.',
                 partial(figures.learning_curve, records)))]
    if (folder / files.EVALUATION).is_file():
        parts.append(section('Returns', _returns(read_json(folder / files.EVALUATION))))
    if (folder / HISTORY).is_file():
        diagnosis = examine(folder)
        findings = table([('condition', 'group', 'update', 'what'), *(
            (f.condition, f.group, '' if f.update is None else str(f.update), f.text)
            for f in diagnosis.findings)], numeric=False) if diagnosis.findings else \
            '<p>None of the break conditions was met.</p>'
        parts.append(section(
            'Importance',
            figure('Importance of each group over training, with the updates at which two of '
                   'them change places.', partial(figures.importance,
                                                  read_history(folder / HISTORY))),
            findings, table([('fact', ''), *((k, str(v)) for k, v in diagnosis.facts.items())])))
    return f'Training of {folder.name}', '\n'.join(parts), figures.learning_curve(records)


def _returns(evaluation: Mapping[str, Any]) -> str:
    return table([('fixed seeds', 'episodes', 'mean', '95 % interval', 'worst'), *(
        (name, str(len(e['seeds'])), f"{e['mean']:.1f}", f"{e['low']:.1f} to {e['high']:.1f}",
         f"{e['worst']:.1f}") for name, e in evaluation.items())])


def _pictures(folder: Path) -> str:
    """Pictures that other commands left in the folder."""
    return section('Further pictures', *(
        image(path.stem.replace('_', ' '), path.read_bytes())
        for path in sorted(folder.glob('*.svg'))
        if path.name not in (PICTURE, CURVE, IMPORTANCE_CURVES)))


def _origin(folder: Path) -> str:
    """The command to make the run again, what it came from, and its whole configuration."""
    parts = []
    if (folder / files.COMMAND).is_file():
        command = (folder / files.COMMAND).read_text('utf-8').strip()
        parts.append(f'<p>Made by</p><pre>{text(command)}</pre>')
    if (folder / files.LINEAGE).is_file():
        parent = read_json(folder / files.LINEAGE).get('parent')
        if parent:
            parts.append(f'<p>Cut from the bundle {code(parent)}.</p>')
    if (folder / files.CONFIG).is_file():
        settings = (folder / files.CONFIG).read_text('utf-8')
        parts.append(folded('Configuration', f'<pre>{text(settings)}</pre>'))
    return section('To make it again', *parts)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that a run wrote.

    Raises:
        AgentError: the file is damaged.
    """
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


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Records of `metrics.jsonl`; a last line that was cut off is left out."""
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
    records = [r for r in read_records(folder) if 'episode' in r]
    if not records:
        raise AgentError(
            explain(f"a learning curve of '{folder}' was asked for", 'no episodes in its metrics',
                    f'{files.METRICS} of a training run', 'name the folder of a training run')
        )
    return records
