# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle tested in closed loop: the robot's planner, run by run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pruning_core.bundle_loop import BundleController
from pruning_core.cli import main
from pruning_core.closed_loop import Conditions, Loop, Workers, simulate
from pruning_core.plants import PendulumPlant
from pruning_core.runtime.planner import Planner
from pruning_core.stability import pendulum

STATES = np.column_stack([np.linspace(-3, 3, 70), np.linspace(8, -8, 70)])


def loop(bundle, **conditions):
    return Loop(PendulumPlant(), BundleController(bundle, samples=8, iterations=1), pendulum(0.05),
                Conditions(**{'steps': 6, **conditions}))


def test_a_run_is_what_the_planner_does_on_the_robot(bundle):
    plant, planner = PendulumPlant(), Planner(bundle, seed=7, samples=8, iterations=1)
    found = simulate(loop(bundle), STATES[:3], [5, 6, 7]).values[:, 2]
    state = STATES[2:3]
    for value in found:
        observation = plant.observe(state)
        assert value == pytest.approx(pendulum(0.05).value(observation[0].tolist()))
        state = plant.step(state, planner.plan(observation[0]).action[None].astype(float))


def test_runs_are_the_same_beside_others_and_in_other_processes(bundle):
    states = STATES.copy()
    states[::3] *= 0.001  # some begin at the goal and leave early
    seeds = range(100, 170)
    here = simulate(loop(bundle, hold=2), states, seeds)
    there = simulate(loop(bundle, hold=2), states, seeds, Workers(2))
    np.testing.assert_array_equal(here.values, there.values)
    assert (here.reached >= 0).any() and (here.reached < 0).any()
    alone = simulate(loop(bundle, hold=2), states[4:5], [104])
    np.testing.assert_allclose(here.values[:, 4], alone.values[:, 0], rtol=1e-12)


def test_command_line(bundle, capsys):
    arguments = ['stability', '--bundle', str(bundle.path), '--states', '20', '--periods', '5',
                 '--samples', '8', '--iterations', '1']
    assert main([*arguments, '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found['states'], found['periods'], found['agent']) == (20, 5, str(bundle.path))
    for wrong in ('--policy', '--value', '--bounds', '--against=pendulum_95'):
        assert main([*arguments, wrong]) == 2
        assert f'{wrong.partition("=")[0]} was given with --bundle' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['stability', '--states', '20'])
    assert '--agent' in capsys.readouterr().err
