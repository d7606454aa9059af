# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The planner against its floor and against other planners, one thread, in one run.

Prints one table and writes runs/bench/planner.svg. What takes long is made once and kept below
runs/bench: the pruned agents, the small agent trained from scratch, and returns, episode by
episode; returns that are not known yet are computed for as long as --minutes says, cheapest first.

    python benchmarks/planner.py --json runs/bench/planner.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from closed_loop import returns
from peers import NumpyPlan, ReferencePlan, compiled, eager
from torch import nn

from pruning_core import checkpoint, figures, layers, zoo
from pruning_core.checkpoint import Run
from pruning_core.evaluation import evaluation_seeds
from pruning_core.export import export
from pruning_core.latency import exported, predictor
from pruning_core.plans import Plan
from pruning_core.progress import Bar
from pruning_core.runtime.bench import Timing, of_planner, probes, time_together
from pruning_core.runtime.bundle import Bundle
from pruning_core.runtime.fit import fit
from pruning_core.runtime.planner import Planner, precisions
from pruning_core.shrinking import scores_of
from pruning_core.surgery import apply

AGENT, FOLDER = 'pendulum_dense', Path('runs/bench')
SPARSITIES = (50, 70, 90, 95)
WIDTHS = (512, 256, 128, 64, 32)
TARGETS = {512: 1.12, 256: 1.12, 128: 1.25, 64: 1.45, 32: 1.9}
FITTED_MS = 1.25  # what a plan may take when the planner is fitted to it
LIGHT = (128, 3)  # samples x iterations, for returns on all seeds


def one_thread() -> None:
    """Start this very command again if numpy and torch counted more than one thread."""
    names = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')
    if any(os.environ.get(name) != '1' for name in names):
        os.execve(sys.executable, [sys.executable, *sys.argv],
                  {**os.environ, **dict.fromkeys(names, '1')})


def say(text: str) -> None:
    """Tell what is being done; results go to standard output alone."""
    print(text, file=sys.stderr, flush=True)


def run_command(*arguments: str) -> None:
    """Run `python -m pruning_core ...`, its progress on this terminal."""
    subprocess.run([sys.executable, '-m', 'pruning_core', *arguments, '--threads', '1'],
                   check=True, stdout=subprocess.DEVNULL)


def agents(with_small: bool) -> dict[str, Run]:
    """The dense agent, its pruned ones, and a small one that never was large."""
    found = {'dense': checkpoint.load_run(zoo.find(AGENT))}
    for percent in SPARSITIES:
        folder = FOLDER / f'pruned_{percent}'
        if not (folder / 'agent.safetensors').exists():
            say(f'pruning {percent} % of {AGENT}; once, some minutes')
            run_command('prune', '--agent', AGENT, '--sparsity', str(percent / 100), '--out',
                        str(folder), '--set', 'pruning.gate_return_loss=1e6', '--set',
                        'pruning.gate_latency_share=0')
        found[f'pruned {percent} %'] = checkpoint.load_run(folder)
    if not with_small:
        return found
    folder, small = FOLDER / 'small', found[f'pruned {SPARSITIES[-1]} %'].agent.widths
    if not (folder / 'agent.safetensors').exists():
        # As many updates as training and recovery of the pruned agent together had.
        dense = found['dense']
        before = dense.agent.updates
        after = before + dense.config.pruning.recovery_updates
        say('training a small agent from scratch; once, some minutes')
        run_command('train', '--config', str(dense.folder / 'config.yaml'), '--out', str(folder),
                    '--evaluate', '0', '--set', f'network.hidden={small.dynamics[0]}',
                    '--set', f'network.encoder_hidden={small.encoder[0]}',
                    '--set', f'network.latent={small.latent}', '--set',
                    f'training.update_ratio={after / before}',
                    '--set', 'training.evaluate_every=0')
    found['small, from scratch'] = checkpoint.load_run(folder)
    return found


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

    def __init__(self, bundle: Bundle, **settings: Any) -> None:
        """Open and warm up."""
        self.planner = Planner(bundle, **settings)
        self.planner.warm_up()
        self.observations, self.count = probes(bundle), 0

    def __call__(self) -> None:
        """Plan."""
        self.count += 1
        self.planner.plan(self.observations[self.count % len(self.observations)])


def floors(seconds: float) -> dict[int, dict[str, float]]:
    """Median of a full plan over its floor, at every width, and both in ms."""
    work = {w: Planned(exported(cut_to(w))) for w in WIDTHS}
    timings, rates = time_together({str(w): p for w, p in work.items()}, seconds)
    result = {}
    for width, planned in work.items():
        floor_s = of_planner(planned.planner) / rates[str(width)]
        p50_s = timings[str(width)].p50_s
        result[width] = {'ms': 1e3 * p50_s, 'floor_ms': 1e3 * floor_s, 'ratio': p50_s / floor_s}
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
    predict = predictor(runs['dense'], groups, progress=Bar())
    found = {}
    for name, run in runs.items():
        kept = {g.name: g.size for g in run.agent.graph().free}
        found[name] = 1e3 * predict(kept)
    return found


def peers(run: Run, with_compile: bool) -> dict[str, Callable[[], object]]:
    """The dense agent planned by others."""
    c, net = run.config.planner, run.agent.components
    settings = (c, run.config.agent.discount, run.config.agent.policy_noise)
    observation = torch.tensor([[0.6, 0.8, 0.1]])
    as_published = {name: nn.Sequential(*(nn.ELU() if isinstance(m, nn.ReLU) else m
                                          for m in module)) for name, module in net.items()}
    reference = ReferencePlan(nn.ModuleDict(as_published), *settings)
    relu = ReferencePlan(net, *settings)
    plain, plain_numpy = eager(net, *settings), NumpyPlan(net, *settings)
    work: dict[str, Callable[[], object]] = {
        'reference in torch (ELU)': lambda: reference.plan(observation),
        'reference in torch, ReLU': lambda: relu.plan(observation),
        'torch, eager': lambda: plain(observation),
        'numpy': lambda: plain_numpy.plan(observation.numpy())}
    if with_compile:
        fast = compiled(net, *settings)
        say('compiling')
        try:
            fast(observation)
            work['torch.compile'] = lambda: fast(observation)
        except Exception as error:  # needs a C++ compiler; whatever it raises, the rest goes on
            say(f'torch.compile is left out: {str(error).strip().splitlines()[0][:100]}')
    return work


def main() -> None:
    """Run everything."""
    one_thread()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, help='write the result here, too')
    parser.add_argument('--episodes', type=int, default=100, help='fixed seeds for the returns')
    parser.add_argument('--minutes', type=float, default=4.0,
                        help='to spend on returns that are not known yet')
    parser.add_argument('--no-compile', action='store_true', help='leave torch.compile out')
    parser.add_argument('--no-small', action='store_true',
                        help='leave out the small agent that is trained from scratch')
    parser.add_argument('--no-ros', action='store_true', help='start no controller process')
    o = parser.parse_args()
    torch.set_num_threads(1)
    runs = agents(not o.no_small)
    say('exporting')
    bundles = {name: export(run, FOLDER / 'bundles' / re.sub(r'\W+', '_', name).strip('_'))[0]
               for name, run in runs.items()}
    best = bundles[f'pruned {SPARSITIES[-1]} %']
    result: dict[str, Any] = {}

    say('floors')
    result['floors'] = floors(20.0)
    result['activations'] = activations(128, 8.0)

    result['predicted_ms'] = predictions(runs)

    say('planners side by side')
    work = peers(runs['dense'], not o.no_compile)
    planned = {(name, precision): Planned(bundle, precision=precision)
               for name, bundle in bundles.items() for precision in precisions(bundle)}
    fitted = fit(best, period_s=FITTED_MS * 1e-3, share=1.0, told=Bar())
    choice = dataclasses.asdict(fitted.choice)
    planned['fitted', 'fitted'] = Planned(best, **choice)
    for (name, precision), one in planned.items():
        work[f'{name}|{precision}'] = one
    timings, rates = time_together(work, 60.0, least=8)
    quick = {f'{n}|{p}': planned[n, p] for n, p in (
        (f'pruned {SPARSITIES[-1]} %', 'fp32'), (f'pruned {SPARSITIES[-1]} %', 'int8'),
        ('fitted', 'fitted'))}
    close, _ = time_together(quick, 12.0, least=300)
    result['timings'] = {name: dataclasses.asdict(t) for name, t in {**timings, **close}.items()}

    say('returns')
    seeds, until = evaluation_seeds(o.episodes), time.monotonic() + 60 * o.minutes
    light = {'samples': LIGHT[0], 'iterations': LIGHT[1]}
    fit_settings = {k: v for k, v in choice.items() if k != 'threads'}
    wanted: list[tuple[str, Bundle, dict[str, Any]]] = [
        *((f'{n}|policy', b, {'policy_alone': True}) for n, b in bundles.items()),
        ('fitted|fitted', best, fit_settings),
        *((f'{n}|fitted', b, fit_settings) for n, b in bundles.items() if n.startswith('small')),
        *((f'{n}|light', b, light) for n, b in reversed(bundles.items())),
        *((f'{n}|{p}', b, {'precision': p}) for n, b in reversed(bundles.items())
          for p in reversed(precisions(b)))]
    found = {key: returns(bundle, seeds, until=until, progress=Bar(), **settings)
             for key, bundle, settings in wanted if key != 'dense|light'}
    shipped = runs['dense'].evaluation['planned']  # the same budget and seeds, planned by torch
    found['dense|light'] = {s: r for s, r in zip(shipped['seeds'], shipped['returns'], strict=True)
                            if s in seeds}
    result['returns'] = {key: {str(s): r for s, r in v.items()} for key, v in found.items()}

    if not o.no_ros:
        say('a controller process')
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name('startup.py')), '--bundle',
             str(best.path)], capture_output=True, text=True, check=False)
        words = done.stdout.split()
        if done.returncode == 0 and len(words) > 2:
            result['startup_s'], result['rss_mb'] = float(words[0]), float(words[-2])
        else:
            say(f'no controller process: {(done.stderr or done.stdout).strip()[-200:]}')

    summary = keys(result, close, timings)
    result['bytes'] = {name: bundle.size for name, bundle in bundles.items()}
    result['parameters'] = {name: b.manifest.parameters for name, b in bundles.items()}
    result['floor_ms'] = {
        name: 1e3 * of_planner(planned[name, 'fp32'].planner) / rates[f'{name}|fp32']
        for name in bundles}
    result['choice'] = choice
    show(result, summary)
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture = FOLDER / 'planner.svg'
    picture.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + figures.planning(result))
    print(f'\npicture  {picture}')
    if o.json:
        o.json.parent.mkdir(parents=True, exist_ok=True)
        o.json.write_text(json.dumps({**summary, **result}, indent=1) + '\n')


def loss_percent(candidate: Mapping[str, float], reference: Mapping[str, float]
                 ) -> tuple[float, int]:
    """Paired loss of return on the seeds that both know, in percent, and how many these are."""
    common = [s for s in reference if s in candidate]
    if not common:
        return float('nan'), 0
    mean = float(np.mean([reference[s] for s in common]))
    gap = float(np.mean([reference[s] - candidate[s] for s in common]))
    return 100 * gap / abs(mean), len(common)


def keys(result: Mapping[str, Any], close: Mapping[str, Timing], timings: Mapping[str, Timing]
         ) -> dict[str, float | None]:
    """The figures that are followed from one version to the next; None where not measured."""
    best = f'pruned {SPARSITIES[-1]} %'
    reference = timings['reference in torch (ELU)'].p50_s
    precision = min(('fp32', 'int8'), key=lambda p: close[f'{best}|{p}'].p50_s)
    full, n_full = loss_percent(result['returns'][f'{best}|{precision}'],
                                result['returns'][_reference(result, 'full')])
    quick, n_quick = loss_percent(result['returns']['fitted|fitted'],
                                  result['returns']['dense|light'])
    found: dict[str, Any] = {
        **{f'floor_ratio_{w}': result['floors'][w]['ratio'] for w in WIDTHS},
        'speedup_full_budget': reference / close[f'{best}|{precision}'].p50_s,
        'speedup_fitted_budget': reference / close['fitted|fitted'].p50_s,
        'return_loss_percent_full': full, 'return_loss_seeds_full': n_full,
        'return_loss_percent_fitted': quick, 'return_loss_seeds_fitted': n_quick,
        'p99_over_median': close[f'{best}|fp32'].p99_s / close[f'{best}|fp32'].p50_s,
        'rss_mb': result.get('rss_mb'), 'startup_s': result.get('startup_s')}
    return {k: None if v is None or np.isnan(v) else round(float(v), 4) for k, v in found.items()}


def show(result: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Print the table and the figures."""
    reference = result['timings']['reference in torch (ELU)']['p50_s']
    print(f"{'planner':36s} {'median ms':>10s} {'99 % ms':>9s} {'speed-up':>9s} {'floors':>7s} "
          f"{'return':>8s} {'loss %':>7s} {'seeds':>6s}")
    for name, t in result['timings'].items():
        agent, _, way = name.partition('|')
        c = result['choice']
        label = f'{agent}, {way}' if way not in ('', 'fitted') else (
            f"fitted to {FITTED_MS} ms: {c['samples']} x {c['iterations']}, {c['precision']}"
            if way else agent)
        floor = result['floor_ms'].get(agent)
        ratio = f"{1e3 * t['p50_s'] / floor:7.2f}" if floor and way == 'fp32' else ' ' * 7
        print(f"{label:36s} {1e3 * t['p50_s']:10.3f} {1e3 * t['p99_s']:9.3f} "
              f"{reference / t['p50_s']:8.1f}x {ratio} {_return(result, name)}")
    print('\nreturns of smaller budgets')
    for name in result['returns']:
        agent, _, way = name.partition('|')
        if way in ('light', 'policy') or (way == 'fitted' and agent != 'fitted'):
            text = {'light': f'{LIGHT[0]} x {LIGHT[1]}', 'policy': 'policy alone'}.get(way, way)
            print(f'{agent + ", " + text:74s} {_return(result, name)}')
    print('\nactivation at width 128: ' + ', '.join(
        f'{name} {ms:.2f} ms' for name, ms in result['activations'].items()))
    print('predicted by the table of layers: ' + ', '.join(
        f"{n} {ms:.2f} ms (measured {1e3 * result['timings'][f'{n}|fp32']['p50_s']:.2f})"
        for n, ms in result['predicted_ms'].items()))
    print('bundles: ' + ', '.join(f'{n} {b / 1e3:.0f} kB' for n, b in result['bytes'].items()))
    print()
    for key, value in summary.items():
        target = TARGETS.get(int(key.rpartition('_')[2])) if key.startswith('floor_') else None
        print(f'{key:28s} {value}' + (f'  (at most {target})' if target else ''))


def _reference(result: Mapping[str, Any], way: str) -> str:
    """What returns are paired with: the dense agent's under the same budget.

    The full budget takes the dense agent an hour for a hundred episodes; until these are there,
    its smaller budget stands for it.
    """
    found = result['returns']
    whole = len(found['dense|fp32']) == len(found['dense|light'])
    return 'dense|fp32' if whole and way in ('full', 'fp32', 'int8') else 'dense|light'


def _return(result: Mapping[str, Any], name: str) -> str:
    """Mean return, the paired loss to the dense agent in percent, and on how many seeds."""
    found = result['returns'].get(name, {})
    if not found:
        return ''
    reference = result['returns'][_reference(result, name.partition('|')[2])]
    loss, seeds = loss_percent(found, reference)
    return f'{np.mean(list(found.values())):8.2f} {loss:7.2f} {seeds:6d}'


if __name__ == '__main__':
    main()
