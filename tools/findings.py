# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Fill the tables of docs/findings.md from the results that lie in docs/studies.

    python tools/findings.py            # after `make studies`
    python tools/findings.py --check    # says whether the page and the results agree

A table stands below `<!-- claims: NAME -->`; its first column says which claims of NAME.json it
shows, the others are written here. No number in them is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, STUDIES = ROOT / 'docs' / 'findings.md', ROOT / 'docs' / 'studies'
_TABLE = re.compile(r'<!-- claims: ([\w/]+) -->\n(?:\|.*\n){2}((?:\|.*\n)+)')
_HEAD = '| measured | value (95 % interval) | n | verdict |\n|---|---|---|---|\n'


def filled(text: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with its tables as the results have them.

    Args:
        text: of the page.
        results: claims by name of the study.

    Raises:
        KeyError: a row names a claim that its study has not.
    """
    def table(match: re.Match[str]) -> str:
        study = match[1]
        rows = [row.split('|')[1].strip() for row in match[2].splitlines()]
        return f'<!-- claims: {study} -->\n{_HEAD}' + ''.join(
            shown(name, results[study][name]) for name in rows)

    return _TABLE.sub(table, text)


def shown(name: str, claim: dict[str, Any]) -> str:
    """One row."""
    return (f"| {name} | {claim['value']:.3g} ({claim['low']:.3g} to {claim['high']:.3g}) "
            f"| {claim['n']} | {claim['verdict']} |\n")


def results() -> dict[str, dict[str, Any]]:
    """The claims of every study whose result is kept."""
    found = {path.stem: json.loads(path.read_text()) for path in STUDIES.glob('*.json')
             if path.stem != 'stability'}  # it has a page, and a tool, of its own
    return {name: result['claims'] for name, result in found.items() if 'claims' in result}


def update(page: Path, after: str) -> int:
    """Write a page, or with `--check` only compare; returns the exit code."""
    before = page.read_text()
    if '--check' not in sys.argv[1:]:
        page.write_text(after)
    return int('--check' in sys.argv[1:] and before != after)


if __name__ == '__main__':
    sys.exit(update(PAGE, filled(PAGE.read_text(), results())))
