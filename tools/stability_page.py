# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Fill the tables of docs/stability.md from the results of `study stability` in docs/studies.

    python tools/stability_page.py            # after the study
    python tools/stability_page.py --check    # says whether the page and the results agree

A table stands below `<!-- rows: NAME -->`, where NAME.json lies in docs/studies; one of claims as
`findings.py` says. No number in them is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import findings
from findings import ROOT, STUDIES

PAGE = ROOT / 'docs' / 'stability.md'
_TABLE = re.compile(r'<!-- rows: ([\w/]+) -->\n(?:\|.*\n)*')


def filled(text: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with its tables as the results have them.

    Args:
        text: of the page.
        results: content of the JSON files by name.

    Raises:
        KeyError: a table is of a result, or a row of a claim, that is not kept.
    """
    text = _TABLE.sub(lambda m: f'<!-- rows: {m[1]} -->\n{table(results[m[1]])}', text)
    return findings.filled(text, {n: r for n, r in results.items() if 'claims' in r})


def table(result: dict[str, Any]) -> str:
    """One line per sparsity and score: means over agents, and the worst of them for bounds."""
    late = sorted(k for k in result['table'][0] if k.endswith(' late'))
    periods = ', '.join(k.split()[1] for k in late)
    timed = all('latency' in r for r in result['rows'])
    head = ('removed', 'score', 'return', 'reach test: fail, worst bound',
            'near test: fail, worst bound, least margin', 'region, %',
            f'reached with {periods} periods late, %',
            *(('full plan, ms (periods late)',) if timed else ()))
    lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
    for line in result['table']:
        dense = line['sparsity'] == 0
        if dense and line['score'] != 'task':
            continue
        rows = [r for r in result['rows'] if r['sparsity'] == line['sparsity']
                and r['score'] == line['score']]
        reach, near = ([r[part] for r in rows] for part in ('region', 'local'))
        lines.append('| ' + ' | '.join((
            f"{line['sparsity']:.0%}", '' if dense else line['score'],
            _returned(line, rows), _failed([r['decrease'] for r in reach]),
            f"{_failed(near)}, {min(n['margin'] for n in near):.2f}",
            f"{100 * sum(r['share'] for r in reach) / len(reach):.1f}",
            ', '.join(_share(line, k) for k in late),
            *((f"{line['planning p50 ms']:.0f} ({line['delay of full planning']:g})",)
              if timed else ()))) + ' |')
    return '\n'.join(lines) + '\n'


def _returned(line: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Over agents where there are several, over episodes where there is one."""
    low, high = line.get('return interval') or rows[0]['return']['interval']
    return f"{line['return']:.1f} ({low:.1f} to {high:.1f})"


def _failed(found: Sequence[dict[str, Any]]) -> str:
    return (f"{sum(f['violations'] for f in found)} of {sum(f['states'] for f in found):,}, "
            f"{100 * max(f['bound'] for f in found):.2f} %")


def _share(line: dict[str, Any], key: str) -> str:
    if f'{key} interval' not in line:
        return f'{100 * line[key]:.0f}'
    low, high = (min(1.0, max(0.0, x)) for x in line[f'{key} interval'])
    return (f'{100 * line[key]:.0f}' if high - low < 0.005
            else f'{100 * line[key]:.0f} ({100 * low:.0f} to {100 * high:.0f})')


def results() -> dict[str, dict[str, Any]]:
    """Every kept result of the study, by its path below docs/studies."""
    return {str(path.relative_to(STUDIES).with_suffix('')): json.loads(path.read_text())
            for path in STUDIES.rglob('stability.json')}


if __name__ == '__main__':
    sys.exit(findings.update(PAGE, filled(PAGE.read_text(), results())))
