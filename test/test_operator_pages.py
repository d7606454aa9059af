# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What the page for operators says, against the sources it speaks of."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = {name: (ROOT / 'docs' / name).read_text() for name in ('operations.md', 'security.md')}


def test_table_of_parameters_is_that_of_the_node():
    pytest.importorskip('rclpy', reason='the tables of parameters need rclpy')
    from pruned_controller.parameters import CONTROLLER

    page = PAGES['operations.md']
    section = page[page.index('## Parameters'):page.index('## Real-time settings')]
    rows = [line for line in section.splitlines() if line.startswith('| `')]
    wanted = []
    for p in CONTROLLER:
        span = '' if p.low is None else f'{p.low:g} to {p.high:g}'
        when = 'while unconfigured' if p.fixed else 'at any time'
        wanted.append(f'| `{p.name}` | `{p.default!r}` | {span} | {when} |')
    assert rows == wanted


@pytest.mark.parametrize('page', PAGES)
def test_names_in_the_text_exist(page):
    sources = ' '.join(p.read_text() for folder in ('pruned_controller', 'pruning_core')
                       for p in (ROOT / folder).rglob('*.py'))
    for name in re.findall(r'`((?:realtime|swap|planner|fault_injection)\.\w+)', PAGES[page]):
        assert name in sources, name
    for name in re.findall(r'`~/(\w+)`', PAGES[page]):
        assert name == 'snapshot' or re.search(rf"['/]{name}'", sources), name


@pytest.mark.parametrize('page', PAGES)
def test_links_and_files_exist(page):
    for target in re.findall(r'\]\(((?!http)[^)]+)\)', PAGES[page]):
        assert (ROOT / 'docs' / target).is_file(), target
    for name in re.findall(r'`((?:config|test)/[\w/.]+)`', PAGES[page]):
        assert (ROOT / name).exists(), name


def test_limits_of_bundles_are_those_that_are_stated():
    from pruning_core.runtime import bundle

    text = PAGES['security.md']
    assert f'{bundle._MAX_GRAPH >> 20} MiB a graph' in text
    assert f'{bundle._MAX_MANIFEST >> 20} MiB a manifest' in text
    assert f'{bundle.MAX_TOTAL >> 30} GiB' in text


def test_modes_are_those_of_the_supervisor():
    from pruning_core.runtime.supervisor import Mode

    rows = re.findall(r'^\| `(\w+)` \| [^`]', PAGES['operations.md'], re.M)
    assert {m.value for m in Mode} <= {*rows, 'fallback'}
    assert '| `fallback` |' in PAGES['operations.md']
