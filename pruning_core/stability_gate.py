# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The stability gate: an agent in; whether it may be published, and from where it fails, out.

Runs start all over the reach of the plant. One passes if it gets to the goal and stays there, or
at least brings V down within its periods (`decrease`). The states that fail are left behind as a
table, each with the seed that replays it, and as a picture.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruning_core.agent import Agent
from pruning_core.checkpoint import Run, write_atomically
from pruning_core.closed_loop import (
    AgentController,
    Conditions,
    Controller,
    Loop,
    Runs,
    Workers,
    simulate,
)
from pruning_core.config import Config, PlannerConfig, PruningConfig
from pruning_core.decrease import Tested, check, violated
from pruning_core.env import describe, make_raw
from pruning_core.errors import AgentError, ConfigError, MissingExtra, explain
from pruning_core.plants import Plant, make_plant
from pruning_core.progress import Progress, silent
from pruning_core.runtime.errormap import Lyapunov
from pruning_core.stability import candidate

TABLE, PICTURE = 'stability_failures.csv', 'stability_failures.svg'
_ANY_SEED = 0  # of a replayed state whose seed is not known


@dataclass(frozen=True)
class Judged:
    """Where an agent was tested.

    Attributes:
        plant: the true plant.
        lyapunov: V and its test.
    """

    plant: Plant
    lyapunov: Lyapunov

    def loop(self, controller: Controller, conditions: Conditions) -> Loop:
        """A controller on this plant."""
        return Loop(self.plant, controller, self.lyapunov, conditions)


def plant_of(config: Config) -> Judged | None:
    """Plant and candidate of a configuration; None where the plant has no known goal."""
    spec = describe(make_raw(config.env.id), config.env)
    lyapunov = candidate(config.env.id, spec.period_s, config.env.action_repeat)
    return None if lyapunov is None else Judged(make_plant(config.env), lyapunov)


def require_plant(config: Config, asked: str) -> Judged:
    """Return `plant_of`, where there has to be one.

    Args:
        config: of an agent.
        asked: what the plant's goal is needed for.

    Raises:
        AgentError: the plant has no known goal.
    """
    judged = plant_of(config)
    if judged is None:
        raise AgentError(
            explain(f'{asked} was asked for', f"'{config.env.id}' has no known goal",
                    'Pendulum-v1, or an environment that declares `stability_goal` '
                    '(docs/stability.md)',
                    'declare one, or look at the value alone: stability --value')
        )
    return judged


def closed_loop(agent: Agent, judged: Judged, planner: PlannerConfig | None,
                conditions: Conditions) -> Loop:
    """The agent on its plant."""
    return judged.loop(AgentController(agent, judged.plant.limits, planner), conditions)


def gate(agent: Agent, config: Config, settings: PruningConfig, progress: Progress = silent
         ) -> tuple[Tested, dict[str, Any]] | None:
    """Test an agent as `pruning.gate_*` says; None where there is nothing to test.

    Returns:
        The test, and its figures with what is allowed.
    """
    judged = plant_of(config) if settings.gate_violation > 0 else None
    if judged is None:
        return None
    planner = config.planner.scaled(settings.gate_samples, settings.gate_iterations)
    conditions = Conditions(settings.gate_periods, hold=judged.lyapunov.steps)
    tested = check(closed_loop(agent, judged, planner, conditions), np.inf, settings.gate_states,
                   settings.seed, Workers(progress=progress))
    return tested, {**tested.decrease.to_json(), 'periods': settings.gate_periods,
                    'allowed': settings.gate_violation}


def leave_failures(folder: Path, judged: Judged, tested: Tested) -> None:
    """Write the states that fail as a table and, where matplotlib is there, as a picture."""
    if not tested.failed.any():
        return
    names = [f'state{i}' for i in range(tested.states.shape[1])]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*names, 'seed', 'value_before', 'value_after'])
    for i in np.flatnonzero(tested.failed):
        writer.writerow([*(repr(float(v)) for v in tested.states[i]), int(tested.seeds[i]),
                         repr(float(tested.before[i])), repr(float(tested.after[i]))])
    write_atomically(folder / TABLE, lambda p: p.write_text(text.getvalue()))
    try:
        from pruning_core.stability_figures import failing_states

        picture = failing_states(judged, tested)
    except MissingExtra:
        return  # the table has everything
    write_atomically(folder / PICTURE, lambda p: p.write_text(picture))


@dataclass(frozen=True, eq=False)
class Replayed:
    """One run from one state.

    Attributes:
        runs: V along it, and when it reached the goal.
        failed: whether it fails the gate's test.
        seed: of its noise.
    """

    runs: Runs
    failed: bool
    seed: int


def replay(run: Run, state: np.ndarray, seed: int | None = None) -> Replayed:
    """Run the gate's test from one state, as it was run then.

    Args:
        run: the agent; its own table of failures gives the seed of a state that stands there.
        state: (S,) initial state.
        seed: of the noise; None looks it up.

    Raises:
        AgentError: the plant has no known goal.
        ConfigError: the state has another length.
    """
    judged = require_plant(run.config, 'a replay')
    probe = judged.plant.states_at(np.zeros((1, len(judged.plant.reach))))
    if state.shape != probe[0].shape or not np.isfinite(state).all():
        raise ConfigError(
            explain('a replay was asked for', f'the state {state.tolist()}',
                    f'{probe.shape[1]} finite numbers for {run.config.env.id}',
                    'give them as --state=a,b')
        )
    if seed is None:
        seed = _seed_of(run.folder / TABLE, state)
    p = run.config.pruning
    planner = run.config.planner.scaled(p.gate_samples, p.gate_iterations)
    loop = closed_loop(run.agent, judged, planner, Conditions(p.gate_periods))
    runs = simulate(loop, state[None], [seed])
    return Replayed(runs, bool(violated(judged.lyapunov, runs.values[0], runs.values[-1])[0]),
                    seed)


def _seed_of(path: Path, state: np.ndarray) -> int:
    """Seed that the table names for a state (to six digits), or one for all others."""
    if path.is_file():
        with path.open() as file:
            for row in csv.DictReader(file):
                there = [float(row[f'state{i}']) for i in range(len(state))]
                if np.allclose(there, state, rtol=1e-6, atol=1e-6):
                    return int(row['seed'])
    return _ANY_SEED
