# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""tools/setup_*.py: what they say when something is missing, and when they do nothing."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / 'tools'
PARTS = re.compile(r'.+\n  found:   .+\n  allowed: .+\n  do:      .+', re.DOTALL)


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.fixture
def problems():
    return importlib.import_module('setup_problems')


@pytest.fixture
def machine():
    return importlib.import_module('setup_machine')


@pytest.fixture
def pip():
    return importlib.import_module('setup_pip')


@pytest.fixture
def env():
    return importlib.import_module('setup_env')


class Silent:
    """Keeps what the set-up says."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


# --- which Python ---------------------------------------------------------------------------


def test_old_python_gives_way_to_a_newer_one(machine):
    own = machine.Interpreter('/usr/bin/python3', (3, 8, 10))
    newer = machine.Interpreter('/usr/bin/python3.11', (3, 11, 2))
    assert machine.choose(own, iter([own, newer])) == newer


def test_suitable_python_is_kept_without_a_look_at_others(machine):
    def never():
        raise AssertionError('looked')
        yield

    own = machine.Interpreter('/usr/bin/python3', (3, 10, 0))
    assert machine.choose(own, never()) == own


def test_only_old_pythons_are_named(machine, problems):
    own = machine.Interpreter('/usr/bin/python3', (3, 8, 10))
    older = machine.Interpreter('/opt/bin/python3', (3, 9, 1))
    with pytest.raises(problems.SetupProblem) as caught:
        machine.choose(own, iter([older]))
    message = str(caught.value)
    assert PARTS.fullmatch(message)
    assert 'Python 3.10 or newer is needed' in message
    assert '3.8.10 (/usr/bin/python3)' in message
    assert '3.9.1 (/opt/bin/python3)' in message
    assert 'PYTHON=' in message


def test_tool_stays_within_the_syntax_of_python_3_6():
    import ast
    for path in TOOLS.glob('setup_*.py'):
        tree = ast.parse(path.read_text(encoding='utf-8'), feature_version=(3, 6))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        # Came with 3.7: its presence would be a syntax error before any message.
        assert '__future__' not in imported


# --- which ROS 2 ----------------------------------------------------------------------------


def test_no_ros_means_wheels(machine):
    own = machine.Interpreter('/a', (3, 11, 0))
    chosen, ros = machine.find_ros(own, iter([]), {}, lambda path: True)
    assert (chosen, ros.distro, ros.foreign) == (own, '', False)


def test_sourced_ros_chooses_the_python_that_imports_it(machine):
    own = machine.Interpreter('/a', (3, 11, 0))
    system = machine.Interpreter('/usr/bin/python3', (3, 12, 3))
    chosen, ros = machine.find_ros(own, iter([system]), {'ROS_DISTRO': 'jazzy'},
                                   lambda path: path == system.path)
    assert (chosen, ros.distro) == (system, 'jazzy')


def test_sourced_ros_that_nobody_imports_is_left_out(machine, env, tmp_path):
    own = machine.Interpreter('/a', (3, 11, 0))
    chosen, ros = machine.find_ros(own, iter([]), {'ROS_DISTRO': 'foxy'}, lambda path: False)
    assert (chosen, ros.distro, ros.foreign) == (own, '', True)
    env.write_side_files(tmp_path, ros)
    assert 'unset PYTHONPATH' in (tmp_path / 'setup.sh').read_text()
    assert (tmp_path / 'COLCON_IGNORE').exists()


def test_wheels_are_asked_for_only_without_a_sourced_ros(machine, pip):
    folder = ROOT / 'requirements'
    wheels = pip.wanted(folder, machine.Ros('', foreign=False), '')
    sourced = pip.wanted(folder, machine.Ros('jazzy', foreign=False), '')
    assert any(spec.startswith('ros-jazzy-rclpy') for spec in wheels)
    assert not any(spec.startswith('ros-') for spec in sourced)
    assert set(sourced) < set(wheels)


# --- what to install ------------------------------------------------------------------------


def test_torch_spec_replaces_torch_and_leaves_torch_pruning(machine, pip):
    specs = pip.wanted(ROOT / 'requirements', machine.Ros('', foreign=False), 'torch==9.9+cpu')
    assert [spec for spec in specs if spec.startswith('torch=')] == ['torch==9.9+cpu']
    assert any(spec.startswith('torch-pruning==') for spec in specs)


def test_every_requirement_is_pinned_exactly(pip):
    for name in ('edge.txt', 'base.txt', 'ros.txt', 'constraints.txt'):
        specs = pip.requirements(ROOT / 'requirements' / name)
        assert specs
        for spec in specs:
            assert re.fullmatch(r'[\w.-]+(\[\w+\])?==[\w.]+(; python_version (<|>=) "3\.11")?',
                                spec), spec


def test_misleading_variables_do_not_reach_pip(machine, pip, tmp_path):
    environ = {'PIP_TARGET': '/elsewhere', 'PIP_USER': '1', 'PIP_INDEX_URL': 'kept',
               'PYTHONPATH': '/opt/ros'}
    wheels = pip.environment_for(tmp_path, machine.Ros('', foreign=False), environ)
    assert 'PIP_TARGET' not in wheels
    assert 'PYTHONPATH' not in wheels
    assert (wheels['PIP_USER'], wheels['PIP_INDEX_URL']) == ('0', 'kept')
    sourced = pip.environment_for(tmp_path, machine.Ros('jazzy', foreign=False), environ)
    assert sourced['PYTHONPATH'] == '/opt/ros'


def test_activity_hides_addresses(pip):
    line = '  Downloading https://user:secret@registry.example/a/torch-2.13.0-cp311.whl (200 MB)'
    assert pip.activity(line) == 'downloading torch-2.13.0-cp311.whl'
    assert pip.activity('Requirement already satisfied: numpy') == ''


# --- what can go wrong ----------------------------------------------------------------------


def test_full_disk_is_noticed_up_front(problems):
    problem = problems.disk_full(free=800 * 10**6, present=0, where='/home/me/repository')
    assert PARTS.fullmatch(str(problem))
    assert 'about 2.5 GB are needed' in str(problem)
    assert '0.8 GB free' in str(problem)


def test_what_is_already_installed_counts_as_space(problems):
    assert problems.disk_full(free=10**9, present=1600 * 10**6, where='/') is None
    assert problems.disk_full(free=2500 * 10**6, present=0, where='/') is None


def test_missing_venv_module_names_the_package(problems):
    message = str(problems.no_venv_module('/usr/bin/python3', (3, 11, 2), ['ensurepip']))
    assert PARTS.fullmatch(message)
    assert 'lacks ensurepip' in message
    assert 'python3.11-venv' in message
    assert 'python3-venv' in message


NO_NETWORK = """
WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...: Failed to
 establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/numpy/
ERROR: Could not find a version that satisfies the requirement numpy==2.4.6 (from versions: none)
ERROR: No matching distribution found for numpy==2.4.6
"""


@pytest.mark.parametrize(('output', 'status', 'found', 'do'), [
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device',
     1, 'the disk is full', 'TMPDIR'),
    (NO_NETWORK, 1, 'could not be reached', 'PIP_FIND_LINKS'),
    ('ProxyError: Cannot connect to proxy', 1, 'could not be reached', 'proxy'),
    ('SSLError(SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")) Max retries '
     'exceeded', 1, 'certificate was not accepted', 'PIP_CERT'),
    ('ERROR: HTTP error 403 while getting x', 1, 'refused', 'login'),
    ('ERROR: No matching distribution found for ros-jazzy-rclpy[fastrtps]==7.1.6', 1,
     'no ros-jazzy-rclpy[fastrtps]==7.1.6 for this machine', 'source'),
    ('ERROR: No matching distribution found for torch==2.13.0', 1,
     'no torch==2.13.0 for this Python', 'TORCH_SPEC'),
    ('ERROR: No matching distribution found for scipy==1.17.1', 1,
     'no scipy==1.17.1 for this Python', 'PYTHON='),
    ('ERROR: ResolutionImpossible: for help visit', 1, 'contradict', 'TORCH_SPEC'),
    ('OSError: [Errno 13] Permission denied: x', 1, 'may not be written', 'root'),
    ('Installing collected packages: torch', -9, 'memory', 'end other programs'),
    ('a failure nobody has seen before', 2, 'status 2', 'setup.log'),
])
def test_pip_failures_are_translated(problems, output, status, found, do):
    message = str(problems.pip_failed('libraries are to be installed', output.split('\n'), status))
    assert PARTS.fullmatch(message)
    assert message.startswith('libraries are to be installed')
    said, rest = message.split('\n  allowed: ')
    assert found in said
    assert do in rest.split('\n  do:      ')[1]


def test_last_lines_of_pip_are_quoted_without_retries(problems):
    message = str(problems.pip_failed('x', NO_NETWORK.splitlines(), 1))
    assert '| ERROR: No matching distribution found for numpy==2.4.6' in message
    assert 'Retrying' not in message


def test_failing_pip_raises_with_its_own_words(env, pip, problems, tmp_path):
    """A real process that fails: its output is quoted and logged."""
    fake = tmp_path / 'bin' / 'python'
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "ERROR: No space left on device"; exit 1\n')
    fake.chmod(0o755)
    with pytest.raises(problems.SetupProblem, match='the disk is full'):
        pip.run(tmp_path, ['numpy'], 'numpy is to be installed', dict(os.environ), Silent())
    assert 'No space left' in (tmp_path / 'setup.log').read_text()


# --- an environment that is already there ---------------------------------------------------


def half_venv(folder, version='3.11.7', system='false'):
    (folder / 'bin').mkdir(parents=True)
    (folder / 'bin' / 'python').symlink_to(sys.executable)
    (folder / 'bin' / 'activate').write_text(f'VIRTUAL_ENV={folder}\n')
    (folder / 'pyvenv.cfg').write_text(
        f'include-system-site-packages = {system}\nversion = {version}\n')
    return folder


@pytest.mark.parametrize(('change', 'reason'), [
    ({}, ''),
    ({'version': '3.10.2'}, 'another Python'),
    ({'system': 'true'}, 'another ROS 2'),
])
def test_interrupted_environment_is_completed_or_rebuilt(env, machine, tmp_path, change, reason):
    venv = half_venv(tmp_path / '.venv', **change)
    got = env.reason_to_rebuild(venv, (3, 11, 0), machine.Ros('', foreign=False), lambda _: True)
    assert bool(got) == bool(reason)
    assert reason in got


def test_environment_without_pip_or_of_another_place_is_rebuilt(env, machine, tmp_path):
    venv = half_venv(tmp_path / '.venv')
    ros = machine.Ros('', foreign=False)
    assert 'pip' in env.reason_to_rebuild(venv, (3, 11, 0), ros, lambda _: False)
    moved = tmp_path / 'elsewhere'
    venv.rename(moved)
    assert 'moved' in env.reason_to_rebuild(moved, (3, 11, 0), ros, lambda _: True)


def test_folder_of_something_else_is_never_cleared(env, machine, problems, tmp_path):
    treasure = tmp_path / '.venv' / 'thesis.txt'
    treasure.parent.mkdir()
    treasure.write_text('five years')
    with pytest.raises(problems.SetupProblem, match='something else is there'):
        env.make_venv(treasure.parent, machine.own_interpreter(),
                      machine.Ros('', foreign=False), Silent())
    assert treasure.read_text() == 'five years'


def test_half_cleared_environment_is_recognised_and_made_anew(env, machine, tmp_path):
    """An interrupted clearing may have left any file; pyvenv.cfg may be gone already."""
    venv = half_venv(tmp_path / '.venv')
    (venv / 'lib' / 'left').mkdir(parents=True)
    (venv / 'lib64').symlink_to('lib')
    (venv / 'COLCON_IGNORE').touch()
    (venv / 'pyvenv.cfg').unlink()
    clock = Silent()
    env.make_venv(venv, machine.own_interpreter(), machine.Ros('', foreign=False), clock)
    assert 'incomplete' in clock.said[0]
    assert not (venv / 'lib' / 'left').exists()
    done = subprocess.run([str(venv / 'bin' / 'python'), '-m', 'pip', '--version'],
                          capture_output=True, check=False)
    assert done.returncode == 0


def test_library_torn_by_an_interruption_is_installed_again(env, tmp_path):
    site = tmp_path / 'lib' / 'python3.11' / 'site-packages'
    for name, files in (('torn', ['METADATA', 'RECORD']), ('whole', ['METADATA', 'INSTALLER'])):
        for file in files:
            (site / f'{name}-1.0.dist-info').mkdir(parents=True, exist_ok=True)
            (site / f'{name}-1.0.dist-info' / file).touch()
    env.forget_torn(tmp_path)
    assert [path.name for path in site.iterdir()] == ['whole-1.0.dist-info']


# --- the second call ------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    """The files that the fingerprints look at, with a finished environment that is a sham."""
    for name in ('requirements', 'tools', 'config', 'resource'):
        shutil.copytree(ROOT / name, tmp_path / name,
                        ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml'):
        shutil.copy(ROOT / name, tmp_path / name)
    half_venv(tmp_path / '.venv')
    return tmp_path


def clean_environ():
    return {name: value for name, value in os.environ.items()
            if name not in {'ROS_DISTRO', 'TORCH_SPEC', 'PIP_ARGS', 'PYTHONPATH'}}


def test_second_call_does_nothing(copy, env):
    environ = clean_environ()
    env.write_stamp(copy / '.venv', env.fingerprints(copy, sys.version_info[:3], environ))
    before = sorted(str(path) for path in (copy / '.venv').rglob('*'))
    done = subprocess.run([sys.executable, '-B', str(copy / 'tools' / 'setup_env.py')],
                          env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert sorted(str(path) for path in (copy / '.venv').rglob('*')) == before


def test_failure_leaves_no_stamp_and_a_nonzero_status(copy, env):
    """Requirements changed since the last set-up, and the folder is no environment any more."""
    environ = clean_environ()
    env.write_stamp(copy / '.venv', env.fingerprints(copy, sys.version_info[:3], environ))
    change_requirement(copy)
    (copy / '.venv' / 'pyvenv.cfg').unlink()
    done = subprocess.run([sys.executable, '-B', str(copy / 'tools' / 'setup_env.py')],
                          env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith('make setup cannot go on: ')
    assert PARTS.fullmatch(done.stderr.strip())
    assert env.read_stamp(copy / '.venv') == {}


def change_requirement(root):
    with (root / 'requirements' / 'base.txt').open('a') as handle:
        handle.write('another==1.0\n')


def change_package(root):
    with (root / 'setup.py').open('a') as handle:
        handle.write('# changed\n')


def add_configuration(root):
    (root / 'config' / 'another.yaml').write_text('a: 1\n')


@pytest.mark.parametrize(('change', 'environ', 'version', 'differs'), [
    (change_requirement, {}, (3, 11), {'libraries'}),
    (change_package, {}, (3, 11), {'package'}),
    (add_configuration, {}, (3, 11), {'package'}),
    (None, {'TORCH_SPEC': 'torch==2.12.0'}, (3, 11), {'libraries'}),
    (None, {'PIP_ARGS': '--pre'}, (3, 11), {'libraries'}),
    (None, {'ROS_DISTRO': 'jazzy'}, (3, 11), {'libraries'}),
    (None, {'PYTHONPATH': '/mine'}, (3, 11), set()),
    (None, {}, (3, 12), {'libraries'}),
    (None, {}, (3, 11, 9), set()),
])
def test_fingerprints_tell_what_changed(copy, env, change, environ, version, differs):
    before = env.fingerprints(copy, (3, 11), {})
    if change:
        change(copy)
    after = env.fingerprints(copy, version, environ)
    assert {name for name in before if before[name] != after[name]} == differs


def test_torn_stamp_counts_as_none(env, tmp_path):
    venv = half_venv(tmp_path / '.venv')
    (venv / env.STAMP).write_text('{"libraries": "ab')
    assert env.read_stamp(venv) == {}


def test_editable_package_is_linked_file_by_file(env, tmp_path):
    root, venv = tmp_path / 'repository', tmp_path / '.venv'
    for name in ('package.xml', 'resource/pruned_controller', 'config/a.yaml', 'launch/b.py'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    stale = venv / 'share' / 'pruned_controller' / 'config' / 'old.yaml'
    stale.parent.mkdir(parents=True)
    stale.symlink_to(root / 'config' / 'old.yaml')
    site = venv / 'lib' / 'python3.11' / 'site-packages' / 'pruned_controller-0.1.0.dist-info'
    site.mkdir(parents=True)
    (site / 'entry_points.txt').write_text('[console_scripts]\ndemo = pruned_controller.demo:main')
    for _ in range(2):
        env.link_into_index(venv, root)
    share = venv / 'share' / 'pruned_controller'
    assert (share / 'config' / 'a.yaml').read_text() == 'config/a.yaml'
    assert not (share / 'config').is_symlink()
    assert not stale.is_symlink()
    assert (venv / 'share/ament_index/resource_index/packages/pruned_controller').exists()
    assert (venv / 'lib' / 'pruned_controller' / 'demo').readlink() == venv / 'bin' / 'demo'
