# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What can be missing on a machine, said in plain words.

In come facts that `setup_env.py` gathered (versions, free bytes, pip's last lines); out goes a
`SetupProblem` with four parts: what was asked, what was found, what is allowed, what to do.
Nothing here looks at the machine. The file parses on Python 3.6, the oldest that can tell its
user that it is too old.
"""

import re
from typing import NamedTuple, Optional, Sequence, Tuple

OLDEST_PYTHON = (3, 10)
# A finished environment with a CPU build of torch takes 1.7 GB; pip unpacks beside it.
NEEDED_BYTES = 2500 * 10**6
AGAIN = 'run the same command again; what is already installed is kept'


class SetupProblem(Exception):
    """A reason why the environment cannot be set up, with what to do about it."""

    def __init__(self, asked: str, found: str, allowed: str, do: str) -> None:
        super().__init__(
            f'{asked}\n  found:   {found}\n  allowed: {allowed}\n  do:      {do}',
        )


def wrong_python(found: Sequence[str]) -> SetupProblem:
    """Return the problem of a machine on which every Python is too old.

    Args:
        found: one 'version (path)' for each interpreter that was tried.
    """
    oldest = '.'.join(map(str, OLDEST_PYTHON))
    return SetupProblem(
        f'Python {oldest} or newer is needed',
        ', '.join(found) or 'no Python that starts',
        f'Python {oldest} or newer, under any name',
        'install one, or name it: make setup PYTHON=/path/to/python3.11',
    )


def no_venv_module(python: str, version: Tuple[int, ...], missing: Sequence[str]) -> SetupProblem:
    """Return the problem of a Python without the modules that make virtual environments."""
    name = 'python{}.{}-venv'.format(*version[:2])
    return SetupProblem(
        f'a virtual environment is to be made with {python}',
        'this Python lacks {}'.format(' and '.join(missing)),
        'a Python whose modules venv and ensurepip can be imported',
        f'on Debian and Ubuntu: sudo apt install {name} (or python3-venv); then {AGAIN}',
    )


def foreign_folder(venv: str) -> SetupProblem:
    """Return the problem of a .venv that is no virtual environment, so may be somebody's data."""
    return SetupProblem(
        f'the virtual environment goes to {venv}',
        'something else is there, without a pyvenv.cfg',
        'nothing there, an empty folder, or a virtual environment',
        'move it away, then run the same command again',
    )


def disk_full(free: int, present: int, where: str) -> Optional[SetupProblem]:
    """Return the problem of too little space, or None where there is enough.

    Args:
        free: free bytes on the disk of the repository.
        present: bytes that the environment already takes there.
        where: folder of the repository.
    """
    needed = NEEDED_BYTES - present
    if free >= needed:
        return None
    return SetupProblem(
        f'about {needed / 1e9:.1f} GB are needed for the environment in {where}',
        f'{free / 1e9:.1f} GB free',
        f'{needed / 1e9:.1f} GB or more',
        'free some space, or clone the repository on a larger disk',
    )


def broken_install(last_line: str, ros: str) -> SetupProblem:
    """Return the problem of packages that are installed but cannot be imported.

    Args:
        last_line: last line of the failed import.
        ros: where ROS 2 comes from, such as 'the sourced ROS 2 jazzy'.
    """
    return SetupProblem(
        f'the installed libraries and {ros} are to work together',
        last_line,
        'numpy, onnxruntime, torch, rclpy and the message packages all import',
        'delete .venv and run the same command again; with a ROS 2 installation, source it first',
    )


class Cause(NamedTuple):
    """One way in which pip fails: how to know it, and what to say."""

    pattern: str
    found: str
    allowed: str
    do: str


# In the order of trust: a full disk or a dead network makes pip complain of other things too.
CAUSES = (
    Cause(
        r'No space left on device|Errno 28|Disk quota exceeded',
        'the disk is full',
        "about 2.5 GB in the repository, and room for downloads in pip's cache and temporary "
        'folder (several GB more for a torch build with CUDA)',
        'free some space, or set PIP_CACHE_DIR or TMPDIR to a larger disk; then ' + AGAIN,
    ),
    Cause(
        r'CERTIFICATE_VERIFY_FAILED|SSLError|SSL: ',
        "the package registry's certificate was not accepted",
        'a registry whose certificate this machine trusts',
        'set PIP_CERT to the certificates of your network, check the clock; then ' + AGAIN,
    ),
    Cause(
        r'40[13] Client Error|status code 40[13]|HTTP error 40[13]|407 Proxy',
        'the package registry or a proxy refused the request',
        'a registry that this machine may read',
        'check the login in PIP_INDEX_URL or the proxy settings; then ' + AGAIN,
    ),
    Cause(
        r'NewConnectionError|NameResolutionError|Failed to establish a new connection|'
        r'Name or service not known|Temporary failure in name resolution|'
        r'Network is unreachable|Connection refused|ConnectTimeoutError|ReadTimeoutError|'
        r'Read timed out|Connection reset|ProxyError|Max retries exceeded|ConnectionError|'
        r'RemoteDisconnected|IncompleteRead',
        'the package registry could not be reached',
        'a network on which pip works, or local packages',
        'check the connection or proxy, or point pip at a mirror (PIP_INDEX_URL) or a folder of '
        'wheels (PIP_NO_INDEX=1 PIP_FIND_LINKS=folder); then ' + AGAIN,
    ),
    Cause(
        r'No matching distribution found for (?P<name>ros-\S+)',
        'no {name} for this machine',
        'ROS 2 as wheels on Linux x86-64 with Python 3.10 to 3.14, or any sourced ROS 2',
        'install ROS 2 and source it first (source /opt/ros/<distro>/setup.bash); then ' + AGAIN,
    ),
    Cause(
        r'No matching distribution found for (?P<name>torch\S*)',
        'no {name} for this Python and machine',
        'any torch from 2.4 on',
        'name another: make setup TORCH_SPEC="torch==<version>"; or add the registry that has '
        'it: make setup PIP_ARGS="--extra-index-url <address>"',
    ),
    Cause(
        r'No matching distribution found for (?P<name>\S+)',
        'no {name} for this Python and machine',
        'Python 3.10 to 3.14 with a registry that has the pinned versions',
        'name another Python: make setup PYTHON=/path/to/python3.11',
    ),
    Cause(
        r'ResolutionImpossible|conflicting dependencies',
        'the requirements contradict each other',
        'the pinned versions, unchanged',
        'undo changes in requirements/ and in TORCH_SPEC or PIP_ARGS; then ' + AGAIN,
    ),
    Cause(
        r'Permission denied|Errno 13',
        'a file may not be written',
        'a repository and a pip cache that belong to you',
        'give the folders back to yourself (an earlier run as root?); then ' + AGAIN,
    ),
)


def pip_failed(asked: str, lines: Sequence[str], status: int) -> SetupProblem:
    """Translate a failed pip run.

    Args:
        asked: what pip was to do.
        lines: what pip printed.
        status: pip's exit status; negative for the signal that ended it.

    Returns:
        The problem, which quotes pip's last lines.
    """
    text = '\n'.join(lines)
    tail = _quote(lines)
    if status == -9:
        return SetupProblem(
            asked,
            'pip was killed, most likely for want of memory' + tail,
            'about 2 GB of free memory',
            'end other programs; then ' + AGAIN,
        )
    for cause in CAUSES:
        match = re.search(cause.pattern, text)
        if match:
            found = cause.found.format(**match.groupdict())
            return SetupProblem(asked, found + tail, cause.allowed, cause.do)
    return SetupProblem(
        asked,
        f'pip ended with status {status}' + tail,
        'a pip run without errors',
        'read its whole output in .venv/setup.log; then ' + AGAIN,
    )


def _quote(lines: Sequence[str], count: int = 6) -> str:
    """Return the last lines that say something, indented below the sentence."""
    said = [line.rstrip() for line in lines if line.strip() and not line.startswith('WARNING: ')]
    return ''.join('\n           | ' + line[:200] for line in said[-count:])
