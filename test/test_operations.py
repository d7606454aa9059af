# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Every construct of the table: what may be cut, and that cutting it computes the masked model."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pruning_core.channels import trace
from pruning_core.equivalence import masked_outputs, outputs
from pruning_core.plans import Plan
from pruning_core.surgery import apply, verify

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def drawn(net):
    """Give every tensor a value that a mistake would show in, in double precision."""
    generator = torch.Generator().manual_seed(3)
    for module in net.values():
        module.double()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.data.copy_(values.abs() + 0.5 if 'var' in name else 0.6 * values)
    return net


def zeroed(net, plan):
    """Zero each removed slice on a copy, one by one, without the engine's help."""
    net = copy.deepcopy(net)
    named = {f'{c}.{n}': t for c, m in net.items()
             for n, t in [*m.named_parameters(), *m.named_buffers()]}
    with torch.no_grad():
        for name, dims in plan.slices.items():
            for dim, at in dims.items():
                for i in at if name in named else ():
                    named[name].select(dim, i).zero_()
        for module in net.values():
            module.eval()
    return net


def random_units(graph, seed):
    rng = np.random.default_rng(seed)
    return {g.name: rng.choice(g.size, rng.integers(1, g.size), replace=False)
            for g in graph.free if g.size > 1}


def free_of(net, run, *, rounds=4, oracle=True):
    """Trace, cut at random several times, prove each cut; return the sizes of the free groups."""
    drawn(net)
    graph = trace(net, lambda: run(net))
    for seed in range(rounds if any(g.size > 1 for g in graph.free) else 0):
        plan = Plan.removing(graph.groups, random_units(graph, seed))
        cut = copy.deepcopy(net)
        assert apply(plan, cut, run=run).difference < 1e-8
        if oracle:
            with torch.no_grad():
                expected, found = run(zeroed(net, plan)), outputs(cut, run)
            for one, other in zip(expected, found, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    return {g.name: g.size for g in graph.free}


def between(through, width=8, into=None, **extra):
    """3 -> a -> through -> b -> 2."""
    net = {'a': nn.Linear(3, width), 'b': nn.Linear(into or width, 2), **extra}
    return net, lambda n: [n['b'](through(n['a'](X.double()), n))]


class Times(nn.Module):
    """A bare parameter or buffer."""

    def __init__(self, *shape, buffer=False):
        super().__init__()
        if buffer:
            self.register_buffer('scale', torch.ones(shape))
        else:
            self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return x * self.scale


class RunningNormaliser(nn.Module):
    """Statistics in buffers, updated in place by every call."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('var', torch.ones(width))
        self.register_buffer('count', torch.tensor(0))

    def forward(self, x):
        self.mean.lerp_(x.mean(0), 0.1)
        self.var.mul_(0.9).add_(0.1 * x.var(0))
        self.count += 1
        return (x - self.mean) / (self.var + 1e-5).sqrt()


class NormedLinear(nn.Linear):
    """As in TD-MPC2: the normalisation is inside the layer."""

    def __init__(self, fan_in, fan_out, act):
        super().__init__(fan_in, fan_out)
        self.ln, self.act = nn.LayerNorm(fan_out), act

    def forward(self, x):
        return self.act(self.ln(super().forward(x)))


class SimNorm(nn.Module):
    """As in TD-MPC2: softmax over groups of V channels."""

    def __init__(self, simplex):
        super().__init__()
        self.simplex = simplex

    def forward(self, x):
        shape = x.shape
        return functional.softmax(x.view(*shape[:-1], -1, self.simplex), dim=-1).view(*shape)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x


def halves(z):
    left, right = z.chunk(2, -1)
    return left * right


def filled(z):
    out = torch.zeros(2, 6, z.shape[-1], dtype=z.dtype)
    out[0], out[1] = z, -z
    return out.mean(0)


def in_place(z):
    z = z.clone()
    z[0] = 1.0
    z += 1
    z[1:].mul_(2)
    return z


LAYERS = [nn.ELU(), nn.ReLU(inplace=True), nn.SiLU(), nn.Mish(), nn.GELU(), nn.Tanh(),
          nn.Dropout(0.5), nn.Sigmoid(), nn.LeakyReLU(), nn.Softplus(), nn.Identity(),
          nn.PReLU(), nn.PReLU(8), nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False),
          nn.BatchNorm1d(8, track_running_stats=False), nn.LayerNorm(8),
          nn.LayerNorm(8, bias=False), nn.LayerNorm(8, elementwise_affine=False), nn.RMSNorm(8),
          nn.RMSNorm(8, elementwise_affine=False), Times(8), Times(1, 8), Times(8, buffer=True),
          Times(1), Times(), RunningNormaliser(8)]


@pytest.mark.parametrize('layer', LAYERS, ids=[f'{i} {type(m).__name__}'
                                               for i, m in enumerate(LAYERS)])
def test_layers_between_two_linears(layer):
    """Eight units of one group; switches, sizes and buffers of the layer fit afterwards."""
    net, run = between(lambda z, n: n['m'](z), m=layer)
    buffers = {k: v.clone() for k, v in drawn(net)['m'].named_buffers()}
    assert list(free_of(net, run, oracle=not isinstance(layer, (nn.LayerNorm, nn.RMSNorm))
                        ).values()) == [8]
    assert net['m'].training
    assert all(torch.equal(buffers[k], v) for k, v in net['m'].named_buffers())


FOLLOWED = {
    'layer norm, its shape': (lambda z, n: functional.layer_norm(z, z.shape[-1:]), 8),
    'layer norm, its size': (lambda z, n: functional.layer_norm(z, (z.size(-1),)), 8),
    'rms norm, its shape': (lambda z, n: functional.rms_norm(z, z.shape[-1:]), 8),
    'residual': (lambda z, n: z + torch.tanh(z), 8),
    'broadcast row': (lambda z, n: z * z.mean(0) - z.amax(0, keepdim=True), 8),
    'where': (lambda z, n: torch.where(z > 0, z, 0.1 * z).masked_fill(z > 2, 0.0), 8),
    'lerp': (lambda z, n: torch.lerp(z, -z, 0.3).addcmul(z, z), 8),
    'keywords': (lambda z, n: torch.add(input=z, other=z, alpha=2), 8),
    'copies': (lambda z, n: z.detach().clone().data.contiguous().float().double(), 8),
    'like': (lambda z, n: torch.zeros_like(z) + torch.empty_like(z).copy_(z), 8),
    'cat with itself': (lambda z, n: torch.cat([z, z], -1), 8, 16),
    'stack, flatten': (lambda z, n: torch.stack([z, -z], -1).flatten(1), 8, 16),
    'stack, mean': (lambda z, n: torch.stack([z, -z], 1).mean(1), 8),
    'stack, unbind': (lambda z, n: torch.stack([z, -z]).unbind()[1], 8),
    'iterated rows': (lambda z, n: torch.stack(list(z)), 8),
    'rows in another order': (lambda z, n: z[[5, 3, 1]], 8),
    'flip': (lambda z, n: z.flip(-1), 8),
    'transpose': (lambda z, n: z.T.contiguous().mT, 8),
    'repeat': (lambda z, n: z.repeat(1, 2), 8, 16),
    'interleave': (lambda z, n: z.repeat_interleave(2, -1), 8, 16),
    'expand': (lambda z, n: z.unsqueeze(1).expand(-1, 5, -1).mean(1), 8),
    'view of its shape': (lambda z, n: z.view(*z.shape).view(z.shape).reshape(-1, z.size(1)), 8),
    'view of half its width': (
        lambda z, n: z.view(6, 2, z.shape[-1] // 2).transpose(0, 1).flatten(0, 1)[:6], 4, 4),
    'chunk': (lambda z, n: halves(z), 4, 4),
    'chunks in another order': (lambda z, n: torch.cat(z.chunk(2, -1)[::-1], -1), 4),
    'split at half its width': (
        lambda z, n: torch.cat(z.split(z.shape[-1] // 2, -1)[::-1], -1), 4),
    'glu': (lambda z, n: functional.glu(z), 4, 4),
    'all but the first': (lambda z, n: z[:, 1:], 7, 7),
    'filled buffer': (lambda z, n: filled(z), 8),
    'in place': (lambda z, n: in_place(z), 8),
    'along rows': (lambda z, n: z.softmax(0) + z.cumsum(0), 8),
    'unscaled attention': (lambda z, n: (z @ z.T) @ z, 8),
    'einsum': (lambda z, n: torch.einsum('bi,bi->b', z, z)[:, None] * z, 8),
    'padded rows': (lambda z, n: functional.pad(z, (0, 0, 1, 1))[1:-1], 8),
    'pooled rows': (lambda z, n: functional.avg_pool1d(z.T[None], 2)[0].T, 8),
    'autograd function': (lambda z, n: Double.apply(z), 8),
    'compared widths': (lambda z, n: z if z.shape[-1] == (2 * z).shape[1] > 0 else -z, 8),
}


@pytest.mark.parametrize('name', FOLLOWED)
def test_operations_that_are_followed(name):
    through, size, *into = FOLLOWED[name]
    net, run = between(through, into=into[0] if into else None)
    assert list(free_of(net, run, oracle='norm' not in name).values()) == [size]


def test_softmax_over_simplices_goes_by_whole_simplices():
    """16 channels in simplices of 4: units of 4 rows, 4 biases and 4 columns."""
    net, run = between(lambda z, n: n['m'](z), width=16, m=SimNorm(4))
    assert free_of(net, run) == {'latent': 4}
    group = trace(net, lambda: run(net))['latent']
    rows = [sorted(i for p, d, i in unit if p == 'a.weight') for unit in group.units]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert group.params_per_unit == 4 * (3 + 1 + 2)
    assert 'a.weight[i] x 4' in str(group)


FROZEN = {
    'literal layer norm': (lambda z, n: functional.layer_norm(z, (8,)), 'over a fixed size by'),
    'literal view': (lambda z, n: z.view(6, 8), 'size or place is written into torch.view'),
    'literal reshape': (lambda z, n: z.reshape(-1, 8), 'written into torch.reshape'),
    'literal expand': (lambda z, n: z[None].expand(2, 6, 8)[0], 'written into torch.expand'),
    'literal split': (lambda z, n: torch.cat(z.split(4, -1)[::-1], -1), 'into torch.split'),
    'literal slice': (lambda z, n: torch.cat([z[:, 4:], z[:, :4]], -1), 'torch.__getitem__'),
    'negative slice': (lambda z, n: z[:, -4:].repeat(1, 2), 'torch.__getitem__'),
    'index list': (lambda z, n: z[:, [1, 0, *range(2, 8)]], 'torch.__getitem__'),
    'index buffer': (lambda z, n: z[:, n['m'].scale], '__getitem__'),
    'index_select': (lambda z, n: z.index_select(1, torch.arange(8)), 'index_select'),
    'advanced index': (lambda z, n: z[z.argsort(0), torch.arange(8)], 'argsort'),
    'roll': (lambda z, n: z.roll(1, -1), 'torch.roll'),
    'squeeze all': (lambda z, n: z.squeeze(), 'torch.squeeze'),
    'one by one': (lambda z, n: torch.stack(z.unbind(1), 1), 'taken out by itself by torch.unb'),
    'softmax': (lambda z, n: z.softmax(-1), 'depends on all channels: torch.softmax'),
    'cumsum': (lambda z, n: z.cumsum(-1), 'depends on all channels: torch.cumsum'),
    'normalize': (lambda z, n: functional.normalize(z, dim=-1), 'on all channels'),
    'mean': (lambda z, n: z - z.mean(-1, keepdim=True), 'reduced by torch.mean'),
    'norm': (lambda z, n: z / z.norm(), 'reduced by torch.norm'),
    'argmax': (lambda z, n: functional.one_hot(z.argmax(-1), 8).double(), 'by torch.argmax'),
    'topk': (lambda z, n: z.topk(8)[0], 'not understood: torch.topk'),
    'gather': (lambda z, n: z.gather(1, torch.arange(8).expand(6, 8)), 'torch.gather'),
    'width as a number': (lambda z, n: z * z.shape[-1], 'used as a number by torch.mul'),
    'root of the width': (lambda z, n: z / math.sqrt(z.shape[-1]), 'turned into a number'),
    'share of the width': (lambda z, n: z * (1 / z.shape[-1]), 'turned into a number'),
    'asserted width': (lambda z, n: z if z.shape[-1] == 8 else -z, 'compared by'),
    'wide enough': (lambda z, n: z if z.size(1) > 4 else -z, 'compared by'),
    'dropout that stays on': (lambda z, n: functional.dropout(z, 0.5), 'functional.dropout'),
    'arange': (lambda z, n: z * torch.arange(z.shape[-1]), 'used as a number by torch.arange'),
    'eye': (lambda z, n: z @ torch.eye(z.shape[-1]).double(), 'used as a number by torch.eye'),
    'constant': (lambda z, n: z + torch.zeros(6, 8, dtype=z.dtype), 'fixed size by torch.zeros'),
    'constant matrix': (lambda z, n: z @ torch.eye(8).double(), 'not made of channels'),
    'group norm': (lambda z, n: functional.group_norm(z, 2), 'functional.group_norm'),
    'pooled channels': (lambda z, n: functional.avg_pool1d(z, 1), 'passed over by'),
    'padded channels': (lambda z, n: functional.pad(z, (1, -1)), 'passed over by'),
    'outer product': (lambda z, n: (z[:, :, None] * z[:, None, :]).sum(1), 'reduced by'),
    'attention': (lambda z, n: functional.scaled_dot_product_attention(
        z[None], z[None], z[None])[0], 'scaled_dot_product_attention'),
    'noise': (lambda z, n: z + torch.randn_like(z), 'not understood: torch.randn_like'),
    'random in place': (lambda z, n: z.uniform_(), 'not understood: torch.uniform_'),
    'numpy': (lambda z, n: torch.from_numpy(z.numpy()), 'not understood: torch.numpy'),
    'list': (lambda z, n: torch.tensor(z.tolist(), dtype=z.dtype), 'not understood: torch.tolist'),
    'transposed in place': (lambda z, n: z.t_().t(), 'not understood: torch.t_'),
    'strides': (lambda z, n: z.as_strided((6, 8), (8, 1)), 'not understood: torch.as_strided'),
    'resized': (lambda z, n: z.resize_(6, 8), 'not understood: torch.resize_'),
    'out': (lambda z, n: torch.cat([z], out=torch.empty(6, 8).double()), 'torch.cat'),
    'vmap': (lambda z, n: torch.vmap(lambda row: 2 * row)(z), 'not understood: torch.vmap'),
}


@pytest.mark.parametrize('name', FROZEN)
def test_operations_that_freeze(name):
    """The reason names the operation, the file and the line."""
    through, said = FROZEN[name]
    index = Times(8, buffer=True)
    index.scale = torch.arange(8)
    net, run = between(through, m=index)
    assert free_of(net, run) == {}
    reasons = {g.frozen_because for g in trace(net, lambda: run(net)).groups
               if any(p.parameter == 'a.bias' for p in g.places)}
    assert any(said in r for r in reasons), reasons
    assert name == 'vmap' or all(re.search(r' at test_operations\.py:\d+$|one step more$', r)
                                 for r in reasons), reasons


def test_scripted_modules_are_seen_below_python():
    """TorchScript calls no Python function; its operations are met where they reach tensors."""
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    net, run = between(lambda z, n: n['m'](z), m=scripted)
    assert free_of(net, run) == {}


@pytest.mark.parametrize('layer', [nn.GRU(8, 8), nn.LSTM(8, 8), nn.Bilinear(8, 8, 8),
                                   nn.MultiheadAttention(8, 2)], ids=lambda m: type(m).__name__)
def test_layers_that_are_not_understood_stay_whole(layer):
    def through(z, n):
        count = {'MultiheadAttention': 3, 'Bilinear': 2}.get(type(layer).__name__, 1)
        out = n['m'](*[z] * count)
        return out if isinstance(out, torch.Tensor) else out[0]

    net, run = between(through, m=layer)
    assert free_of(net, run) == {}
    assert all(g.frozen_because for g in trace(net, lambda: run(net)).groups)


def test_what_leads_nowhere_stays():
    """Its readers may be somewhere that this run did not come by."""
    net, run = between(lambda z, n: z, c=nn.Linear(8, 5))
    drawn(net)
    graph = trace(net, lambda: [net['c'](net['a'](X.double())), *run(net)][1:])
    (group,) = [g for g in graph.groups if ('c.bias', 0) in g.places]
    assert 'reach no later layer' in group.frozen_because


def images(*layers, flat):
    net = {'encoder': nn.Sequential(*layers), 'head': nn.Linear(flat, 2)}
    return net, lambda n: [n['head'](n['encoder'](IMAGE.double()))]


class SpatialMean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class ChannelsLast(nn.Module):
    """LayerNorm over the channels of an image."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.down, self.up = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x):
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + torch.relu(self.norm(self.conv(x)))


class Concatenating(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 5, 3, padding=1)

    def forward(self, x):
        x = torch.cat([x, self.one(x)], 1)
        return torch.cat([self.two(x), x], 1)


class Flat(nn.Module):
    """The many ways to flatten an image."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(x)


CONVOLUTIONS = {
    'flatten': ([nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten()], 6 * 36, [6]),
    'batch norm': ([nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2),
                    nn.BatchNorm2d(8), nn.ELU(), nn.Flatten()], 8 * 4, [6, 8]),
    'pools': ([nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1),
               nn.Flatten()], 8, [6, 8]),
    'depthwise': ([nn.Conv2d(3, 6, 3), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 8, 1),
                   SpatialMean()], 8, [6, 8]),
    'groups': ([nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 8, 1),
                SpatialMean()], 8, [8]),
    'transposed': ([nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 5, 3), nn.Conv2d(5, 4, 3),
                    SpatialMean()], 4, [6, 5, 4]),
    'upsampled': ([nn.Conv2d(3, 6, 3), nn.Upsample(scale_factor=2), nn.Conv2d(6, 4, 3),
                   SpatialMean()], 4, [6, 4]),
    'circular': ([nn.Conv2d(3, 6, 3, padding=1, padding_mode='circular'), SpatialMean()], 6, [6]),
    'slopes': ([nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten()], 6 * 36, [6]),
    'channels last': ([nn.Conv2d(3, 6, 3), ChannelsLast(6), nn.Conv2d(6, 4, 3), SpatialMean()], 4,
                      [6, 4]),
    'squeeze, excite': ([nn.Conv2d(3, 6, 3), SqueezeExcite(6), SpatialMean()], 6, [6, 4]),
    'residual': ([nn.Conv2d(3, 6, 3), Residual(6), Residual(6), SpatialMean()], 6, [6]),
    'concatenated': ([Concatenating(), nn.Flatten()], 12 * 64, [4, 5]),
    'view': ([nn.Conv2d(3, 6, 3), Flat(lambda x: x.view(x.size(0), -1))], 6 * 36, [6]),
    'hwc': ([nn.Conv2d(3, 6, 3), Flat(lambda x: x.permute(0, 2, 3, 1).flatten(1))], 6 * 36, [6]),
    'its sizes': ([nn.Conv2d(3, 6, 3), Flat(lambda x: x.reshape(
        x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]))], 6 * 36, [6]),
    'literal view': ([nn.Conv2d(3, 6, 3), Flat(lambda x: x.view(-1, 216))], 6 * 36, []),
    'group norm': ([nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.Flatten()], 6 * 36, []),
    'image norm': ([nn.Conv2d(3, 6, 3), nn.LayerNorm((6, 6, 6)), nn.Flatten()], 6 * 36, []),
    'shuffle': ([nn.Conv2d(3, 6, 3), nn.ChannelShuffle(2), nn.Flatten()], 6 * 36, []),
}


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_convolutions(name):
    layers, flat, sizes = CONVOLUTIONS[name]
    net, run = images(*layers, flat=flat)
    found = free_of(net, run, oracle=name != 'channels last')
    assert sorted(found.values()) == sorted(sizes), found


def test_a_channel_of_a_flattened_image():
    """One filter, its bias, and one column of the head for each of its 36 positions."""
    net, run = images(nn.Conv2d(3, 6, 3), nn.Flatten(), flat=6 * 36)
    group = trace(drawn(net), lambda: run(net))['latent']
    unit = group.unit(2)
    assert ('encoder.0.weight', 0, 2) in unit and ('encoder.0.bias', 0, 2) in unit
    assert [i for p, _, i in unit if p == 'head.weight'] == list(range(72, 108))
    assert group.params_per_unit == 27 + 1 + 36 * 2
    assert group.macs_per_unit == 27 * 36 + 36 * 2
    assert 'head.weight[:, i] x 36' in str(group)


def test_one_dimensional_convolutions():
    x = torch.randn(2, 3, 8, dtype=torch.double)
    net = {'encoder': nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.Mish(),
                                    nn.Conv1d(6, 5, 3), nn.Flatten()), 'head': nn.Linear(20, 2)}
    assert free_of(net, lambda n: [n['head'](n['encoder'](x))]) == {
        'encoder.hidden1': 6, 'latent': 5}


class Stacked(nn.Module):
    """An ensemble in one tensor, [n, out, in]."""

    def __init__(self, n, fan_in, fan_out, how):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n, fan_out, fan_in))
        self.bias = nn.Parameter(torch.zeros(n, 1, fan_out))
        self.how = how

    def forward(self, x):
        if self.how == 'baddbmm':
            return torch.baddbmm(self.bias, x, self.weight.transpose(1, 2))
        if self.how == 'einsum':
            return torch.einsum('nbi,noi->nbo', x, self.weight) + self.bias
        return x @ self.weight.mT + self.bias


@pytest.mark.parametrize('how', ['baddbmm', 'einsum', 'matmul'])
def test_stacked_ensembles(how):
    """A hidden channel goes from all members at once; the members stay."""
    net = {'encoder': nn.Linear(3, 8), 'q': nn.Sequential(
        Stacked(5, 8, 12, how), nn.ELU(), Stacked(5, 12, 7, how), nn.Mish(),
        Stacked(5, 7, 1, how))}

    def run(n):
        return [n['q'](n['encoder'](X.double()).expand(5, -1, -1)).min(0)[0]]

    assert free_of(net, run) == {'latent': 8, 'q.hidden1': 12, 'q.hidden2': 7}
    group = trace(net, lambda: run(net))['q.hidden1']
    assert group.unit(3) == (('q.0.bias', 2, 3), ('q.0.weight', 1, 3), ('q.2.weight', 2, 3))
    assert group.params_per_unit == 5 * (1 + 8 + 7)


def test_ensembles_as_lists():
    """Each member has its own hidden groups; the values of all are compared."""
    net = {'encoder': nn.Linear(3, 8), 'q': nn.ModuleList(
        nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1))
        for _ in range(5))}

    def run(n):
        values = torch.stack([q(n['encoder'](X.double())) for q in n['q']])
        return [values[torch.randperm(5)[:2]].min(0)[0], values.mean(0)]

    assert free_of(net, run, oracle=False) == {
        'latent': 8, **{f'q.hidden{k}': 6 for k in (1, 2, 3, 4, 5)}}


def test_weights_that_are_stacked_on_the_way():
    net = {'encoder': nn.Linear(3, 8), 'q1': nn.Linear(8, 6), 'q2': nn.Linear(8, 6),
           'out': nn.Linear(6, 1)}

    def run(n):
        weight = torch.stack([n['q1'].weight, n['q2'].weight])
        return [n['out'](torch.einsum('bi,noi->nbo', n['encoder'](X.double()), weight)).mean(0)]

    assert free_of(net, run) == {'latent': 8, 'latent2': 6}


def test_tied_weights_used_the_other_way_round():
    """An autoencoder whose decoder is its encoder transposed."""
    net = {'encoder': nn.Linear(3, 8), 'decoder': nn.Linear(8, 3)}

    def run(n):
        hidden = torch.tanh(n['encoder'](X.double()))
        return [functional.linear(hidden, n['encoder'].weight.t()), n['decoder'](hidden)]

    assert free_of(net, run) == {'latent': 8}
    group = trace(net, lambda: run(net))['latent']
    assert set(group.unit(0)) == {('encoder.bias', 0, 0), ('encoder.weight', 0, 0),
                                  ('decoder.weight', 1, 0)}


def test_one_module_under_two_names():
    shared = nn.Linear(8, 8)
    net = {'a': nn.Linear(3, 8), 's': shared, 't': shared, 'b': nn.Linear(8, 2)}

    def run(n):
        return [n['b'](n['t'](torch.tanh(n['s'](n['a'](X.double())))))]

    assert free_of(net, run) == {'latent': 8}
    plan = Plan.removing(trace(net, lambda: run(net)).groups, {'latent': [1, 2]})
    apply(plan, net, run=run)
    assert net['s'] is net['t'] and net['s'].weight.shape == (6, 6)


def test_normalised_weights_stay():
    """Weight normalisation is one operation that is not understood."""
    net, run = between(lambda z, n: n['m'](z),
                       m=nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
    assert free_of(net, run) == {}


def test_embedding():
    net = {'table': nn.Embedding(5, 8), 'hidden': nn.Linear(8, 6), 'head': nn.Linear(6, 2)}
    entries = torch.tensor([0, 3, 1])
    assert free_of(net, lambda n: [n['head'](n['hidden'](n['table'](entries)))]) == {
        'latent': 8, 'latent2': 6}


class SelfAttention(nn.Module):
    """Heads that are viewed with the width of another tensor."""

    def __init__(self, width, heads):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(b, t, d))


def test_a_width_taken_from_another_tensor_freezes_both():
    """The input's width is written into a view of the projection: neither can be cut alone."""
    net, run = between(lambda z, n: n['m'](z[None])[0], m=SelfAttention(8, 2))
    assert free_of(net, run) == {'latent': 8}  # what the attention's last layer writes
    graph = trace(net, lambda: run(net))
    (entering,) = [g for g in graph.groups if ('a.bias', 0) in g.places]
    assert 'width is used as a number by torch.view' in entering.frozen_because


def tdmpc2(z_first):
    """Encoder, dynamics, reward and policy as TD-MPC2 builds them; actions before or behind."""
    mish = nn.Mish(inplace=True)  # one object for all layers, as upstream
    net = {
        'encoder': nn.Sequential(NormedLinear(3, 10, mish), NormedLinear(10, 16, SimNorm(4))),
        'dynamics': nn.Sequential(NormedLinear(18, 10, mish), NormedLinear(10, 16, SimNorm(4))),
        'reward': nn.Sequential(NormedLinear(18, 10, mish), nn.Linear(10, 5)),
        'policy': nn.Sequential(NormedLinear(16, 10, mish), nn.Linear(10, 4))}

    def run(n):
        z, out = n['encoder'](X.double()), []
        latents = torch.empty(3, 6, z.shape[-1], dtype=z.dtype)
        for step in range(3):
            latents[step] = z
            action = torch.tanh(n['policy'](z).chunk(2, -1)[0])
            pair = torch.cat([z, action] if z_first else [action, z], -1)
            out += [action, n['reward'](pair)]
            z = n['dynamics'](pair)
        return [*out, n['policy'](latents)]

    return net, run


@pytest.mark.parametrize('z_first', [True, False])
def test_tdmpc2(z_first):
    net, run = tdmpc2(z_first)
    assert free_of(net, run, oracle=False) == {
        'encoder.hidden1': 10, 'latent': 4, 'dynamics.hidden1': 10, 'reward.hidden1': 10,
        'policy.hidden1': 10}


def test_normalisations_in_the_masked_model():
    """Written out: mean and variance of the kept channels alone."""
    net, run = between(lambda z, n: n['m'](z), m=nn.LayerNorm(8))
    graph = trace(drawn(net), lambda: run(net))
    plan = Plan.removing(graph.groups, {'latent': [0, 5]})
    kept = [1, 2, 3, 4, 6, 7]
    with torch.no_grad():
        z = net['a'](X.double())[:, kept]
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        z = z * net['m'].weight[kept] + net['m'].bias[kept]
        expected = z @ net['b'].weight[:, kept].T + net['b'].bias
    (found,) = masked_outputs(net, plan, run)
    torch.testing.assert_close(found, expected)
    cut = copy.deepcopy(net)
    apply(plan, cut)
    assert verify(net, cut, plan, run) < 1e-12


def test_a_trace_leaves_no_mark():
    """Buffers, train mode, random numbers and pending gradients are as before."""
    net, run = between(lambda z, n: n['n'](n['m'](z)) + torch.rand(()), m=nn.BatchNorm1d(8),
                       n=RunningNormaliser(8))
    drawn(net)
    before = {k: v.clone() for k, v in nn.ModuleDict(net).state_dict().items()}
    loss = net['b'](net['a'](X.double())).square().sum()
    state = torch.get_rng_state()
    trace(net, lambda: run(net))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in net.values())
    for key, value in nn.ModuleDict(net).state_dict().items():
        assert torch.equal(value, before[key]), key
    loss.backward()
    assert net['a'].weight.grad is not None
