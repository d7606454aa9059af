# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What tracing and cutting cost: the reference agent, a 50 M-parameter one, and how it grows.

Half of every group goes. A cut includes its proof, the masked model against the cut one. One
thread. Memory is the process's peak above what it held before the model was built.

    python benchmarks/engine.py --json engine.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from pruning_core.channels import trace
from pruning_core.config import NetworkConfig
from pruning_core.networks import Widths, build
from pruning_core.plans import Plan
from pruning_core.surgery import apply

OBSERVATIONS, ACTIONS = 3, 1


def reference(latent: int = 50, encoder: int = 256, hidden: int = 512) -> dict[str, nn.Module]:
    """The TD-MPC agent with its reference sizes."""
    network = NetworkConfig(latent=latent, encoder_hidden=encoder, hidden=hidden)
    return dict(build(Widths.dense(network, OBSERVATIONS, ACTIONS)).items())


class SimNorm(nn.Module):
    """Softmax over simplices of 8 channels, as in TD-MPC2."""

    def forward(self, x):
        """(..., Z) -> (..., Z)."""
        return functional.softmax(x.view(*x.shape[:-1], -1, 8), dim=-1).view(x.shape)


def mlp(fan_in: int, hidden: int, fan_out: int, last: nn.Module | None = None) -> nn.Sequential:
    """Three hidden layers with LayerNorm and Mish, as in TD-MPC2."""
    layers: list[nn.Module] = []
    for size in (hidden, hidden, hidden):
        layers += [nn.Linear(fan_in, size), nn.LayerNorm(size), nn.Mish(inplace=True)]
        fan_in = size
    layers.append(nn.Linear(fan_in, fan_out))
    return nn.Sequential(*layers, *([nn.LayerNorm(fan_out), last] if last else []))


def large(latent: int = 512, hidden: int = 2048, bins: int = 101) -> dict[str, nn.Module]:
    """A six-component agent of TD-MPC2's size: 50 million parameters."""
    pair = latent + ACTIONS
    return {'encoder': mlp(OBSERVATIONS, hidden // 2, latent, SimNorm()),
            'dynamics': mlp(pair, hidden, latent, SimNorm()),
            'reward': mlp(pair, hidden, bins), 'q1': mlp(pair, hidden, bins),
            'q2': mlp(pair, hidden, bins), 'policy': mlp(latent, hidden, 2 * ACTIONS)}


def rollout(net, observation, steps: int):
    """Every component over `steps` decisions of the policy."""
    latent, outputs = net['encoder'](observation), []
    for _ in range(steps):
        action = torch.tanh(net['policy'](latent).split(ACTIONS, -1)[0])
        pair = torch.cat([latent, action], dim=-1)
        outputs += [action, net['reward'](pair), net['q1'](pair), net['q2'](pair)]
        latent = net['dynamics'](pair)
    return outputs


def trace_and_cut(net, steps: int = 2, optimizer=None) -> tuple[float, float]:
    """Seconds to trace, and to remove half of every group with proof."""
    observation = torch.randn(2, OBSERVATIONS)

    def run(components):
        return rollout(components, observation, steps)

    began = time.perf_counter()
    graph = trace(net, lambda: run(net))
    traced = time.perf_counter()
    plan = Plan.removing(graph.groups, {g.name: range(g.size // 2) for g in graph.free})
    apply(plan, net, optimizer, run=run)
    return traced - began, time.perf_counter() - traced


def timed(make, repeats: int, steps: int = 2) -> dict[str, float]:
    """Median seconds over fresh models."""
    times = [trace_and_cut(make(), steps) for _ in range(repeats)]
    return {'trace_s': statistics.median(t for t, _ in times),
            'cut_s': statistics.median(c for _, c in times),
            'trace_cut_s': statistics.median(t + c for t, c in times)}


def peak_bytes() -> int:
    """Largest resident memory since the last call of `forget_peak`, or of the process."""
    status = Path('/proc/self/status')
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith('VmHWM'))
        return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Let the peak start anew, where the system allows it."""
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')


def large_in_child(connection, with_optimizer: bool) -> None:
    """Trace and cut the large agent in a process of its own; send seconds and memory."""
    torch.set_num_threads(1)
    trace_and_cut(large(latent=16, hidden=32))  # what is loaded on first use is no part of it
    forget_peak()
    before = peak_bytes()
    net = large()
    parameters = [p for m in net.values() for p in m.parameters()]
    count = sum(p.numel() for p in parameters)
    own, optimizer = 4 * count, None
    if with_optimizer:  # weights, gradients, and two moments
        optimizer = torch.optim.Adam(parameters, foreach=False)
        for p in parameters:
            p.grad = torch.full_like(p, 1e-3)
        optimizer.step()
        own *= 4
    forget_peak()
    seconds = trace_and_cut(net, optimizer=optimizer)
    connection.send({'parameters': count, 'seconds': sum(seconds),
                     'memory_ratio': (peak_bytes() - before) / own})


def measure_large(with_optimizer: bool) -> dict[str, float]:
    """Run `large_in_child`."""
    here, there = multiprocessing.get_context('spawn').Pipe()
    child = multiprocessing.get_context('spawn').Process(
        target=large_in_child, args=(there, with_optimizer))
    child.start()
    while not here.poll(1):
        if not child.is_alive():
            raise SystemExit('the child process ended without a result')
    result = here.recv()
    child.join()
    return result


def main() -> None:
    """Measure, print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, help='file for the figures')
    parser.add_argument('--repeats', type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trace_and_cut(reference(8, 8, 8))
    small = timed(reference, options.repeats)
    big, trained = measure_large(False), measure_large(True)
    result = {
        'trace_cut_reference_s': small['trace_cut_s'], 'trace_reference_s': small['trace_s'],
        'cut_reference_s': small['cut_s'],
        'parameters_50m': big['parameters'], 'trace_cut_50m_s': big['seconds'],
        'memory_ratio_50m': big['memory_ratio'],
        'trace_cut_50m_adam_s': trained['seconds'],
        'memory_ratio_50m_adam': trained['memory_ratio'],
        'by_width_s': {w: timed(lambda w=w: reference(w // 8, w // 2, w), 3)['trace_cut_s']
                       for w in (128, 256, 512, 1024, 2048)},
        'by_horizon_s': {h: timed(reference, 3, h)['trace_cut_s'] for h in (2, 5, 10, 20, 40)},
    }
    print(f"reference agent: {1e3 * result['trace_cut_reference_s']:.0f} ms "
          f"({1e3 * small['trace_s']:.0f} to trace, {1e3 * small['cut_s']:.0f} to cut and prove)")
    print(f"{big['parameters'] / 1e6:.1f} M parameters: {big['seconds']:.2f} s, peak memory "
          f"{big['memory_ratio']:.2f} x its own; with Adam {trained['seconds']:.2f} s, "
          f"{trained['memory_ratio']:.2f} x")
    for name, key in (('hidden width', 'by_width_s'), ('steps rolled out', 'by_horizon_s')):
        print(f'by {name}: ' + ', '.join(f'{k}: {1e3 * v:.0f} ms'
                                         for k, v in result[key].items()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
