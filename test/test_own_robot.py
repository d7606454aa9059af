# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The guide to a robot of one's own: what it shows is what is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pruning_core import config as configuration
from pruning_core.cli import main, parser

DOCS = Path(__file__).resolve().parent.parent / 'docs'
GUIDES = (DOCS / 'own_robot.md', DOCS / 'agent.md')


@pytest.mark.parametrize('guide', GUIDES, ids=lambda p: p.stem)
def test_commands_parse(guide):
    text = guide.read_text()
    for command in re.findall(r'^python -m pruning_core (.*)$', text, re.M):
        parser().parse_args(shlex.split(command))
    for path in re.findall(r'`((?:config|benchmarks|pruning_core)/[\w./]+)`', text):
        assert (DOCS.parent / path).exists(), path


def test_configurations_load():
    for text in re.findall(r'```yaml\n(.*?)```', (DOCS / 'own_robot.md').read_text(), re.S):
        configuration.from_dict(yaml.safe_load(text))


def test_what_check_env_answers(capsys):
    """All but the speed, which is the machine's."""
    main(['check-env', 'pruning_core.cartpole:CartPoleSwingUp'])
    lines = [line for line in capsys.readouterr().out.splitlines() if 'speed' not in line]
    guide = (DOCS / 'own_robot.md').read_text()
    assert len(lines) == 7 and all(line in guide for line in lines)
