# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The autoencoder: its groups by hand, determinism, learning, and exact cuts."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pruning_core.autoencoder import Autoencoder, AutoencoderConfig, Watchers, train
from pruning_core.errors import ConfigError
from pruning_core.importance import ImportanceTracker
from pruning_core.plans import Plan

SMALL = AutoencoderConfig(latent=3, hidden=(7, 5), epochs=30, batch_size=16)
IMAGES = np.random.default_rng(0).random((64, 2), np.float32) @ np.random.default_rng(1).random(
    (2, 9), np.float32) / 2


def test_groups_are_those_of_two_mirrored_networks():
    graph = Autoencoder(9, SMALL).graph()
    assert {g.name: (g.kind, g.size, g.params_per_unit) for g in graph.free} == {
        'encoder.hidden1': ('component', 7, 9 + 1 + 5),
        'encoder.hidden2': ('component', 5, 7 + 1 + 3),
        'latent': ('coupling', 3, 5 + 1 + 5),
        'decoder.hidden1': ('component', 5, 3 + 1 + 7),
        'decoder.hidden2': ('component', 7, 5 + 1 + 9)}
    assert graph['latent'].owners == ('encoder', 'decoder')


def test_it_learns_and_the_same_seed_gives_the_same_weights():
    models, trackers = [], []
    for _ in range(2):
        model = Autoencoder(9, SMALL)
        before = model.quality(IMAGES)
        trackers.append(ImportanceTracker(model.graph(), model.components, SMALL.importance))
        train(model, IMAGES, SMALL, np.random.default_rng(0), Watchers([trackers[-1]]))
        models.append(model)
    assert model.quality(IMAGES).mse < before.mse / 2
    assert model.quality(IMAGES).psnr == pytest.approx(-10 * np.log10(model.quality(IMAGES).mse))
    for a, b in zip(*(m.components['decoder'].parameters() for m in models), strict=True):
        assert torch.equal(a, b)
    assert trackers[0].updates == 30 * 4
    assert trackers[0].group_scores('fisher') == trackers[1].group_scores('fisher')
    other = Autoencoder(9, dataclasses.replace(SMALL, seed=1))
    assert not torch.equal(other.components['encoder'][0].weight,
                           Autoencoder(9, SMALL).components['encoder'][0].weight)


def test_a_cut_computes_what_masking_does_and_training_goes_on():
    model = Autoencoder(9, SMALL)
    train(model, IMAGES, SMALL, np.random.default_rng(0), epochs=2)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.components['decoder'][0].weight[:, 1] = 0
        masked.components['encoder'][2].weight[:, [0, 4]] = 0
    model.cut(Plan.removing(model.graph().groups, {'latent': [1], 'encoder.hidden1': [0, 4]}))
    assert model.components['encoder'][4].weight.shape == (2, 5)
    assert model.quality(IMAGES).mse == pytest.approx(masked.quality(IMAGES).mse, rel=1e-5)
    train(model, IMAGES, SMALL, np.random.default_rng(0))
    assert model.quality(IMAGES).mse < masked.quality(IMAGES).mse


@pytest.mark.parametrize('bad', [{'latent': 0}, {'hidden': (4, 0)}, {'epochs': 0}])
def test_sizes_are_checked(bad, four_parts):
    with pytest.raises(ConfigError) as error:
        AutoencoderConfig(**bad)
    four_parts(error, next(iter(bad)))
