# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Sums over slices against loops over every slice, on shapes of all kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.errors import GroupError
from pruning_core.groups import Group, Place
from pruning_core.importance import slices
from pruning_core.importance.slices import SliceSums, absolute, squared


def group(places, indices):
    return Group('g', ('a',), tuple(Place(*p) for p in places),
                 np.asarray(indices, np.int64), 1, 1)


def by_hand(groups, tensors):
    """(2, units) sums of |x| and of x squared, and the number of scalars."""
    rows = []
    for g in groups:
        for i in range(g.size):
            parts = [tensors[p].select(d, k).double().flatten() for p, d, k in g.unit(i)
                     if tensors.get(p) is not None]
            values = torch.cat(parts) if parts else torch.zeros(0)
            rows.append((float(values.abs().sum()), float(values.square().sum()), len(values)))
    return np.array(rows).T


@st.composite
def models(draw):
    """Some tensors of rank 1 to 3, and groups whose units hold random slices of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = {}
    for i in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
        tensors[f'p{i}'] = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    groups = []
    for _ in range(draw(st.integers(1, 3))):
        places = [(name, draw(st.integers(0, t.dim() - 1)))
                  for name, t in tensors.items() for _ in range(draw(st.integers(0, 2)))]
        units = draw(st.integers(1, 4))
        groups.append(group(places, [[int(rng.integers(tensors[n].shape[d])) for n, d in places]
                                     for _ in range(units)]))
    missing = draw(st.sets(st.sampled_from(sorted(tensors))))
    return tensors, groups, missing


@settings(max_examples=60, deadline=None)
@given(models())
def test_every_slice_once(model):
    """Also where slices lie apart, twice on one axis, or where a unit has none at all."""
    tensors, groups, missing = model
    sums = SliceSums(groups, tensors, (absolute, squared))
    first, scalars = sums([tensors[n] for n in sums.names])
    expected = by_hand(groups, tensors)
    np.testing.assert_allclose([*first, scalars], expected, rtol=1e-5, atol=1e-7)
    some = {n: None if n in missing else t for n, t in tensors.items()}
    second, scalars = sums([some[n] for n in sums.names])
    np.testing.assert_allclose([*second, scalars], by_hand(groups, some), rtol=1e-5, atol=1e-7)
    again, _ = sums([tensors[n] for n in sums.names])  # what was left out comes back
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize('block', [1, 7, 40, 1000])
def test_blocks_change_nothing_but_the_order_of_sums(monkeypatch, block):
    """A block of less than a row, of some rows, of all."""
    monkeypatch.setattr(slices, '_BLOCK', block)
    x = torch.arange(60, dtype=torch.float32).reshape(5, 6, 2) - 30
    groups = [group([('x', d)], np.arange(x.shape[d])[:, None]) for d in range(3)]
    sums, _ = SliceSums(groups, {'x': x}, (absolute, squared))([x])
    np.testing.assert_array_equal(sums, by_hand(groups, {'x': x})[:2])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_do_not_overflow(dtype):
    """The square of 1000 is no half-precision number."""
    x = torch.tensor([[1000.0, -2.0], [4.0, 0.5]], dtype=dtype)
    groups = [group([('x', 0)], [[0], [1]])]
    sums, _ = SliceSums(groups, {'x': x}, (absolute, squared))([x])
    np.testing.assert_allclose(sums, [[1002, 4.5], [1000004, 16.25]], rtol=1e-6)


def test_buffers_are_left_out():
    """A place that is in no parameter, beside one that is, and alone."""
    x = torch.ones(2, 3)
    both, alone = group([('x', 1), ('buffer', 0)], [[0, 0], [2, 1]]), group([('buffer', 0)], [[0]])
    sums, scalars = SliceSums([alone, both], {'x': x}, (absolute,))([x])
    assert sums.tolist() == [[0, 2, 2]] and scalars.tolist() == [0, 2, 2]


def test_one_device(four_parts):
    tensors = {'x': torch.ones(2), 'y': torch.ones(2, device='meta')}
    with pytest.raises(GroupError) as error:
        SliceSums([group([('x', 0), ('y', 0)], [[0, 0]])], tensors, (absolute,))
    four_parts(error, 'cpu, meta', 'one device')
