# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's second testbed: an autoencoder whose latent couples encoder and decoder.

A configuration and images in; a trained autoencoder with its importance out (arXiv 2601.19794,
section 4: MNIST, latent dimensions 8, 64, 256 and 512). Groups, importance and pressure are those
that agents are trained with; nothing of them is made again here.

Deviation: the paper's summary names neither layers nor optimiser. Ours: an MLP with two hidden
layers on either side, mirrored, ReLU between and a sigmoid at the end, mean squared error, Adam.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruning_core.channels import trace
from pruning_core.config import ImportanceConfig, SparsityConfig
from pruning_core.errors import ConfigError, explain
from pruning_core.groups import UnitGraph
from pruning_core.importance import ImportanceTracker
from pruning_core.plans import Plan
from pruning_core.progress import Progress, silent
from pruning_core.sparsity import SparsityPressure
from pruning_core.surgery import apply

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes and training.

    Attributes:
        latent: channels between encoder and decoder.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        epochs: passes over the training images.
        batch_size: images per update.
        learning_rate: of Adam.
        seed: of weights and batches.
        importance: how it is measured.
        sparsity: pressure while training; none by default.
    """

    latent: int = 64
    hidden: tuple[int, ...] = (512, 256)
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 0
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)

    def __post_init__(self) -> None:
        """Check ranges."""
        sizes = [('hidden', n) for n in self.hidden]
        for name, value in (*sizes, ('latent', self.latent), ('epochs', self.epochs),
                            ('batch_size', self.batch_size)):
            if value < 1:
                raise ConfigError(explain(f'an autoencoder with {name} {value} was asked for',
                                          'less than 1', '1 or more', f'correct {name}'))


class Quality(NamedTuple):
    """How well images are reconstructed: mean squared error, and its logarithm.

    Attributes:
        mse: mean over images and pixels, of values in [0, 1].
        psnr: peak signal-to-noise ratio in dB, 10 log10(1 / mse).
    """

    mse: float
    psnr: float


class Autoencoder:
    """Encoder and decoder with an optimiser.

    Attributes:
        components: `encoder` (B, pixels) -> (B, Z), `decoder` (B, Z) -> (B, pixels).
        optimizer: Adam over both.
    """

    def __init__(self, pixels: int, config: AutoencoderConfig) -> None:
        """Draw fresh weights from the configuration's seed."""
        generator = torch.Generator().manual_seed(config.seed)
        sizes = (pixels, *config.hidden, config.latent)
        self.components = {'encoder': _mlp(sizes), 'decoder': _mlp(sizes[::-1])}
        self.components['decoder'].append(nn.Sigmoid())
        for part in self.components.values():
            for layer in part:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity='relu',
                                             generator=generator)
                    nn.init.zeros_(layer.bias)
        self._pixels = pixels
        self.restart_optimizer(config.learning_rate)

    def restart_optimizer(self, learning_rate: float) -> None:
        """Start Adam afresh."""
        self.optimizer = torch.optim.Adam(
            [p for m in self.components.values() for p in m.parameters()], lr=learning_rate)

    def reconstruct(self, images: Tensor) -> Tensor:
        """(B, pixels) -> (B, pixels)."""
        out: Tensor = self.components['decoder'](self.components['encoder'](images))
        return out

    def loss(self, images: Tensor) -> Tensor:
        """Mean squared error of the reconstruction."""
        return (self.reconstruct(images) - images).square().mean()

    def graph(self) -> UnitGraph:
        """Trace the present structure."""
        return trace(self.components, lambda: [self.reconstruct(torch.zeros(2, self._pixels))])

    @torch.no_grad()
    def quality(self, images: Array) -> Quality:
        """Reconstruct all images."""
        mse = float(self.loss(torch.from_numpy(images)))
        return Quality(mse, 10 * math.log10(1 / max(mse, 1e-12)))

    def cut(self, plan: Plan) -> None:
        """Cut in place, the optimiser's state with it, and prove the cut on a probe."""
        probe = torch.rand(8, self._pixels, generator=torch.Generator().manual_seed(0))
        apply(plan, self.components, self.optimizer,
              run=lambda parts: [parts['decoder'](parts['encoder'](probe))])

    def without(self, plan: Plan) -> Autoencoder:
        """Return a copy that is cut."""
        smaller = copy.deepcopy(self)
        smaller.cut(plan)
        return smaller


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Watchers(NamedTuple):
    """What looks on while an autoencoder trains.

    Attributes:
        trackers: of importance; each sees every gradient.
        pressure: applied after every update; None where there is none.
        after: called after every update with its number, from 1.
    """

    trackers: Sequence[ImportanceTracker] = ()
    pressure: SparsityPressure | None = None
    after: Callable[[int], object] = lambda update: None


NOBODY = Watchers()


def train(model: Autoencoder, images: Array, config: AutoencoderConfig, rng: np.random.Generator,
          watchers: Watchers = NOBODY, *, epochs: int | None = None,
          progress: Progress = silent) -> None:
    """Train in place.

    Args:
        model: may have been trained, and cut, before.
        images: (N, pixels); every epoch sees each once, the last batch may be smaller.
        config: batch size and learning rate.
        rng: draws the order of the images.
        watchers: see there.
        epochs: instead of the configuration's.
        progress: told after every epoch.
    """
    epochs = config.epochs if epochs is None else epochs
    rows, update = torch.from_numpy(images), 0
    for epoch in range(epochs):
        order = torch.from_numpy(rng.permutation(len(rows)))
        total = 0.0
        for batch in order.split(config.batch_size):
            model.optimizer.zero_grad()
            loss = model.loss(rows[batch])
            loss.backward()
            for tracker in watchers.trackers:
                tracker.observe()
            model.optimizer.step()
            if watchers.pressure is not None:
                watchers.pressure.step(config.learning_rate)
            for tracker in watchers.trackers:
                tracker.step()
            update += 1
            watchers.after(update)
            total += float(loss.detach()) * len(batch)
        progress('train', epoch + 1, epochs, mse=total / len(rows))
