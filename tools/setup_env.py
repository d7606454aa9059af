#!/usr/bin/env python3
# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Make `.venv` fit to train, prune, run nodes and test; what `make setup` runs.

In come the requirement files and the machine; out goes a virtual environment with the pinned
libraries, with ROS 2 (the sourced one, or pinned wheels where there is none) and with this
repository installed in editable form. A second call with nothing changed ends at once, an
interrupted one goes on where it stopped. Nothing outside the repository is touched but pip's
own cache.

Environment variables:
    TORCH_SPEC: takes the place of the torch line in requirements/base.txt.
    PIP_ARGS: further options for `pip install`, such as another registry.
    PIP_*: pip's own settings, honoured.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Tuple

import setup_machine as machine
import setup_pip as pip
import setup_problems as problems
from setup_machine import Interpreter, Ros

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
STAMP = 'setup_stamp.json'
# Keeps colcon out of the environment, and tells a half-made one from somebody's data.
OURS = 'COLCON_IGNORE'
PACKAGE_FILES = ('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml')
SHARED_FOLDERS = ('launch', 'config')
PACKAGE = 'pruned_controller'
PROOF = """
import numpy, onnxruntime, torch, yaml
import diagnostic_msgs.msg, lifecycle_msgs.msg, rclpy, rclpy.lifecycle, std_msgs.msg, std_srvs.srv
from sensor_msgs.msg import JointState
JointState(position=numpy.zeros(2))
"""


def digest(paths: Iterable[Path], *words: str) -> str:
    """Return a hash over the names and contents of files, and over some words."""
    seen = hashlib.sha256()
    for path in sorted(paths):
        seen.update(f'{path.name}\0'.encode() + path.read_bytes() + b'\0')
    seen.update('\0'.join(words).encode())
    return seen.hexdigest()


def shared_files(root: Path) -> List[Path]:
    """Return the launch and configuration files, relative to the repository."""
    return sorted(path.relative_to(root) for folder in SHARED_FOLDERS
                  for path in (root / folder).glob('*') if path.is_file())


def fingerprints(root: Path, version: Tuple[int, ...], environ: Dict[str, str]) -> Dict[str, str]:
    """Return what the environment depends on, as two hashes: libraries, and this package."""
    ros = [environ.get('ROS_DISTRO', '')]
    if ros[0]:
        ros.append(environ.get('PYTHONPATH', ''))
    words = [str(root), '.'.join(map(str, version[:2])), *ros,
             environ.get('TORCH_SPEC', ''), environ.get('PIP_ARGS', '')]
    tools = (root / 'tools').glob('setup_*.py')
    return {
        'libraries': digest([*(root / 'requirements').glob('*.txt'), *tools], *words),
        'package': digest([root / name for name in PACKAGE_FILES],
                          *(str(path) for path in shared_files(root))),
    }


def read_stamp(venv: Path) -> Dict[str, str]:
    """Return the fingerprints of the last complete set-up; empty where there is none."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    # The link dangles once the interpreter behind it is uninstalled.
    return stamp if isinstance(stamp, dict) and (venv / 'bin' / 'python').exists() else {}


def write_stamp(venv: Path, stamp: Dict[str, str]) -> None:
    """Write the fingerprints in one step, so that no reader meets half of them."""
    fresh = venv / (STAMP + '.new')
    fresh.write_text(json.dumps(stamp, indent=2) + '\n', encoding='utf-8')
    fresh.replace(venv / STAMP)


def reason_to_rebuild(venv: Path, version: Tuple[int, ...], ros: Ros,
                      starts: Callable[[str], bool]) -> str:
    """Return why an existing environment cannot be completed, or '' where it can.

    Args:
        venv: folder of the environment.
        version: version of the chosen interpreter.
        ros: where rclpy comes from; a sourced ROS 2 needs the system's packages in sight.
        starts: tells whether the interpreter at a path starts and has pip.
    """
    try:
        config = (venv / 'pyvenv.cfg').read_text(encoding='utf-8')
    except FileNotFoundError:
        return 'it is incomplete'
    built = re.search(r'^version\s*=\s*(\d+)\.(\d+)', config, re.MULTILINE)
    if not built or tuple(map(int, built.groups())) != version[:2]:
        return 'it was made with another Python'
    system = re.search(r'^include-system-site-packages\s*=\s*true', config, re.MULTILINE)
    if bool(system) != bool(ros.distro):
        return 'it was made for another ROS 2'
    activate = venv / 'bin' / 'activate'
    if not activate.exists() or str(venv) not in activate.read_text(encoding='utf-8'):
        return 'it is incomplete or was moved here'
    if not starts(str(venv / 'bin' / 'python')):
        return 'its Python or its pip does not start'
    return ''


def clear(venv: Path) -> None:
    """Empty the folder, or make it; from the first moment on it can be told to be ours."""
    venv.mkdir(exist_ok=True)
    (venv / OURS).touch()
    for path in venv.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        elif path.name != OURS:
            path.unlink()


def make_venv(venv: Path, python: Interpreter, ros: Ros, clock: pip.Clock) -> None:
    """Create the environment, or keep the one that is there if it can be completed.

    Raises:
        SetupProblem: the folder holds something else, or Python cannot make environments.
    """
    if venv.is_symlink() or venv.is_file() or venv.is_dir() and any(venv.iterdir()):
        if not any((venv / name).is_file() for name in ('pyvenv.cfg', OURS)):
            raise problems.foreign_folder(str(venv))
        reason = reason_to_rebuild(venv, python.version, ros,
                                   lambda path: not machine.imports(path, 'import pip'))
        if not reason:
            clock.say('keeping .venv and completing it')
            forget_torn(venv)
            return
        clock.say(f'making .venv anew: {reason}')
    missing = [name for name in ('venv', 'ensurepip')
               if machine.imports(python.path, 'import ' + name)]
    if missing:
        raise problems.no_venv_module(python.path, python.version, missing)
    clock.say(f'making .venv with Python {python.label}')
    clear(venv)
    command = [python.path, '-m', 'venv']
    if ros.distro:
        command.append('--system-site-packages')
    done = subprocess.run(command + [str(venv)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, check=False)
    if done.returncode:
        raise problems.pip_failed(f'a virtual environment is to be made in {venv}',
                                  done.stdout.splitlines(), done.returncode)


def forget_torn(venv: Path) -> None:
    """Drop the records of libraries whose installation was interrupted.

    pip writes INSTALLER after all other files; without it, pip would take the library for
    installed while half of its files are missing.
    """
    for record in venv.glob('lib/python*/site-packages/*.dist-info'):
        if not (record / 'INSTALLER').exists():
            shutil.rmtree(str(record))


def write_side_files(venv: Path, ros: Ros) -> None:
    """Write the mark for colcon, and `setup.sh`, which shells source to work in here."""
    (venv / OURS).touch()
    lines = ['# Written by tools/setup_env.py. Source it: it activates the environment.']
    if ros.foreign:
        lines += ['# A ROS 2 is sourced that this Python cannot use.',
                  'unset PYTHONPATH AMENT_PREFIX_PATH']
    lines.append('. {}'.format(shlex.quote(str(venv / 'bin' / 'activate'))))
    lines.append('export AMENT_PREFIX_PATH="$VIRTUAL_ENV'
                 '${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}"')
    (venv / 'setup.sh').write_text('\n'.join(lines) + '\n', encoding='utf-8')


def link_into_index(venv: Path, root: Path) -> None:
    """Make ROS 2 find the editable package: marker, launch files, configuration, executables.

    An editable installation has modules and commands alone. File by file, because pip would
    follow a link to a folder and one day uninstall the repository's own files.
    """
    share, programs = venv / 'share' / PACKAGE, venv / 'lib' / PACKAGE
    links = {share / path: root / path for path in [Path('package.xml'), *shared_files(root)]}
    marker = venv / 'share' / 'ament_index' / 'resource_index' / 'packages' / PACKAGE
    links[marker] = root / 'resource' / PACKAGE
    for listing in venv.glob(f'lib/python*/site-packages/{PACKAGE}-*.dist-info/entry_points.txt'):
        for name in re.findall(r'^(\S+) *=', listing.read_text(encoding='utf-8'), re.MULTILINE):
            links[programs / name] = venv / 'bin' / name
    for folder in (share, programs):
        shutil.rmtree(str(folder), ignore_errors=True)
    for link, target in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(target)


def size(folder: Path) -> int:
    """Return the bytes that a folder's files take."""
    total = 0
    for base, _, names in os.walk(str(folder)):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
    return total


@contextlib.contextmanager
def alone(clock: pip.Clock) -> Iterator[None]:
    """Let one set-up run at a time, by a lock on this file that ends with the process."""
    with open(__file__, 'rb') as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            clock.say('waiting for another set-up of this repository')
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def install(python: Interpreter, ros: Ros, stamp: Dict[str, str], clock: pip.Clock) -> None:
    """Bring the environment to what the stamp says, then write the stamp.

    Raises:
        SetupProblem: something is missing.
    """
    done = read_stamp(VENV)
    environ = pip.environment_for(VENV, ros, dict(os.environ))
    if done.get('libraries') != stamp['libraries']:
        with contextlib.suppress(FileNotFoundError):
            (VENV / STAMP).unlink()
        full = problems.disk_full(shutil.disk_usage(str(ROOT)).free, size(VENV), str(ROOT))
        if full:
            raise full
        make_venv(VENV, python, ros, clock)
        write_side_files(VENV, ros)
        specs = pip.wanted(ROOT / 'requirements', ros, environ.get('TORCH_SPEC', ''))
        clock.say(f'installing {len(specs)} pinned libraries; ROS 2: {ros.label}')
        pip.run(VENV, ['-c', str(ROOT / 'requirements' / 'constraints.txt'),
                       *shlex.split(environ.get('PIP_ARGS', '')), *specs],
                'the pinned libraries of requirements/ are to be installed', environ, clock)
        wrong = machine.imports(str(VENV / 'bin' / 'python'), PROOF, environ)
        if wrong:
            raise problems.broken_install(wrong, ros.label)
    clock.say('installing this package, editable')
    pip.run(VENV, ['--no-deps', '--no-build-isolation', '--editable', str(ROOT)],
            'this package is to be installed', environ, clock)
    link_into_index(VENV, ROOT)
    write_stamp(VENV, stamp)
    clock.say(f'ready: .venv, with {ros.label}')


def main() -> int:
    """Set up; return the exit status."""
    clock = pip.Clock()
    # Being ended is being interrupted: pip ends too, and the next call goes on from there.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        own = machine.own_interpreter()
        python = machine.choose(own, machine.others_on_path())
        stamp = fingerprints(ROOT, python.version, dict(os.environ))
        if read_stamp(VENV) == stamp:
            return 0
        with alone(clock):
            if read_stamp(VENV) == stamp:
                return 0
            if python.path != own.path:
                clock.say(f'Python {own.label} is too old, using {python.label}')
            chosen, ros = machine.find_ros(python, machine.others_on_path(), dict(os.environ),
                                           lambda path: not machine.imports(path, 'import rclpy'))
            if ros.foreign:
                clock.say('ROS_DISTRO is {}, but no Python here imports its rclpy; leaving it out'
                          .format(os.environ['ROS_DISTRO']))
            install(chosen, ros, stamp, clock)
        return 0
    except problems.SetupProblem as problem:
        print(f'make setup cannot go on: {problem}', file=sys.stderr)
        return 1
    except OSError as error:
        # What the checks above did not foresee: a full disk, a read-only folder.
        print('make setup cannot go on: {}'.format(
            problems.pip_failed('files are to be written in .venv', [str(error)], 1)),
            file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'make setup was interrupted; {problems.AGAIN}', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
