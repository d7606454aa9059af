# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Where the controller's bundles come from, and how they get into its loop.

Everything here runs in one thread beside the others: unpacking, verifying, a trial in another
process, loading, warming up, the shadow run. The loop meets the result as one reference. What
proved itself, and what had to be changed back, is kept on disk, so that a restarted controller
neither falls behind nor takes the same bad bundle twice.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning_core.errors import BundleError, ConfigError, PruningError, explain
from pruning_core.runtime.bundle import Bundle, open_bundle
from pruning_core.runtime.signature import PublicKey, load_public
from pruning_core.runtime.swap import (
    Model,
    ModelSwitch,
    Observation,
    PlanBudget,
    ProbationSettings,
    check_contract,
    load,
    shadow_run,
)
from pruning_core.runtime.trial import TrialBench

STATE = 'state.json'
_HEX = set('0123456789abcdef')


@dataclass(frozen=True)
class Told:
    """How bundles speak to the log."""

    info: Callable[[str], object]
    warning: Callable[[str], object]
    error: Callable[[str], object]


class BundleDesk:
    """Prepares bundles and hands them to the loop through a `ModelSwitch`.

    Attributes:
        switch: the models of the loop.
        rejected: why the last bundle was refused; empty once another one was taken.
    """

    def __init__(self, settings: dict[str, Any], newest: Callable[[], Observation | None],
                 running: Callable[[], bool], log: Told) -> None:
        """Open the first bundle; see the table of parameters for `settings`.

        Args:
            settings: of the node.
            newest: the newest observation that can be used, None where there is none.
            running: whether a loop will take what is pending.
            log: of the node.

        Raises:
            PruningError: there is no bundle that can be used.
        """
        self._s, self._newest, self._running, self._log = settings, newest, running, log
        self._store = Path(settings['store']).expanduser()
        self._key: PublicKey | None = None
        if settings['public_key']:
            self._key = load_public(Path(settings['public_key']).expanduser())
        self.rejected = ''
        self._lock = threading.Lock()
        self._state = self._read_state()
        self._written = dict(self._state)
        bundle, origin = self._first()
        # Only before control begins is there time to measure.
        model, slowest_s = load(bundle, origin, self._budget(), measure=True)
        self._warn(bundle, slowest_s)
        self.switch = ModelSwitch(model, ProbationSettings(
            settings['swap.window_ticks'], settings['swap.max_worse'],
            settings['swap.max_stability_loss']))
        self.switch.quarantined.update(self._state['rejected'])
        self._trials = TrialBench() if settings['swap.trial'] else None
        # Not niced: while it holds the interpreter, the control thread would wait for it.
        self._worker = ThreadPoolExecutor(1, 'bundles')

    def close(self) -> None:
        """Let what is under way end by itself, and take nothing more."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        if self._trials is not None:
            self._trials.close()

    def use(self, settings: dict[str, Any]) -> None:
        """Take parameters that may change while configured."""
        self._s = settings

    # ---- from any thread; each returns at once ----------------------------------------------

    def receive(self, content: bytes, hash: str) -> Future[str]:
        """Take an archive that came over a topic."""
        return self._begin(self._receive, content, hash)

    def reload(self, folder: str) -> Future[str]:
        """Read a folder again; a person asks for it, so that no quarantine holds."""
        return self._begin(self._reload, folder)

    def resize(self) -> Future[str]:
        """Load the present bundle again, for another size of plan."""
        return self._begin(self._resize)

    def _begin(self, does: Callable[..., str], *given: object) -> Future[str]:
        """Hand work to the worker; it is cancelled at once where a cleanup overtook the caller."""
        try:
            return self._worker.submit(does, *given)
        except RuntimeError:
            ended: Future[str] = Future()
            ended.cancel()
            return ended

    def roll_back(self) -> str:
        """Go back to the model before, which is still loaded; returns what happened.

        Raises:
            BundleError: there is none.
        """
        with self._lock:
            previous = self.switch.previous
            if previous is None:
                raise BundleError(
                    explain('the bundle before was asked for', 'there is none',
                            'a rollback once another bundle was taken',
                            'prune, or set bundle and ~/reload')
                )
            previous.planner.reset()
            previous.monitor.reset()
            self._hand_over(replace(previous, origin='rollback', watched=False))
        return f'bundle {previous.hash[:16]} replaces the running one at the next tick'

    # ---- in the worker -----------------------------------------------------------------------

    def _receive(self, content: bytes, hash: str) -> str:
        why = self.switch.quarantined.get(hash)
        if why:
            raise BundleError(
                explain(f'bundle {hash[:16]} was received', f'it was changed back before: {why}',
                        'another bundle', 'to insist, set the parameter bundle to '
                        f'{self._store / hash[:16]} and call ~/reload')
            )
        from pruning_core.runtime.archive import unpack  # only who receives bundles needs it

        bundle = unpack(content, self._store, hash, self._key)
        try:
            return self._offer(bundle, 'topic')
        finally:
            self._make_room(bundle.hash)

    def _reload(self, folder: str) -> str:
        return self._offer(open_bundle(Path(folder).expanduser(), key=self._key), 'reload')

    def _resize(self) -> str:
        model = self.switch.pending or self.switch.active
        return self._offer(model.bundle, model.origin, again=True)

    def _offer(self, bundle: Bundle, origin: str, again: bool = False) -> str:
        """Prepare a bundle and hand it to the loop; raises without touching what runs."""
        newest = self.switch.pending or self.switch.active
        if newest.hash == bundle.hash and not again:
            return f'bundle {bundle.hash[:16]} is already in use'
        check_contract(bundle, newest.bundle.manifest)
        if self._trials is not None and bundle.path is not None and not again:
            self._trials.run(bundle.path, bundle.hash)
        model, slowest_s = load(bundle, origin, self._budget())
        self._warn(bundle, slowest_s)
        said = ''
        if self._running() and not again:
            compute = self.switch.active.compute
            typical_s = compute.quantile(0.5) if compute.count else math.nan
            ticks = shadow_run(model, self._newest, self._s['swap.shadow_ticks'], typical_s,
                               self._s['planner.budget'] or None)
            said = f', after {ticks} ticks beside it'
        with self._lock:
            self._hand_over(model)
        return f'bundle {bundle.hash[:16]} replaces the running one at the next tick{said}'

    def _make_room(self, newest: str) -> None:
        """Remove the oldest received bundles, none that acts, may act next or proved itself."""
        switch = self.switch
        loaded = (m.hash for m in (switch.active, switch.previous, switch.pending) if m)
        needed = {hash[:16] for hash in (newest, *loaded, switch.proven, self._state['good'],
                                         self._state['start'])}
        kept = self._s['store_keep'] or math.inf
        try:
            # Nothing but what `unpack` made has such a name.
            found = [(f.stat().st_mtime, f) for f in self._store.iterdir()
                     if len(f.name) == 16 and not set(f.name) - _HEX and f.is_dir()]
            for place, (_, folder) in enumerate(sorted(found, reverse=True)):
                if place >= kept and folder.name not in needed:
                    shutil.rmtree(folder)
        except OSError as error:
            self._log.warning(f'{self._store} could not be tidied up: {error}')

    def _hand_over(self, model: Model) -> None:
        if self._running():
            self.switch.offer(model)
        else:
            self.switch.use(model)

    def _budget(self) -> PlanBudget:
        s = self._s
        return PlanBudget(s['planner.samples'], s['planner.iterations'], s['planner.threads'],
                          s['planner.seed'], s['planner.fit'])

    def _warn(self, bundle: Bundle, slowest_s: float) -> None:
        if failed := bundle.manifest.failed_gates:
            self._log.warning(f'bundle {bundle.hash[:16]} failed its gates and was exported by '
                              f'force: {"; ".join(failed)}')
        period_s = bundle.manifest.period_s
        if slowest_s > period_s and not 0 < self._s['planner.budget'] < period_s:
            self._log.warning(
                f'bundle {bundle.hash[:16]} plans for {slowest_s:.3f} s here, its period is '
                f'{period_s:g} s: it will miss deadlines')

    # ---- what outlives the process -----------------------------------------------------------

    def _first(self) -> tuple[Bundle, str]:
        """The bundle of the parameter, or what took its place here and proved itself."""
        folder = self._s['bundle']
        if not folder:
            raise ConfigError(
                explain('the controller was configured', "parameter 'bundle' is empty",
                        'a bundle folder', 'export one (python -m pruning_core export --agent '
                        'pendulum_dense --out FOLDER) and set the parameter bundle to it')
            )
        start = open_bundle(Path(folder).expanduser(), key=self._key)
        good, began = self._state['good'], self._state['start']
        self._state['start'] = start.hash
        if not self._s['resume'] or began != start.hash or good in ('', start.hash):
            return start, 'parameter'
        try:
            later = open_bundle(self._store / good[:16], good, self._key)
            check_contract(later, start.manifest)
        except PruningError as error:
            self._log.error(f'the last good bundle is not taken up again: {error}')
            return start, 'parameter'
        return later, 'resumed'

    def _read_state(self) -> dict[str, Any]:
        empty: dict[str, Any] = {'start': '', 'good': '', 'rejected': {}}
        try:
            found = json.loads((self._store / STATE).read_bytes()[:1 << 20])
            state = {'start': str(found['start']), 'good': str(found['good']),
                     'rejected': {str(k): str(v) for k, v in found['rejected'].items()}}
        except FileNotFoundError:
            return empty
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._log.warning(f'{self._store / STATE} cannot be read ({error}); it is begun anew')
            return empty
        # A name from a file becomes a path only where it is a hash.
        if len(state['good']) != 64 or set(state['good']) - _HEX:
            state['good'] = ''
        return state

    def tidy_up(self) -> None:
        """Close models that are needed no more, and write down what proved itself and what not."""
        retired = self.switch.retired
        while retired:  # one at a time: each holds the interpreter while it is closed
            retired.popleft()
        self._save_state()

    def _save_state(self) -> None:
        """Write down what proved itself and what did not, where that changed."""
        proven = self.switch.proven
        stored = proven == self._state['start'] or (self._store / proven[:16]).is_dir()
        state = {**self._state, 'good': proven if stored else self._state['good'],
                 'rejected': dict(self.switch.quarantined)}
        if state == self._written:
            return
        self._written = state
        try:
            self._store.mkdir(parents=True, exist_ok=True)
            temporary = self._store / f'.{STATE}'
            with temporary.open('w') as file:
                file.write(json.dumps(state, indent=1) + '\n')
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._store / STATE)
        except OSError as error:
            self._log.error(explain(
                f"'{self._store / STATE}' was to be written", str(error),
                'a folder that can be written, with room',
                "correct the parameter 'store'; a restart would begin with the parameter bundle"))
