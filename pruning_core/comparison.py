# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Run folders side by side on one page: `report --compare A B`.

Agents are held against each other by size, groups, returns, latency and settings; two runs of the
demo by their pruned agents. Everything is read from the folders, nothing is run again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from pruning_core import checkpoint as files
from pruning_core import figures
from pruning_core.errors import AgentError, explain
from pruning_core.page import code, figure, render, row, section, table, text
from pruning_core.report import RESULT, budget_text, comparison_rows, read_json


def write_comparison(folders: Sequence[str | Path], page: str | Path) -> Path:
    """Write one page about several run folders; returns it.

    Args:
        folders: two or more, all of agents or all of the demo.
        page: the HTML file to write.

    Raises:
        AgentError: too few folders, of different kinds, or a damaged file in one.
        MissingExtra: matplotlib is not installed.
    """
    paths, page = [Path(folder) for folder in folders], Path(page)
    kinds = [_kind(path) for path in paths]
    if len(paths) < 2 or len(set(kinds)) > 1:
        found = ', '.join(f"'{p}' ({k})" for p, k in zip(paths, kinds, strict=True))
        raise AgentError(
            explain('a comparison was asked for', f'of {found or "nothing"}',
                    'two or more folders, all of agents or all of the demo',
                    'name them: report --compare A B')
        )
    letters = [chr(ord('A') + i) for i in range(len(paths))]
    lead = '<p class="lead">' + '<br>'.join(
        f'{letter}: {code(path)}' for letter, path in zip(letters, paths, strict=True)) + '</p>'
    body = _demos(paths, letters) if kinds[0] == 'demo' else _agents(paths, letters)
    page.parent.mkdir(parents=True, exist_ok=True)
    names = ' and '.join(path.name for path in paths)
    content = render(f'{names}, side by side', lead + '\n' + body)
    files.write_atomically(page, lambda p: p.write_text(content, 'utf-8'))
    return page


def _kind(path: Path) -> str:
    if (path / RESULT).is_file():
        return 'demo'
    if (path / files.CONFIG).is_file():
        return 'agent'
    return 'no run folder' if path.is_dir() else 'not there'


def _demos(paths: Sequence[Path], letters: Sequence[str]) -> str:
    results = [read_json(path / RESULT) for path in paths]
    tables = [section(f'{letter}: {path.name}', table(comparison_rows(result)))
              for letter, path, result in zip(letters, paths, results, strict=True)]
    drawn = [figure(f'{letter}: the slowest share of the ticks.', figures.latency_quantiles(r))
             for letter, r in zip(letters, results, strict=True)]
    return row(*tables) + section('Latency', row(*drawn))


def _agents(paths: Sequence[Path], letters: Sequence[str]) -> str:
    facts = [_facts(path) for path in paths]
    measured, why = _on_common_seeds(facts)
    if any('gate' in fact['evaluation'] for fact in facts):
        for fact, found in zip(facts, measured, strict=False):
            fact['shown'] |= _row('gate', found)
    names = list(dict.fromkeys(name for fact in facts for name in fact['shown']))
    parts = [section('Compared', table([('', *letters), *(
        (name, *(fact['shown'].get(name, '-') for fact in facts)) for name in names)]))]
    if measured:
        points = [{'removed': fact['removed'], 'p50_s': None, 'p99_s': None,
                   **{key: found[key] for key in ('mean', 'low', 'high')},
                   **(fact['latency'] or {})}
                  for fact, found in zip(facts, measured, strict=True)]
        seeds = len(measured[0]['seeds'])
        parts.append(section('What the cut costs and buys', figure(
            f'Left: mean return on the same {seeds} seeds. Right: a whole plan, from the median '
            'to the 99 % quantile.', partial(figures.trade, points))))
    else:
        parts.append(section('What the cut costs and buys', f'<p>{text(why)}</p>'))
    plans = [fact['plan'] for fact in facts]
    if all(plans):
        groups = list(dict.fromkeys(name for plan in plans for name in plan['sizes']))
        parts.append(section(
            'Units kept', table([('group', *letters), *(
                (group, *(_kept(plan, group) for plan in plans)) for group in groups)]),
            row(*(figure(f'{letter}: units of every group.', figures.groups(plan))
                  for letter, plan in zip(letters, plans, strict=True)))))
    settings = [fact['settings'] for fact in facts]
    keys = sorted({key for s in settings for key in s})
    different = [(key, *(str(s.get(key, '-')) for s in settings)) for key in keys
                 if len({str(s.get(key, '-')) for s in settings}) > 1]
    parts.append(section('Settings that differ', table([('setting', *letters), *different])
                         if different else f'<p>{text("None.")}</p>'))
    return '\n'.join(parts)


def _on_common_seeds(facts: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The return of every agent on the same seeds of one plant; where there is none, why.

    What a gate has measured of an agent, or the gate of a smaller one of it, as the agent that
    it was cut from; else what training ended with.
    """
    if len({fact['settings'].get('env.id') for fact in facts}) > 1:
        return [], 'They control different plants, whose returns cannot be held together.'
    cut_from = {fact['of']: fact['evaluation']['dense'] for fact in facts
                if fact['of'] and 'dense' in fact['evaluation']}
    found = []
    for fact in facts:
        found.append(fact['evaluation'].get('gate') or cut_from.get(fact['weights'])
                     or fact['evaluation'].get('planned'))
    if not all(found):
        return [], 'Not all of them were evaluated.'
    if len({tuple(e['seeds']) for e in found}) > 1:
        return [], ('Their returns are of different seeds. On the same ones: python -m '
                    'pruning_core evaluate --agent FOLDER --episodes 20 --write, for each.')
    return found, ''


def _row(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    return {f'{name}: mean return': f"{found['mean']:.1f}",
            f'{name}: 95 % interval': f"{found['low']:.1f} to {found['high']:.1f}",
            f'{name}: worst': f"{found['worst']:.1f}"}


def _kept(plan: Mapping[str, Any], group: str) -> str:
    if group not in plan['sizes']:
        return '-'
    units = plan['sizes'][group]
    return f"{units - len(plan['removed'].get(group, ()))} of {units}"


def _facts(path: Path) -> dict[str, Any]:
    """What one agent folder tells: rows to show, what it was measured by, plan and settings."""
    plan, evaluation, lineage = (
        read_json(path / name) if (path / name).is_file() else {}
        for name in (files.PLAN, files.EVALUATION, files.LINEAGE))
    shown, removed = {'parameters': f'{_parameters(path):,}'}, 0.0
    if plan:
        removed = 1 - plan['parameters_left'] / plan['parameters']
        shown |= {'parameters removed': f'{removed:.1%}',
                  'asked for': budget_text(plan, 'requested'),
                  'ranked by': plan['score'], 'shared out': plan['allocation']}
    for name, e in evaluation.items():
        shown |= _row(name, e)
    gates = lineage.get('gates', {})
    latency = gates.get('latency')
    if latency:
        shown |= {'plan, median': f"{1e3 * latency['p50_s']:.1f} ms",
                  'plan, 99 %': f"{1e3 * latency['p99_s']:.1f} ms",
                  'gates': 'failed' if lineage.get('failed') else 'passed'}
    return {'shown': shown, 'plan': plan, 'settings': _flat(path), 'removed': removed,
            'evaluation': evaluation, 'latency': latency, 'of': lineage.get('of'),
            'weights': files.weights_hash(path)}


def _parameters(path: Path) -> int:
    """Parameters of the components, told by the header of the weights."""
    try:
        with safe_open(str(path / files.AGENT), 'np') as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in sorted(file.keys())
                       if name.startswith('components.'))
    except (SafetensorError, OSError) as error:
        raise AgentError(
            explain(f"'{path / files.AGENT}' was read", f'it cannot be ({error})',
                    'the weights of a run that was finished', 'finish the run, or copy it again')
        ) from error


def _flat(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load((path / files.CONFIG).read_text('utf-8'))
        return {f'{section}.{key}': value for section, keys in values.items()
                for key, value in keys.items()}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise AgentError(
            explain(f"'{path / files.CONFIG}' was read",
                    f'it is damaged ({" ".join(str(error).split())})', 'YAML as it was written',
                    'make the run again')
        ) from error
