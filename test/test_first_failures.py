# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/first_failures.md that need no ROS: the mistake is made, the words are said."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pruning_core.cli import FAILED, REFUSED

ROOT = Path(__file__).resolve().parent.parent
TABLE = (ROOT / 'docs' / 'first_failures.md').read_text()
ROWS = dict(re.findall(r'^\| \*\*(.+?)\*\*.*? \| `([^`]+)`', TABLE, re.M))
WITH_ROS = {'no bundle parameter', 'int for double', 'out of range', 'wrong joint map',
            "another plant's bundle", 'two domains, or a firewall', 'QoS'}


@pytest.fixture
def says(capsys):
    """Run a command line that fails with a code; checks the words of a row."""
    def check(row, code, *arguments):
        from pruning_core.cli import main

        try:
            found = main([str(a) for a in arguments])
        except SystemExit as stop:
            found = stop.code
        said = capsys.readouterr().err
        assert found == code, said
        assert ROWS[row] in said
        assert 'Traceback' not in said

    return check


def without(module, *arguments):
    """Run Python where a module cannot be found."""
    hide = (f'import sys, importlib.abc\n'
            f'class Hide(importlib.abc.MetaPathFinder):\n'
            f'    def find_spec(self, name, path=None, target=None):\n'
            f'        if name.partition(".")[0] == {module!r}:\n'
            f'            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)\n'
            f'sys.meta_path.insert(0, Hide())\n')
    return subprocess.run([sys.executable, '-c', hide + '\n'.join(arguments)],
                          capture_output=True, text=True, check=False, cwd=ROOT)


def test_every_row_has_a_test():
    here = {name.replace('_', ' ') for name in re.findall(
        r'^def test_row_(\w+)', Path(__file__).read_text(), re.M)}
    plain = {re.sub(r'[^\w ]', '', row).lower(): row for row in ROWS}
    assert len(ROWS) == len(re.findall(r'^\| \*\*', TABLE, re.M)) >= 20
    assert here == set(plain) - {re.sub(r'[^\w ]', '', row).lower() for row in WITH_ROS}
    with_ros = (ROOT / 'test' / 'nodes' / 'test_first_failures.py').read_text()
    assert set(re.findall(r'ROWS\[(?:"|\')(.+?)(?:"|\')\]', with_ros)) == WITH_ROS


def test_row_no_ros():
    code = ('import sys, importlib.util',
            'find = importlib.util.find_spec',
            'importlib.util.find_spec = lambda n, *a: None if n == "rclpy" else find(n, *a)',
            'sys.argv = ["/opt/bin/controller_node"]',
            'import pruned_controller')
    done = subprocess.run([sys.executable, '-c', '\n'.join(code)], capture_output=True, text=True,
                          check=False, cwd=ROOT)
    assert done.returncode == FAILED and ROWS['no ROS'] in done.stderr
    assert 'Traceback' not in done.stderr


def test_row_old_python():
    done = subprocess.run(
        [sys.executable, '-c', 'import sys; sys.path.insert(0, "tools"); import setup_problems;'
         'raise setup_problems.wrong_python(["3.6.9 (/usr/bin/python3)"])'],
        capture_output=True, text=True, check=False, cwd=ROOT)
    assert ROWS['old Python'] in done.stderr and '3.6.9' in done.stderr


@pytest.mark.parametrize('module, row, arguments', [
    ('torch', 'torch missing', ['train', '--config', 'config/pendulum_quick.yaml']),
    ('rosbags', 'rosbags missing', ['replay', '.']),
    ('matplotlib', 'matplotlib missing', ['report', 'pruning_core/zoo/pendulum_dense']),
])
def test_a_missing_extra_is_named(module, row, arguments):
    if module == 'torch' and not (ROOT / arguments[-1]).is_file():
        pytest.skip('not in a checkout')
    done = without(module, 'from pruning_core.cli import main', f'sys.exit(main({arguments!r}))')
    assert done.returncode == FAILED, done.stderr
    assert ROWS[row] in done.stderr and 'pip install' in done.stderr
    assert 'Traceback' not in done.stderr


def test_row_torch_missing():
    """By `test_a_missing_extra_is_named`, like the next two."""


def test_row_rosbags_missing():
    """See above."""


def test_row_matplotlib_missing():
    """See above."""


def test_row_wrong_command(says):
    says('wrong command', FAILED, 'trian')


def test_row_wrong_agent(says):
    says('wrong agent', FAILED, 'inspect', 'pendulum_dnse')


def test_row_wrong_config(says):
    says('wrong config', FAILED, 'train', '--config', ROOT / 'config' / 'pendulm.yaml')


def test_row_unknown_key(says):
    says('unknown key', FAILED, 'train', '--config', ROOT / 'config' / 'pendulum_quick.yaml',
         '--set', 'training.epsodes=4')


def test_row_percent_for_share(says):
    says('percent for share', FAILED, 'prune', '--agent', 'pendulum_dense', '--sparsity', '95')


def test_row_unknown_environment(says, tmp_path):
    says('unknown environment', FAILED, 'train', '--config',
         ROOT / 'config' / 'pendulum_quick.yaml', '--out', tmp_path / 'a', '--set',
         'env.id=Pendulun-v1')


def test_row_discrete_actions(says, tmp_path):
    says('discrete actions', FAILED, 'train', '--config', ROOT / 'config' / 'pendulum_quick.yaml',
         '--out', tmp_path / 'a', '--set', 'env.id=CartPole-v1')


def test_row_your_plant_raises(says, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'plant_without_camera.py').write_text(
        'class Arm:\n    def __init__(self):\n        raise OSError("no camera")\n')
    says('your plant raises', FAILED, 'train', '--config', ROOT / 'config' / 'pendulum_quick.yaml',
         '--out', tmp_path / 'a', '--set', 'env.id=plant_without_camera:Arm')


def test_row_diverged_training(says, tiny, tmp_path):
    from pruning_core import config

    config.dump(tiny('agent.learning_rate=1e30'), tmp_path / 'tiny.yaml')
    says('diverged training', FAILED, 'train', '--config', tmp_path / 'tiny.yaml',
         '--out', tmp_path / 'a')


def test_row_folder_in_use(says, trained, tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    says('folder in use', FAILED, 'prune', '--agent', trained, '--out', tmp_path)
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


def test_row_too_small(says, trained, tmp_path):
    says('too small', REFUSED, 'prune', '--agent', trained, '--out', tmp_path / 'a', '--set',
         'pruning.gate_latency_share=1e-9')


def test_row_no_bundle(says, tmp_path):
    says('no bundle', FAILED, 'record', tmp_path / 'bundle', '--out', tmp_path / 'bag')


def test_row_damaged_bundle(says, trained, tmp_path, main):
    bundle = tmp_path / 'bundle'
    assert main('export', '--agent', trained, '--out', bundle) == 0
    content = (bundle / 'policy.onnx').read_bytes()
    (bundle / 'policy.onnx').write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    says('damaged bundle', FAILED, 'inspect', bundle)


def test_row_nothing_to_report(says, tmp_path):
    says('nothing to report', FAILED, 'report', tmp_path)


def test_row_readonly_folder(says, trained, tmp_path):
    (tmp_path / 'file').write_text('')  # a folder below a file: refused also to root
    says('read-only folder', FAILED, 'prune', '--agent', trained, '--out',
         tmp_path / 'file' / 'a')
