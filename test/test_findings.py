# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The page of findings says what the kept results say, and shows every study that is kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pruning_core import studies

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import findings  # noqa: E402


def test_numbers_agree():
    assert findings.filled(findings.PAGE.read_text(), findings.results()) == \
        findings.PAGE.read_text(), 'run: python tools/findings.py'


def test_a_row_is_filled():
    text = '<!-- claims: a -->\n| x |\n|---|\n| it is | old |\n\nend\n'
    claim = {'value': 1.23456, 'low': 1, 'high': 2.0, 'n': 5, 'verdict': 'holds'}
    assert '| it is | 1.23 (1 to 2) | 5 | holds |\n\nend' in findings.filled(
        text, {'a': {'claims': {'it is': claim}}})
    for found in {'a': {'claims': {'it was': claim}}}, {'a': {'claims': {}}}:
        with pytest.raises(KeyError, match="'a/claims/it is', and .* no 'it is'"):
            findings.filled(text, found)
    with pytest.raises(KeyError, match="no 'a' there"):
        findings.filled(text, {})


def test_values_are_filled():
    text = ('<!-- values: a cells/{row}_{column}/lost -->\n| way | 50 % | 90 % |\n|---|---|---|\n'
            '| l1 | old | |\n| scratch short | | |\n\n| l1 | not mine |\n')
    cells = {f'{way}_{size}': {'lost': {'value': size + 0.1234, 'low': 1, 'high': 100, 'n': 5}}
             for way in ('l1', 'scratch-short') for size in (50, 90)}
    found = findings.filled(text, {'a': {'cells': cells}})
    assert ('| way | 50 % | 90 % |\n|---|---|---|\n| l1 | 50.1 (1 to 100) | 90.1 (1 to 100) |\n'
            '| scratch short | 50.1 (1 to 100) | 90.1 (1 to 100) |\n\n| l1 | not mine |') in found
    assert findings.filled(found, {'a': {'cells': cells}}) == found
    with pytest.raises(KeyError, match="'a/cells/l1_95/lost', and .* no 'l1_95'"):
        findings.filled(text.replace('90 %', '95 %'), {'a': {'cells': cells}})
    cells['l1_90']['lost'] = None
    with pytest.raises(KeyError, match="no 'lost' there"):
        findings.filled(text, {'a': {'cells': cells}})
    cells['l1_90']['lost'] = {'value': -1234.5, 'low': -2e5, 'high': 0.12345}
    assert '| -1,234 (-200,000 to 0.123) |' in findings.filled(text, {'a': {'cells': cells}})
    with pytest.raises(ValueError, match='1 tables are marked, and 0 are there'):
        findings.filled(text.replace(' -->\n', ' -->\n\n'), {'a': {'cells': cells}})


@pytest.mark.parametrize('name', sorted(findings.results()))
def test_what_is_kept_says_how_it_was_made(name):
    """Command, seeds, and nothing of the machine that it ran on."""
    kept = json.loads((findings.STUDIES / f'{name}.json').read_text())
    page = findings.PAGE.read_text()
    assert kept['command'] in page and f'studies/{name}.svg' in page
    assert kept['trials'] > 0 and not kept['failed'] and len(kept['seeds']) >= 3
    assert kept['quick'] is ('--quick' in kept['command'])
    assert '"/' not in json.dumps(kept)


def test_every_study_has_its_place():
    """In the command, the make targets and on the page."""
    page, makefile = findings.PAGE.read_text(), (ROOT / 'Makefile').read_text()
    for name in studies.NAMES:
        found = studies.find(name)
        assert found.name == name and found.question.endswith('?')
        assert set(found.quick) <= set(found.settings.__dataclass_fields__)
        assert f'study {name}' in page and name in makefile
