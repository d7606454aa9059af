# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The page on stability says what the kept results of the study say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
import stability_page  # noqa: E402


def row(agent: str, sparsity: float, violations: int) -> dict[str, Any]:
    decrease = {'violations': violations, 'states': 1000, 'bound': 0.003 + violations / 100,
                'margin': 0.5 - violations / 10}
    return {'agent': agent, 'sparsity': sparsity, 'score': 'task', 'local': decrease,
            'region': {'share': 0.5, 'decrease': decrease},
            'return': {'mean': -150.0, 'interval': [-160.0, -140.0]}}


def test_tables_agree_with_the_results():
    text = stability_page.PAGE.read_text()
    assert stability_page.filled(text, stability_page.results()) == text, \
        'run: python tools/stability_page.py'


def test_every_result_is_on_the_page_with_its_command():
    text = stability_page.PAGE.read_text()
    for name, result in stability_page.results().items():
        assert f'<!-- rows: {name} -->' in text and result['command'] in text
        assert f'studies/{name}_table.svg' in text and not result['failed']
        assert '"/' not in json.dumps(result)


def test_a_table_has_sums_and_the_worst_agent():
    line = {'sparsity': 0.5, 'score': 'task',
            'return': -150.0, 'return interval': [-155.0, -145.0],
            'reached, 1 late': 0.98, 'reached, 1 late interval': [0.95, 1.01]}
    found = stability_page.table({'table': [line], 'rows': [row('a', 0.5, 0), row('b', 0.5, 2)]})
    assert found.splitlines()[-1] == (
        '| 50% | task | -150.0 (-155.0 to -145.0) | 2 of 2,000, 2.30 % | 2 of 2,000, 2.30 %, 0.30 '
        '| 50.0 | 98 (95 to 100) |')


def test_one_agent_has_the_interval_of_its_episodes():
    line = {'sparsity': 0.0, 'score': 'task', 'return': -150.0, 'reached, 0 late': 1.0}
    found = stability_page.table({'rows': [row('a', 0.0, 0)],
                                  'table': [line, {**line, 'score': 'stability-aware'}]})
    assert found.count('\n') == 3 and '| 0% |  | -150.0 (-160.0 to -140.0) |' in found
    assert found.endswith('| 100 |\n')


def test_planning_times_are_shown_where_they_were_taken():
    line = {'sparsity': 0.0, 'score': 'task', 'return': -150.0, 'reached, 0 late': 1.0,
            'planning p50 ms': 249.6, 'delay of full planning': 4.0}
    timed = {**row('a', 0.0, 0), 'latency': {'p50_s': 0.2496, 'delay': 4}}
    found = stability_page.table({'rows': [timed], 'table': [line]})
    assert found.splitlines()[0].endswith('| full plan, ms (periods late) |')
    assert found.endswith('| 100 | 250 (4) |\n')


def test_a_result_that_is_not_kept():
    with pytest.raises(KeyError):
        stability_page.filled('<!-- rows: gone -->\n', {})
