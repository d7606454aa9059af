# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Run pip in an environment: what to ask it for, under which variables, with signs of life.

In come requirement files and pip's output; out go installed packages, or a `SetupProblem`.
"""

import collections
import contextlib
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Deque, Dict, List, Sequence

import setup_problems as problems
from setup_machine import Ros

HEARTBEAT_S = 10.0
# Settings that would send packages somewhere else than into the environment.
MISLEADING = ('PIP_TARGET', 'PIP_PREFIX', 'PIP_ROOT', 'PIP_PYTHON', 'PYTHONHOME')


class Clock:
    """Prints short lines with the time since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line."""
        print(f'[setup {time.monotonic() - self._start:4.0f} s] {text}', flush=True)


def requirements(path: Path) -> List[str]:
    """Return the specifications of a requirement file, included files first."""
    specs: List[str] = []
    for raw in path.read_text(encoding='utf-8').splitlines():
        line = raw.split('#', 1)[0].strip()
        if line.startswith('-r '):
            specs += requirements(path.parent / line[3:].strip())
        elif line:
            specs.append(line)
    return specs


def wanted(folder: Path, ros: Ros, torch_spec: str) -> List[str]:
    """Return everything to install, with torch replaced where another one is asked for."""
    specs = requirements(folder / 'base.txt')
    if torch_spec:
        specs = [spec for spec in specs if not re.match(r'torch\b(?!-)', spec)] + [torch_spec]
    if not ros.distro:
        specs += requirements(folder / 'ros.txt')
    return specs


def environment_for(venv: Path, ros: Ros, environ: Dict[str, str]) -> Dict[str, str]:
    """Return the variables under which pip and the proof run."""
    clean = {name: value for name, value in environ.items() if name not in MISLEADING}
    clean.update(PIP_USER='0', PIP_DISABLE_PIP_VERSION_CHECK='1', PIP_NO_INPUT='1')
    if not ros.distro:
        clean.pop('PYTHONPATH', None)
        clean['AMENT_PREFIX_PATH'] = str(venv)
    return clean


def activity(line: str) -> str:
    """Return what a line of pip's output is about, without addresses; '' if nothing."""
    match = re.match(r'\s*(Collecting|Downloading|Using cached|Building|Installing)\s+(\S+)', line)
    if not match:
        return ''
    if match.group(2) == 'collected':
        return 'unpacking; the longest part'
    return '{} {}'.format(match.group(1).lower(), match.group(2).rsplit('/', 1)[-1])


def run(venv: Path, arguments: Sequence[str], asked: str, environ: Dict[str, str],
                clock: Clock) -> None:
    """Run `pip install` with a sign of life every few seconds; its output goes to setup.log.

    Raises:
        SetupProblem: pip failed; its cause is translated.
    """
    command = [str(venv / 'bin' / 'python'), '-m', 'pip', 'install', '--progress-bar', 'off']
    process = subprocess.Popen(command + list(arguments), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, universal_newlines=True, env=environ,
                               cwd=str(venv.parent))
    lines: Deque[str] = collections.deque(maxlen=400)

    def follow() -> None:
        assert process.stdout is not None
        # Unbuffered, so that a full disk shows at the write and not once more at the end.
        with (venv / 'setup.log').open('ab', buffering=0) as log:
            for line in process.stdout:
                lines.append(line)
                # A full disk is pip's to report; this thread has to go on emptying the pipe.
                with contextlib.suppress(OSError):
                    log.write(line.encode())

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        while reader.is_alive():
            reader.join(HEARTBEAT_S)
            doing = [text for text in map(activity, list(lines)) if text]
            if reader.is_alive() and doing:
                clock.say(doing[-1])
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status:
        raise problems.pip_failed(asked, list(lines), status)
