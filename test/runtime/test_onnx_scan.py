# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs that point out of their file are refused, wherever the pointer hides."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pruning_core.errors import BundleError
from pruning_core.runtime.bundle import WEIGHTS
from pruning_core.runtime.onnx_scan import Beside, check_self_contained

BESIDE = Beside(WEIGHTS, 1000)


def outside(location='weights.bin'):
    tensor = helper.make_tensor('w', TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField('float_data')
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = 'location', location
    return tensor


def graph(nodes=(), tensors=(), sparse=()):
    value = helper.make_tensor_value_info('x', TensorProto.FLOAT, [1])
    return helper.make_graph(list(nodes), 'g', [value], [value], list(tensors),
                             sparse_initializer=list(sparse))


def model(of, functions=()):
    made = helper.make_model(of, functions=list(functions))
    return made.SerializeToString()


def constant(**attributes):
    return helper.make_node('Constant', [], ['c'], **attributes)


def sparse_outside():
    return helper.make_sparse_tensor(outside(), helper.make_tensor('i', TensorProto.INT64, [1],
                                                                   [0]), [2])


HIDDEN = {
    'an initializer': lambda: model(graph(tensors=[outside()])),
    'an absolute path': lambda: model(graph(tensors=[outside('/etc/passwd')])),
    'a constant': lambda: model(graph([constant(value=outside())])),
    'a list of tensors': lambda: model(graph([constant(values=[outside()])])),
    'a branch': lambda: model(graph([helper.make_node(
        'If', ['x'], ['y'], then_branch=graph(tensors=[outside()]), else_branch=graph())])),
    'a list of branches': lambda: model(graph([helper.make_node(
        'Many', ['x'], ['y'], bodies=[graph(), graph(tensors=[outside()])])])),
    'a sparse initializer': lambda: model(graph(sparse=[sparse_outside()])),
    'a sparse attribute': lambda: model(graph([constant(sparse_value=sparse_outside())])),
    'a function': lambda: model(graph(), [helper.make_function(
        'd', 'f', [], ['c'], [constant(value=outside())], [helper.make_opsetid('', 17)])]),
}


@pytest.mark.parametrize('where', HIDDEN)
def test_tensor_in_another_file_is_found_in(where, four_parts):
    with pytest.raises(BundleError) as caught:
        check_self_contained(HIDDEN[where](), 'policy.onnx', BESIDE)
    four_parts(caught, 'policy.onnx', 'a tensor of it lies in')


@pytest.mark.parametrize('where', [
    '', './weights.safetensors', 'weights.safetensors/', '/weights.safetensors',
    '../weights.safetensors', 'weights.safetensors\0x', 'Weights.safetensors'])
def test_only_the_very_name_of_the_weights_is_allowed(where):
    check_self_contained(model(graph(tensors=[outside(WEIGHTS)])), 'policy.onnx', BESIDE)
    with pytest.raises(BundleError, match='a tensor of it lies in'):
        check_self_contained(model(graph(tensors=[outside(where)])), 'policy.onnx', BESIDE)


def test_a_second_location_does_not_hide_behind_the_first():
    tensor = outside(WEIGHTS)
    for value in ('/etc/passwd', WEIGHTS):
        entry = tensor.external_data.add()
        entry.key, entry.value = 'location', value
    with pytest.raises(BundleError, match='a tensor of it lies in'):
        check_self_contained(model(graph(tensors=[tensor])), 'policy.onnx', BESIDE)


@pytest.mark.parametrize(('offset', 'length', 'inside'), [
    ('0', '1000', True), ('900', '100', True), ('900', '101', False), ('-1', '10', None),
    ('0', '-1', None), ('1_0', '1', None), ('10000', '1', False), ('1e3', '0', None),
    ('', '0', None)])
def test_a_place_must_lie_within_the_weights(offset, length, inside):
    tensor = outside(WEIGHTS)
    for key, value in (('offset', offset), ('length', length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    content = model(graph(tensors=[tensor]))
    if inside:
        check_self_contained(content, 'policy.onnx', BESIDE)
        return
    with pytest.raises(BundleError, match='no ONNX' if inside is None else 'lies in bytes'):
        check_self_contained(content, 'policy.onnx', BESIDE)


def test_a_tensor_outside_must_say_where():
    tensor = outside()
    tensor.ClearField('external_data')
    with pytest.raises(BundleError, match='a tensor of it lies in'):
        check_self_contained(model(graph(tensors=[tensor])), 'policy.onnx', BESIDE)


def test_a_location_without_the_flag_is_refused_too():
    tensor = outside()
    tensor.data_location = TensorProto.DEFAULT
    with pytest.raises(BundleError, match='a tensor of it lies in'):
        check_self_contained(model(graph(tensors=[tensor])), 'policy.onnx', BESIDE)


def test_exported_graphs_are_whole(bundle):
    for name, content in bundle.graphs.items():
        if name != WEIGHTS:
            check_self_contained(content, name, Beside(WEIGHTS, len(bundle.graphs[WEIGHTS])))


def test_graphs_too_deep_are_refused():
    inner = graph()
    for _ in range(20):
        inner = graph([helper.make_node('If', ['x'], ['y'], then_branch=inner)])
    with pytest.raises(BundleError, match='too deep'):
        check_self_contained(model(inner), 'policy.onnx', BESIDE)


def test_what_is_no_graph_is_refused_or_passed_but_never_fails(bundle):
    for content in (b'\xff' * 50, b'\x0a\xff\xff\xff\xff\x0f', b'\x80' * 20, b'\x0b'):
        with pytest.raises(BundleError, match='no ONNX graph'):
            check_self_contained(content, 'policy.onnx', BESIDE)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_passed(content):
    with contextlib.suppress(BundleError):
        check_self_contained(content, 'policy.onnx', BESIDE)


@given(st.data())
def test_any_damage_to_a_real_graph_is_refused_or_passed(bundle, data):
    content = bytearray(bundle.graphs['plan_step.onnx'])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BundleError):
        check_self_contained(bytes(content[:data.draw(st.integers(0, len(content)))]), 'p',
                             BESIDE)


def test_it_agrees_with_onnx_on_which_graphs_point_outside():
    """onnx's own reader as the oracle, on the graphs above and on whole ones."""
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    whole = model(graph([constant(value=helper.make_tensor('c', TensorProto.FLOAT, [2],
                                                           np.ones(2)))]))
    for content in (whole, *(HIDDEN[k]() for k in ('an initializer', 'a constant', 'a branch'))):
        expected = any(map(uses_external_data, _get_all_tensors(onnx.load_from_string(content))))
        try:
            check_self_contained(content, 'p', BESIDE)
            found = False
        except BundleError:
            found = True
        assert found == expected
