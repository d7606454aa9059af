# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A net of two layers whose units can be written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pruning_core.channels import trace

UNITS = 3


class Net:
    """a: 2 -> 3, b: 3 -> 1; unit i is row i and bias i of a and column i of b."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.components = {'a': nn.Linear(2, UNITS), 'b': nn.Linear(UNITS, 1)}
        with torch.no_grad():
            for module in self.components.values():
                for p in module.parameters():
                    p.copy_(torch.randn(p.shape, generator=generator))
        self.graph = trace(self.components, lambda: [self(torch.zeros(2, 2))])

    def __call__(self, x):
        return self.components['b'](torch.tanh(self.components['a'](x)))

    @property
    def parameters(self):
        return {f'{c}.{n}': p for c, m in self.components.items() for n, p in m.named_parameters()}

    def set_gradients(self, gradients):
        for name, p in self.parameters.items():
            value = gradients.get(name)
            p.grad = None if value is None else torch.as_tensor(value, dtype=torch.float32)

    @staticmethod
    def drawn(updates, scale=1.0, seed=0):
        """Gradients of that many updates, as float32."""
        rng = np.random.default_rng(seed)
        shapes = {'a.weight': (UNITS, 2), 'a.bias': (UNITS,), 'b.weight': (1, UNITS),
                  'b.bias': (1,)}
        return [{n: (scale * rng.normal(size=s)).astype(np.float32) for n, s in shapes.items()}
                for _ in range(updates)]

    @staticmethod
    def of_unit(values, i):
        """The 2 + 1 + 1 numbers of unit i."""
        return np.concatenate([values['a.weight'][i], values['a.bias'][i:i + 1],
                               values['b.weight'][:, i]]).astype(float)

    def feed(self, tracker, updates):
        for gradients in updates:
            self.set_gradients(gradients)
            tracker.observe()
            tracker.step()


@pytest.fixture
def net():
    """A fresh net."""
    return Net()
