# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The file of shared weights: any safetensors reader reads it, and damage is told."""

from __future__ import annotations

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load

from pruning_core.errors import BundleError
from pruning_core.runtime.weights import join, lay_out, read

ARRAYS = {'b.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
          'a.int8': np.arange(-3, 4, dtype=np.int8), 'c.bias': np.float32([1.5])}
USERS = {'one.onnx': ['b.weight', 'c.bias'], 'two.onnx': ['a.int8', 'b.weight']}


@pytest.fixture
def content():
    return join(lay_out(ARRAYS, USERS), ARRAYS)


def test_every_graph_gets_its_weights(content):
    found = read(content)
    assert {graph: sorted(names) for graph, names in found.items()} == USERS
    for names in found.values():
        for name, array in names.items():
            np.testing.assert_array_equal(array, ARRAYS[name])
            assert array.dtype == ARRAYS[name].dtype


def test_library_of_safetensors_reads_the_same(content):
    found = load(content)
    assert {n: a.tolist() for n, a in found.items()} == {n: a.tolist() for n, a in ARRAYS.items()}


def test_places_are_those_of_the_bytes(content):
    for name, (offset, length) in lay_out(ARRAYS, USERS).places.items():
        assert content[offset:offset + length] == ARRAYS[name].tobytes()
    assert struct.unpack_from('<Q', content)[0] % 64 == 56  # arrays begin on a cache line


def test_same_arrays_same_bytes(content):
    backwards = dict(reversed(ARRAYS.items()))
    assert join(lay_out(backwards, dict(reversed(USERS.items()))), backwards) == content


@given(st.dictionaries(st.text('abc.', min_size=1, max_size=5), hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(-1, 1, width=32)),
    max_size=4))
def test_what_was_joined_is_read(arrays):
    content = join(lay_out(arrays, {'g': list(arrays)}), arrays)
    found = read(content)['g']
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def with_header(content, change):
    length, = struct.unpack_from('<Q', content)
    header = json.loads(content[8:8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + content[8 + length:]


def change_of(key, value, name='b.weight'):
    return lambda content: with_header(content, lambda h: h[name].update({key: value}))


@pytest.mark.parametrize('damage', [
    lambda c: b'', lambda c: c[:7], lambda c: c[:40], lambda c: c[:-1],
    lambda c: struct.pack('<Q', 1 << 60) + c[8:],
    lambda c: c[:8] + b'[' * 50 + c[58:],
    change_of('data_offsets', [0, 1 << 40]), change_of('data_offsets', [-24, 0]),
    change_of('data_offsets', [8, 0]), change_of('data_offsets', 'all'),
    change_of('shape', [2, 4]), change_of('shape', [-2, -3]), change_of('shape', [1 << 40, 3]),
    change_of('shape', [2.0, 3.0]), change_of('dtype', 'F64'), change_of('dtype', None),
    change_of('more', 1),
    lambda c: with_header(c, lambda h: h.pop('__metadata__')),
    lambda c: with_header(c, lambda h: h['__metadata__'].update({'one.onnx': 'missing'})),
    lambda c: with_header(c, lambda h: h.update({'b.weight': 7})),
])
def test_damage_is_told_in_four_parts(content, damage):
    with pytest.raises(BundleError, match=r'(?s)were read: .*; allowed: .*; export'):
        read(damage(content))


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_else(data):
    with contextlib.suppress(BundleError):
        read(data)
