# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Fill the tables of docs/findings.md from the results that lie in docs/studies.

    python tools/findings.py            # after `make studies`
    python tools/findings.py --check    # says whether the page and the results agree

A table stands below `<!-- claims: NAME -->`; its first column says which claims of NAME.json it
shows, the others are written here. Below `<!-- values: NAME PATH -->` every cell is the value that
lies in NAME.json at PATH, where `{row}` and `{column}` stand for what its first column and its
head say. No number in them is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, STUDIES = ROOT / 'docs' / 'findings.md', ROOT / 'docs' / 'studies'
_MARK = re.compile(r'<!-- (?:claims|values): ')
_TABLE = re.compile(r'<!-- claims: ([\w/]+) -->\n(?:\|.*\n){2}((?:\|.*\n)+)')
_VALUES = re.compile(r'<!-- values: ([\w/]+) (\S.*?) -->\n(\|.*\n)(\|.*\n)((?:\|.*\n)+)')
_HEAD = '| measured | value (95 % interval) | n | verdict |\n|---|---|---|---|\n'


def filled(text: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with its tables as the results have them.

    Args:
        text: of the page.
        results: by name of the study.

    Raises:
        KeyError: a table names a claim or a value that its study has not.
        ValueError: a mark has no table below it.
    """
    def claims(match: re.Match[str]) -> str:
        study = match[1]
        rows = [_first(row) for row in match[2].splitlines()]
        return f'<!-- claims: {study} -->\n{_HEAD}' + ''.join(
            shown(name, _at(results, study, 'claims', name)) for name in rows)

    def values(match: re.Match[str]) -> str:
        study, path, head, rule, rows = match.groups()
        columns = [cell.strip() for cell in head.split('|')[2:-1]]
        return f'<!-- values: {study} {path} -->\n{head}{rule}' + ''.join(
            f'| {row} | ' + ' | '.join(estimate(_at(results, study, *path.format(
                row=_key(row), column=_key(column)).split('/'))) for column in columns) + ' |\n'
            for row in map(_first, rows.splitlines()))

    tables = len(_TABLE.findall(text)) + len(_VALUES.findall(text))
    if tables != len(_MARK.findall(text)):
        raise ValueError(f'{len(_MARK.findall(text))} tables are marked, and {tables} are there: '
                         'a mark stands right above its table, and a line ends every row')
    return _VALUES.sub(values, _TABLE.sub(claims, text))


def _first(row: str) -> str:
    return row.split('|')[1].strip()


def _key(label: str) -> str:
    """What a label is called in the results: without its unit, and in one word."""
    return label.removesuffix(' %').replace(', ', '-').replace(' ', '-')


def _at(results: Any, *keys: str) -> Any:
    found = results
    for key in keys:
        if not isinstance(found, dict) or found.get(key) is None:
            raise KeyError(f"a table asks for '{'/'.join(keys)}', and the results have no "
                           f"'{key}' there")
        found = found[key]
    return found


def estimate(value: Any) -> str:
    """A value with its interval."""
    value, low, high = (f'{x:,.0f}' if abs(x) >= 1000 else f'{x:.3g}'
                        for x in (value['value'], value['low'], value['high']))
    return f'{value} ({low} to {high})'


def shown(name: str, claim: dict[str, Any]) -> str:
    """One row."""
    return f"| {name} | {estimate(claim)} | {claim['n']} | {claim['verdict']} |\n"


def results() -> dict[str, dict[str, Any]]:
    """Every study whose result is kept, by name."""
    found = {path.stem: json.loads(path.read_text()) for path in STUDIES.glob('*.json')
             if path.stem != 'stability'}  # it has a page, and a tool, of its own
    return {name: result for name, result in found.items() if 'claims' in result}


def update(page: Path, after: str) -> int:
    """Write a page, or with `--check` only compare; returns the exit code."""
    before = page.read_text()
    if '--check' not in sys.argv[1:]:
        page.write_text(after)
    return int('--check' in sys.argv[1:] and before != after)


if __name__ == '__main__':
    sys.exit(update(PAGE, filled(PAGE.read_text(), results())))
