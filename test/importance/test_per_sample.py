# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Exact Fisher information against a loop over samples, and against what bounds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning_core.config import ImportanceConfig
from pruning_core.importance import ImportanceTracker
from pruning_core.importance.per_sample import per_sample_squares

UNITS, BATCH = 3, 7


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(BATCH, 2, generator=generator), torch.randn(BATCH, 1, generator=generator))


def loss_of(net):
    return lambda sample: (net(sample[0]) - sample[1]).square().sum()


@pytest.mark.parametrize('chunk', [1, 3, 100])
def test_against_a_loop(net, batch, chunk):
    found = per_sample_squares(net.components, loss_of(net), batch, chunk)
    expected = {n: torch.zeros_like(p) for n, p in net.parameters.items()}
    for b in range(BATCH):
        loss = loss_of(net)((batch[0][b], batch[1][b]))
        for name, g in zip(expected, torch.autograd.grad(loss, list(net.parameters.values())),
                           strict=True):
            expected[name] += g.square() / BATCH
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_what_the_loss_does_not_reach_is_left_out(net, batch):
    """And what is frozen; a gradient of zero is something else."""
    net.components['a'].bias.requires_grad_(False)
    inner = lambda sample: net.components['a'](sample[0]).sum() * 0  # noqa: E731
    found = per_sample_squares(net.components, inner, batch)
    assert list(found) == ['a.weight'] and not found['a.weight'].any()


def test_never_below_the_batch_form_nor_the_squared_gradient(net, batch):
    """Per sample >= of the batch >= squared mean, for every unit."""
    trackers = {f: ImportanceTracker(net.graph, net.components, ImportanceConfig(
        gamma=0.0, warmup=1, fisher=f)) for f in ('batch', 'per_sample')}
    for tracker in trackers.values():
        for p in net.parameters.values():
            p.grad = None
        torch.stack([loss_of(net)((x, y)) for x, y in zip(*batch, strict=True)]).mean().backward()
        tracker.observe()
        tracker.observe_samples(loss_of(net), batch)
        tracker.step()
    exact, cheap = (trackers[f].unit_scores('fisher')['latent'] for f in ('per_sample', 'batch'))
    gradient = trackers['batch'].unit_scores('gradient')['latent']
    assert (exact > cheap).all() and (cheap >= gradient**2).all()
    np.testing.assert_array_equal(trackers['per_sample'].unit_scores('gradient')['latent'],
                                  gradient)
    by_hand = {n: s.numpy() for n, s in per_sample_squares(
        net.components, loss_of(net), batch).items()}
    np.testing.assert_allclose(exact, [net.of_unit(by_hand, i).mean() for i in range(UNITS)],
                               rtol=1e-6)


def test_only_where_it_is_asked_for(net, batch):
    """The batch form ignores samples; the exact one has no Fisher score without them."""
    for fisher in ('batch', 'per_sample'):
        tracker = ImportanceTracker(net.graph, net.components, ImportanceConfig(
            warmup=1, fisher=fisher))
        net.set_gradients(net.drawn(1)[0])
        tracker.observe()
        if fisher == 'batch':
            tracker.observe_samples(loss_of(net), batch)
        tracker.step()
        scores = [tracker.unit_scores(s)['latent'] for s in ('gradient', 'fisher')]
        assert np.isfinite(scores[0]).all()
        assert np.isfinite(scores[1]).all() == (fisher == 'batch')
