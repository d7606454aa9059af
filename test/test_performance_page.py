# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The page on performance says what the benchmarks printed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import performance_page as page  # noqa: E402


def test_the_page_agrees_with_the_results():
    text = page.PAGE.read_text()
    assert page.filled(text, page.results()) == text, 'run: python tools/performance_page.py'
    assert set(re.findall('<!-- ((?:printed|rows): .*?) -->', text)) == {
        *(f'printed: {name}' for name in page.PROGRAMS), 'rows: planner', 'rows: floors_avx2'}


def test_the_returns_of_the_page_are_those_that_are_kept():
    """Times are of one run, and returns of another: these must not have changed since."""
    stored = json.loads((ROOT / 'benchmarks' / 'returns.json').read_text())
    kept = page.results()['planner']
    assert kept['returns'] == stored['returns'] and kept['choice'] == stored['choice']


def test_summaries_come_from_the_rest():
    kept = page.results()['planner']
    found = page.PROGRAMS['planner'].keys(kept)
    assert {k: kept[k] for k in found} == found


def test_floors_are_a_table():
    found = {'floor_ms': 7.2, 'ms': 9.0, 'ratio': 1.25}
    assert page.floors({'64': found, '32': {**found, 'cold': 1.3, 'products': 1.1}}
                       ).splitlines()[2:] == [
        '| 64 | 7.20 | 9.00 | 1.25 | 1.45 |  |  |',
        '| 32 | 7.20 | 9.00 | 1.25 | 1.90 | 1.30 | 1.10 |']


def test_a_block_of_something_else():
    with pytest.raises(KeyError):
        page.filled('<!-- printed: other -->\n```\nold\n```\n', {})
