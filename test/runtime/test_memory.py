# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Freed memory stays with the process where the C library allows it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from pruning_core.runtime.memory import keep_freed_memory, return_freed_memory

FAULTS = """
import ctypes, resource, sys
import numpy as np
from pruning_core.runtime.memory import keep_freed_memory
if sys.argv[1] == 'keep':
    assert keep_freed_memory()
def use():
    for _ in range(20):
        np.ones(2_000_000, np.float32)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='not glibc')
def test_blocks_are_not_fetched_page_by_page_again():
    """8 MB, twenty times: fresh pages each time, or none."""
    faults = {how: int(subprocess.run([sys.executable, '-c', FAULTS, how], text=True, check=True,
                                      capture_output=True).stdout) for how in ('leave', 'keep')}
    assert faults['keep'] < 200
    assert faults['keep'] < faults['leave'] or faults['leave'] < 200


HOLES = """
import sys
from pruning_core.runtime.memory import return_freed_memory
if sys.argv[1] == 'return':
    assert return_freed_memory()

def held():
    with open('/proc/self/statm') as file:
        return 4 * int(file.read().split()[1])

bytearray(30 << 20)  # freed at once: from now on glibc keeps smaller blocks than that
before = held()
blocks, small = [], []
for _ in range(64):
    blocks.append(bytearray(b'x' * (1 << 20)))
    small.append(bytearray(b'x' * 50_000))  # so that what lies below is no end of the heap
del blocks
print(held() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='not glibc')
def test_large_blocks_are_given_back_where_small_ones_lie_between_them():
    kept = {how: int(subprocess.run([sys.executable, '-c', HOLES, how], text=True, check=True,
                                    capture_output=True).stdout) for how in ('leave', 'return')}
    assert kept['return'] < 10_000  # KiB, 3,200 of them the small ones', of 64 MiB
    assert kept['return'] < kept['leave']


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: object())
    assert not keep_freed_memory()
    assert not return_freed_memory()
