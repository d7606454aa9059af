# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The pendulum at 50 Hz, and a pruned agent for it: what the soak runs on.

`python benchmarks/soak_plant.py FOLDER` makes `first` and `second` there, two bundles of the same
pruned agent under two identities. The agent is the shipped one, cut to a twentieth and recovered
briefly; it decides every 20 ms instead of every 50.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from gymnasium.envs.classic_control.pendulum import PendulumEnv

PERIOD_S = 0.02


class FastPendulum(PendulumEnv):
    """Pendulum-v1, stepped every 20 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.dt = PERIOD_S


def make(folder: Path) -> None:
    from pruning_core import zoo
    from pruning_core.checkpoint import load_run
    from pruning_core.config import PruningConfig
    from pruning_core.export import export
    from pruning_core.progress import Bar
    from pruning_core.pruner import prune
    from pruning_core.runtime.bundle import write

    # Timing and faults are what is looked at here; the gates are those of `make demo`.
    settings = PruningConfig(sparsity=0.95, recovery_updates=600, gate_seeds=2,
                             gate_return_loss=10.0, gate_latency_share=0.0, gate_violation=0.0)
    if not (folder / 'agent').is_dir():  # whole, or not there
        prune(load_run(zoo.find('pendulum_dense')), settings, folder / 'agent', progress=Bar())
    run = load_run(folder / 'agent')
    env = dataclasses.replace(run.config.env, period_s=PERIOD_S)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, env=env))
    first, _ = export(run, folder / 'first')
    write(folder / 'second', dataclasses.replace(first.manifest, seeds={'soak': 2}), first.graphs)


if __name__ == '__main__':
    make(Path(sys.argv[1]))
