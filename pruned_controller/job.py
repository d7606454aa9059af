# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One train or prune job in a child process, and its record on disk.

The child is `python -m pruning_core`, so that the node imports no torch, the controller's core is
left alone, and a crash stays the job's own. The child holds our end of its standard input: when
this process dies, however it dies, the pipe closes and the child ends. `job.json` lets a restarted
node tell the truth about a job that it did not see end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Report = Callable[[dict[str, Any]], None]
_GRACE_S = 0.7  # between asking a child to end and ending it
RECORD = 'job.json'
RUNNING, DONE, FAILED, CANCELLED, INTERRUPTED = (
    'running', 'done', 'failed', 'cancelled', 'interrupted')


@dataclass(frozen=True)
class JobRequest:
    """What is to be done.

    Attributes:
        id: number of the job, unique within its folder of jobs.
        kind: 'train' or 'prune'.
        folder: where record, log and result go; the result lies in `folder / 'run'`.
        arguments: of `python -m pruning_core`.
        settings: shown to users; what was asked for.
    """

    id: int
    kind: str
    folder: Path
    arguments: Sequence[str]
    settings: Mapping[str, Any]

    @property
    def result(self) -> Path:
        """The run folder that the job makes."""
        return self.folder / 'run'


class Job:
    """A running child."""

    def __init__(self, request: JobRequest, report: Report,
                 cores: frozenset[int] = frozenset()) -> None:
        """Start the child.

        Args:
            request: what is to be done.
            report: called, from a thread, with every change of its status.
            cores: that the child may use; empty: any.
        """
        self.request, self._report = request, report
        self._cancelled = False
        self._began = self._phase_began = time.monotonic()
        self.status: dict[str, Any] = {
            'job': request.id, 'kind': request.kind, 'state': RUNNING, 'phase': 'start',
            'percent': 0.0, 'eta_s': None, 'settings': dict(request.settings)}
        request.folder.mkdir(parents=True, exist_ok=True)
        self._log = (request.folder / 'log.txt').open('w')
        command = [sys.executable, '-m', 'pruning_core', *request.arguments, '--progress', 'json',
                   '--stop-with-stdin']
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            errors='replace', start_new_session=True)
        if cores:
            with contextlib.suppress(OSError):  # it has ended already; `_read` will say how
                os.sched_setaffinity(self._process.pid, cores)  # its threads, still to come, too
        self._write(self.status)
        self._reader = threading.Thread(target=self._read, name='job', daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether the job still goes on."""
        return bool(self.status['state'] == RUNNING)

    def cancel(self) -> None:
        """End the child: asked first, then killed; within a second."""
        self._cancelled = True
        self._signal(signal.SIGINT)
        self._reader.join(_GRACE_S)
        if self._reader.is_alive():
            self._signal(signal.SIGKILL)
            self._reader.join(2.0)
        self._signal(signal.SIGKILL)  # whatever of the family did not listen

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        result: dict[str, Any] | None = None
        error = ''
        assert self._process.stdout is not None
        for line in self._process.stdout:
            record = _record(line)
            if isinstance(record.get('result'), dict):
                result = record['result']
            elif 'error' in record:
                error = str(record['error'])
            elif record:
                self._advance(record)
            else:
                self._log.write(line)
        code = self._process.wait()
        self._log.close()
        self._finish(code, result, error)

    def _advance(self, record: Mapping[str, Any]) -> None:
        share = record['done'] / max(1, record['total'])
        now = time.monotonic()
        facts = {k: v for k, v in record.items() if k not in ('phase', 'done', 'total')}
        if record['phase'] != self.status['phase']:
            self._phase_began = now
        else:  # not every report of a phase has all of its facts
            facts = {**self.status.get('facts', {}), **facts}
        eta = (now - self._phase_began) * (1 - share) / share if share > 0.02 else None
        self.status = {**self.status, 'phase': record['phase'], 'percent': round(100 * share, 1),
                       'eta_s': None if eta is None else round(eta, 1),
                       'elapsed_s': round(now - self._began, 1), 'facts': facts}
        self._report(self.status)

    def _finish(self, code: int, result: dict[str, Any] | None, error: str) -> None:
        state = DONE if code == 0 and result is not None else (
            CANCELLED if self._cancelled else FAILED)
        if state == FAILED and not error:
            error = f'the job ended with code {code} without a result; see {self._log.name}'
        if state != DONE:
            sweep(self.request.folder)
        self.status = {**self.status, 'state': state, 'eta_s': None,
                       'elapsed_s': round(time.monotonic() - self._began, 1)}
        if state == DONE:
            self.status.update(percent=100.0, result=result)
        elif state == FAILED:
            self.status['error'] = error
        self._write(self.status)
        self._report(self.status)

    def _write(self, status: dict[str, Any]) -> None:
        """Keep the record; where that fails the status, which everybody sees, says so."""
        try:
            write_record(self.request.folder, status)
        except OSError as error:
            status['record'] = f'not written: {error}'


def write_record(folder: Path, status: Mapping[str, Any]) -> None:
    """Write a record whole, onto the disk itself, or leave the one before; raises OSError."""
    temporary = folder / f'.{RECORD}'
    with temporary.open('w') as file:
        file.write(json.dumps(status, indent=1) + '\n')
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / RECORD)


def _record(line: str) -> dict[str, Any]:
    """One line of `pruning_core.progress.JsonLines`; empty where it is something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    progress = isinstance(record.get('phase'), str) and all(
        isinstance(record.get(k), (int, float)) for k in ('done', 'total'))
    return record if progress or 'result' in record or 'error' in record else {}


def sweep(folder: Path) -> None:
    """Remove the temporary folders that a killed child could not remove itself."""
    for left in folder.glob('.run.*'):
        shutil.rmtree(left, ignore_errors=True)


def last_id(folder: Path) -> int:
    """Largest number of a job whose folder exists, its record readable or not; 0 without any."""
    names = [p.name.removeprefix('job-') for p in folder.glob('job-*')]
    return max((int(n) for n in names if n.isdecimal()), default=0)


def history(folder: Path) -> list[dict[str, Any]]:
    """Statuses of all jobs in a folder of jobs, oldest first; one left running was interrupted."""
    found = []
    for record in folder.glob(f'job-*/{RECORD}'):
        try:
            status = json.loads(record.read_text())
            status = {**status, 'job': int(status['job']), 'state': str(status['state']),
                      'kind': str(status.get('kind', ''))}
            if status['state'] == DONE and status['kind'] == 'prune':
                status['result']['bundle']
        except (OSError, ValueError, TypeError, KeyError):
            continue  # damaged since; its folder stays for whoever wants to look
        if status['state'] == RUNNING:
            sweep(record.parent)
            status['state'], status['eta_s'] = INTERRUPTED, None
            with contextlib.suppress(OSError):  # a full disk: it is told so again next time
                write_record(record.parent, status)
        found.append(status)
    return sorted(found, key=lambda s: s['job'])
