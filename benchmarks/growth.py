# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How the time of a plan grows with each of its sizes, one thread, and the exponents.

One size is changed at a time, on untrained agents (what a plan takes does not depend on what was
learned); all are timed in turns. Writes runs/bench/growth.svg.

    python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planner import FOLDER, Planned, one_thread

from pruning_core import figures
from pruning_core.config import PlannerConfig
from pruning_core.export import prepare
from pruning_core.graphs import AgentGraphs
from pruning_core.networks import Widths, build
from pruning_core.runtime.bench import of_planner, time_together
from pruning_core.runtime.bundle import Bundle, Manifest, PlannerSettings, Signal, in_memory
from pruning_core.runtime.planner import contract
from pruning_core.zoo import find

BASE = {'samples': 256, 'horizon': 5, 'iterations': 4, 'width': 128, 'latent': 48, 'actions': 1}
CHANGED = {'samples': (64, 128, 256, 512, 1024), 'horizon': (2, 3, 5, 8, 12),
           'iterations': (1, 2, 4, 8), 'width': (32, 64, 128, 256, 512),
           'latent': (16, 32, 48, 96, 192), 'actions': (1, 6, 21)}


def bundle_of(template: Manifest, sizes: Mapping[str, int]) -> Bundle:
    """An untrained agent's bundle of these sizes, in memory."""
    hidden, a = (sizes['width'],) * 2, sizes['actions']
    widths = Widths(3, a, sizes['latent'], (128,), hidden, hidden, hidden, hidden, hidden, 'relu')
    torch.manual_seed(0)
    settings = PlannerConfig(horizon=sizes['horizon'], samples=sizes['samples'],
                             policy_samples=max(1, sizes['samples'] // 20),
                             elites=sizes['samples'] // 8, iterations=sizes['iterations'])
    planner = PlannerSettings(**dataclasses.asdict(settings), policy_noise=0.05)
    ones = (1.0,) * a
    action = Signal(tuple(f'a{i}' for i in range(a)), ('1',) * a, (-1.0,) * a, ones, ones)
    manifest = dataclasses.replace(template, planner=planner, action=action, lyapunov=None,
                                   widths=widths.to_json())
    graphs = AgentGraphs(build(widths), settings, 0.99, template.observation.scale, [0.0] * a,
                         list(ones), contract(template.period_s, 3, a, settings.horizon))
    return in_memory(manifest, graphs.write(np.zeros((4, 3), np.float32)))


def main() -> None:
    """Time all sizes, print exponents, draw them."""
    one_thread()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--json', type=Path, help='write the result here, too')
    o = parser.parse_args()
    from pruning_core.checkpoint import load_run

    _, template, _ = prepare(load_run(find('pendulum_dense')))
    work = {f'{name} {value}': Planned(bundle_of(template, {**BASE, name: value}))
            for name, values in CHANGED.items() for value in values}
    timings, rates = time_together(work, o.seconds, least=8)
    result: dict[str, Any] = {}
    for name, values in CHANGED.items():
        ms = [1e3 * timings[f'{name} {v}'].p50_s for v in values]
        floor = [1e3 * of_planner(work[f'{name} {v}'].planner) / rates[f'{name} {v}']
                 for v in values]
        slope, floor_slope = (float(np.polyfit(np.log(values), np.log(y), 1)[0])
                              for y in (ms, floor))
        result[name] = {'values': list(values), 'ms': ms, 'floor_ms': floor, 'exponent': slope,
                        'floor_exponent': floor_slope}
    print(printed(result))
    picture = FOLDER / 'growth.svg'
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + figures.growth(result))
    print(f'\npicture  {picture}')
    if o.json:
        o.json.write_text(json.dumps(result, indent=1) + '\n')


def printed(result: Mapping[str, Any]) -> str:
    """The exponents and the times, as they are printed."""
    return '\n'.join([f'{"size":12s} {"exponent":>8s} {"of the floor":>13s}   median ms', *(
        f"{name:12s} {r['exponent']:8.2f} {r['floor_exponent']:13.2f}   " + ', '.join(
            f'{v}: {y:.2f}' for v, y in zip(r['values'], r['ms'], strict=True))
        for name, r in result.items())])


if __name__ == '__main__':
    main()
