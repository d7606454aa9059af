# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Launch and parameter files as they lie there; nothing here needs ROS 2 launch."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest
import yaml

pytest.importorskip('rclpy', reason='the tables of parameters need rclpy')

from pruned_controller.parameters import CONTROLLER, PLANT, PRUNER

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
TABLES = {'controller': CONTROLLER, 'plant': PLANT, 'pruner': PRUNER}
# Files with every parameter of one node, whatever its name: the node -> its file.
COMPLETE = {node: ROOT / 'config' / f'{node}.yaml' for node in ('controller', 'pruner')}


def parameter_files():
    """Yield (file, node of TABLES, its parameters, flat) of every parameter file."""
    for path in sorted((ROOT / 'config').glob('*.yaml')):
        for key, content in yaml.safe_load(path.read_text()).items():
            if 'ros__parameters' in content:
                node = path.stem if key == '/**' else key.rpartition('/')[2]
                if node not in TABLES:
                    continue  # for a node of another package
                yield pytest.param(node, flat(content['ros__parameters']),
                                   id=f'{path.name}:{key}')


def flat(tree, prefix=''):
    """Return nested parameters under their dotted names."""
    found = {}
    for name, value in tree.items():
        found |= flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {
            prefix + name: value}
    return found


def documented(table, head):
    """Return the YAML file of a table: defaults, each under its explanation."""
    lines, section = ['/**:', '  ros__parameters:'], ''
    for p in table:
        outer, _, name = p.name.rpartition('.')
        if outer != section:
            lines += [f'    {outer}:'] if outer else []
            section = outer
        indent = ' ' * (6 if outer else 4)
        value = 'true' if p.default is True else 'false' if p.default is False else (
            repr(p.default))
        lines += textwrap.wrap(p.text, 99, initial_indent=f'{indent}# ',
                               subsequent_indent=f'{indent}# ')
        lines.append(f'{indent}{name}: {value}')
    return head + '\n'.join(lines) + '\n'


def calls(path, name):
    """Return the calls of a function in a file."""
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)
            and isinstance(n.func, ast.Name) and n.func.id == name]


def keywords(call):
    """Return the constant keyword arguments of a call."""
    return {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}


def test_there_are_the_launch_files_that_users_are_told_of():
    assert {p.name for p in LAUNCH_FILES} == {
        'controller.launch.py', 'pruning.launch.py', 'demo.launch.py'}


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda p: p.name)
def test_launch_file_parses_and_shows_its_command(path):
    tree = ast.parse(path.read_text(), str(path))
    assert f'    ros2 launch pruned_controller {path.name}' in ast.get_docstring(tree)
    assert 'generate_launch_description' in {
        n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda p: p.name)
def test_arguments_are_described_declared_and_used(path):
    declared = {call.args[0].value: keywords(call).get('description', '')
                for call in calls(path, 'DeclareLaunchArgument')}
    assert declared
    for name, description in declared.items():
        assert len(description.split()) >= 4, f'{name} is described by {description!r}'
    used = {call.args[0].value for call in calls(path, 'LaunchConfiguration')
            if isinstance(call.args[0], ast.Constant)}
    assert used <= set(declared), 'used but not declared'


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda p: p.name)
def test_launch_file_names_only_what_the_package_installs(path):
    scripts = (ROOT / 'setup.py').read_text()
    for call in calls(path, 'Node') + calls(path, 'LifecycleNode'):
        given = keywords(call)
        assert given['package'] == 'pruned_controller'
        assert f"'{given['executable']} = " in scripts
    for call in calls(path, 'ExecutableInPackage'):
        assert f"'{call.args[0].value} = " in scripts
    strings = {n.value for n in ast.walk(ast.parse(path.read_text()))
               if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    for name in strings:
        if name.endswith('.yaml'):
            assert (ROOT / 'config' / name).is_file()
        if name.endswith('.launch.py'):
            assert (ROOT / 'launch' / name).is_file()


@pytest.mark.parametrize(('node', 'given'), parameter_files())
def test_parameters_exist_and_have_the_declared_type_and_range(node, given):
    table = {p.name: p for p in TABLES[node]}
    assert given, 'an empty section sets nothing'
    for name, value in given.items():
        assert name in table, f'{node} has no parameter {name}'
        p = table[name]
        assert type(value) is type(p.default), f'{name}: rclpy takes {type(p.default).__name__}'
        if isinstance(value, list):
            assert {type(v) for v in value} == {type(v) for v in p.default}, name
        if p.low is not None:
            assert p.low <= value <= p.high, name


@pytest.mark.parametrize('node', COMPLETE)
def test_complete_file_is_the_table_of_the_node(node):
    text = COMPLETE[node].read_text()
    head = text[:text.index('/**:')]
    assert all(line.startswith('#') for line in head.splitlines())
    assert text == documented(TABLES[node], head)
