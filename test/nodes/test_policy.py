# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy and the aggregator's configuration against what the nodes really open."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import TransitionCallbackReturn

from pruned_controller.controller_node import ControllerNode
from pruned_controller.conversions import METRIC
from pruned_controller.plant_node import PlantNode
from pruned_controller.pruner_node import PrunerNode

CONFIG = Path(__file__).resolve().parents[2] / 'config'
# Nodes that earlier tests made under the same name stay in the graph for a while.
APART = '/apart'
POLICY = xml.etree.ElementTree.parse(CONFIG / 'sros2' / 'policy.xml')


def granted(name):
    """What the policy lets a node do: {(kind, right): names}, as full names."""
    profile = POLICY.find(f".//profile[@node='{name}']")
    found = {}
    for group in profile:
        (right, allowed), = group.attrib.items()
        assert allowed == 'ALLOW'
        names = {e.text.replace('~/', f'/{name}/') for e in group}
        found[group.tag, right] = {n if n.startswith('/') else f'/{n}' for n in names}
    return found


def opened(node, name):
    """What a node opens on the network, by the graph."""
    def names(pairs):
        return {n.removeprefix(APART) for n, _ in pairs}
    return {
        ('topics', 'publish'): names(node.get_publisher_names_and_types_by_node(name, APART)),
        ('topics', 'subscribe'): names(node.get_subscriber_names_and_types_by_node(name, APART)),
        ('services', 'reply'): names(node.get_service_names_and_types_by_node(name, APART))}


@pytest.mark.parametrize(('kind', 'name', 'either'), [
    (ControllerNode, 'controller', {'/joint_states', '/observation'}),
    (PrunerNode, 'pruner', set()),
    (PlantNode, 'plant', {'/joint_states', '/observation'})])
def test_policy_grants_exactly_what_the_node_opens(node, bundles, tmp_path, until, kind, name,
                                                    either):
    parameters = {'pruner': {'runs': tmp_path / 'runs'},
                  'controller': {'bundle': bundles[0].path, 'store': tmp_path / 'store'}}
    made = node(kind, namespace=APART, **parameters.get(name, {}))
    if name == 'controller':
        assert made.trigger_configure() == TransitionCallbackReturn.SUCCESS
    rights = granted(name)

    def agrees():
        return all(names - rights.get(right, set()) == set()
                   and rights.get(right, set()) - names <= either
                   for right, names in opened(made, name).items())
    until(agrees, f'policy {rights} for {opened(made, name)}', 20.0)


def test_policy_has_an_enclave_for_each_node_and_no_wildcards():
    paths = {e.get('path') for e in POLICY.findall('.//enclave')}
    assert paths == {f'/pruned_controller/{n}' for n in ('controller', 'pruner', 'plant')}
    assert '*' not in (CONFIG / 'sros2' / 'policy.xml').read_text()


def test_aggregator_expects_the_statuses_that_are_published(node, spin, bundles, tmp_path, until):
    controller = node(ControllerNode, bundle=bundles[0].path, store=tmp_path / 'store')
    assert controller.trigger_configure() == TransitionCallbackReturn.SUCCESS
    heard = []
    controller.create_subscription(DiagnosticArray, '/diagnostics', heard.append, METRIC)
    spin(controller)
    until(lambda: heard, 'diagnostics')
    settings = yaml.safe_load((CONFIG / 'diagnostics.yaml').read_text())
    analyzer = settings['/**']['ros__parameters']['pruned_controller']
    assert [s.name for s in heard[0].status] == analyzer['expected']
    assert all(s.hardware_id == 'Pendulum-v1' for s in heard[0].status)
    keys = [v.key for s in heard[0].status for v in s.values]
    assert len(keys) == len(set(keys)), 'one number per key'
