# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/first_failures.md that need ROS 2: the mistake is made, the words are said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

from pruned_controller.controller_node import ControllerNode
from pruned_controller.conversions import LATCHED
from pruned_controller.node_main import run_node
from pruned_controller.observer import Observer
from pruned_controller.pruner_node import PrunerNode
from pruning_core.errors import JobError, PruningError

TABLE = (Path(__file__).resolve().parents[2] / 'docs' / 'first_failures.md').read_text()
ROWS = dict(re.findall(r'^\| \*\*(.+?)\*\*.*? \| `([^`]+)`', TABLE, re.M))


def configured(node, **parameters):
    """What the log of a controller says when it is configured in vain."""
    with pytest.raises(PruningError) as error:
        node(ControllerNode, **parameters)._configure()
    return str(error.value)


def test_no_bundle_parameter(node):
    assert ROWS['no bundle parameter'] in configured(node)


def test_int_for_double(capsys):
    code = run_node(PrunerNode, ['--ros-args', '-p', 'sparsity:=1'])
    assert code == 2 and ROWS['int for double'] in capsys.readouterr().err


def test_out_of_range(node):
    controller = node(ControllerNode)
    result, = controller.set_parameters([Parameter('planner.samples', value=-1)])
    assert not result.successful and ROWS['out of range'] in result.reason


def test_wrong_joint_map(node, bundles):
    words = configured(node, bundle=bundles[0].path, input='joint_states',
                       joint_map='["a.position","a.velocity"]')
    assert ROWS['wrong joint map'] in words


def test_another_plants_bundle(node, bundles):
    controller = node(ControllerNode, bundle=bundles[0].path)
    controller._configure()
    controller.set_parameters([Parameter('bundle', value=str(bundles[2].path))])
    answer = controller._on_reload(Trigger.Request(), Trigger.Response())
    assert not answer.success and ROWS["another plant's bundle"] in answer.message


def test_two_domains_or_a_firewall():
    observer = Observer()
    try:
        with pytest.raises(JobError, match=ROWS['two domains, or a firewall']):
            observer.call('/nobody/here', 0.1)
    finally:
        observer.close()


def test_qos(ros, spin, until, capfd):
    ros()
    two = Node('publisher'), Node('subscriber')
    two[0].create_publisher(String, 'latched', 1)  # volatile
    two[1].create_subscription(String, 'latched', print, LATCHED)
    spin(*two)
    heard = []
    until(lambda: heard.append(''.join(capfd.readouterr())) or ROWS['QoS'] in ''.join(heard))
