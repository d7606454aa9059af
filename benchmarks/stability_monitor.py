# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Time of the online stability monitor per tick, beside the control period it has to fit into.

    python benchmarks/stability_monitor.py
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

from pruning_core.runtime.monitor import StabilityMonitor
from pruning_core.stability import pendulum

LIMIT_US = 50.0


def main() -> None:
    """Print the quantiles over many ticks of a swinging pendulum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--ticks', type=int, default=200_000)
    ticks = parser.parse_args().ticks
    monitor = StabilityMonitor(pendulum(0.05), low=(-2.0,), high=(2.0,), level=80.0)
    rng = np.random.default_rng(0)
    angle, speed, torque = rng.uniform([-3, -8, -2], [3, 8, 2], (1000, 3)).T.tolist()
    inputs = [([math.cos(a), math.sin(a), w], [u])
              for a, w, u in zip(angle, speed, torque, strict=True)]
    times = np.empty(ticks)
    for i in range(ticks):
        observation, command = inputs[i % 1000]
        began = time.perf_counter_ns()
        monitor.update(observation, command=command, residual=0.1)
        times[i] = time.perf_counter_ns() - began
    times /= 1e3
    p50, p99, p999 = np.quantile(times, (0.5, 0.99, 0.999))
    print(f'stability monitor, {ticks} ticks: median {p50:.1f} us, 99 % {p99:.1f} us, 99.9 % '
          f'{p999:.1f} us; at most {LIMIT_US:g} us is the aim; {p50 / 500:.3f} % of a period of '
          '50 ms')


if __name__ == '__main__':
    main()
