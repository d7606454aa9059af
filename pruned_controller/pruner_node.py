# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The pruner: jobs by service call, progress and the newest good bundle on latched topics.

A service answers in milliseconds: accepted with a job number, busy, or what is wrong. Settings are
the node's parameters, read together when the call is accepted. Only a bundle that passed its gates
is published.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String, UInt8MultiArray
from std_srvs.srv import Trigger

from pruned_controller.conversions import LATCHED, archive_message
from pruned_controller.job import DONE, Job, JobRequest, history, last_id
from pruned_controller.node_main import run_node
from pruned_controller.parameters import PRUNER, declare, read
from pruning_core import config as configuration
from pruning_core import zoo
from pruning_core.errors import ConfigError, PruningError, explain
from pruning_core.runtime.archive import pack
from pruning_core.runtime.bundle import open_bundle, sign
from pruning_core.runtime.realtime import cores
from pruning_core.runtime.signature import PrivateKey, load_private

LOCK = '.lock'


class PrunerNode(Node):
    """See the module; topics, services and parameters stand in the README."""

    def __init__(self) -> None:
        """Offer the services; tell how the last job ended, and publish its bundle again."""
        super().__init__('pruner')
        declare(self, PRUNER)
        s = read(self, PRUNER)
        self._runs = Path(s['runs']).expanduser()
        self._cores = cores(s['cores'])
        self._key: PrivateKey | None = None
        if s['signing_key']:
            self._key = load_private(Path(s['signing_key']).expanduser())
        self._held = _hold(self._runs)
        self._job: Job | None = None
        self._lock = threading.Lock()
        self._status = self.create_publisher(String, '~/status', LATCHED)
        self._bundle = self.create_publisher(UInt8MultiArray, '~/bundle', LATCHED)
        for name, does in (('train', self._on_train), ('prune', self._on_prune),
                           ('cancel', self._on_cancel)):
            self.create_service(Trigger, f'~/{name}', does)
        past = history(self._runs)
        self._next_id = 1 + last_id(self._runs)
        self._tell(past[-1] if past else {'job': 0, 'state': 'idle'})
        for status in reversed(past):
            if status['state'] == DONE and status['kind'] == 'prune':
                with contextlib.suppress(PruningError):  # removed since; it was logged
                    self._publish(Path(status['result']['bundle']))
                break
        self.get_logger().info(f'ready; jobs are kept in {self._runs}')

    def close(self) -> None:
        """End a running job, and let go of the folder."""
        if self._job is not None and self._job.running:
            self._job.cancel()
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _on_prune(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._accept('prune', response)

    def _on_train(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._accept('train', response)

    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            job = self._job
        if job is None or not job.running:
            response.success, response.message = False, explain(
                'a job was to be cancelled', 'no job is running', 'a running job',
                'look at ~/status')
            return response
        threading.Thread(target=job.cancel, name='cancel', daemon=True).start()
        response.success, response.message = True, f'job {job.request.id} is being cancelled'
        return response

    def _accept(self, kind: str, response: Trigger.Response) -> Trigger.Response:
        """Check everything that can be checked at once, then start a child."""
        with self._lock:
            if self._job is not None and self._job.running:
                response.success = False
                response.message = (
                    f'busy: job {self._job.request.id} ({self._job.request.kind}) is running; '
                    'wait for it on ~/status, or call ~/cancel')
                return response
            try:
                request = self._request(kind)
                self._job = Job(request, self._on_report, self._cores)
            except (PruningError, OSError) as error:
                response.success, response.message = False, str(error)
                return response
            self._next_id += 1
        self._tell(self._job.status)
        response.success, response.message = True, f'job {request.id} accepted'
        return response

    def _request(self, kind: str) -> JobRequest:
        s = read(self, PRUNER)
        folder = self._runs / f'job-{self._next_id:04d}'
        common = ['--out', str(folder / 'run'), '--nice', str(s['nice']),
                  '--threads', str(s['threads'])]
        if kind == 'train':
            if not s['config']:
                raise ConfigError(
                    explain('a training was asked for', "parameter 'config' is empty",
                            'a YAML file', 'set it: ros2 param set /pruner config FILE')
                )
            configuration.load(s['config'])
            return JobRequest(self._next_id, kind, folder,
                              ['train', '--config', s['config'], *common], {'config': s['config']})
        agent = zoo.find(s['agent'])
        chosen = {name: s[name] for name in ('sparsity', 'score', 'recovery_updates',
                                             'gate_return_loss', 'gate_latency_share',
                                             'gate_violation', 'seed')}
        configuration.from_dict({'pruning': chosen})  # says at once what is out of range
        settings = [part for name, value in chosen.items()
                    for part in ('--set', f'pruning.{name}={value}')]
        return JobRequest(self._next_id, kind, folder,
                          ['prune', '--agent', str(agent), *common, *settings],
                          {'agent': str(s['agent']), **chosen})

    def _on_report(self, status: dict[str, Any]) -> None:
        """Called from the job's thread."""
        if status['state'] == DONE and status['kind'] == 'prune':
            try:
                self._publish(Path(status['result']['bundle']))
            except PruningError as error:
                status = {**status, 'state': 'failed', 'error': str(error)}
        self._tell(status)

    def _tell(self, status: dict[str, Any]) -> None:
        self._status.publish(String(data=json.dumps(status)))

    def _publish(self, folder: Path) -> None:
        try:
            bundle = open_bundle(folder) if self._key is None else sign(folder, self._key)
        except PruningError as error:
            self.get_logger().error(f'bundle not published: {error}')
            raise
        self._bundle.publish(archive_message(pack(bundle), bundle.hash))
        self.get_logger().info(f'published bundle {bundle.hash[:16]}')


def _hold(runs: Path) -> int:
    """Make the folder of jobs and hold it, so that two pruners never sweep each other's work.

    The lock ends with the process, however it ends.

    Raises:
        ConfigError: it cannot be written, or another pruner holds it.
    """
    asked = f"jobs were to be kept in '{runs}'"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        held = os.open(runs / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            explain(asked, str(error), 'a folder that can be written',
                    "correct the parameter 'runs'")
        ) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise ConfigError(
            explain(asked, 'another pruner keeps its own there', 'one pruner per folder',
                    "end the other one, or set the parameter 'runs' to another folder")
        ) from error
    return held


def main(arguments: list[str] | None = None) -> int:
    """Run the pruner."""
    return run_node(PrunerNode, arguments, threads=2)


if __name__ == '__main__':
    raise SystemExit(main())
