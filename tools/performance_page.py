# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Put what the benchmarks printed into docs/performance.md, from their results in docs/studies.

    make bench ARGS='--json docs/studies/planner.json'
    .venv/bin/python benchmarks/growth.py --json docs/studies/growth.json
    python tools/performance_page.py            # --check: do the page and the results agree?

What a benchmark prints stands below `<!-- printed: NAME -->`, tables of floors below
`<!-- rows: NAME -->`: `planner` of the run that is printed, another one kept of another processor.
No number in them is typed by hand.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from findings import ROOT, STUDIES, update

sys.path.insert(0, str(ROOT / 'benchmarks'))  # programs there import each other by name

PAGE = ROOT / 'docs' / 'performance.md'
_PRINTED = re.compile(r'<!-- printed: (\w+) -->\n```\n.*?```\n', re.DOTALL)
_FLOORS = re.compile(r'<!-- rows: (\w+) -->\n(?:\|.*\n)*')
PROGRAMS = {name: importlib.import_module(name) for name in ('planner', 'growth')}


def filled(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with what the results print.

    Args:
        text: of the page.
        results: content of the JSON files by name.

    Raises:
        KeyError: a block is of a benchmark that is not kept.
    """
    def block(match: re.Match[str]) -> str:
        name = match[1]
        return f'<!-- printed: {name} -->\n```\n{PROGRAMS[name].printed(results[name])}\n```\n'

    text = _PRINTED.sub(block, text)
    return _FLOORS.sub(
        lambda match: f"{match[0].splitlines()[0]}\n{floors(results[match[1]]['floors'])}", text)


def floors(found: Mapping[str, Mapping[str, float]]) -> str:
    """One line per width."""
    aims = PROGRAMS['planner'].TARGETS
    rows = [f"| {width} | {f['floor_ms']:.2f} | {f['ms']:.2f} | {f['ratio']:.2f} "
            f'| {aims[int(width)]:.2f} | {_known(f.get("cold"))} | {_known(f.get("products"))} |'
            for width, f in found.items()]
    return '\n'.join(['| width | floor ms | plan ms | ratio | at most | cold | products alone |',
                      '|---|---|---|---|---|---|---|', *rows]) + '\n'


def _known(ratio: float | None) -> str:
    return '' if ratio is None else f'{ratio:.2f}'


def results() -> dict[str, dict[str, Any]]:
    """What is kept of the benchmarks."""
    return {name: json.loads((STUDIES / f'{name}.json').read_text())
            for name in (*PROGRAMS, 'floors_avx2')}


if __name__ == '__main__':
    sys.exit(update(PAGE, filled(PAGE.read_text(), results())))
