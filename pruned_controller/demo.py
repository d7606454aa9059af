# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The whole job in one command, without `ros2 launch`: plant, controller and pruner as processes.

The dense agent plans with the reference's full budget, whatever it costs. `/pruner/prune` is
called while it runs; the pruned bundle passes its gates, travels over DDS, and is swapped in
between two ticks. Both then have run the same episodes on a plant that waits for nobody; the demo
ends with a table, a picture and a page.

With `--bundle` nothing is pruned: what was pruned before is swapped in, or runs alone where it is
for another plant than the agent, or is dense itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle_msgs.msg import Transition

from pruned_controller.live import LiveView
from pruned_controller.observer import ModelRecord, Observer
from pruned_controller.processes import NodeProcesses
from pruned_controller.recorder import Recorder
from pruning_core import __version__, zoo
from pruning_core import config as configuration
from pruning_core.checkpoint import PLAN
from pruning_core.errors import JobError, MissingExtra, PruningError, explain
from pruning_core.networks import Widths, plan_macs
from pruning_core.report import text_table, write_report
from pruning_core.runtime.bundle import MANIFEST, Manifest, open_bundle

BAG = 'bag'
JOINT_MAP = '["cos(pendulum.position)","sin(pendulum.position)","pendulum.velocity"]'


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number} was asked for; allowed: 1 or more')
    return number


def parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    p = argparse.ArgumentParser(
        prog='python -m pruned_controller.demo',
        description='Run the dense agent, prune it by service call, swap it in, compare. '
                    'With make: make demo ARGS="--sparsity 0.9", or make demo '
                    'BUNDLE=pendulum_95 for what is pruned already.')
    p.add_argument('--agent', default='pendulum_dense',
                   help='agent to start with: run folder or shipped name (default: %(default)s)')
    p.add_argument('--bundle', default='', metavar='NAME',
                   help='instead of pruning: a shipped agent, a run folder or a bundle folder, '
                        'compared with the agent')
    p.add_argument('--sparsity', type=float, default=0.95,
                   help='share of the parameters to remove (default: %(default)s)')
    p.add_argument('--score', default='combined', help='importance (default: %(default)s)')
    p.add_argument('--recovery-updates', type=int, default=500,
                   help='gradient updates after the cut (default: %(default)s)')
    p.add_argument('--gate-violation', type=float, default=0.05,
                   help='largest share of starts from which the pruned agent may fail to reach '
                        'the goal, at 95 %% confidence; 0: no such gate (default: %(default)s)')
    p.add_argument('--samples', type=int, default=0,
                   help="plans per refinement, for both agents; 0: the reference's 512")
    p.add_argument('--iterations', type=int, default=0,
                   help="refinements of a plan, for both agents; 0: the reference's 6")
    p.add_argument('--episodes', type=_at_least_one, default=4,
                   help='episodes of 10 s for each of dense and pruned (default: %(default)s)')
    p.add_argument('--seed', type=int, default=0,
                   help='seed of the first episode (default: %(default)s)')
    p.add_argument('--out', type=Path, default=None,
                   help='result folder (default: runs/demo-DATE-TIME)')
    p.add_argument('--domain', type=int, default=None, choices=range(233), metavar='0..232',
                   help='ROS_DOMAIN_ID (default: a random one, so that nothing else is met)')
    return p


class Demo:
    """One run of the demo."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Make the run folder.

        Raises:
            JobError: the folder is in use.
            PruningError: an option cannot be used.
        """
        self.options = options
        zoo.find(options.agent)
        # Of a bundle that is there already: its folder, or that of an agent to be exported.
        self.given: Path | None = zoo.bundle(options.bundle) if options.bundle else None
        configuration.from_dict({'pruning': {
            'sparsity': options.sparsity, 'score': options.score,
            'recovery_updates': options.recovery_updates,
            'gate_violation': options.gate_violation}})
        self.folder: Path = (options.out or Path('runs') / time.strftime('demo-%Y%m%d-%H%M%S'))
        if self.folder.exists() and any(self.folder.iterdir()):
            raise JobError(
                explain(f"results in '{self.folder}' were asked for", 'something is there',
                        'a new or empty folder', 'give another --out')
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder = self.folder.resolve()
        self.view = LiveView()
        self.events: list[dict[str, Any]] = []
        self.manifests: dict[str, Manifest] = {}
        self.records: dict[str, ModelRecord] = {}
        self.hashes: dict[str, str] = {}
        self.jobs: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Do everything; returns the result that the page is drawn from."""
        domain = self.options.domain
        if domain is None:
            domain = random.SystemRandom().randint(1, 100)
        os.environ['ROS_DOMAIN_ID'] = str(domain)
        os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        try:
            sides = self._bundles()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)  # ours, and nothing was measured
            raise
        processes = NodeProcesses(self.folder)
        observer = Observer()
        recorder = self._record(observer)
        try:
            self._compare(processes, observer, sides)
        finally:
            processes.stop()
            result = self._result(observer)
            (self.folder / 'result.json').write_text(json.dumps(result) + '\n')
            observer.close()
            if recorder is not None:
                recorder.close()
        return result

    def _record(self, observer: Observer) -> Recorder | None:
        """Keep every message in a bag, where the library for it is installed."""
        try:
            return Recorder(observer.node, self.folder / BAG)
        except MissingExtra as error:
            self.view.say(f'no recording: {error}')
            return None

    def _bundles(self) -> dict[str, Path]:
        """Open or make what is there before anything runs, in the order in which it runs."""
        if self.given is None:
            return {'dense': self._export(self.options.agent, 'dense')}
        given = self.given
        if not (given / MANIFEST).is_file():
            given = self._export(str(given), 'given')
        manifest = open_bundle(given).manifest
        if manifest.parameters == manifest.dense_parameters:
            return {'dense': self._opened('dense', given)}
        sides = {}
        if manifest.env_id == zoo.plant(self.options.agent):
            sides['dense'] = self._export(self.options.agent, 'dense')
        return {**sides, 'pruned': self._opened('pruned', given)}

    def _opened(self, side: str, bundle: Path) -> Path:
        opened = open_bundle(bundle)
        self.manifests[side], self.hashes[side] = opened.manifest, opened.hash
        return bundle.resolve()

    def _export(self, agent: str, side: str) -> Path:
        """Make the bundle of an agent, in a process that may import torch."""
        self.view.say(f'exporting {agent} ...')
        bundle = self.folder / side
        done = subprocess.run(
            [sys.executable, '-m', 'pruning_core', 'export', '--agent', agent,
             '--out', str(bundle), '--json'],
            capture_output=True, text=True, check=False)
        if done.returncode:
            raise JobError(done.stderr.strip().splitlines()[-1] if done.stderr.strip()
                           else 'the export failed without a word')
        return self._opened(side, bundle)

    def _compare(self, processes: NodeProcesses, observer: Observer, sides: dict[str, Path]
                 ) -> None:
        first, *others = sides
        self._start(processes, observer, first, sides[first])
        self._event(observer, f'{first} runs')
        self._episodes(first, processes, observer)
        if self.given is None:
            self._prune(processes, observer)
        for side in others:
            self._swap(processes, observer, side, sides[side])
        self._event(observer, 'done')

    def _start(self, processes: NodeProcesses, observer: Observer, side: str, bundle: Path
               ) -> None:
        """Start every node, and the controller with its first bundle."""
        o, manifest = self.options, self.manifests[side]
        joints = manifest.env_id == 'Pendulum-v1'
        source = 'joint_states' if joints else 'observation'
        processes.start('plant', f'env_id:={manifest.env_id}', f'output:={source}',
                        f"max_episode_steps:={manifest.config['env']['max_episode_steps']}",
                        f'seed:={o.seed}')
        if self.given is None:
            processes.start('pruner', f'runs:={self.folder}/jobs', f'agent:={o.agent}',
                            f'sparsity:={float(o.sparsity)}', f'score:={o.score}',
                            f'recovery_updates:={o.recovery_updates}',
                            f'gate_violation:={float(o.gate_violation)}')
        processes.start('controller', f'bundle:={bundle}', f'store:={self.folder}/bundles',
                        f'input:={source}', *([f'joint_map:={JOINT_MAP}'] if joints else ()),
                        f'planner.samples:={o.samples}', f'planner.iterations:={o.iterations}')
        self.view.say('starting the nodes ...')
        for name, step in (('configure', Transition.TRANSITION_CONFIGURE),
                           ('activate', Transition.TRANSITION_ACTIVATE)):
            if not observer.transition('/controller', step):
                processes.check()
                raise JobError(
                    explain(f'the controller was asked to {name}', 'it refused',
                            'a controller with a good bundle',
                            f"read {self.folder / 'controller.log'}")
                )

    def _prune(self, processes: NodeProcesses, observer: Observer) -> None:
        """Let the pruner make a bundle while the dense one runs, and see it swapped in."""
        accepted, said = observer.call('/pruner/prune')
        if not accepted:
            raise JobError(said)
        self._event(observer, f'prune requested: {said}')
        self._wait(processes, observer, 'pruning while the dense agent runs on',
                   lambda: observer.status.get('state') not in ('idle', 'running', None))
        self.jobs = dict(observer.status)
        if observer.status.get('state') != 'done':
            raise JobError(str(observer.status.get('error', observer.status)))
        self._opened('pruned', Path(observer.status['result']['bundle']))
        self._event(observer, 'gates passed, bundle published')
        self._taken(processes, observer, 'pruned')

    def _swap(self, processes: NodeProcesses, observer: Observer, side: str, bundle: Path) -> None:
        """Have the controller read another bundle."""
        taken = observer.set_parameter('/controller', 'bundle', str(bundle))
        if not taken.successful:
            raise JobError(str(taken.reason))
        done, said = observer.call('/controller/reload', timeout_s=120.0)
        if not done:
            raise JobError(said)
        self._taken(processes, observer, side)

    def _taken(self, processes: NodeProcesses, observer: Observer, side: str) -> None:
        """Wait until another bundle controls, and let it do so."""
        self._wait(processes, observer, 'waiting for the swap',
                   lambda: observer.model.get('hash') == self.hashes[side], limit_s=30)
        self._event(observer, 'swapped in')
        self._episodes(side, processes, observer)

    def _episodes(self, name: str, processes: NodeProcesses, observer: Observer) -> None:
        """Start the seeds again and watch a number of whole episodes."""
        reset, said = observer.call('/plant/reset')
        if not reset:
            raise JobError(said)
        time.sleep(0.2)  # messages sent before the reset have arrived
        observer.begin()
        self.records[name] = observer.record
        self._wait(processes, observer, f'{name} agent controls the plant',
                   lambda: len(observer.record.returns) >= self.options.episodes)
        observer.begin()  # what comes between counts for neither

    def _wait(self, processes: NodeProcesses, observer: Observer, what: str,
              done: Callable[[], bool], limit_s: float = 900) -> None:
        began = time.monotonic()
        while not done():
            processes.check()
            if time.monotonic() - began > limit_s:
                raise JobError(
                    explain(what, f'not done after {limit_s:g} s', 'less',
                            f'read the logs in {self.folder}')
                )
            self.view.show(self._lines(observer, what))
            time.sleep(0.05)

    def _lines(self, observer: Observer, what: str) -> list[str]:
        """What happens, without scrolling."""
        recent = [s for _, s in observer.record.latency[-50:]]
        p50 = float(np.median(recent)) * 1e3 if recent else float('nan')
        returns = ' '.join(f'{r:.0f}' for r in observer.record.returns[-8:]) or '-'
        model, job = observer.model, observer.status
        lines = [
            f'{observer.now:6.1f} s  {what}',
            f"  model    {model.get('hash', '')[:12]}  {model.get('parameters', 0):,} parameters"
            f'   mode {observer.mode[:50]}',
            f'  plan     {p50:7.1f} ms median of the last {len(recent)}   deadlines missed '
            f'{observer.record.misses - observer.record.misses_at_start}',
            f'  reward   {observer.reward:7.2f} predicted   stability {observer.stability:5.2f}',
            f'  returns  {returns}',
        ]
        if job.get('state') == 'running':
            filled = int(job['percent'] // 5)
            bar = '#' * filled + '.' * (20 - filled)
            eta = '' if job.get('eta_s') is None else f"  {job['eta_s']:.0f} s left in it"
            lines.append(
                f"  job {job['job']}    [{bar}] {job['phase']} {job['percent']:.0f} %{eta}")
        else:
            lines.append('')
        return lines

    def _event(self, observer: Observer, what: str) -> None:
        self.events.append({'t': round(observer.now, 2), 'what': what})
        self.view.say(f'{observer.now:6.1f} s  {what}')

    def _result(self, observer: Observer) -> dict[str, Any]:
        """Collect what was measured; also after an interruption."""
        o, first = self.options, next(iter(self.manifests.values()))
        result: dict[str, Any] = {
            'kind': 'demo', 'command': 'make demo' + (
                f' ARGS="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else ''),
            'env_id': first.env_id, 'period_s': first.period_s,
            'seeds': list(range(o.seed, o.seed + o.episodes)), 'seconds': round(observer.now, 1),
            'machine': {'cpu': _cpu(), 'cores': os.cpu_count()},
            'versions': {'pruned_controller': __version__, 'python': platform.python_version()},
            'events': self.events,
            'ticks': observer.ticks, 'rewards': observer.rewards,
        }
        for name, record in self.records.items():
            result[name] = self._side(name, record)
        if self.given is not None and len(self.manifests) == 1:
            result['alone'] = next(iter(self.manifests))
        if self.jobs.get('result'):
            folder = Path(self.jobs['result']['folder'])
            manifest = self.manifests.get('pruned')
            result['job'] = {'id': self.jobs['job'], **self.jobs['settings'],
                             'seconds': self.jobs['result']['seconds'],
                             'gates': dict(manifest.gates) if manifest else {}}
            result['plan'] = json.loads((folder / PLAN).read_text())
        return result

    def _side(self, name: str, record: ModelRecord) -> dict[str, Any]:
        manifest = self.manifests[name]
        times = np.asarray([s for _, s in record.latency] or [np.nan])
        quantiles = {f'p{q}_s': float(np.quantile(times, q / 100)) for q in (50, 90, 99)}
        o = self.options
        budget = configuration.PlannerConfig(**manifest.config['planner']).scaled(
            o.samples, o.iterations)
        macs = plan_macs(Widths.from_json(manifest.widths), budget)
        return {'hash': self.hashes[name], 'parameters': manifest.parameters,
                'macs': macs, 'samples': budget.samples, 'iterations': budget.iterations,
                'bytes': sum(int(f['bytes']) for f in manifest.files.values()),
                'latency': {'count': len(record.latency), **quantiles,
                            'max_s': float(times.max())},
                'ticks': len(record.latency), 'missed': record.misses - record.misses_at_start,
                'seconds': round(record.seconds, 3),
                'returns': record.returns[:self.options.episodes], 'modes': record.modes}


def _cpu() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        # A shell that starts it in the background has it ignore SIGINT, which Python then keeps.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        demo = Demo(options)
        result = demo.run()
    except PruningError as error:
        sys.stderr.write(f'{type(error).__name__}: {error}\n')
        return 2
    except OSError as error:
        said = explain('a demo was asked for', f'the system refused: {error}',
                       'a folder that can be written, with room on its disk',
                       'give another --out, or make room; every node was stopped')
        sys.stderr.write(f'{type(error).__name__}: {said}\n')
        return 2
    except KeyboardInterrupt:
        sys.stderr.write('interrupted; every node was stopped, and what was measured so far, if '
                         'anything, is in the run folder\n')
        return 130
    page = write_report(demo.folder)
    demo.view.say('\n' + text_table(result))
    page = Path(os.path.relpath(page))
    demo.view.say(f'\nreport   {page}\npicture  {page.with_name("picture.svg")}')
    if page.with_name(BAG).is_dir():
        demo.view.say(f'bag      {page.with_name(BAG)}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
