# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of parameters against what the nodes declare, and what they refuse."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter as Value

from pruned_controller.controller_node import ControllerNode
from pruned_controller.parameters import CONTROLLER, PLANT, PRUNER, declare, read
from pruned_controller.plant_node import PlantNode
from pruned_controller.pruner_node import PrunerNode
from pruning_core import config as configuration
from pruning_core.errors import ConfigError, EnvError

TABLES = {ControllerNode: CONTROLLER, PrunerNode: PRUNER, PlantNode: PLANT}
ROWS = [pytest.param(p, id=f'{kind.__name__} {p.name}') for kind, t in TABLES.items() for p in t]
OF_EVERY_NODE = {'use_sim_time', 'start_type_description_service'}


class Bare(Node):
    """A node with nothing but a table."""

    def __init__(self, table):
        super().__init__('bare')
        declare(self, table)

    def close(self):
        pass


@pytest.fixture(params=TABLES, ids=lambda kind: kind.__name__)
def declared(request, node, tmp_path):
    """A real node and its table."""
    extra = {'runs': tmp_path / 'runs'} if request.param is PrunerNode else {}
    return node(request.param, **extra), TABLES[request.param]


def test_node_declares_its_table_and_nothing_else(declared):
    node, table = declared
    names = set(node.list_parameters([], 0).names) - OF_EVERY_NODE
    assert names == {p.name for p in table}
    assert len(names) == len(table)
    for p in table:
        descriptor = node.describe_parameter(p.name)
        assert descriptor.description == p.text
        # A lifecycle node takes most of its parameters when it is configured.
        assert descriptor.read_only == (p.fixed and not isinstance(node, LifecycleNode))
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        assert [(r.from_value, r.to_value) for r in ranges] == (
            [] if p.low is None else [(p.low, p.high)])
        assert node.get_parameter(p.name).value == p.default or p.name == 'runs'


@pytest.mark.parametrize('p', ROWS)
def test_every_parameter_says_what_it_is(p):
    assert len(p.text) > 5
    assert not p.text.endswith('.')
    assert p.name == p.name.lower()


@pytest.mark.parametrize('p', ROWS)
def test_every_number_has_a_range_that_holds_its_default(p):
    if not isinstance(p.default, (int, float)) or isinstance(p.default, bool):
        assert p.low is None
        assert p.high is None
    elif p.name == 'sparsity':  # up to but without 1, which ROS cannot say: checked in words
        for value in (-0.1, 1.0, 2.0, float('nan')):
            with pytest.raises(ConfigError, match='sparsity'):
                configuration.from_dict({'pruning': {'sparsity': value}})
    else:
        assert p.low <= p.default <= p.high


def test_defaults_of_the_pruner_are_those_of_the_command_line():
    pruning = configuration.Config().pruning
    shared = {p.name: p.default for p in PRUNER if hasattr(pruning, p.name)}
    assert {'sparsity', 'score', 'recovery_updates', 'seed'} <= set(shared)
    assert shared == {name: getattr(pruning, name) for name in shared}


@pytest.mark.parametrize('table', [CONTROLLER, PRUNER, PLANT])
def test_read_returns_the_table_with_its_types(node, table):
    class Kind(Bare):
        def __init__(self):
            super().__init__(table)
    values = read(node(Kind), table)
    assert values == {p.name: p.default for p in table}
    assert all(type(values[p.name]) is type(p.default) for p in table)


def test_values_given_at_the_start_are_taken(node):
    class Kind(Bare):
        def __init__(self):
            super().__init__(CONTROLLER)
    values = read(node(Kind, planner__samples=64, fallback='lqr', phase=-1.0), CONTROLLER)
    assert (values['planner.samples'], values['fallback'], values['phase']) == (64, 'lqr', -1.0)


@pytest.mark.parametrize(('name', 'value', 'reason'), [
    ('planner.samples', -1, 'range'),
    ('planner.samples', 100_001, 'range'),
    ('planner.samples', 'many', 'type'),
    ('planner.samples', 1.5, 'type'),
    ('planner.budget', float('nan'), 'range'),
    ('planner.budget', 61.0, 'range'),
    ('planner.budget', -0.001, 'range'),
])
def test_bad_or_late_change_is_refused_in_words(node, name, value, reason):
    controller = node(ControllerNode)
    before = controller.get_parameter(name).value
    result, = controller.set_parameters([Value(name, value=value)])
    assert not result.successful
    assert reason in result.reason.lower()
    assert controller.get_parameter(name).value == before


@pytest.mark.parametrize(('name', 'value'), [('planner.samples', 128), ('planner.iterations', 0),
                                             ('planner.budget', 0.02)])
def test_budget_of_the_planner_may_be_changed(node, name, value):
    controller = node(ControllerNode)
    result, = controller.set_parameters([Value(name, value=value)])
    assert result.successful
    assert read(controller, CONTROLLER)[name] == value


@pytest.mark.parametrize(('parameters', 'error', 'words'), [
    ({'output': 'pictures'}, ConfigError, "'pictures'.*allowed: observation, joint_states"),
    ({'env_id': 'Pendulun-v1'}, EnvError, "did you mean 'Pendulum-v1'"),
    ({'joint_positions': '["tan(0)"]'}, Exception, r'tan\(0\)'),
])
def test_plant_refuses_in_words(node, parameters, error, words):
    with pytest.raises(error, match=words):
        node(PlantNode, **parameters)


@pytest.mark.parametrize(('parameter', 'words'), [
    ('output:=pictures', 'allowed: observation, joint_states'),
    ('seed:=-5', 'seed'),
    ('seed:=2.5', 'seed'),
    ('lock_step:=maybe', 'lock_step'),
])
def test_started_node_says_in_one_line_what_is_wrong(parameter, words):
    done = subprocess.run(
        [sys.executable, '-m', 'pruned_controller.plant_node', '--ros-args', '-p', parameter],
        capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    line, = (text for text in done.stderr.splitlines() if 'Error' in text or 'Exception' in text)
    assert words in line
    assert 'Traceback' not in done.stderr
