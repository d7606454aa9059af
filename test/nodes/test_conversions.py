# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back, by value and over the wire."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSCompatibility, ReliabilityPolicy, qos_check_compatible
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, String, UInt8MultiArray

from pruned_controller.conversions import (
    COMMAND,
    LATCHED,
    METRIC,
    NEWEST,
    archive_message,
    archive_of,
    to_array,
    to_message,
)
from pruning_core.errors import ConfigError
from pruning_core.runtime.joint_map import JointMap

BEST, RELIABLE = ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE
VOLATILE, LOCAL = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL


def sent(message):
    """The message after a journey over the wire."""
    return deserialize_message(serialize_message(message), type(message))


# --- quality of service ----------------------------------------------------------------------


@pytest.mark.parametrize(('qos', 'depth', 'reliability', 'durability'), [
    (NEWEST, 1, BEST, VOLATILE), (COMMAND, 1, RELIABLE, VOLATILE),
    (METRIC, 10, RELIABLE, VOLATILE), (LATCHED, 1, RELIABLE, LOCAL)])
def test_qos_is_the_documented_one(qos, depth, reliability, durability):
    assert (qos.depth, qos.reliability) == (depth, reliability)
    assert (qos.durability == LOCAL) == (durability == LOCAL)


@pytest.mark.parametrize('qos', [NEWEST, COMMAND, METRIC, LATCHED])
def test_no_deadline_is_asked_for_that_ordinary_publishers_do_not_offer(qos):
    assert qos.deadline.nanoseconds in (0, 2**63 - 1)


@pytest.mark.parametrize(('publisher', 'subscription', 'match'), [
    (COMMAND, NEWEST, True), (METRIC, NEWEST, True), (LATCHED, NEWEST, True),
    (NEWEST, NEWEST, True), (COMMAND, COMMAND, True), (LATCHED, METRIC, True),
    (LATCHED, LATCHED, True), (NEWEST, COMMAND, False)])
def test_observations_match_every_publisher_and_ours_match_one_another(ros, publisher,
                                                                       subscription, match):
    ros()
    compatible, reason = qos_check_compatible(publisher, subscription)
    assert (compatible != QoSCompatibility.ERROR) == match, reason


def test_who_comes_late_still_gets_the_last_latched_message(ros, spin, until):
    ros()
    early, late, got = Node('early'), Node('late'), []
    publisher = early.create_publisher(String, 'status', LATCHED)
    for text in ('first', 'last'):
        publisher.publish(String(data=text))
    late.create_subscription(String, 'status', lambda m: got.append(m.data), LATCHED)
    spin(early, late)
    until(lambda: got, 'a latched message')
    assert got == ['last']


# --- arrays ----------------------------------------------------------------------------------


@given(st.lists(st.floats()))
def test_numbers_survive_to_the_bit(values):
    back = to_array(sent(to_message(np.array(values))))
    assert back.shape == (len(values),)
    assert back.tobytes() == np.array(values, float).tobytes()


@pytest.mark.parametrize(('values', 'flat'), [
    (1.5, [1.5]), ([[1, 2], [3, 4]], [1, 2, 3, 4]), (np.float32([0.5]), [0.5]), ([], [])])
def test_any_shape_becomes_flat_numbers(values, flat):
    assert list(to_message(values).data) == flat


def test_message_owns_its_numbers():
    values = np.array([1.0, 2.0])
    message = to_message(values)
    values[0] = 9.0
    assert list(message.data) == [1.0, 2.0]
    assert to_array(Float64MultiArray()).shape == (0,)


# --- archives --------------------------------------------------------------------------------


@given(st.binary(max_size=2000))
def test_archive_round_trip_over_the_wire(content):
    identity = hashlib.sha256(content).hexdigest()
    message = sent(archive_message(content, identity))
    assert archive_of(message) == (content, identity)
    assert message.layout.dim[0].size == len(content)


@pytest.mark.parametrize('dimensions', [[], [MultiArrayDimension(size=3)]])
def test_archive_without_its_hash_is_refused(dimensions):
    message = UInt8MultiArray(data=b'abc')
    message.layout.dim = dimensions
    with pytest.raises(ConfigError, match='carries no hash; allowed: '):
        archive_of(message)


# --- joint states ----------------------------------------------------------------------------

STATES = JointState(name=['cart', 'pole/1', 'left-knee'], position=[0.5, 2.0, -1.0],
                    velocity=[1.5, -3.0, 0.0], effort=[])


@pytest.mark.parametrize(('entry', 'value'), [
    ('cart.position', 0.5), ('cart.velocity', 1.5), ('pole/1.velocity', -3.0),
    ('left-knee.position', -1.0), ('cos(pole/1.position)', math.cos(2)),
    ('sin(cart.velocity)', math.sin(1.5)), ('cart.effort', math.nan), ('wheel.position', math.nan),
    ('cos(wheel.position)', math.nan)])
def test_entry(entry, value):
    found = JointMap([entry])(STATES)
    assert found.shape == (1,)
    assert found[0] == pytest.approx(value, nan_ok=True)


def test_map_follows_names_and_not_places():
    mapping = JointMap(['b.position', 'a.velocity', 'a.position'])
    assert len(mapping) == 3
    one = JointState(name=['a', 'b'], position=[1.0, 2.0], velocity=[3.0, 4.0])
    other = JointState(name=['b', 'x', 'a'], position=[2.0, 9.0, 1.0], velocity=[4.0, 9.0, 3.0])
    assert mapping(one).tolist() == mapping(other).tolist() == [2.0, 3.0, 1.0]


def test_message_with_fewer_values_than_names_gives_what_it_has():
    message = JointState(name=['a', 'b'], position=[1.0], velocity=[])
    found = JointMap(['a.position', 'b.position', 'a.velocity'])(message)
    assert found[0] == 1.0
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize('entry', ['cos(a.position)', 'sin(a.position)', 'a.position'])
@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
def test_broken_encoder_gives_an_unusable_number_and_no_exception(entry, value):
    """It is raised in a callback otherwise, and takes the controller with it."""
    assert not np.isfinite(JointMap([entry])(JointState(name=['a'], position=[value]))).any()


@pytest.mark.parametrize('entry', [
    '', 'cart', 'cart.', '.position', 'cart.acceleration', 'cart.position.x', 'tan(cart.position)',
    'cos(cart.position', 'cos cart.position)', 'cart.position)', 'cos(sin(cart.position))',
    'cos()', 'car t.position', 'cart.position ', '__import__("os").position', '-cart.position'])
def test_entry_of_another_form_is_refused_in_words(entry):
    with pytest.raises(ConfigError) as caught:
        JointMap(['cart.position', entry])
    assert f'joint_map entry {entry!r} was read' in str(caught.value)
    assert "allowed: 'joint.position'" in str(caught.value)
