# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One tiny agent and its bundle for the whole session, and ways to make more of them."""

from __future__ import annotations

import dataclasses
import json
import shutil

import gymnasium
import numpy as np
import pytest
import torch

from pruning_core import config as configuration
from pruning_core.agent import Agent
from pruning_core.checkpoint import Run
from pruning_core.env import describe, make_raw
from pruning_core.export import export
from pruning_core.networks import Widths
from pruning_core.runtime.bundle import open_bundle

TINY = {
    'network': {'latent': 6, 'encoder_hidden': 16, 'hidden': 16},
    'planner': {'horizon': 2, 'samples': 32, 'policy_samples': 4, 'elites': 8, 'iterations': 3},
}


class Crane(gymnasium.Env):
    """Two actions with limits that are not symmetric, and unbounded observations."""

    dt = 0.1
    observation_space = gymnasium.spaces.Box(
        np.float32([-2, -np.inf, -8, -1]), np.float32([2, np.inf, 4, 1]))
    action_space = gymnasium.spaces.Box(np.float32([-1, 2]), np.float32([3, 10]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 0.0, False, False, {}


gymnasium.register('TestCrane-v0', entry_point=Crane)


@pytest.fixture(scope='session')
def make_run(tmp_path_factory):
    """Returns a function that makes an untrained agent; its heads are not zero, as fresh ones."""
    def make(settings=TINY, widths=None, seed=0, env='Pendulum-v1'):
        config = configuration.from_dict({**settings, 'env': {'id': env, 'reward_scale': 0.5}})
        spec = describe(make_raw(env), config.env)
        sizes = Widths.dense(config.network, len(spec.observation_names), len(spec.action_names))
        sizes = dataclasses.replace(sizes, **(widths or {}))
        generator = torch.Generator().manual_seed(seed)
        agent = Agent(sizes, config.agent, generator)
        with torch.no_grad():
            for p in agent.components.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
        agent.sync_targets()
        return Run(tmp_path_factory.mktemp('run'), config, agent, None, None, {})
    return make


@pytest.fixture(scope='session')
def run(make_run):
    return make_run()


@pytest.fixture(scope='session')
def bundle(run, tmp_path_factory):
    """The bundle of the tiny agent; its folder must stay as it is."""
    return export(run, tmp_path_factory.mktemp('bundles') / 'tiny')[0]


@pytest.fixture(scope='session')
def manifest(bundle):
    return bundle.manifest


@pytest.fixture
def folder(bundle, tmp_path):
    """A copy of the bundle's folder, to be damaged."""
    return shutil.copytree(bundle.path, tmp_path / 'copy')


@pytest.fixture
def edit(folder):
    """Returns a function that opens the copy with another manifest, or with another text."""
    def open_edited(change):
        path = folder / 'manifest.json'
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
        return open_bundle(folder)
    return open_edited
