# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The planner against its floor and against other planners, one thread, in one run.

Prints one table and writes runs/bench/planner.svg, in a few minutes. Times are measured here, on
agents of the sizes that pruning left; returns, which do not depend on the machine, are those of
benchmarks/returns.json, where `returns.py` keeps them, episode by episode (--returns: measure them
again, which takes hours).

    python benchmarks/planner.py --json runs/bench/planner.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import OBSERVATION, NumpyPlan, ReferencePlan, compiled, eager, reference, settings_of
from products import Products
from returns import AGENT, FOLDER, LIGHT, RESULT, say
from torch import nn

from pruning_core import checkpoint, figures, layers, zoo
from pruning_core.checkpoint import Run
from pruning_core.evaluation import Comparison, Evaluation, compare
from pruning_core.latency import exported, predictor, resized
from pruning_core.networks import Widths
from pruning_core.plans import Plan
from pruning_core.progress import for_people
from pruning_core.runtime.bench import Timing, of_planner, probes, time_together
from pruning_core.runtime.bundle import Bundle, write
from pruning_core.runtime.fit import cores
from pruning_core.runtime.planner import Planner, precisions
from pruning_core.shrinking import scores_of
from pruning_core.surgery import apply

WIDTHS = (512, 256, 128, 64, 32)
TARGETS = {512: 1.12, 256: 1.12, 128: 1.25, 64: 1.45, 32: 1.9}
REFERENCE = 'reference in torch (ELU)'
TURN_S = 0.1  # of plans, and then of products, at each width, at least
ALLOWED_LOSS = 2.0  # per cent of the dense agent's return, of what counts as fast


def one_thread() -> None:
    """Start this very command again if numpy and torch counted more than one thread."""
    names = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')
    if any(os.environ.get(name) != '1' for name in names):
        os.execve(sys.executable, [sys.executable, *sys.argv],
                  {**os.environ, **dict.fromkeys(names, '1')})


def cut_to(width: int) -> Run:
    """The shipped agent, cut to a hidden width by L1 norm; latency needs no recovery."""
    run = checkpoint.load_run(zoo.find(AGENT))
    graph = run.agent.graph()
    scores = scores_of(run, graph, 'l1', 0)
    removed = {}
    for group in graph.free:
        keep = group.size if group.kind == 'coupling' else round(group.size * width / 512)
        removed[group.name] = np.argsort(scores[group.name])[:group.size - keep].tolist()
    apply(Plan.removing(graph.groups, removed), dict(run.agent.components.items()))
    return run


class Planned:
    """A planner, called with one observation after the other."""

    def __init__(self, bundle: Bundle, *, policy_alone: bool = False, **settings: Any) -> None:
        """Open and warm up."""
        self.planner = Planner(bundle, **settings)
        self.planner.warm_up()
        self.observations, self.count = probes(bundle), 0
        self.budget_s = 0.0 if policy_alone else None

    def __call__(self) -> None:
        """Plan."""
        self.count += 1
        self.planner.plan(self.observations[self.count % len(self.observations)], self.budget_s)


def floors(seconds: float) -> dict[str, dict[str, float]]:
    """Median of a full plan over its floor, at every width, and both in ms.

    Plans and the products that say how fast the processor multiplies have turns of `TURN_S`, or of
    five plans, so that most find what they need in the caches. `products` is the same ratio for
    hidden layers of that width alone; `cold` that of plans of which each comes after products of
    its own length.
    """
    result = {}
    for width in WIDTHS:
        plan, alone = Planned(exported(cut_to(width))), Products(width)
        operations = of_planner(plan.planner)
        cold, cold_rates = time_together({'plan': plan}, seconds / 3)
        turn_s = max(TURN_S, 5 * cold['plan'].p50_s)
        timings, rates = time_together({'plan': plan, 'alone': alone}, seconds, least=4,
                                       turn_s=turn_s)
        floor_s = operations / rates['plan']
        result[f'{width}'] = {
            'ms': 1e3 * timings['plan'].p50_s, 'floor_ms': 1e3 * floor_s,
            'ratio': timings['plan'].p50_s / floor_s,
            'cold': cold['plan'].p50_s * cold_rates['plan'] / operations,
            'products': timings['alone'].p50_s * rates['alone'] / alone.operations}
    return result


def activations(width: int, seconds: float) -> dict[str, float]:
    """Milliseconds of a plan by activation, the same weights in all, and ELU in both ways."""
    def with_activation(make: Callable[[], nn.Module]) -> Planned:
        run = cut_to(width)
        for module in run.agent.components.values():
            for i, layer in enumerate(module):
                if isinstance(layer, nn.ReLU):
                    module[i] = make()
        return Planned(exported(run))

    work = {'ReLU': with_activation(nn.ReLU), 'ELU, as exported': with_activation(nn.ELU)}
    ours = layers.ACTIVATIONS[nn.ELU]
    layers.ACTIVATIONS[nn.ELU] = lambda g, x, layer: g.op('Elu', x, alpha=layer.alpha)
    try:
        work['ELU, the operator'] = with_activation(nn.ELU)
    finally:
        layers.ACTIVATIONS[nn.ELU] = ours
    timings, _ = time_together(work, seconds)
    return {name: 1e3 * t.p50_s for name, t in timings.items()}


def predictions(runs: Mapping[str, Run]) -> dict[str, float]:
    """Milliseconds of a full plan that the dense agent's table of layers foretells of each."""
    groups = runs['dense'].agent.graph().groups
    predict = predictor(runs['dense'], groups, progress=for_people())
    found = {}
    for name, run in runs.items():
        kept = {g.name: g.size for g in run.agent.graph().free}
        found[name] = 1e3 * predict(kept)
    return found


def peers(run: Run, with_compile: bool) -> dict[str, Callable[[], object]]:
    """The dense agent planned by others."""
    net, settings = run.agent.components, settings_of(run)
    relu = ReferencePlan(net, *settings)
    plain, plain_numpy = eager(net, *settings), NumpyPlan(net, *settings)
    work: dict[str, Callable[[], object]] = {
        REFERENCE: reference(run),
        'reference in torch, ReLU': lambda: relu.plan(OBSERVATION),
        'torch, eager': lambda: plain(OBSERVATION),
        'numpy': lambda: plain_numpy.plan(OBSERVATION.numpy())}
    if with_compile:
        fast = compiled(net, *settings)
        say('compiling')
        try:
            fast(OBSERVATION)
            work['torch.compile'] = lambda: fast(OBSERVATION)
        except Exception as error:  # needs a C++ compiler; whatever it raises, the rest goes on
            say(f'torch.compile is left out: {str(error).strip().splitlines()[0][:100]}')
    return work


def beside_others(work: Planned, plans: int = 300) -> Timing:
    """Time one planner while as many other processes as there are processors compute."""
    others = [subprocess.Popen([sys.executable, '-c', 'while True: pass'])
              for _ in range(cores())]
    try:
        taken = []
        for _ in range(plans):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
            time.sleep(0.005)  # a controller waits for its next period, too
        return Timing.of(taken)
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Run everything."""
    one_thread()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, help='write the result here, too')
    parser.add_argument('--returns', action='store_true',
                        help='measure the returns again, too, which takes hours')
    parser.add_argument('--no-compile', action='store_true', help='leave torch.compile out')
    parser.add_argument('--no-ros', action='store_true', help='start no controller process')
    o = parser.parse_args()
    torch.set_num_threads(1)
    if o.returns:
        subprocess.run([sys.executable, str(Path(__file__).with_name('returns.py'))], check=True)
    stored = json.loads(RESULT.read_text())
    dense = checkpoint.load_run(zoo.find(AGENT))
    runs = {name: dense if name == 'dense' else resized(dense, Widths.from_json(a['widths']))
            for name, a in stored['agents'].items()}
    say('exporting')
    bundles = {name: exported(run) for name, run in runs.items()}
    result: dict[str, Any] = {key: stored[key] for key in ('best', 'choice', 'choice_ms')}
    result['returns'] = stored['returns']

    say('floors')
    result['floors'] = floors(6.0)
    result['activations'] = activations(128, 8.0)
    result['predicted_ms'] = predictions(runs)

    say('planners side by side')
    work = peers(dense, not o.no_compile)
    planned = {f'{name}|{precision}': Planned(bundle, precision=precision)
               for name, bundle in bundles.items() for precision in precisions(bundle)}
    timings, rates = time_together({**work, **planned}, 45.0, least=8)
    light = {'samples': LIGHT[0], 'iterations': LIGHT[1]}
    quick = {name: planned[name] for name in planned
             if timings[name].p50_s < 0.05 * timings[REFERENCE].p50_s}
    for name, bundle in bundles.items():
        quick[f'{name}|light'] = Planned(bundle, **light)
        quick[f'{name}|policy'] = Planned(bundle, policy_alone=True)
        if f'{name}|fitted' in stored['returns']:
            quick[f'{name}|fitted'] = Planned(bundle, **stored['choice'])
    close, _ = time_together(quick, 30.0, least=100)
    timings |= close
    result['timings'] = {name: dataclasses.asdict(t) for name, t in timings.items()}
    result['floor_ms'] = {
        name: 1e3 * of_planner(planned[f'{name}|fp32'].planner) / rates[f'{name}|fp32']
        for name in bundles}
    result['losses'] = losses(stored['returns'])
    fastest = min((name for name in planned if name.startswith('pruned')
                   and result['losses'].get(name, {'percent': np.inf})['percent'] <= ALLOWED_LOSS),
                  key=lambda name: timings[name].p50_s)
    result['fastest'] = fastest
    result['busy'] = dataclasses.asdict(beside_others(planned[fastest]))

    if not o.no_ros:
        say('a controller process')
        folder = FOLDER / 'started'
        best = bundles[stored['best']]
        write(folder, best.manifest, best.graphs)
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name('startup.py')), '--bundle',
             str(folder)], capture_output=True, text=True, check=False)
        words = done.stdout.split()
        if done.returncode == 0 and len(words) > 2:
            result['startup_s'], result['rss_mb'] = float(words[0]), float(words[-2])
        else:
            say(f'no controller process: {(done.stderr or done.stdout).strip()[-200:]}')

    result['bytes'] = {name: a['bytes'] for name, a in stored['agents'].items()}
    result['parameters'] = {name: a['parameters'] for name, a in stored['agents'].items()}
    print(printed(result))
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture = FOLDER / 'planner.svg'
    picture.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + figures.planning(result))
    print(f'\npicture  {picture}')
    if o.json:
        o.json.parent.mkdir(parents=True, exist_ok=True)
        o.json.write_text(json.dumps({**keys(result), **result}, indent=1) + '\n')


def losses(returns: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Paired loss of return against the dense agent under the same kind of budget, in percent.

    The full budget is paired with the dense agent's in whichever precision more seeds are known
    of; every smaller one, the policy alone included, with its 128 samples x 3 iterations.
    """
    whole = max(('dense|fp32', 'dense|int8'), key=lambda k: len(returns.get(k, ())))
    found = {}
    for name, by_seed in returns.items():
        full = name.partition('|')[2] in ('fp32', 'int8')
        reference = returns.get(whole if full else 'dense|light', {})
        common = tuple(s for s in reference if s in by_seed)
        if common:
            seeds = tuple(int(s) for s in common)
            pair: Comparison = compare(*(Evaluation(seeds, tuple(r[s] for s in common), None)
                                         for r in (by_seed, reference)))
            scale = abs(float(np.mean([reference[s] for s in common])))
            found[name] = {'percent': 100 * pair.loss + 0.0, 'seeds': len(common),
                           'half_width': 50 * (pair.high - pair.low) / scale,
                           'mean': float(np.mean(list(by_seed.values())))}
    return found


def keys(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures that are followed from one version to the next; None where not measured."""
    times, loss = result['timings'], result['losses']
    reference = times[REFERENCE]['p50_s']
    full, fitted = result['fastest'], f"{result['best']}|fitted"
    found: dict[str, Any] = {
        **{f'floor_ratio_{w}': result['floors'][str(w)]['ratio'] for w in WIDTHS},
        'speedup_full_budget': reference / times[full]['p50_s'],
        'speedup_fitted_budget': reference / times[fitted]['p50_s'],
        'return_loss_percent_full': loss[full]['percent'],
        'return_loss_percent_fitted': loss[fitted]['percent'],
        'p99_over_median': times[full]['p99_s'] / times[full]['p50_s'],
        'p99_over_median_busy': result['busy']['p99_s'] / result['busy']['p50_s'],
        'rss_mb': result.get('rss_mb'), 'startup_s': result.get('startup_s')}
    return {k: None if v is None else round(float(v), 4) for k, v in found.items()}


def printed(result: Mapping[str, Any]) -> str:
    """The table and the figures, as they are printed."""
    full = [n for n in result['timings'] if n.partition('|')[2] in ('', 'fp32', 'int8')]
    busy = result['busy']
    lines = [f"{'planner':36s} {'median ms':>10s} {'99 % ms':>9s} {'speed-up':>9s} "
             f"{'floors':>7s} {'return':>8s} {'loss %':>13s} {'seeds':>6s}",
             *(_row(result, name) for name in full), '', 'smaller budgets',
             *(_row(result, name) for name in result['timings'] if name not in full),
             '', 'activation at width 128: ' + ', '.join(
                 f'{name} {ms:.2f} ms' for name, ms in result['activations'].items()),
             'predicted by the table of layers, and measured, ms:',
             *(f"  {n}: {ms:.2f}, {1e3 * result['timings'][f'{n}|fp32']['p50_s']:.2f}"
               for n, ms in result['predicted_ms'].items()),
             'bundles:', *(f'  {n}: {b / 1e3:.0f} kB' for n, b in result['bytes'].items()),
             f"with every processor busy: {result['fastest']} median "
             f"{1e3 * busy['p50_s']:.3f} ms, 99 % {1e3 * busy['p99_s']:.3f} ms",
             f"the full budget counts for {result['fastest']}, the fastest that loses at most "
             f'{ALLOWED_LOSS:g} %', '']
    for key, value in keys(result).items():
        target = TARGETS.get(int(key.rpartition('_')[2])) if key.startswith('floor_') else None
        lines.append(f'{key:28s} {value}' + (f'  (at most {target})' if target else ''))
    return '\n'.join(lines)


def _row(result: Mapping[str, Any], name: str) -> str:
    """One line of the table: times, and what is known of the return."""
    t, (agent, _, way) = result['timings'][name], name.partition('|')
    c = result['choice']
    ways = {'': '', 'light': f'{LIGHT[0]} x {LIGHT[1]}', 'policy': 'policy alone',
            'fitted': f"fitted: {c['samples']} x {c['iterations']}, H {c['horizon']}"}
    label = ', '.join(filter(None, (agent, ways.get(way, way))))
    floor = result['floor_ms'].get(agent)
    ratio = f"{1e3 * t['p50_s'] / floor:7.2f}" if floor and way == 'fp32' else ' ' * 7
    loss = result['losses'].get(name)
    known = (f"{loss['mean']:8.2f} {loss['percent']:6.2f} +-{loss['half_width']:5.2f} "
             f"{loss['seeds']:6d}" if loss else '')
    reference = result['timings'][REFERENCE]['p50_s']
    return (f"{label:36s} {1e3 * t['p50_s']:10.3f} {1e3 * t['p99_s']:9.3f} "
            f"{reference / t['p50_s']:8.1f}x {ratio} {known}").rstrip()


if __name__ == '__main__':
    main()
