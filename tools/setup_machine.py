# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Which Python and which ROS 2 this machine offers.

In come the running interpreter, the others on PATH and the environment variables; out go the
interpreter to use and where its rclpy comes from. Parses and runs on Python 3.6.
"""

import shutil
import subprocess
import sys
from typing import Callable, Dict, Iterable, Iterator, NamedTuple, Optional, Tuple

import setup_problems as problems

PYTHON_NAMES = ('python3.12', 'python3.11', 'python3.13', 'python3.10', 'python3.14', 'python3')
SYSTEM_PYTHON = '/usr/bin/python3'


class Interpreter(NamedTuple):
    """A Python that starts."""

    path: str
    version: Tuple[int, ...]

    @property
    def suitable(self) -> bool:
        """Whether it is new enough."""
        return self.version >= problems.OLDEST_PYTHON

    @property
    def label(self) -> str:
        """Version and path, for people."""
        return '{} ({})'.format('.'.join(map(str, self.version)), self.path)


class Ros(NamedTuple):
    """Where rclpy comes from."""

    # Name of the sourced distribution, or '' for the wheels.
    distro: str
    # Whether a ROS 2 is sourced that no Python here can use; its paths are kept out then.
    foreign: bool

    @property
    def label(self) -> str:
        """The source, for people."""
        return 'the sourced ROS 2 ' + self.distro if self.distro else 'the ROS 2 Jazzy wheels'


def own_interpreter() -> Interpreter:
    """Return the Python that runs this, seen through a virtual environment."""
    path = getattr(sys, '_base_executable', None) or sys.executable
    return Interpreter(path, tuple(sys.version_info[:3]))


def probe(path: str) -> Optional[Interpreter]:
    """Return the interpreter at a path, or None where it does not start."""
    code = 'import sys; print(*sys.version_info[:3])'
    try:
        done = subprocess.run([path, '-c', code], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=20, check=True)
        return Interpreter(path, tuple(int(part) for part in done.stdout.split()))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def others_on_path() -> Iterator[Interpreter]:
    """Yield the other interpreters of this machine that start, best known first."""
    for name in PYTHON_NAMES + (SYSTEM_PYTHON,):
        path = shutil.which(name)
        found = probe(path) if path else None
        if found:
            yield found


def choose(own: Interpreter, others: Iterable[Interpreter]) -> Interpreter:
    """Return the first interpreter that is new enough, the running one before all others.

    Raises:
        SetupProblem: every one is too old; it names them all.
    """
    tried = [own]
    if own.suitable:
        return own
    for other in others:
        if other.suitable:
            return other
        tried.append(other)
    raise problems.wrong_python(sorted({item.label for item in tried}))


def find_ros(own: Interpreter, others: Iterable[Interpreter], environ: Dict[str, str],
             has_rclpy: Callable[[str], bool]) -> Tuple[Interpreter, Ros]:
    """Return the interpreter to use and where its rclpy comes from.

    A sourced ROS 2 is compiled for one Python; where the running one cannot import its rclpy,
    another one may.

    Args:
        own: a suitable interpreter.
        others: further ones, looked at only where a sourced ROS 2 asks for it.
        environ: environment variables.
        has_rclpy: tells whether the interpreter at a path imports rclpy.
    """
    distro = environ.get('ROS_DISTRO', '')
    if not distro:
        return own, Ros('', foreign=False)
    if has_rclpy(own.path):
        return own, Ros(distro, foreign=False)
    for other in others:
        if other.suitable and has_rclpy(other.path):
            return other, Ros(distro, foreign=False)
    return own, Ros('', foreign=True)


def imports(path: str, code: str, environ: Optional[Dict[str, str]] = None) -> str:
    """Run import statements; return '' or the last line of what went wrong."""
    done = subprocess.run([path, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, env=environ, check=False)
    if done.returncode == 0:
        return ''
    return (done.stdout.strip() or f'status {done.returncode}').splitlines()[-1]
