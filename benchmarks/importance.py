# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What measuring importance costs: updates with and without it, in turn; memory; growth.

The reference agent (1.49 M parameters, batch 512, horizon 5) is updated without anything, with
all three signals of every unit and the sparsity pressure at every update, and with both at every
fifth. The three take turns after every second update. Ten updates make a cycle (the policy is
trained at every second one); the time of each of the ten is its lower quartile over the cycles,
because what else the machine does only ever adds; an overhead is the sum over the cycle against
the sum without. `own` is another witness: the same of the time inside tracker and pressure alone.

    python benchmarks/importance.py --json importance.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pruning_core import config as configuration
from pruning_core.agent import Agent
from pruning_core.channels import trace
from pruning_core.config import ImportanceConfig, SparsityConfig
from pruning_core.importance import ImportanceTracker
from pruning_core.networks import Widths, count_parameters
from pruning_core.replay import Replay
from pruning_core.sparsity import SparsityPressure

CYCLE = 10  # updates; a multiple of policy_every and of 5
REFERENCE = {'agent': {'batch_size': 512, 'horizon': 5},
             'importance': {'warmup': 2}, 'sparsity': {'schedule': 'cosine'}}


class Side:
    """One way to do updates: with nothing, or with tracker and pressure every so often."""

    def __init__(self, agent: Agent, every: int) -> None:
        self.agent, self.every, self.count = agent, every, 0
        self.times = [[] for _ in range(CYCLE)]  # (whole update, inside) in seconds, by position
        self._inside = 0.0
        if every:
            graph, components = agent.graph(), dict(agent.components.items())
            self.tracker = ImportanceTracker(graph, components,
                                             ImportanceConfig(every=every, warmup=2))
            self.pressure = SparsityPressure(graph, components,
                                             SparsityConfig('cosine', every=every))

    def observe(self) -> None:
        began = time.perf_counter()
        self.tracker.observe()
        self._inside += time.perf_counter() - began

    def update(self, batch) -> None:
        self.agent.on_gradients = self.observe if self.every else lambda: None
        self._inside = 0.0
        began = time.perf_counter()
        self.agent.update(batch)
        if self.every:
            mine = time.perf_counter()
            self.pressure.step(1e-3)
            self.tracker.step()
            self._inside += time.perf_counter() - mine
        self.times[self.count % CYCLE].append((time.perf_counter() - began, self._inside))
        self.count += 1

    @property
    def cycle_s(self) -> np.ndarray:
        """Seconds of a cycle of updates, and of what is ours in it."""
        return np.sum([np.quantile(t[1:], 0.25, axis=0) for t in self.times], axis=0)


def overheads(rounds: int) -> dict[str, float]:
    """Alternate the three sides on one agent."""
    config = configuration.from_dict(REFERENCE)
    agent = Agent(Widths.dense(config.network, 3, 1), config.agent,
                  torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    replay = Replay(4000, 3, 1)
    for _ in range(15):
        replay.add(rng.uniform(-1, 1, (201, 3)), rng.uniform(-1, 1, (200, 1)),
                   rng.normal(size=200), False)
    batch = replay.sample(rng, config.agent.batch_size, config.agent.horizon)
    sides = {'off': Side(agent, 0), 'every_update': Side(agent, 1), 'every_5': Side(agent, 5)}
    names = list(sides)
    for turn in range((rounds + 1) * CYCLE // 2):  # the first cycle warms up and does not count
        for name in names[turn % 3:] + names[:turn % 3]:
            for _ in range(2):
                sides[name].update(batch)
    off = sides['off'].cycle_s[0]
    parameters = count_parameters(agent.components)
    own = sides['every_update']
    return {
        'parameters': parameters, 'update_ms': 1e3 * off / CYCLE,
        **{f'overhead_{n}': sides[n].cycle_s[0] / off - 1 for n in names[1:]},
        **{f'own_{n}': sides[n].cycle_s[1] / off for n in names[1:]},
        'memory_over_parameters': (held(own.tracker) + held(own.pressure)) / (4 * parameters),
    }


def held(root: object) -> int:
    """Bytes of the arrays and tensors that an object keeps, the model's own left out."""
    seen: set[int] = set()
    total, stack = 0, [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, (nn.Module, nn.Parameter, str, type)):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            if item._base is None and storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
        elif isinstance(item, np.ndarray):
            total += item.nbytes if item.base is None else 0
        elif isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, (list, tuple, set)):
            stack += item
        elif hasattr(item, '__dict__') and type(item).__module__.startswith('pruning_core'):
            stack += vars(item).values()
    return total


def growth(widths: list[int], repeats: int) -> list[dict[str, float]]:
    """Time of one observed update of tracker and pressure on three square layers of each width."""
    rows = []
    for width in widths:
        net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                            nn.Linear(width, width))
        components = {'net': net}
        graph = trace(components, lambda net=net, w=width: [net(torch.zeros(1, w))])
        tracker = ImportanceTracker(graph, components, ImportanceConfig(warmup=1))
        pressure = SparsityPressure(graph, components, SparsityConfig('cosine', lambda_max=1e-3))
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            tracker.observe()
            tracker.step()
            pressure.step(1e-3)
            times.append(time.perf_counter() - began)
        parameters = sum(p.numel() for p in net.parameters())
        seconds = float(np.quantile(times[1:], 0.25))
        rows.append({'parameters': parameters, 'ms': 1e3 * seconds,
                     'ns_per_parameter': 1e9 * seconds / parameters,
                     'memory_over_parameters': (held(tracker) + held(pressure)) / 4 / parameters})
    return rows


def main() -> None:
    """Print both tables; write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here, too')
    parser.add_argument('--rounds', type=int, default=15, help='cycles of ten updates per side')
    parser.add_argument('--threads', type=int, default=2, help='torch threads')
    parser.add_argument('--widths', type=int, nargs='*', default=[512, 1024, 2048, 4096],
                        help='of the square layers whose number of parameters grows')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = overheads(options.rounds)
    print(f'reference agent, {found["parameters"]:,} parameters, batch 512, horizon 5, '
          f'{options.threads} threads: {found["update_ms"]:.1f} ms an update')
    for name in ('every_update', 'every_5'):
        print(f'  {name:13s} overhead {found[f"overhead_{name}"]:+.2%}, '
              f'own {found[f"own_{name}"]:.2%}')
    print(f'  memory        {found["memory_over_parameters"]:.2f} of the parameters')
    rows = growth(options.widths, 7)
    for row in rows:
        print(f'{row["parameters"]:12,} parameters {row["ms"]:9.2f} ms '
              f'{row["ns_per_parameter"]:6.2f} ns each, memory '
              f'{row["memory_over_parameters"]:.3f}')
    if len(rows) > 1:
        logs = np.log([[r['parameters'], r['ms']] for r in rows])
        found['growth_exponent'] = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
        print(f'time grows with the number of parameters to the power of '
              f'{found["growth_exponent"]:.2f}')
    if options.json:
        result = {**found, 'growth': rows, 'threads': options.threads,
                  'torch': torch.__version__, 'machine': platform.machine()}
        options.json.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
