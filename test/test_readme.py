# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What the README says exists: parameters, services, topics, commands, files."""

import re
import shlex
from pathlib import Path

import pytest

from pruning_core.cli import parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()


def test_commands_parse():
    commands = re.findall(r'^python -m pruning_core (.*)$', README, re.M)
    assert len(commands) >= 6
    for command in commands:
        parser().parse_args(shlex.split(command))


def test_links_lead_somewhere():
    for target in re.findall(r'\]\(((?!http)[^)]+)\)', README):
        assert (ROOT / target).is_file(), target


def test_tables_of_parameters_are_those_of_the_nodes():
    pytest.importorskip('rclpy', reason='the tables of parameters need rclpy')
    from pruned_controller.parameters import CONTROLLER, PLANT, PRUNER

    text = README[README.index('## Parameters'):README.index('## More')]
    rows = [line for line in text.splitlines() if line.startswith('| `')]
    wanted = [f'| `{p.name}` | `{p.default!r}` | {p.text} |'
              for table in (CONTROLLER, PRUNER, PLANT) for p in table]
    assert rows == wanted


def test_services_and_topics_are_those_of_the_nodes():
    sources = ' '.join((ROOT / 'pruned_controller' / f'{node}_node.py').read_text()
                       for node in ('controller', 'pruner', 'plant'))
    names = re.findall(r'^\| `/(?:controller|pruner|plant)/(\w+)`', README, re.M)
    assert len(names) >= 16
    for name in names:
        assert re.search(rf"'(~/)?{name}'", sources), name
