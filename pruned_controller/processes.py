# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes as child processes, without `ros2 launch`: for the demo and the end-to-end tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pruning_core.errors import JobError, explain


class NodeProcesses:
    """The nodes, each a process with its log in the run folder."""

    def __init__(self, folder: Path) -> None:
        """Keep logs, those of rcl too, in `folder`; the rest of the environment is ours."""
        self._folder = folder
        self._environment = {**os.environ, 'ROS_LOG_DIR': str(folder / 'ros'),
                             'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': '1'}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *parameters: str, prefix: Sequence[str] = ()) -> None:
        """Start `pruned_controller.<name>_node` with parameters `key:=value`.

        Args:
            name: of the node.
            parameters: of the node.
            prefix: a command that runs it, such as `chrt --rr 1`; it must become the node.
        """
        arguments = [a for p in parameters for a in ('-p', p)]
        log = (self._folder / f'{name}.log').open('wb')
        self._running[name] = subprocess.Popen(
            [*prefix, sys.executable, '-m', f'pruned_controller.{name}_node', '--ros-args',
             *arguments],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=self._environment, start_new_session=True)
        log.close()

    def check(self) -> None:
        """Raise JobError, with the end of its log, if a node has died."""
        for name, process in self._running.items():
            if process.poll() is not None:
                tail = ' / '.join(self.log(name).strip().splitlines()[-3:])
                raise JobError(
                    explain(f"node '{name}' was running", f'it ended with code '
                            f'{process.returncode}: {tail}', 'a node that runs on',
                            f"read {self._folder / f'{name}.log'}")
                )

    def signal(self, name: str, number: int, timeout_s: float = 10.0) -> int:
        """Send a node a signal and wait until it has ended; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """
        process = self._running.pop(name)
        process.send_signal(number)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._running[name] = process
            raise

    def wait(self, name: str, timeout_s: float = 10.0) -> int:
        """Wait for a node that ends by itself; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """
        code = self._running[name].wait(timeout_s)
        del self._running[name]
        return code

    def pid(self, name: str) -> int:
        """Process id of a node that was started."""
        return self._running[name].pid

    def log(self, name: str) -> str:
        """What a node has said so far."""
        return (self._folder / f'{name}.log').read_text(errors='replace')

    def stop(self) -> None:
        """Ask every node to end, then make it."""
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 6
        for process in self._running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
