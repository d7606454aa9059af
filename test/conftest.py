# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny agent, trained once, and what most tests need of it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent
BENCHMARKS = ROOT.parent / 'benchmarks'

settings.register_profile('any machine', deadline=None)  # it may stall for a second
settings.load_profile('any machine')

# Small enough that training, pruning and export together take about a second.
TINY = {
    'env': {'id': 'Pendulum-v1', 'max_episode_steps': 12},
    'network': {'latent': 6, 'encoder_hidden': 16, 'hidden': 16},
    'agent': {'horizon': 2, 'batch_size': 8},
    'planner': {'horizon': 2, 'samples': 16, 'policy_samples': 2, 'elites': 4, 'iterations': 2},
    'training': {'episodes': 4, 'random_episodes': 2, 'collect_samples': 8,
                 'collect_iterations': 1, 'evaluate_every': 2, 'evaluate_seeds': 2,
                 'checkpoint_every': 1, 'threads': 1},
    'importance': {'warmup': 3, 'record_every': 2},
    'sparsity': {'schedule': 'cosine', 'period': 12, 'check_every': 1, 'lambda_max': 1.0},
    'pruning': {'sparsity': 0.5, 'multiple': 4, 'floor': 4, 'coupling_share': 1.0,
                'recovery_updates': 4, 'gate_seeds': 2, 'gate_samples': 8, 'gate_iterations': 1,
                'gate_return_loss': 100.0, 'gate_latency_share': 0.0,
                'gate_violation': 0.0, 'gate_states': 8, 'gate_periods': 25,
                'stability_batches': 4},
}


def pytest_collection_modifyitems(config, items):
    """In two processes, one takes the tests of ROS, first and in turn; a file stays whole.

    They are half of the time, most of it waiting, and their nodes want a core for themselves.
    """
    if config.getoption('dist', 'no') != 'loadgroup':
        return
    ros = {ROOT / 'ros', ROOT / 'nodes', ROOT / 'test_launch.py'}

    def group(item):
        return 'ros' if ros & {item.path, *item.path.parents} else str(item.path)

    items.sort(key=lambda item: group(item) != 'ros')
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


@pytest.fixture(scope='session')
def load_benchmark():
    """Returns a function that imports a file of benchmarks/ by its name."""
    def load(name):
        spec = importlib.util.spec_from_file_location(
            f'benchmark_{name}', BENCHMARKS / f'{name}.py')
        # Dataclasses look for their module there.
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return load


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """Let sums have one order, and leave the other cores alone."""
    try:
        import torch
    except ModuleNotFoundError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def tiny():
    """Return the tiny configuration with `section.key=value` overrides."""
    from pruning_core import config

    return lambda *overrides: config.from_dict(config.override(TINY, overrides))


@pytest.fixture(scope='session')
def trained(tiny, tmp_path_factory):
    """Folder of a tiny agent that was trained without interruption; nobody writes to it."""
    from pruning_core.training import Trainer

    folder = tmp_path_factory.mktemp('trained') / 'agent'
    return Trainer(tiny(), folder).run()


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of `trained` to do with as one likes."""
    return shutil.copytree(trained, tmp_path / 'agent')


@pytest.fixture
def run(trained):
    """Open `trained` afresh."""
    from pruning_core.checkpoint import load_run

    return load_run(trained)


@pytest.fixture(scope='session')
def make_agent(tiny):
    """Build a fresh agent whose weights are all drawn, so that no zero head hides an error."""
    def make(*overrides, seed=0, observations=3, actions=1):
        import torch

        from pruning_core.agent import Agent
        from pruning_core.networks import Widths

        config = tiny(*overrides)
        generator = torch.Generator().manual_seed(seed)
        agent = Agent(Widths.dense(config.network, observations, actions), config.agent, generator)
        with torch.no_grad():
            for parameter in agent.components.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        agent.sync_targets()
        return agent

    return make


@pytest.fixture(scope='session')
def fill():
    """Fill a replay with random episodes."""
    def make(episodes=3, decisions=8, observations=3, actions=1, seed=0, capacity=1000):
        from pruning_core.replay import Replay

        rng = np.random.default_rng(seed)
        replay = Replay(capacity, observations, actions)
        for _ in range(episodes):
            replay.add(rng.uniform(-1, 1, (decisions + 1, observations)),
                       rng.uniform(-1, 1, (decisions, actions)), rng.normal(size=decisions), False)
        return replay

    return make


@pytest.fixture(scope='session')
def four_parts():
    """Check that a message says what was asked, found and allowed, and what to do."""
    def check(error, *said):
        text = str(error.value if hasattr(error, 'value') else error)
        parts = re.fullmatch(r'(.+?): (.+); allowed: (.+); (.+)', text, re.DOTALL)
        assert parts and all(part.strip() for part in parts.groups()), text
        for word in said:
            assert word in text, text

    return check


@pytest.fixture(scope='session')
def cart():
    """Id of a plant with a goal: x' = x + 0.1 v, v' = v + 0.1 u, observed as (v, 2 x)."""
    import gymnasium

    class Cart(gymnasium.Env):
        dt = 0.1
        observation_space = gymnasium.spaces.Box(-10, 10, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))
        stability_goal = {'state': [0.5, 0], 'action': [0], 'terms': ['1-1', '0'],
                          'error_cost': [1, 1], 'action_cost': [0.1], 'reach': [1, 1]}

        def reset(self, *, seed=None, options=None):
            self.state = np.zeros(2)
            return self._get_obs(), {}

        def _get_obs(self):
            return np.array([self.state[1], 2 * self.state[0]], np.float32)

        def step(self, action):
            x, v = self.state
            self.state = np.array([x + 0.1 * v, v + 0.1 * float(np.clip(action[0], -1, 1))])
            return self._get_obs(), 0.0, False, False, {}

    if 'TestCart-v0' not in gymnasium.registry:
        gymnasium.register('TestCart-v0', entry_point=Cart, max_episode_steps=20)
    return 'TestCart-v0'


@pytest.fixture(scope='session')
def here():
    """Runs trials in threads of this process, where a test can reach into them."""
    from concurrent.futures import ThreadPoolExecutor

    from pruning_core.studies.runner import Pool

    class Here(Pool):
        def open(self):
            return ThreadPoolExecutor(self._processes)

        def end(self, executor):
            executor.shutdown(wait=True, cancel_futures=True)

    return Here(1)


@pytest.fixture
def contents():
    """Bytes of every file below a folder, by path."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes()
                           for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.fixture
def main():
    """Run the command line in this process; the signal handler is put back."""
    from pruning_core.cli import main

    before = signal.getsignal(signal.SIGTERM)
    yield lambda *arguments: main([str(a) for a in arguments])
    signal.signal(signal.SIGTERM, before)
