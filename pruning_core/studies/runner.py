# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the trials of a study: each one frozen config and one folder, on any executor.

Trials in; their folders filled out. A trial whose folder holds a result is done and never run
again; one that fails is reported and stops nobody but those that need it. The executor is a
`concurrent.futures.Executor`: processes of this machine, or a Dask cluster whose workers see the
same folder.

| file of a trial | content |
|---|---|
| `trial.json` | its config; a folder with another one is refused |
| `result.json` | what it returned, and the seconds it took; with it the trial is done |
| `error.txt` | traceback of the last attempt, where it failed |
| `attempts.jsonl` | one record per attempt: when, on which machine |
| `lock` | held by the process at work, so that no trial is run twice at a time |
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import math
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pruning_core.checkpoint import METRICS, write_json
from pruning_core.errors import ConfigError, JobError, explain, missing
from pruning_core.progress import Progress
from pruning_core.runtime.metrics import JsonlWriter

TRIAL, RESULT, ERROR, ATTEMPTS, LOCK, AT = (
    'trial.json', 'result.json', 'error.txt', 'attempts.jsonl', 'lock', 'at.json')
_POLL_S = 0.5
_LONE_DEATHS = 2  # of a worker with nothing but this trial at work: the trial kills it


@dataclass(frozen=True)
class Context:
    """What a trial is given beside its config.

    Attributes:
        folder: its own; what it leaves there survives an interruption.
        needs: folders of the trials that it needs, in their order.
        progress: told of what it does.
    """

    folder: Path
    needs: tuple[Path, ...]
    progress: Progress


@dataclass(frozen=True)
class Trial:
    """One run of a study.

    Attributes:
        name: of its folder below the work folder; may have parts, as in `latent/d8_s0`.
        function: a module's function, from config and context to plain values for JSON.
        config: frozen dataclass of plain values.
        needs: names of trials that must be done before.
        weight: cost relative to the other trials of the study; for the estimate alone.
        last: it measures times, and runs after all others, with nothing beside it.
    """

    name: str
    function: Callable[[Any, Context], dict[str, Any]]
    config: Any
    needs: tuple[str, ...] = ()
    weight: float = 1.0
    last: bool = False

    def settings(self) -> dict[str, Any]:
        """The config as it is kept: plain values."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self.config)))
        return {'function': f'{self.function.__module__}.{self.function.__qualname__}',
                'config': plain}


@dataclass
class Outcome:
    """What became of the trials.

    Attributes:
        results: what each trial that is done returned, by name.
        failed: why a trial has no result, by name.
        skipped: how many were done before.
    """

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: int = 0


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is at work in a folder, and keep others out."""
    with (folder / LOCK).open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass
class _At:
    """Leaves in the trial's folder what it is doing, once a second, for who watches."""

    folder: Path
    last: float = 0.0

    def __call__(self, phase: str, done: int, total: int, /, **facts: float | str) -> None:
        now = time.monotonic()
        if now - self.last < 1:
            return
        self.last = now
        temporary = self.folder / f'.{AT}'
        temporary.write_text(json.dumps({'phase': phase, 'done': done, 'total': total}))
        temporary.replace(self.folder / AT)


def perform(trial: Trial, work: str) -> None:
    """Run one trial in this process, unless its folder holds the result by now.

    Raises:
        JobError: it failed; the traceback is in its folder.
    """
    folder = Path(work) / trial.name
    if not (folder / TRIAL).is_file():
        raise JobError(explain(
            f"trial '{trial.name}' was to be run on {socket.gethostname()}",
            f"there is no {TRIAL} in '{folder}'", 'workers that see the very folder of --work',
            'share it under the same path, or run without --executor'))
    with _alone(folder):
        if (folder / RESULT).is_file():  # another worker finished it while this one waited
            return
        with (folder / ATTEMPTS).open('a') as file:
            file.write(json.dumps({'time': time.time(), 'host': socket.gethostname(),
                                   'pid': os.getpid()}) + '\n')
        began = time.perf_counter()
        context = Context(folder, tuple(Path(work) / n for n in trial.needs), _At(folder))
        try:
            values = trial.function(trial.config, context)
        except Exception as error:
            (folder / ERROR).write_text(traceback.format_exc())
            # As text: not every exception survives the way back through an executor.
            raise JobError(f'{type(error).__name__}: {error}') from None
        finally:
            (folder / AT).unlink(missing_ok=True)
        write_json(folder / RESULT, {'seconds': round(time.perf_counter() - began, 3),
                                     'values': plain(values)})
        (folder / ERROR).unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Values that JSON has: numbers that are not finite become None, arrays lists."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _prepare(parent: int) -> None:
    """Set up a process of the pool: one thread, no answer to Ctrl-C, no life without a parent."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Pool:
    """Makes executors: anew where one broke, and ends their work where it is not wanted."""

    def __init__(self, processes: int) -> None:
        """Set the number of processes.

        Raises:
            ConfigError: fewer than one.
        """
        if processes < 1:
            raise ConfigError(explain(f'{processes} processes were asked for', 'fewer than 1',
                                      '1 or more', 'correct --processes'))
        self._processes = processes
        self._others: set[int | None] = set()

    def open(self) -> Executor:
        """Start an executor."""
        self._others = {p.pid for p in multiprocessing.active_children()}
        return ProcessPoolExecutor(
            self._processes, mp_context=multiprocessing.get_context('spawn'),
            initializer=_prepare, initargs=(os.getpid(),))

    def end(self, executor: Executor) -> None:
        """End an executor, and what it is still doing."""
        for process in multiprocessing.active_children():
            if process.pid not in self._others:
                process.terminate()
        executor.shutdown(wait=True, cancel_futures=True)


class Cluster(Pool):
    """Executors of a Dask cluster that runs already; the extra [cluster]."""

    def __init__(self, address: str) -> None:
        """Connect to a scheduler.

        Args:
            address: `dask://HOST:PORT`.

        Raises:
            ConfigError: no such address, or nobody answers there.
            MissingExtra: Dask is not installed.
        """
        kind, _, place = address.partition('://')
        if kind != 'dask' or not place:
            raise ConfigError(
                explain(f"executor '{address}' was asked for", 'it is not known',
                        'dask://HOST:PORT of a scheduler, or none for processes of this machine',
                        'start one with: dask scheduler'))
        try:
            from distributed import Client
        except ModuleNotFoundError as error:
            raise missing(f"executor '{address}' was asked for", error.name or 'distributed',
                          'cluster') from error
        try:
            self._client: Any = Client(f'tcp://{place}', timeout=10)
        except (OSError, ValueError) as error:
            raise ConfigError(
                explain(f"executor '{address}' was asked for",
                        f'nobody answers there ({" ".join(str(error).split())})',
                        'the address that dask scheduler prints, as dask://HOST:PORT',
                        'start the scheduler, or correct the address')) from error

    def open(self) -> Executor:
        """Take an executor of the cluster; its scheduler runs a trial anew where a worker died."""
        executor: Executor = self._client.get_executor(pure=False)
        return executor

    def end(self, executor: Executor) -> None:
        """Take back what has not begun."""
        executor.shutdown(wait=False)  # Dask's way of saying cancel_futures
        self._client.close()


def run_trials(trials: Sequence[Trial], work: Path, pool: Pool, progress: Progress,
               label: str = 'study') -> Outcome:
    """Run what is missing.

    Args:
        trials: the study's, each name once.
        work: folder that all of theirs are below; every worker must see it under this path.
        pool: where they run.
        progress: told twice a second.
        label: under which it is told.

    Raises:
        ConfigError: a folder holds a trial with another config, or two trials have one name;
            nothing was run.
        KeyboardInterrupt: what is done is kept; the same call goes on.
    """
    work = work.resolve()
    names = collections.Counter(t.name for t in trials)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            explain(f"trial '{twice[0]}' was asked for", 'two trials go by that name',
                    'agents whose folders have different names', 'rename one, or leave one out'))
    for trial in trials:
        _claim(trial, work / trial.name)
    board = _Board(trials, work, progress, label)
    if board.waiting:
        metrics = JsonlWriter(work / METRICS)
        try:
            _Loop(board, pool, metrics).run()
        finally:
            metrics.close()
    for trial in trials:
        if trial.name in board.done:
            kept = json.loads((work / trial.name / RESULT).read_text())
            board.outcome.results[trial.name] = kept['values']
    board.tell()
    return board.outcome


def _claim(trial: Trial, folder: Path) -> None:
    """Make a trial's folder, or refuse one that was begun with another config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / AT).unlink(missing_ok=True)  # of one that was killed
    path, wanted = folder / TRIAL, trial.settings()
    if path.is_file():
        found = json.loads(path.read_text())
        _complete(found.get('config', {}), trial.config)
        if found != wanted:
            raise ConfigError(
                explain(f"trial '{trial.name}' was asked for in '{folder}'",
                        f'it was begun there with other settings: {_difference(found, wanted)}',
                        f'those in {TRIAL}', 'give another --work, or the same settings'))
        return
    write_json(path, wanted)


def _complete(found: dict[str, Any], config: Any) -> None:
    """Give settings that came with a later version their defaults in an older trial."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.name not in found and f.default is not dataclasses.MISSING:
            found[f.name] = json.loads(json.dumps(f.default))
        elif dataclasses.is_dataclass(value) and isinstance(found.get(f.name), dict):
            _complete(found[f.name], value)


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    theirs, ours = found.get('config', {}), wanted['config']
    differing = [f'{k} is {theirs.get(k)!r} there and {ours.get(k)!r} here'
                 for k in dict.fromkeys([*theirs, *ours]) if theirs.get(k) != ours.get(k)]
    return '; '.join(differing)[:300] or 'another kind of trial'


class _Board:
    """Which trials wait, and which are done; tells the progress."""

    def __init__(self, trials: Sequence[Trial], work: Path, progress: Progress, label: str
                 ) -> None:
        self.trials, self.work, self._progress, self._label = trials, work, progress, label
        self.outcome = Outcome()
        self.done = {t.name for t in trials if (work / t.name / RESULT).is_file()}
        self.outcome.skipped = len(self.done)
        self.waiting = {t.name: t for t in sorted(trials, key=lambda t: -t.weight)
                        if t.name not in self.done}
        self._began, self.spent = time.monotonic(), 0.0  # spent: weight of what has ended

    def finish(self, trial: Trial) -> None:
        self.done.add(trial.name)
        self.spent += trial.weight

    def fail(self, trial: Trial, why: str) -> None:
        """Give a trial up, and with it those that need it."""
        self.outcome.failed[trial.name] = why
        for name, other in list(self.waiting.items()):
            if trial.name in other.needs:
                del self.waiting[name]
                self.fail(other, f"it needs '{trial.name}', which failed")

    def ready(self) -> list[Trial]:
        return [t for t in self.waiting.values() if self.done.issuperset(t.needs)]

    def tell(self, running: Sequence[Trial] = ()) -> None:
        """Report trials done, the estimate, and what one of those running is at."""
        facts: dict[str, float | str] = {}
        if self.outcome.failed:
            facts['failed'] = str(len(self.outcome.failed))
        left, spent = sum(t.weight for t in self.waiting.values()), self.spent
        for trial in running:
            share, told = self._at(trial)
            left += (1 - share) * trial.weight
            spent += share * trial.weight
            if told and 'now' not in facts:
                facts['now'] = told
        if spent and left:
            facts['left'] = _duration((time.monotonic() - self._began) / spent * left)
        self._progress(self._label, len(self.done), len(self.trials), **facts)


    def _at(self, trial: Trial) -> tuple[float, str]:
        """How far one that runs has come in its present phase, and in words; nothing if unknown.

        A trial of several phases comes back to 0 with each: the estimate is a rough one.
        """
        with contextlib.suppress(OSError, ValueError, KeyError):
            at = json.loads((self.work / trial.name / AT).read_text())
            return (min(1.0, at['done'] / max(at['total'], 1)),
                    f"{trial.name}: {at['phase']} {at['done']}/{at['total']}")
        return 0.0, ''


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'


class _Loop:
    """Keeps an executor busy until nothing waits; opens another one where it breaks."""

    def __init__(self, board: _Board, pool: Pool, metrics: JsonlWriter) -> None:
        self._board, self._pool, self._metrics = board, pool, metrics
        self._running: dict[Future[None], Trial] = {}
        # Trials that were at work when a worker died, and how often one did with them alone: they
        # run one at a time, so that the guilty one is found and the others are not blamed for it.
        self._suspects: dict[str, int] = {}
        self._attempts: dict[str, int] = {}

    def run(self) -> None:
        executor = self._pool.open()
        try:
            while self._board.waiting or self._running:
                self._submit(executor)
                if not self._running:
                    break  # cannot be: trials that wait for ever need each other
                finished, _ = concurrent.futures.wait(
                    self._running, timeout=_POLL_S,
                    return_when=concurrent.futures.FIRST_COMPLETED)
                broken = False
                for future in finished:
                    broken |= self._take(future)
                if broken:
                    self._blame()
                    self._pool.end(executor)
                    executor = self._pool.open()
                if self._running or self._board.waiting:  # the end is told by who called
                    self._board.tell(list(self._running.values()))
            for trial in list(self._board.waiting.values()):
                self._board.fail(trial, f'it needs {", ".join(trial.needs)}, which is not to be '
                                        'had')
        finally:
            self._pool.end(executor)

    def _submit(self, executor: Executor) -> None:
        for trial in self._board.ready():
            if self._running and (self._apart(trial) or any(
                    self._apart(t) for t in self._running.values())):
                continue
            if trial.last and any(not t.last for t in self._board.waiting.values()):
                continue
            del self._board.waiting[trial.name]
            self._attempts[trial.name] = self._count(trial)
            try:
                future = executor.submit(perform, trial, str(self._board.work))
            except BrokenProcessPool as error:
                future = Future()
                future.set_exception(error)
            self._running[future] = trial

    def _apart(self, trial: Trial) -> bool:
        return trial.last or trial.name in self._suspects

    def _count(self, trial: Trial) -> int:
        path = self._board.work / trial.name / ATTEMPTS
        return len(path.read_text().splitlines()) if path.is_file() else 0

    def _take(self, future: Future[None]) -> bool:
        """Take note of a future that is done; returns whether the executor broke."""
        try:
            error = future.exception()
        except (concurrent.futures.CancelledError, asyncio.CancelledError) as cancelled:
            raise JobError(explain(
                f"trial '{self._running[future].name}' was at work",
                'the executor gave it up, as a cluster does whose scheduler is gone',
                'a scheduler that lasts to the end',
                'start it again, and the same command: what is done is kept')) from cancelled
        if isinstance(error, BrokenProcessPool):
            return True
        trial = self._running.pop(future)
        folder = self._board.work / trial.name
        if (folder / RESULT).is_file():
            self._board.finish(trial)
            self._metrics.write({'trial': trial.name, 'event': 'done'})
        elif isinstance(error, KeyboardInterrupt):
            raise error
        else:
            why = ' '.join(str(error).split()) if error is not None else explain(
                f"the result of '{trial.name}' was asked for",
                f"its worker left none in '{folder}'", 'workers that see this very folder',
                'share it, or run without --executor')
            self._fail(trial, why)
        return False

    def _blame(self) -> None:
        """After a worker died: those that had begun are suspects, all go back into the queue."""
        alone = len(self._running) == 1
        for trial in self._running.values():
            if (self._board.work / trial.name / RESULT).is_file():
                self._board.finish(trial)
                continue
            if self._count(trial) > self._attempts[trial.name]:
                deaths = self._suspects.get(trial.name, 0) + alone
                self._suspects[trial.name] = deaths
                if deaths >= _LONE_DEATHS:
                    self._fail(trial, explain(
                        f"trial '{trial.name}' was run", f'its process died {deaths} times with '
                        'nothing else at work', 'a process that lives to its end',
                        'look for a lack of memory, and start the study again'))
                    continue
            self._board.waiting[trial.name] = trial
        self._running.clear()

    def _fail(self, trial: Trial, why: str) -> None:
        self._board.spent += trial.weight
        self._board.fail(trial, why)
        self._metrics.write({'trial': trial.name, 'event': 'failed', 'why': why})
