# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The pendulum at 50 Hz, and a pruned agent for it: what the soak runs on.

`python benchmarks/soak_plant.py FOLDER` writes a bundle of the shipped agent that was cut by 95 %;
it decides every 20 ms instead of every 50. Timing and faults are what is looked at here.
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
    from pruning_core.export import export

    run = load_run(zoo.find('pendulum_95'))
    env = dataclasses.replace(run.config.env, period_s=PERIOD_S)
    export(dataclasses.replace(run, config=dataclasses.replace(run.config, env=env)), folder)


if __name__ == '__main__':
    make(Path(sys.argv[1]))
