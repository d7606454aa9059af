# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Trials that do what a test wants of them; other processes have to be able to import them."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Given:
    """What a toy trial does."""

    value: int = 0
    fails: bool = False
    dies: int = 0  # attempts that kill their process
    seconds: float = 0.0


def toy(config, context):
    """Square a number, leaving a trace of every time it was begun."""
    with (context.folder / 'traces').open('a') as file:
        file.write(f'{os.getpid()}\n')
    attempts = len((context.folder / 'traces').read_text().split())
    if config.dies >= attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.fails:
        raise ValueError('as it was told')
    time.sleep(config.seconds)
    context.progress('toy', 1, 1)
    before = [json.loads((n / 'result.json').read_text())['values']['square']
              for n in context.needs]
    return {'square': config.value**2 + sum(before), 'nan': float('nan')}


def strike(config, context):
    raise KeyboardInterrupt


def traces(work, name):
    path = work / name / 'traces'
    return len(path.read_text().split()) if path.is_file() else 0
