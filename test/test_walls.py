# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: read from every source file, and tried in a fresh process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAINING = {'torch', 'scipy', 'onnx', 'gymnasium', 'safetensors', 'matplotlib', 'tensorboard',
            'tqdm', 'torch_pruning', 'rosbags'}
ROS = {'rclpy', 'std_msgs', 'sensor_msgs', 'diagnostic_msgs', 'rcl_interfaces', 'lifecycle_msgs',
       'std_srvs', 'launch', 'launch_ros', 'ament_index_python'}


def modules(*patterns):
    """Names of the modules at these places, such as 'pruning_core.runtime.planner'."""
    found = []
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            parts = path.relative_to(ROOT).with_suffix('').parts
            found.append('.'.join(parts[:-1] if parts[-1] == '__init__' else parts))
    assert found, patterns
    return found


def source(name):
    path = ROOT.joinpath(*name.split('.'))
    return path / '__init__.py' if path.is_dir() else path.with_suffix('.py')


def imported(name):
    """Every module that a source file names in an import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source(name).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{name} has a relative import'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


RUNTIME = modules('pruning_core/runtime/**/*.py')
CORE = modules('pruning_core/**/*.py')
NODES = modules('pruned_controller/**/*.py')
PLANNING = [f'pruning_core.runtime.{n}'
            for n in ('bench', 'bound', 'fit', 'pilot', 'planner', 'swap')]
STANDARD = sys.stdlib_module_names


@pytest.mark.parametrize('name', RUNTIME)
def test_runtime_names_numpy_onnxruntime_and_its_own_room_alone(name):
    allowed = {'numpy', 'onnxruntime', *STANDARD}
    if name == 'pruning_core.runtime.signature':
        allowed.add('cryptography')  # optional; imported where a key is configured, not before
    for other in imported(name):
        ours = other.startswith('pruning_core.')
        assert (other.startswith(('pruning_core.runtime', 'pruning_core.errors')) if ours
                else other.partition('.')[0] in allowed), f'{name} imports {other}'
        assert other.partition('.')[0] != 'pickle'


@pytest.mark.parametrize('name', CORE)
def test_pruning_core_never_names_ros_or_the_nodes(name):
    assert not {o for o in imported(name) if o.partition('.')[0] in {*ROS, 'pruned_controller'}}


@pytest.mark.parametrize('name', NODES)
def test_nodes_never_name_the_training_libraries(name):
    """The plant reaches gymnasium through pruning_core.env; nobody else does."""
    named = {o.partition('.')[0] for o in imported(name)}
    assert not named & TRAINING
    if name != 'pruned_controller.plant_node':
        assert not {o for o in imported(name) if o.startswith('pruning_core.env')}


def test_controller_names_only_the_runtime_of_pruning_core():
    ours = {o for o in imported('pruned_controller.controller_node')
            if o.startswith('pruning_core')}
    assert ours
    assert all(o.startswith(('pruning_core.runtime', 'pruning_core.errors')) for o in ours)


TRY = """
import importlib, json, sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in blocked:
            raise ImportError(f'{name} is behind the wall')

names, blocked = json.loads(sys.argv[1])
sys.meta_path.insert(0, Wall())
for name in names:
    importlib.import_module(name)
print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))
"""


def loaded(names, blocked=()):
    """What a fresh process has imported after these modules, with others out of its reach."""
    done = subprocess.run(
        [sys.executable, '-c', TRY, json.dumps([list(names), sorted(blocked)])], cwd=ROOT,
        capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


THIRD = {'numpy', 'onnxruntime', 'yaml', 'cryptography', *TRAINING, *ROS}


@pytest.mark.parametrize(('names', 'blocked', 'allowed'), [
    (['pruning_core', 'pruning_core.errors'], THIRD, set()),
    (RUNTIME, THIRD - {'numpy', 'onnxruntime'}, {'numpy', 'onnxruntime'}),
    ([n for n in RUNTIME if n not in PLANNING], THIRD - {'numpy'}, {'numpy'}),
    (['pruned_controller.controller_node'], {*TRAINING, 'cryptography'},
     {'numpy', 'onnxruntime', 'yaml', *ROS}),
    (['pruned_controller.pruner_node', 'pruned_controller.job', 'pruned_controller.parameters',
      'pruned_controller.conversions', 'pruned_controller.live', 'pruned_controller.observer'],
     {*TRAINING, 'onnxruntime'}, {'numpy', 'yaml', *ROS}),
    (['pruned_controller.plant_node'], {*TRAINING, 'onnxruntime'} - {'gymnasium'},
     {'numpy', 'yaml', 'gymnasium', *ROS}),
    (['pruning_core.cli', 'pruning_core.config', 'pruning_core.zoo'], THIRD - {'yaml'}, {'yaml'}),
    ([n for n in CORE if not n.endswith('__main__')], {*ROS, 'cryptography'}, THIRD - ROS),
], ids=['package', 'runtime', 'runtime but planning', 'controller', 'pruner', 'plant',
        'command line', 'all of pruning_core'])
def test_room_imports_with_everything_else_out_of_reach(names, blocked, allowed):
    found = loaded(names, blocked)
    assert not found & blocked
    assert found & THIRD <= allowed


def test_wall_of_this_test_holds():
    with pytest.raises(AssertionError, match='numpy is behind the wall'):
        loaded(['pruning_core.runtime.metrics'], {'numpy'})
    assert 'numpy' in loaded(['pruning_core.runtime.metrics'])
