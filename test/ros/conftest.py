# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Real nodes in real processes over DDS, for the tests beside this file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed: no ROS 2, and no wheels of it')

from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import SetParametersResult

from pruned_controller.observer import Observer
from pruned_controller.processes import NodeProcesses
from pruning_core import config as configuration
from pruning_core.checkpoint import load_run
from pruning_core.export import export
from pruning_core.training import Trainer


class System:
    """Nodes, and an observer that sees what any ROS client sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = NodeProcesses(folder)
        self.observer = Observer()

    def start(self, name: str, **parameters: object) -> None:
        self.processes.start(name, *(f'{k}:={v}' for k, v in parameters.items()))

    def change(self, transition: int) -> bool:
        return self.observer.transition('/controller', transition)

    def activate(self) -> None:
        assert self.change(Transition.TRANSITION_CONFIGURE), self.processes.log('controller')
        assert self.change(Transition.TRANSITION_ACTIVATE), self.processes.log('controller')

    def until(self, what: str, condition: Callable[[], Any], limit_s: float = 30.0) -> Any:
        """Wait for something to come true, while every node lives."""
        deadline = time.monotonic() + limit_s
        while not (value := condition()):
            self.processes.check()
            assert time.monotonic() < deadline, (
                f'not within {limit_s} s: {what}; mode {self.observer.mode!r}, '
                f'status {self.observer.status}')
            time.sleep(0.02)
        return value

    def set_parameter(self, node: str, name: str, value: object) -> SetParametersResult:
        return self.observer.set_parameter(node, name, value)

    def close(self) -> None:
        self.processes.stop()
        self.observer.close()


@pytest.fixture(scope='session', autouse=True)
def own_domain() -> None:
    """Meet nobody else's nodes."""
    # Not that of test/nodes: a node made within this process may still seem to offer its services.
    os.environ['ROS_DOMAIN_ID'] = str(1 + (os.getpid() + 50) % 100)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'


@pytest.fixture(scope='session')
def make_system() -> type[System]:
    """What `system` makes, for fixtures that keep one for longer."""
    return System


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    it = System(tmp_path)
    try:
        yield it
    finally:
        it.close()


@pytest.fixture(scope='session')
def tiny_agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained agent folder, as small as one can be; it does not control well."""
    folder = tmp_path_factory.mktemp('ros') / 'tiny'
    Trainer(configuration.from_dict({
        'network': {'latent': 8, 'encoder_hidden': 16, 'hidden': 32},
        'agent': {'horizon': 2, 'batch_size': 16},
        'planner': {'horizon': 3, 'samples': 32, 'policy_samples': 4, 'elites': 8,
                    'iterations': 2},
        'training': {'episodes': 2, 'random_episodes': 1, 'update_ratio': 0.1,
                     'collect_samples': 0, 'evaluate_every': 0, 'threads': 1},
        'importance': {'warmup': 5},
    }), folder).run()
    return folder


@pytest.fixture(scope='session')
def tiny_bundle(tiny_agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('ros') / 'bundle'
    export(load_run(tiny_agent), folder)
    return folder
