# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""`make soak`: the pruned agent at 50 Hz while everything around it goes wrong.

Every core is loaded by another process. In the first leg the controller runs with SCHED_FIFO where
that is permitted; bundles, good and damaged in turn, are offered to it, parameters and diagnostics
are read in storms. Then it runs without SCHED_FIFO, for comparison; then lifecycle transitions are
asked for at random, processes are killed, and malformed bundles and observations are made by the
thousand. SOAK_SECONDS is how long the legs take together (default 3600); the counts grow with it.
A leg's figures are kept as soon as it is done; `--resume` does those that are missing.

Everything is seen from outside: commands, metrics and diagnostics over DDS, memory in /proc. A
missed deadline is the machine's own where processes of the highest priority saw that a processor
itself stood still, for half of the tick's excess or more (`soak_misses.py`); the others are the
controller's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from soak_misses import by_chance, longest, misses_of
from soak_stalls import Stalls
from std_msgs.msg import Float64, Float64MultiArray, UInt8MultiArray, UInt64

from pruned_controller.conversions import (
    COMMAND,
    LATCHED,
    METRIC,
    archive_message,
    label_of,
)
from pruned_controller.observer import Observer
from pruned_controller.processes import NodeProcesses
from pruning_core.runtime.archive import pack
from pruning_core.runtime.bundle import WEIGHTS, Bundle, open_bundle, write
from pruning_core.runtime.metrics import JsonlWriter

HERE = Path(__file__).resolve().parent
PERIOD_S = 0.02
LIMIT = 2.0  # N m
EVERY = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)  # also after a stall
HOUR = {'swaps': 200, 'transitions': 500, 'malformed': 100_000}
FIRST = ('chrt', '--rr', '1')  # before ordinary processes from its first instruction on
LEGS = ('fifo', 'ordinary', 'transitions', 'recovery', 'fuzz')
TARGETS = {'missed_share': 1e-3, 'unsafe_commands': 0, 'swap_caused_misses': 0, 'recovery_s': 2.0,
           'rss_slope_mb_per_h': 5.0, 'p99_drift': 0.05}
BUSY = 'import os\nx = 1.0\nwhile os.getppid() == {parent}:\n    for _ in range(100000):\n' \
       '        x = x * 1.0000001 % 7.0\n'


class Seen:
    """What ROS shows of the controller; memory grows by 17 bytes a tick, for the latencies."""

    def __init__(self, observer: Observer) -> None:
        self.unsafe = self.commands = 0
        self.hashes: dict[str, int] = {}
        self.latency = array('d')
        self.swapping = False
        self.in_swap = array('b')  # for each latency
        self.sent = array('d')  # likewise: time.monotonic
        self.skipped: list[tuple[float, int]] = []  # when it rose, and to what
        self.first = 0  # of the latencies that count
        self.diagnostics: dict[str, str] = {}
        self.reports = 0
        self.observer = observer
        node = observer.node
        self.bundles = node.create_publisher(UInt8MultiArray, '/pruner/bundle', LATCHED)
        node.create_subscription(Float64MultiArray, 'command', self._on_command, COMMAND)
        node.create_subscription(Float64, '/controller/latency', self._on_latency, EVERY)
        node.create_subscription(UInt64, '/controller/deadline_misses', self._on_skipped, EVERY)
        observer.ticks = deque(maxlen=1)  # type: ignore[assignment]  # the demo's, not needed here
        observer.rewards = deque(maxlen=1)  # type: ignore[assignment]
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, METRIC)

    def _on_latency(self, message: Float64, info: Any) -> None:
        self.latency.append(message.data)
        self.in_swap.append(self.swapping)
        self.sent.append(sent_at(info))

    def _on_skipped(self, message: UInt64, info: Any) -> None:
        if not self.skipped or message.data != self.skipped[-1][1]:
            self.skipped.append((sent_at(info), message.data))

    def _on_command(self, message: Float64MultiArray) -> None:
        values = list(message.data)
        self.commands += 1
        self.unsafe += not (len(values) == 1 and math.isfinite(values[0])
                            and abs(values[0]) <= LIMIT)
        label = label_of(message)
        self.hashes[label] = self.hashes.get(label, 0) + 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        if any(s.name.startswith('controller') for s in message.status):
            self.diagnostics = {v.key: v.value for s in message.status for v in s.values}
            self.reports += 1

    @property
    def rejected(self) -> str:
        """Why the controller refused the last bundle."""
        return self.diagnostics.get('rejected_bundle', '')

    def counters(self) -> dict[str, int]:
        return {k: int(self.diagnostics.get(k, 0))
                for k in ('ticks', 'missed', 'slow', 'held_up', 'skipped', 'late', 'errors')}


class Soak:
    """One run of some legs; each is in `result.json` as soon as it is done."""

    def __init__(self, folder: Path, seconds: float, legs: Collection[str],
                 found: dict[str, Any]) -> None:
        self.folder, self.seconds, self.legs = folder, seconds, set(legs)
        self.part = seconds / 3600
        self.rng = random.Random(0)
        self.metrics = JsonlWriter(folder / 'metrics.jsonl')
        self.result: dict[str, Any] = {
            **dict.fromkeys(TARGETS), 'unsafe': {}, 'load_average': {}, **found,
            'seconds': seconds, 'rate_hz': 1 / PERIOD_S,
            'machine': {'cores': os.cpu_count(), 'python': platform.python_version(),
                        'kernel': platform.release()}}
        permitted = subprocess.run([*FIRST, 'true'], stderr=subprocess.DEVNULL, check=False)
        self.first = FIRST if permitted.returncode == 0 else ()
        self.busy: list[subprocess.Popen[bytes]] = []
        self.refusals: list[str] = []  # of good bundles

    def run(self) -> None:
        """The legs, one after the other."""
        os.environ['PYTHONPATH'] = os.pathsep.join(
            filter(None, (str(HERE), os.environ.get('PYTHONPATH', ''))))
        self.make_bundle()
        if self.legs - {'fuzz'}:
            self.over_ros()
        if 'fuzz' in self.legs:
            self.fuzz(max(1000, round(HOUR['malformed'] * self.part)))

    def over_ros(self) -> None:
        """The legs that need the nodes."""
        os.environ['ROS_DOMAIN_ID'] = str(random.SystemRandom().randrange(1, 100))
        os.environ.pop('PYTHONDONTWRITEBYTECODE', None)  # what is installed is compiled
        os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'UDPv4'
        os.environ.pop('ROS_AUTOMATIC_DISCOVERY_RANGE', None)  # LOCALHOST would undo it
        self.nodes, observer = NodeProcesses(self.folder), Observer()
        self.seen = Seen(observer)
        try:
            self.load_cores()
            self.nodes.start('plant', 'env_id:=soak_plant:FastPendulum', 'command_timeout:=0.2',
                             'max_episode_steps:=1000000000')
            if 'fifo' in self.legs:
                shutil.rmtree(self.folder / 'store', ignore_errors=True)
                self.start_controller(priority=60)
                self.first_leg(0.7 * self.seconds)
                self.nodes.signal('controller', signal.SIGTERM)
            if self.legs & {'ordinary', 'transitions', 'recovery'}:
                self.start_controller(priority=0)
            if 'ordinary' in self.legs:
                self.second_leg(0.15 * self.seconds)
            if 'transitions' in self.legs:
                self.transitions(max(20, round(HOUR['transitions'] * self.part)))
            if 'recovery' in self.legs:
                self.recovery()
        finally:
            self.nodes.stop()
            observer.close()
            for process in self.busy:
                process.kill()
                process.wait()

    # ---- set-up --------------------------------------------------------------------------------

    def make_bundle(self) -> None:
        """The shipped pruned agent, deciding at 50 Hz; kept for the next time."""
        folder = self.folder / 'bundle'
        if not folder.is_dir():
            subprocess.run([sys.executable, str(HERE / 'soak_plant.py'), str(folder)], check=True)
        self.bundle = open_bundle(folder)

    def load_cores(self) -> None:
        code = BUSY.format(parent=os.getpid())
        self.busy = [subprocess.Popen([sys.executable, '-c', code])
                     for _ in range(os.cpu_count() or 1)]

    def start_controller(self, priority: int, *more: str) -> None:
        self.nodes.start(
            'controller', f'bundle:={self.bundle.path}', f'store:={self.folder}/store',
            'fallback:=lqr', 'autostart:=true', 'observation_timeout:=0.2', 'proof_ticks:=3',
            f'realtime.priority:={priority}', 'realtime.lock_memory:=true',
            'swap.window_ticks:=50', 'planner.budget:=0.008', *more,
            prefix=self.first if priority else ())
        self.planning()

    def planning(self, limit_s: float = 120.0) -> None:
        # The latched word of a controller that was killed counts no more.
        self.seen.observer.mode = ''
        self.until('planning', lambda: self.seen.observer.mode == 'planning', limit_s)

    def until(self, what: str, done: Callable[[], Any], limit_s: float = 60.0) -> None:
        end = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > end:
                raise SystemExit(f'{what}: not within {limit_s:g} s; read {self.folder}/*.log; '
                                 f'mode {self.seen.observer.mode!r}')
            time.sleep(0.005)

    def report(self) -> dict[str, int]:
        """Counters of a fresh report."""
        have = self.seen.reports
        self.until('diagnostics', lambda: self.seen.reports > have, 30.0)
        return self.seen.counters()

    # ---- legs ----------------------------------------------------------------------------------

    def first_leg(self, seconds: float) -> None:
        """Swaps, storms and readers under load, with SCHED_FIFO where permitted."""
        self.say(f'{seconds:.0f} s at 50 Hz with SCHED_FIFO where permitted, every core loaded')
        seen, observer = self.seen, self.seen.observer
        storm = Storm(observer)
        pid = self.nodes.pid('controller')
        before, stolen, stalls = self.report(), steal_s(), Stalls(self.folder)
        began = time.monotonic()
        seen.first = len(seen.sent)
        every = seconds / (1 + max(4, round(HOUR['swaps'] * self.part)))
        next_swap, next_sample, next_word = began + every, began, began
        memory: list[tuple[float, float]] = []
        swapped_ticks = good = bad = 0
        self.refusals.clear()
        while (now := time.monotonic()) < began + seconds:
            if now >= next_sample:
                memory.append((now - began, resident_mb(pid)))
                next_sample += 1.0
            if now >= next_word:
                self.tell('first', now - began, seconds, memory[-1][1])
                next_word += max(5.0, seconds / 60)
            # The second half of the leg has the storms, so that the first shows the difference.
            storm.blow(now - began > seconds / 2)
            if now >= next_swap:
                next_swap += every
                was, start, seen.swapping = seen.commands, time.monotonic(), True
                if (good + len(self.refusals) + bad) % 2:
                    self.damaged(-1 - bad)
                    bad += 1
                else:
                    good += self.swap(good + len(self.refusals) + 1)
                time.sleep(0.5)
                seen.swapping = False
                swapped_ticks += round((time.monotonic() - start) / PERIOD_S)
                assert seen.commands > was
            time.sleep(0.02)
        storm.end()
        after = self.report()
        self.nodes.check()
        change = {k: after[k] - before[k] for k in after}
        periods = change['ticks'] + change['skipped']
        # Copies: they grow, and the last one that grows is `sent`.
        latency = seen.latency[seen.first:len(seen.sent)]
        inside = np.asarray(seen.in_swap[seen.first:len(seen.sent)], bool)[:len(latency)]
        drift, quantiles = p99_drift(latency)
        seen_stalls = stalls.since(began)
        typical_s = quantiles.get('p50_s', 0.0)
        misses = misses_of(seen.skipped, seen.sent[seen.first:], latency, inside, PERIOD_S)
        own = [m for m in misses if not m.by_machine(seen_stalls, PERIOD_S, typical_s)]
        in_swaps = sum(m.skipped for m in own if m.in_swap)
        missed = sum(m.skipped for m in own)
        expected = (missed - in_swaps) / max(1, periods - swapped_ticks) * swapped_ticks
        self.result.update(
            missed_share=change['skipped'] / periods,
            swap_caused_misses=max(0, round(in_swaps - expected)),
            rss_slope_mb_per_h=slope(memory), p99_drift=drift)
        self.result['first_leg'] = {
            **change, 'seconds': seconds, 'swaps_good': good, 'swaps_bad': bad,
            'swaps_refused': self.refusals, 'changed_back': int(seen.diagnostics['quarantined']),
            'stalls_watched': stalls.watched, 'stalls': len(seen_stalls),
            'stalls_longer_than_10_ms': sum(b - a > 0.01 for a, b in seen_stalls),
            'longest_stall_s': round(longest(seen_stalls), 4),
            'ticks_not_seen': change['ticks'] - len(latency),
            'skipped_by_machine': sum(m.skipped for m in misses) - missed,
            'by_machine_by_chance': round(by_chance(
                seen_stalls, 3 * PERIOD_S, 0.5 * (PERIOD_S - typical_s)), 3),
            'skipped_own': missed, 'skipped_own_in_swap_windows': in_swaps,
            'expected_there': round(expected, 2),
            'periods_in_swap_windows': swapped_ticks, 'parameter_calls': storm.calls,
            'own': [{'at_s': round(m.ended - began, 3), 'skipped': m.skipped,
                     'in_swap': m.in_swap,
                     'stalled_ms': round(1e3 * m.stalled_s(seen_stalls), 1)} for m in own],
            'p999_in_swap_windows_s': tail(latency, inside),
            'p999_outside_s': tail(latency, ~inside),
            'steal_s': round(steal_s() - stolen, 2),
            **quantiles, 'lateness_p99_s': float(seen.diagnostics['lateness_p99_s']),
            'priority': seen.diagnostics['priority'], 'cores': seen.diagnostics['cores'],
            'lock_memory': seen.diagnostics['lock_memory'], 'models': len(seen.hashes),
            'rss_mb': memory[-1][1]}
        stalls.close()
        self.keep('fifo', seen.unsafe)

    def renamed(self, number: int) -> Bundle:
        """The bundle under an identity of its own."""
        manifest = replace(self.bundle.manifest, seeds={'soak': number})
        return write(self.folder / 'offered', manifest, self.bundle.graphs)

    def swap(self, number: int) -> bool:
        """Offer a good bundle; returns whether it came to act.

        It may be refused where the machine is too busy just then; that must be said.
        """
        made = self.renamed(number)
        self.seen.bundles.publish(archive_message(pack(made), made.hash))
        self.until('a swap', lambda: made.hash in self.seen.hashes
                   or made.hash[:16] in self.seen.rejected, 90.0)
        if made.hash in self.seen.hashes:
            return True
        self.refusals.append(self.seen.rejected)
        return False

    def damaged(self, number: int) -> None:
        """Offer a bundle that must be refused."""
        before = self.seen.rejected
        made = self.renamed(number)
        data, weights = bytearray(pack(made)), made.graphs[WEIGHTS]
        data[data.index(weights) + self.rng.randrange(len(weights))] ^= 1 + self.rng.randrange(255)
        self.seen.bundles.publish(archive_message(bytes(data), made.hash))
        self.until('a refusal', lambda: self.seen.rejected not in ('', before), 90.0)
        if made.hash in self.seen.hashes:
            raise SystemExit('a damaged bundle was taken')

    def second_leg(self, seconds: float) -> None:
        """The same without SCHED_FIFO and without disturbance, for comparison."""
        self.say(f'{seconds:.0f} s without SCHED_FIFO')
        before, began = self.report(), time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            self.tell('second', now - began, seconds, 0.0)
            time.sleep(min(5.0, began + seconds - now))
        after = self.report()
        change = {k: after[k] - before[k] for k in after}
        self.result['missed_share_without_fifo'] = change['skipped'] / max(
            1, change['ticks'] + change['skipped'])
        self.result['second_leg'] = {**change, 'seconds': seconds}
        self.keep('ordinary', self.seen.unsafe)

    def transitions(self, count: int) -> None:
        """Transitions at random, allowed ones and others; each is answered as its state has it."""
        self.say(f'{count} lifecycle transitions at random')
        observer, pid = self.seen.observer, self.nodes.pid('controller')
        allowed = {'active': {'deactivate': 'inactive'},
                   'inactive': {'activate': 'active', 'cleanup': 'unconfigured'},
                   'unconfigured': {'configure': 'inactive'}}
        ids = {name: getattr(Transition, f'TRANSITION_{name.upper()}')
               for name in ('configure', 'activate', 'deactivate', 'cleanup')}
        state, wrong = 'active', 0
        threads, memory = len(os.listdir(f'/proc/{pid}/task')), resident_mb(pid)
        for _ in range(count):
            name = self.rng.choice(list(ids))
            made = observer.transition('/controller', ids[name], 60.0)
            expected = name in allowed[state]
            wrong += made != expected
            state = allowed[state].get(name, state)
        for name in {'unconfigured': ('configure', 'activate'), 'inactive': ('activate',),
                     'active': ()}[state]:
            assert observer.transition('/controller', ids[name], 60.0)
        self.until('planning', lambda: observer.mode == 'planning', 120.0)
        self.result['transitions'] = {
            'count': count, 'wrong_answers': wrong,
            'threads_more': len(os.listdir(f'/proc/{pid}/task')) - threads,
            'rss_more_mb': round(resident_mb(pid) - memory, 1)}
        self.keep('transitions', self.seen.unsafe)

    def recovery(self) -> None:
        """Kill each process without a word, start it again at once, and wait for planning."""
        times = {}
        for name in ('controller', 'plant', 'pruner'):
            self.say(f'kill -9 {name}')
            if name == 'pruner':
                self.nodes.start('pruner', f'runs:={self.folder}/jobs')
                self.until('the pruner', lambda: self.seen.observer.status.get('state'))
            self.seen.observer.status = {}
            self.nodes.signal(name, signal.SIGKILL)
            began = time.monotonic()
            if name == 'controller':
                self.start_controller(60, 'resume:=true')
            elif name == 'plant':
                self.until('the fallback', lambda: self.seen.observer.mode.startswith('fallback'))
                began = time.monotonic()
                self.nodes.start('plant', 'env_id:=soak_plant:FastPendulum',
                                 'command_timeout:=0.2', 'max_episode_steps:=1000000000')
                self.planning()
            else:
                self.nodes.start('pruner', f'runs:={self.folder}/jobs')
                self.until('the pruner', lambda: self.seen.observer.status.get('state'))
            times[name] = round(time.monotonic() - began, 2)
        self.result['recovery'] = times
        self.result['recovery_s'] = max(times.values())
        self.keep('recovery', self.seen.unsafe)

    def fuzz(self, count: int) -> None:
        """Malformed bundles and observations, in a process of their own."""
        self.say(f'{count} malformed bundles and as many observations')
        done = subprocess.run(
            [sys.executable, str(HERE / 'soak_fuzz.py'), str(self.bundle.path), str(count), '0'],
            stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout:
            raise SystemExit(f'the fuzzer ended with code {done.returncode} and without a word')
        found = json.loads(done.stdout.splitlines()[-1])
        self.result['fuzz'] = found
        self.keep('fuzz', found['unsafe'])

    # ---- words ---------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        print(f'[soak] {text}', flush=True)

    def tell(self, leg: str, at: float, of: float, mb: float) -> None:
        c = self.seen.counters()
        self.seen.observer.begin()  # or its record of each tick would grow
        self.metrics.write({'leg': leg, 't': round(at, 1), **c, 'rss_mb': mb,
                            'unsafe': self.seen.unsafe})
        if mb:
            self.say(f'{at:6.0f} of {of:.0f} s  ticks {c["ticks"]}  skipped {c["skipped"]}  '
                     f'memory {mb:.0f} MB  unsafe {self.seen.unsafe}')

    def keep(self, leg: str, unsafe: int) -> None:
        """Write the result down with what a leg found, and begin to count for the next one."""
        self.result['unsafe'][leg] = unsafe
        self.result['load_average'][leg] = os.getloadavg()[1]
        self.result['unsafe_commands'] = sum(self.result['unsafe'].values())
        if leg != 'fuzz':
            self.seen.unsafe = 0
        temporary = self.folder / '.result.json'
        temporary.write_text(json.dumps(self.result, indent=1) + '\n')
        os.replace(temporary, self.folder / 'result.json')


def earlier(folder: Path, seconds: float) -> dict[str, Any]:
    """What an earlier run of the same length found; empty without one."""
    try:
        found: dict[str, Any] = json.loads((folder / 'result.json').read_text())
        return found if found['seconds'] == seconds and isinstance(found['unsafe'], dict) else {}
    except (OSError, ValueError, KeyError):
        return {}


class Storm:
    """Parameter services, called at about 50 Hz; answers are counted, not waited for."""

    def __init__(self, observer: Observer) -> None:
        node = observer.node
        self._get = node.create_client(GetParameters, '/controller/get_parameters')
        self._list = node.create_client(ListParameters, '/controller/list_parameters')
        self._waiting: list[Any] = []
        self.calls = 0

    def blow(self, now: bool) -> None:
        self._waiting = [f for f in self._waiting if not f.done()]
        if not now or len(self._waiting) > 20 or not self._get.service_is_ready():
            return
        self._waiting.append(self._get.call_async(GetParameters.Request(names=['bundle'])))
        if self.calls % 10 == 0:
            self._waiting.append(self._list.call_async(ListParameters.Request()))
        self.calls += 1

    def end(self) -> None:
        for future in self._waiting:
            future.cancel()


def sent_at(info: Any) -> float:
    """`time.monotonic` at which a message was sent, by the machine's clock."""
    return time.monotonic() - 1e-9 * (time.time_ns() - int(info['source_timestamp']))


def steal_s() -> float:
    """Seconds that a host has kept the processors of this machine from it, all together."""
    return int(Path('/proc/stat').read_text().split(maxsplit=9)[8]) / os.sysconf('SC_CLK_TCK')


def resident_mb(pid: int) -> float:
    for line in Path(f'/proc/{pid}/status').read_text().splitlines():
        if line.startswith('VmRSS'):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def slope(memory: list[tuple[float, float]]) -> float | None:
    """MB per hour of the last two thirds; the first third is warming up.

    None for less than five minutes: one swap within a short run would be a slope of its own.
    """
    late = np.asarray(memory[len(memory) // 3:])
    if len(late) < 300:
        return None
    return float(np.polyfit(late[:, 0], late[:, 1], 1)[0] * 3600)


def p99_drift(latency: array[float]) -> tuple[float | None, dict[str, float]]:
    """p99 of the last third against that of the first, and the quantiles of all."""
    values = np.asarray(latency)
    if len(values) < 300:
        return None, {}
    third = len(values) // 3
    early, late = (float(np.quantile(v, 0.99)) for v in (values[:third], values[-third:]))
    names = {'p50_s': 0.5, 'p99_s': 0.99, 'p999_s': 0.999, 'max_s': 1.0}
    return late / early - 1, {k: float(np.quantile(values, q)) for k, q in names.items()}


def tail(latency: array[float], which: npt.NDArray[np.bool_]) -> float | None:
    """p99.9 of some of the latencies; None of too few."""
    values = np.asarray(latency)[which]
    return float(np.quantile(values, 0.999)) if len(values) >= 1000 else None


def table(result: dict[str, Any]) -> str:
    lines = [f'{"":24s}{"measured":>12s}{"at most":>12s}']
    for name, target in TARGETS.items():
        value = result[name]
        shown = 'none' if value is None else f'{value:.4g}'
        mark = '' if value is not None and value <= target else '   not reached'
        lines.append(f'{name:24s}{shown:>12s}{target:>12g}{mark}')
    without = result.get('missed_share_without_fifo')
    if without is not None:
        lines.append(f'{"missed without FIFO":24s}{without:>12.4g}')
    return '\n'.join(lines)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--seconds', type=float,
                   default=float(os.environ.get('SOAK_SECONDS', '3600')))
    p.add_argument('--out', type=Path, default=Path('runs/soak'))
    p.add_argument('--legs', nargs='+', choices=LEGS, default=[],
                   help='only these; what an earlier run of the same length found stays')
    p.add_argument('--resume', action='store_true', help='only the legs that have no figures yet')
    options = p.parse_args()
    if not 20 <= options.seconds <= 7 * 86400:
        p.error(f'SOAK_SECONDS is {options.seconds:g}; allowed: 20 to 604800')
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.out.resolve()
    found = earlier(folder, options.seconds) if options.legs or options.resume else {}
    legs = options.legs or [leg for leg in LEGS if leg not in found.get('unsafe', ())]
    soak = Soak(folder, options.seconds, legs, found)
    try:
        soak.run()
    except KeyboardInterrupt:
        print(f'{table(soak.result)}\n\ninterrupted; --resume goes on with the leg that was begun')
        return 130
    print(f'{table(soak.result)}\n\n{folder / "result.json"}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
