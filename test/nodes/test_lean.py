# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What the controller's process leaves out, and what it must still compute alike."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

CODE = """
import hashlib, sys
import pruned_controller
import numpy.random
print(type(sys.modules.get('_hashlib')).__name__, hashlib.sha256(b'bundle').hexdigest())
"""


def imported(name: str) -> list[str]:
    """What the code says in a process that was started as `name`."""
    done = subprocess.run(
        [sys.executable, '-c', 'import pruned_controller\n' + CODE, name], check=True,
        capture_output=True, text=True)
    return done.stdout.split()


@pytest.mark.parametrize('name', ['/opt/ros/bin/controller_node', 'controller_node.py',
                                  'pruned_controller.controller_node'])
def test_controller_hashes_without_openssl(name):
    assert imported(name) == ['NoneType', hashlib.sha256(b'bundle').hexdigest()]


def test_other_processes_are_left_alone():
    assert imported('pruned_controller.pruner_node')[0] == 'module'


def test_controller_loads_nothing_that_only_some_need():
    """Archives are for who receives bundles, joint states for who is fed by them."""
    done = subprocess.run(
        [sys.executable, '-c', 'import pruned_controller.controller_node, sys\n'
         'print(*{name.partition(".")[0] for name in sys.modules})'], check=True,
        capture_output=True, text=True)
    assert not {'tarfile', 'sensor_msgs', 'gymnasium', 'torch'} & set(done.stdout.split())
