# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The package as colcon and pip see it: its type, its files, where its commands land."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
import zipfile
from pathlib import Path

import pytest

import pruned_controller
import pruning_core

ROOT = Path(__file__).resolve().parent.parent
NODES = {'controller_node', 'demo', 'plant_node', 'pruner_node', 'pruning-core'}
LEFT_BEHIND = shutil.ignore_patterns(
    '.git', '.venv', 'build', 'install', 'log', 'runs', '*.egg-info', '__pycache__', '.*_cache',
    '.hypothesis',
)
# Beside the running Python first: the environment need not be activated.
COLCON = shutil.which('colcon', path=os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get('PATH', os.defpath)]))

needs_colcon = pytest.mark.skipif(COLCON is None, reason='colcon is not on PATH')


def run(*command: str | Path, cwd: Path) -> str:
    """Return the output of a command that has to succeed, with colcon's log below its folder."""
    environ = {name: value for name, value in os.environ.items() if name != 'COLCON_LOG_PATH'}
    done = subprocess.run([str(part) for part in command], cwd=cwd, text=True, timeout=300,
                          env=environ, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope='module')
def manifest() -> xml.etree.ElementTree.Element:
    return xml.etree.ElementTree.parse(ROOT / 'package.xml').getroot()


@pytest.fixture(scope='module', params=['.', 'src/pruned_controller'],
                ids=['repository is the workspace', 'repository lies in src'])
def workspace(request, tmp_path_factory) -> Path:
    """A workspace with a copy of the repository in it, built by plain `colcon build`."""
    top = tmp_path_factory.mktemp('ws') / 'ws'
    shutil.copytree(ROOT, top / request.param, ignore=LEFT_BEHIND)
    assert run(COLCON, 'list', cwd=top).split() == [
        'pruned_controller', request.param, '(ros.ament_python)']
    run(COLCON, 'build', cwd=top)
    return top


@needs_colcon
def test_build_installs_what_ros_looks_for(workspace):
    prefix = workspace / 'install' / 'pruned_controller'
    share = prefix / 'share' / 'pruned_controller'
    assert (prefix / 'share/ament_index/resource_index/packages/pruned_controller').is_file()
    assert (share / 'package.xml').read_bytes() == (ROOT / 'package.xml').read_bytes()
    for folder, pattern in (('launch', '*.py'), ('config', '*'), ('config/sros2', '*')):
        shipped = {path.name for path in (ROOT / folder).glob(pattern) if path.is_file()}
        found = {path.name for path in (share / folder).glob('*') if path.is_file()}
        assert found == shipped
    assert {path.name for path in (prefix / 'lib' / 'pruned_controller').iterdir()} == NODES


@needs_colcon
def test_built_nodes_start_with_the_python_of_the_environment(workspace):
    script = workspace / 'install/pruned_controller/lib/pruned_controller/controller_node'
    assert script.read_text().splitlines()[0] == '#!/usr/bin/env python3'
    assert os.access(script, os.X_OK)


@needs_colcon
def test_packages_import_from_the_install_space(workspace):
    code = ('import pruning_core, pruning_core.runtime, pruned_controller;'
            'print(pruning_core.__file__, pruning_core.runtime.__file__,'
            ' pruned_controller.__file__, sep="\\n")')
    # Not from the workspace: with -c, the current folder comes first on the import path.
    output = run('bash', '-c', f". ./setup.bash && exec '{sys.executable}' -c '{code}'",
                 cwd=workspace / 'install')
    files = output.split()
    assert len(files) == 3
    for name in files:
        assert Path(name).is_relative_to(workspace / 'install')


@needs_colcon
def test_every_module_and_data_file_is_installed(workspace):
    site, = (workspace / 'install' / 'pruned_controller' / 'lib').glob('python*/site-packages')
    for package in ('pruning_core', 'pruned_controller'):
        source = {path.relative_to(ROOT) for path in (ROOT / package).rglob('*')
                  if path.is_file() and '__pycache__' not in path.parts}
        built = {path.relative_to(site) for path in (site / package).rglob('*')
                 if path.is_file() and '__pycache__' not in path.parts}
        assert source == built


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel that `pip install .` makes on its way."""
    source, target = tmp_path_factory.mktemp('pip') / 'source', tmp_path_factory.mktemp('wheels')
    shutil.copytree(ROOT, source, ignore=LEFT_BEHIND)
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index',
        '--wheel-dir', target, source, cwd=target)
    path, = target.glob('*.whl')
    return zipfile.ZipFile(path)


def test_pip_puts_the_commands_on_path(wheel, tmp_path):
    """setup.cfg moves colcon's scripts to lib/; pip has to ignore that."""
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--ignore-installed',
        '--prefix', tmp_path, wheel.filename, cwd=tmp_path)
    assert {path.name for path in (tmp_path / 'bin').iterdir()} == NODES
    assert (tmp_path / 'share' / 'pruned_controller' / 'package.xml').is_file()


def test_wheel_needs_no_torch_unless_asked(wheel):
    name, = (name for name in wheel.namelist() if name.endswith('dist-info/METADATA'))
    needed = re.findall(r'^Requires-Dist: ([\w-]+)[^;\n]*(; .*)?$', wheel.read(name).decode(),
                        re.MULTILINE)
    always = {name.lower() for name, marker in needed if 'extra' not in marker}
    assert always == {'numpy', 'onnxruntime', 'pyyaml'}
    training = {name for name, marker in needed if 'extra == "train"' in marker}
    assert {'torch', 'gymnasium', 'safetensors'} <= training


def test_manifest_keeps_torch_off_the_robot(manifest):
    depends = {element.text for element in manifest if element.tag.endswith('depend')}
    assert not any('torch' in name or 'gymnasium' in name for name in depends)
    runs = {element.text for element in manifest.findall('exec_depend')}
    assert {'rclpy', 'std_msgs', 'std_srvs', 'sensor_msgs', 'diagnostic_msgs', 'lifecycle_msgs',
            'launch', 'launch_ros', 'python3-numpy', 'python3-yaml',
            'python3-onnxruntime-pip'} == runs


def test_manifest_is_valid(manifest):
    package = pytest.importorskip('catkin_pkg.package')
    warnings: list[str] = []
    parsed = package.parse_package(str(ROOT / 'package.xml'), warnings=warnings)
    parsed.validate(warnings=warnings)
    assert warnings == []
    assert parsed.name == 'pruned_controller'
    assert manifest.findtext('export/build_type') == 'ament_python'


def test_versions_agree(manifest):
    setup = run(sys.executable, 'setup.py', '--version', cwd=ROOT).split()[-1]
    changelog = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    newest = re.search(r'^## \[(\d+\.\d+\.\d+)\]', changelog, re.MULTILINE)
    assert newest is not None
    assert {manifest.findtext('version'), setup, newest.group(1), pruning_core.__version__,
            pruned_controller.__version__} == {newest.group(1)}


def test_every_python_file_states_its_licence():
    for folder in ('pruning_core', 'pruned_controller', 'test', 'tools', 'launch', 'benchmarks'):
        for path in (ROOT / folder).rglob('*.py'):
            lines = [line for line in path.read_text(encoding='utf-8').splitlines()[:3]
                     if not line.startswith('#!')]
            assert lines[:2] == ['# Copyright 2026 The pruned_controller authors',
                                 '# SPDX-License-Identifier: Apache-2.0'], path
