# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What agents return under every budget, on common seeds; makes the agents, too.

Returns do not depend on how fast a machine is, and take hours where agents are wide: they are
measured by this command, kept in benchmarks/returns.json, and read from there by the benchmark of
the planner. Agents and episodes are kept below runs/bench as soon as they are there, so that an
interrupted run goes on; what is not there after --minutes is left out of the file.

    python benchmarks/returns.py
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from closed_loop import identity, returns
from peers import reference

from pruning_core import checkpoint, zoo
from pruning_core.checkpoint import Run
from pruning_core.evaluation import budget_of, evaluation_seeds
from pruning_core.export import export
from pruning_core.progress import for_people
from pruning_core.runtime.bench import time_together
from pruning_core.runtime.bundle import Bundle
from pruning_core.runtime.fit import SCHEMA, fit
from pruning_core.runtime.planner import precisions

RESULT = Path(__file__).with_suffix('.json')
AGENT, FOLDER = 'pendulum_dense', Path('runs/bench')
RECOVERY = {50: 100, 70: 100, 90: 300, 95: 300, 98: 1000, 99: 4000}  # % removed: updates
BEST = 99  # per cent removed of the agent that smaller budgets are fitted to
# Of the reference's plan: what one may take then, alone, at its 99 % quantile. In turns with
# larger ones, which empty its caches, it takes about twice as long: a 300th or less.
FITTED_SHARE = 1 / 700
LIGHT = (128, 3)  # samples x iterations: an eighth of the work


def say(text: str) -> None:
    """Tell what is being done; results go to standard output alone."""
    print(text, file=sys.stderr, flush=True)


def run_command(*arguments: str) -> str:
    """Run `python -m pruning_core ...` unless it was done before; returns it as text."""
    folder = Path(arguments[arguments.index('--out') + 1])
    if not (folder / 'agent.safetensors').exists():
        say('python -m pruning_core ' + ' '.join(arguments))
        subprocess.run([sys.executable, '-m', 'pruning_core', *arguments, '--threads', '1'],
                       check=True, stdout=subprocess.DEVNULL)
    return ' '.join(arguments)


def pruned(percent: int) -> tuple[Run, str]:
    """The shipped agent without so many per cent of its parameters, and the command for it."""
    folder = FOLDER / f'pruned_{percent}'
    # No gate refuses it: what it returns is what is asked here.
    command = run_command(
        'prune', '--agent', AGENT, '--sparsity', str(percent / 100), '--out', str(folder),
        '--set', f'pruning.recovery_updates={RECOVERY[percent]}',
        '--set', 'pruning.gate_seeds=10', '--set', 'pruning.gate_return_loss=1e6',
        '--set', 'pruning.gate_latency_share=0')
    return checkpoint.load_run(folder), command


def small(like: Run) -> tuple[Run, str]:
    """A network of the sizes of a pruned agent that never was large, and the command for it.

    It gets as many updates as the training and the recovery of that agent together.
    """
    folder, widths = FOLDER / 'small', like.agent.widths
    dense = checkpoint.load_run(zoo.find(AGENT))
    ratio = 1 + RECOVERY[BEST] / dense.agent.updates
    command = run_command(
        'train', '--config', str(dense.folder / 'config.yaml'), '--out', str(folder),
        '--evaluate', '0', '--set', f'network.hidden={max(widths.dynamics)}',
        '--set', f'network.encoder_hidden={widths.encoder[0]}',
        '--set', f'network.latent={widths.latent}', '--set', 'training.evaluate_every=0',
        '--set', f'training.update_ratio={ratio * dense.config.training.update_ratio:.6g}')
    return checkpoint.load_run(folder), command.replace(str(dense.folder), f'ZOO/{AGENT}')


def main() -> None:
    """Make what is missing, measure what is missing, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--episodes', type=int, default=100, help='fixed seeds')
    parser.add_argument('--minutes', type=float, default=math.inf,
                        help='after which no episode is started; the next call goes on')
    parser.add_argument('--json', type=Path, default=RESULT, help='the file to write')
    o = parser.parse_args()
    until = time.monotonic() + 60 * o.minutes
    dense = checkpoint.load_run(zoo.find(AGENT))
    made = {'dense': (dense, '')}
    for percent in RECOVERY:
        made[f'pruned {percent} %'] = pruned(percent)
    best = f'pruned {BEST} %'
    made['small, from scratch'] = small(made[best][0])
    bundles = {name: export(run, FOLDER / 'bundles' / _plain(name))[0]
               for name, (run, _) in made.items()}
    choice, choice_ms = chosen(o.json, bundles[best], best, dense)
    seeds = evaluation_seeds(o.episodes)
    # The shipped agent's own evaluation has this budget and these seeds, planned by torch.
    shipped = dense.evaluation['planned']
    if shipped['planner'] != budget_of(dense.config.planner.scaled(*LIGHT)):
        raise SystemExit(f"{AGENT} was evaluated with {shipped['planner']}, not with the budget "
                         'of this benchmark: evaluate it again (its command.txt)')
    found: dict[str, dict[int, float]] = {'dense|light': {
        s: r for s, r in zip(shipped['seeds'], shipped['returns'], strict=True) if s in seeds}}
    for name, way, settings in wanted(bundles, best, choice):
        say(f'{name}, {way}')
        found[f'{name}|{way}'] = returns(bundles[name], seeds, until=until, progress=for_people(),
                                         **settings)
    result = {
        'command': f'python benchmarks/returns.py --episodes {o.episodes}', 'commit': commit(),
        'agents': {name: {'command': command, 'weights': identity(bundles[name]),
                          'widths': run.agent.widths.to_json(),
                          'parameters': bundles[name].manifest.parameters,
                          'bytes': bundles[name].size}
                   for name, (run, command) in made.items()},
        'best': best, 'choice': choice, 'choice_ms': choice_ms, 'fit': SCHEMA,
        'returns': {key: {str(s): round(r, 3) for s, r in by_seed.items()}
                    for key, by_seed in found.items() if by_seed}}
    checkpoint.write_atomically(o.json, lambda p: p.write_text(_lines(result)))
    for key, by_seed in found.items():
        if by_seed:
            print(f'{key:32s} {np.mean(list(by_seed.values())):9.2f} {len(by_seed):5d} seeds')


def chosen(file: Path, bundle: Bundle, name: str, dense: Run) -> tuple[dict[str, Any], float]:
    """The settings fitted to the best agent, and for how many ms; the file's, if it knows it.

    What fits depends on how quiet the machine was; without the file it is fitted again.
    """
    if file.exists():
        known = json.loads(file.read_text())
        if (known['best'], known['agents'].get(name, {}).get('weights'), known.get('fit')) == (
                name, identity(bundle), SCHEMA):
            return known['choice'], known['choice_ms']
    say('fitting')
    torch.set_num_threads(1)
    timed, _ = time_together({'reference': reference(dense)}, 10.0)
    allowed_s = FITTED_SHARE * timed['reference'].p50_s
    choice = fit(bundle, period_s=allowed_s, share=1.0, told=for_people()).choice
    return dataclasses.asdict(choice), round(1e3 * allowed_s, 3)


def wanted(bundles: dict[str, Bundle], best: str, choice: dict[str, Any]
           ) -> list[tuple[str, str, dict[str, Any]]]:
    """Agent, budget and settings of everything to measure, the cheapest first."""
    light = {'samples': LIGHT[0], 'iterations': LIGHT[1]}
    fitted = {k: v for k, v in choice.items() if k != 'threads'}
    order = sorted(bundles, key=lambda n: bundles[n].manifest.macs)
    small_ones = [n for n in order if n.startswith('small')]
    return [*((n, 'policy', {'policy_alone': True}) for n in order),
            *((n, 'fitted', fitted) for n in (best, *small_ones)),
            *((n, 'light', light) for n in order if n != 'dense'),
            *((n, p, {'precision': p}) for n in order for p in reversed(precisions(bundles[n])))]


def _lines(result: dict[str, Any]) -> str:
    """JSON with a line for each agent and each budget, so that a change of one shows as one."""
    def lines(value: Any) -> str:
        if not isinstance(value, dict) or not any(isinstance(v, dict) for v in value.values()):
            return json.dumps(value)
        inner = [f'{json.dumps(k)}: {json.dumps(v)}' for k, v in value.items()]
        return '{\n' + ',\n'.join(inner) + '}'

    return '{\n' + ',\n'.join(
        f'{json.dumps(k)}: {lines(v)}' for k, v in result.items()) + '\n}\n'


def _plain(name: str) -> str:
    """A name as that of a folder."""
    return ''.join(c if c.isalnum() else '_' for c in name.replace(' %', ''))


def commit() -> str:
    """The commit that this was measured with, with a + where files have changed since."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(['git', 'rev-parse', '--short=12', 'HEAD'], cwd=here, check=True,
                              capture_output=True, text=True).stdout.strip()
        changed = subprocess.run(['git', 'diff', '--quiet', 'HEAD', '--', '../pruning_core'],
                                 cwd=here, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return head + ('+' if changed else '')


if __name__ == '__main__':
    main()
