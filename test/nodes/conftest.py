# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A ROS network of the test's own, and children that do as they are told."""

from __future__ import annotations

import os
import stat
import sys
import textwrap
import threading
import time

import pytest

pytest.importorskip('rclpy', reason='neither ROS 2 nor wheels of it are installed')

import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor

from pruning_core import config as configuration
from pruning_core.agent import Agent
from pruning_core.checkpoint import Run
from pruning_core.export import export
from pruning_core.networks import Widths

TINY = {
    'network': {'latent': 6, 'encoder_hidden': 16, 'hidden': 16},
    'planner': {'horizon': 2, 'samples': 32, 'policy_samples': 4, 'elites': 8, 'iterations': 2},
}


@pytest.fixture(scope='session', autouse=True)
def domain():
    """A domain that nobody else on this machine is likely to use."""
    before = os.environ.get('ROS_DOMAIN_ID')
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
    yield
    if before is None:
        del os.environ['ROS_DOMAIN_ID']
    else:
        os.environ['ROS_DOMAIN_ID'] = before


@pytest.fixture
def ros():
    """Returns a function that starts rclpy with parameters, as on a command line."""
    def init(namespace='', **parameters):
        arguments = [a for k, v in parameters.items()
                     for a in ('-p', f'{k.replace("__", ".")}:={v}')]
        if namespace:
            arguments += ['-r', f'__ns:={namespace}']
        rclpy.init(args=['--ros-args', *arguments] if arguments else None)
    yield init
    rclpy.try_shutdown()


@pytest.fixture
def node(ros):
    """Returns a function that makes a node with parameters; it is closed at the end."""
    made = []

    def make(kind, **parameters):
        ros(**parameters)
        made.append(kind())
        return made[-1]
    yield make
    for node in made:
        node.close()
        node.destroy_node()


@pytest.fixture
def spin():
    """Returns a function that serves nodes from a thread until the test is over."""
    running = []

    def start(*nodes):
        executor = SingleThreadedExecutor()
        for node in nodes:
            executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        running.append((executor, thread))
    yield start
    for executor, thread in running:
        executor.shutdown()
        thread.join(10)


@pytest.fixture
def until():
    """Returns a function that waits for a condition; the limit only ends a test that hangs."""
    def wait(condition, what='the condition', limit_s=60.0):
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, f'{what} did not come about in {limit_s} s'
            time.sleep(0.01)
    return wait


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Returns a function: jobs run this Python text in place of the command line tool."""
    def use(text):
        script = tmp_path / 'child'
        script.write_text(f'#!{sys.executable}\n' + textwrap.dedent(text))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, 'executable', str(script))
    return use


@pytest.fixture(scope='session')
def bundles(tmp_path_factory):
    """Two bundles for the pendulum, and one for a pendulum that is controlled half as often."""
    made = []
    for seed, env in ((0, {}), (1, {}), (2, {'action_repeat': 2})):
        config = configuration.from_dict({**TINY, 'env': env})
        generator = torch.Generator().manual_seed(seed)
        agent = Agent(Widths.dense(config.network, 3, 1), config.agent, generator)
        with torch.no_grad():
            for p in agent.components.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
        folder = tmp_path_factory.mktemp('bundles')
        made.append(export(Run(folder, config, agent, None, None, {}), folder / 'bundle')[0])
    return made
