# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Random programs of tensor operations: never silently wrong, whatever is done to the channels.

Views, slices, splits and permutations with sizes that are written down or taken from tensors, on
any axis, in place and on aliases: what the trace leaves free must run at every width, and compute
the masked model. Most programs are nonsense as models; that is the point.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning_core.channels import trace
from pruning_core.plans import Plan
from pruning_core.surgery import apply

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def at(dim, index):
    """An index that touches one axis alone."""
    return (*[slice(None)] * dim, index)


def unflattened(x, dim, parts, how):
    """One axis becomes two, with sizes from four sources."""
    n = x.shape[dim]
    # A quotient of 1 looks like any other new axis, and no trace can see that it would be 0 for
    # fewer channels: there the program stops by itself, which is not what is tested.
    pair = {'written': (parts, int(n) // parts), 'first free': (-1, max(1, int(n) // parts)),
            'last free': (parts, -1), 'taken': (parts, n // parts)}[how]
    return x.reshape(*x.shape[:dim], *pair, *x.shape[dim + 1:])


def added_in_place(x, y):
    x = x.clone()
    x.add_(y)
    return x


def set_in_place(x, y, dim, index):
    x = x.clone()
    x[at(dim, index)] = y.select(dim, 0)
    return x


def through_an_alias(x, y, dim):
    x = x.clone()
    x.transpose(0, dim).add_(y.transpose(0, dim))
    return x


def half_in_place(x, dim):
    x = x.clone()
    x.narrow(dim, 0, x.shape[dim] // 2).mul_(2)
    return x


def filled(x, y):
    out = torch.zeros(2, *x.shape, dtype=x.dtype)
    out[0], out[1] = x, y
    return out


def instruction(draw, pool):
    """Draw an operation on tensors of the pool; returns a function of such a pool."""
    i, j = (draw(st.integers(0, len(pool) - 1)) for _ in range(2))
    shape = tuple(pool[i].shape)
    dim, other = (draw(st.integers(0, max(len(shape) - 1, 0))) for _ in range(2))
    n = shape[dim] if shape else 1
    parts = draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0] or [1]))
    start, stop = draw(st.sampled_from([None, 0, 1, n // 2, -1])), draw(
        st.sampled_from([None, n, n - 1, n // 2, -1]))
    flag, which = draw(st.booleans()), draw(st.integers(0, 1))
    how = draw(st.sampled_from(['written', 'first free', 'last free', 'taken']))
    equation = draw(st.sampled_from(
        ['ab,ab->ab', 'ab,cb->ac', 'ab,ac->bc', 'ab,ab->a', 'ab,ab->b', 'ab,cd->abcd']))
    reduce = draw(st.sampled_from([torch.mean, torch.sum, torch.amax]))
    binary = draw(st.sampled_from([torch.add, torch.mul, torch.maximum, torch.sub]))
    return draw(st.sampled_from([
        lambda p: torch.tanh(p[i]),
        lambda p: binary(p[i], p[j]),
        lambda p: torch.where(p[i] > 0, p[i], p[j]),
        lambda p: torch.cat([p[i], p[j]], dim),
        lambda p: torch.stack([p[i], p[j]], dim),
        lambda p: p[i].transpose(dim, other),
        lambda p: p[i].flatten(min(dim, other), max(dim, other)),
        lambda p: unflattened(p[i], dim, parts, how),
        lambda p: p[i].reshape(shape),
        lambda p: p[i].reshape(p[j].shape),
        lambda p: p[i][at(dim, slice(start, stop))],
        lambda p: p[i][at(dim, slice(None, None, 2))],
        lambda p: p[i][at(dim, slice(None, p[i].shape[dim] // 2) if flag
                          else slice(p[i].shape[dim] // 2, None))],
        lambda p: p[i][at(dim, [0, n - 1, 0])],
        lambda p: p[i].select(dim, -which),
        lambda p: p[i].chunk(2 + flag, dim)[which],
        lambda p: p[i].split(p[i].shape[dim] // 2, dim)[which],
        lambda p: p[i].split(n // 2, dim)[which],
        lambda p: reduce(p[i], dim, keepdim=flag),
        lambda p: p[i].softmax(dim),
        lambda p: p[i].unsqueeze(0).expand(3, *p[i].shape),
        lambda p: p[i].expand(2, *shape),
        lambda p: p[i].flip(dim),
        lambda p: p[i].roll(1, dim),
        lambda p: p[i].repeat(*(1 + (k == dim) for k in range(len(shape)))),
        lambda p: p[i].repeat_interleave(2, dim),
        lambda p: p[i] @ p[j].mT if flag else p[i].mT @ p[j],
        lambda p: torch.einsum(equation, p[i], p[j]),
        lambda p: added_in_place(p[i], p[j]),
        lambda p: set_in_place(p[i], p[j], dim, -which),
        lambda p: through_an_alias(p[i], p[j], dim),
        lambda p: half_in_place(p[i], dim),
        lambda p: filled(p[i], p[j]),
        lambda p: p[i].squeeze(),
        lambda p: p[i] / p[i].shape[-1],
        lambda p: torch.cat([p[i], p[i].new_zeros(p[i].shape)], -1),
    ]))


@st.composite
def programs(draw):
    """Two encoders, up to six instructions, and heads that read what came out."""
    width = draw(st.sampled_from([4, 6, 8]))
    net = {'a': nn.Linear(3, width), 'c': nn.Linear(3, draw(st.sampled_from([width, 4])))}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def start(n):
        return [torch.tanh(n['a'](X)), n['c'](X)]

    for module in net.values():
        module.double()
    pool, steps = start(net), []
    for _ in range(draw(st.integers(1, 6))):
        step = instruction(draw, pool)
        try:
            out = step(pool)
        except (RuntimeError, IndexError, ValueError):
            continue
        if 0 < out.numel() < 3000 and 0 < out.dim() < 5:
            pool, steps = [*pool, out], [*steps, step]
    read = sorted({draw(st.integers(0, len(pool) - 1)), len(pool) - 1})
    for k in read:
        net[f'head{k}'] = nn.Linear(pool[k].shape[-1], 2).double()
    for module in net.values():
        for p in module.parameters():
            p.data.copy_(torch.randn(p.shape, generator=generator, dtype=torch.double))

    def run(n):
        values = start(n)
        for step in steps:
            values = [*values, step(values)]
        return [n[f'head{k}'](values[k]) for k in read]

    return net, run


@settings(deadline=None, max_examples=250)
@given(programs(), st.integers(0, 999))
def test_never_silently_wrong(program, seed):
    net, run = program
    graph = trace(net, lambda: run(net))
    rng = np.random.default_rng(seed)
    for _ in range(3):
        plan = Plan.removing(graph.groups, {
            g.name: rng.choice(g.size, rng.integers(0, g.size), replace=False)
            for g in graph.free})
        cut, masked = copy.deepcopy(net), copy.deepcopy(net)
        apply(plan, cut)
        with torch.no_grad():
            named = {f'{c}.{n}': p for c, m in masked.items() for n, p in m.named_parameters()}
            for name, dims in plan.slices.items():
                for dim, gone in dims.items():
                    for i in gone:
                        named[name].select(dim, i).zero_()
            for one, other in zip(run(masked), run(cut), strict=True):
                torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)
