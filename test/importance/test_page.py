# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What docs/importance.md shows runs, and the settings it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORTANCE = (ROOT / 'docs' / 'importance.md').read_text()


def test_three_lines_on_a_model_that_is_not_ours():
    """In a fresh process: scores of all three groups, and an order of the latent's channels."""
    (code,) = re.findall(r'```python\n(.*?)```', IMPORTANCE, re.S)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    scores, order = done.stdout.splitlines()
    assert set(eval(scores)) == {'encoder.hidden1', 'latent', 'decoder.hidden1'}
    assert sorted(map(int, re.findall(r'\d+', order))) == list(range(8))


@pytest.mark.parametrize('section', ['importance', 'sparsity', 'training'])
def test_settings_that_are_named_exist(section):
    from pruning_core.config import Config, to_dict

    known = to_dict(Config())
    named = set(re.findall(rf'`{section}\.(\w+)', IMPORTANCE)) - {'baselines', 'history', 'svg'}
    assert named and named <= set(known[section]), named - set(known[section])
