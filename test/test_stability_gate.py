# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The gate: what it measures, what it leaves behind, how a failing state is replayed, back-off."""

from __future__ import annotations

import csv
import dataclasses
import json
import types

import numpy as np
import pytest
import torch

from pruning_core import stability_figures
from pruning_core.backoff import copy_of, give_back
from pruning_core.checkpoint import METRICS, load_run
from pruning_core.cli import DONE, FAILED, REFUSED
from pruning_core.errors import AgentError, ConfigError, GateError
from pruning_core.plans import Plan
from pruning_core.pruner import BUNDLE, prune
from pruning_core.runtime.bundle import open_bundle
from pruning_core.runtime.monitor import StabilityMonitor
from pruning_core.shrinking import choose, stability_scores_of
from pruning_core.stability_gate import (
    PICTURE,
    TABLE,
    gate,
    leave_failures,
    plant_of,
    replay,
)


@pytest.fixture
def settings(run):
    """Gate settings of the tiny agent, which stabilises next to nothing."""
    def make(**change):
        return dataclasses.replace(run.config.pruning, **{
            'gate_violation': 0.2, 'gate_states': 12, 'gate_periods': 25, **change})

    return make


@pytest.fixture
def refused(run, settings, tmp_path):
    """Folder of an agent that the gate refused."""
    with pytest.raises(GateError) as error:
        prune(run, settings(), tmp_path / 'bad')
    return tmp_path / 'bad', error


def rows(folder):
    with (folder / TABLE).open() as file:
        return list(csv.DictReader(file))


def test_a_refused_agent_comes_without_bundle_but_with_its_failing_states(refused, four_parts):
    folder, error = refused
    four_parts(error, 'states V has not fallen after 25 periods', TABLE, 'replay')
    assert not (folder / BUNDLE).exists()
    record = json.loads((folder / METRICS).read_text())
    figures = record['gates']['stability']
    assert len(record['failed']) == 1 and figures['allowed'] == 0.2
    assert len(rows(folder)) == figures['violations'] > 3
    assert figures['bound'] > figures['share'] and figures['states'] <= 12
    assert [r['violations'] for r in figures['rounds']] == [figures['violations']]
    assert '<svg' in (folder / PICTURE).read_text()


def test_failing_states_are_drawn_over_the_two_errors_that_weigh_most(monkeypatch):
    """At the reach, V is 1, 81, 36 and 9 by the four errors."""
    errors = np.arange(8.0).reshape(2, 4)
    terms = ('0', '1', 'atan2(3,2)', '4')
    judged = types.SimpleNamespace(
        plant=types.SimpleNamespace(reach=[1, 9, 3, 1], observe=lambda states: states),
        lyapunov=types.SimpleNamespace(P=np.diag([1.0, 1, 4, 9]), terms=terms,
                                       errors=lambda observations: errors))
    tested = types.SimpleNamespace(
        states=errors, failed=np.array([False, True]),
        decrease=types.SimpleNamespace(violations=1, states=2, bound=0.9))
    drawn = []
    monkeypatch.setattr(stability_figures, '_svg', lambda figure: drawn.append(figure) or '')
    stability_figures.failing_states(judged, tested)
    axis = drawn[0].axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ('error 1', 'error atan2(3,2)')
    passing, failing = (line.get_xydata().tolist() for line in axis.lines)
    assert (passing, failing) == ([[1, 2]], [[5, 6]])


def test_every_state_in_the_table_fails_again_in_a_replay(refused):
    folder, _ = refused
    again = load_run(folder)
    for row in rows(folder)[:3]:
        state = np.array([float(row['state0']), float(row['state1'])])
        found = replay(again, state)
        assert found.failed and found.seed == int(row['seed'])
        assert found.runs.values[0, 0] == pytest.approx(float(row['value_before']))
        assert found.runs.values[-1, 0] == pytest.approx(float(row['value_after']), rel=1e-2)
    assert replay(again, np.array([0.123, 0.4])).seed == 0
    assert replay(again, np.array([0.0, 0.0]), seed=7).seed == 7


def test_replay_from_the_command_line(refused, main, capsys, four_parts):
    folder, _ = refused
    row = rows(folder)[0]
    state = f"--state={row['state0']},{row['state1']}"
    assert main('replay', '--agent', folder, state, '--json') == DONE
    told = json.loads(capsys.readouterr().out)
    assert told['passes'] is False and told['seed'] == int(row['seed']) and len(told['V']) == 26
    for bad, said in (('--state=1', 'finite numbers'), ('--state=a,b', 'not a list of numbers'),
                      ('--state=nan,0', 'nan')):
        assert main('replay', '--agent', folder, bad) == FAILED
        four_parts(capsys.readouterr().err.strip().partition(': ')[2], said)
    for words in ((), ('--agent', folder), ('--state=0,0',), (folder, '--state=0,0')):
        assert main('replay', *words) == FAILED
        four_parts(capsys.readouterr().err.strip().partition(': ')[2], 'a bag, or --agent')


def test_a_loose_gate_publishes_with_figures_that_the_monitor_uses(run, settings, tmp_path):
    result = prune(run, settings(gate_violation=1.0), tmp_path / 'good')
    bundle = open_bundle(result.folder / BUNDLE)
    figures = bundle.manifest.gates['stability']
    assert figures['allowed'] == 1.0 and figures['passing_level'] > 0
    monitor = StabilityMonitor.of(bundle.manifest)
    observation = [0.0, 1.0, 2.0]
    assert monitor.update(observation).envelope == pytest.approx(
        bundle.manifest.lyapunov.value(observation) / figures['passing_level'])
    # States that fail are told of an agent that passes, too.
    assert len(rows(result.folder)) == figures['violations']


def test_no_gate(run, settings):
    """Switched off, or a plant without a goal."""
    assert gate(run.agent, run.config, settings(gate_violation=0.0)) is None
    elsewhere = dataclasses.replace(
        run.config, env=dataclasses.replace(run.config.env, id='MountainCarContinuous-v0'))
    assert gate(run.agent, elsewhere, settings()) is None


def test_the_gate_is_the_same_each_time(run, settings):
    first, second = (gate(run.agent, run.config, settings()) for _ in range(2))
    assert first[1] == second[1]
    np.testing.assert_array_equal(first[0].after, second[0].after)


def test_a_plant_that_declares_its_goal_is_gated_too(make_agent, tiny, cart, tmp_path):
    """Stepped one by one, on its own Riccati equation; the table and the picture are its own."""
    config = tiny(f'env.id={cart}', 'pruning.gate_violation=0.1')
    agent = make_agent(observations=2)
    tested, figures = gate(agent, config, config.pruning)
    assert figures['states'] == 8 and tested.states.shape == (8, 2)
    judged = plant_of(config)
    assert np.abs(judged.plant.states_at(np.zeros((1, 2))) - [0.5, 0]).max() < 1e-6
    leave_failures(tmp_path, judged, dataclasses.replace(tested, failed=np.ones(8, bool)))
    assert len(rows(tmp_path)) == 8
    assert 'error 1-1' in (tmp_path / PICTURE).read_text()


def test_backing_off_by_hand(run):
    """The group whose removed units matter most gets half of them back, the best first."""
    groups = run.agent.graph().groups
    sizes = {g.name: g.size for g in groups if g.frozen_because is None}
    scores = {n: np.arange(float(s)) for n, s in sizes.items()}
    stability = {n: np.full(s, np.nan) for n, s in sizes.items()}
    stability['dynamics.hidden1'], stability['latent'] = np.ones(16), np.full(6, 3.0)
    plan = Plan.removing(groups, {'dynamics.hidden1': range(8), 'latent': range(2),
                                  'reward.hidden1': range(12)}, budget='parameters')
    step = give_back(groups, plan, stability, scores, 4)
    assert (step.group, step.units, step.lost) == ('dynamics.hidden1', 4, 8.0)
    assert step.plan.removed['dynamics.hidden1'] == (0, 1, 2, 3)
    assert step.plan.removed['latent'] == plan.removed['latent']
    assert step.plan.parameters_left > plan.parameters_left
    assert step.plan.achieved == pytest.approx(1 - step.plan.parameters_left / plan.parameters)
    second = give_back(groups, step.plan, stability, scores, 4)
    assert (second.group, second.units) == ('latent', 2), 'no more than was taken'
    third = give_back(groups, second.plan, stability, scores, 4)
    assert third.group == 'dynamics.hidden1' and not third.plan.removed['dynamics.hidden1']
    assert give_back(groups, third.plan, stability, scores, 4) is None


def test_back_off_goes_on_until_the_rounds_are_used_up(run, settings, tmp_path):
    """Every round is recorded; each cuts less; the agent that is kept is the last one's."""
    with pytest.raises(GateError):
        prune(run, settings(gate_rounds=3, multiple=2, floor=2), tmp_path / 'bad')
    figures = json.loads((tmp_path / 'bad' / METRICS).read_text())['gates']['stability']
    rounds = figures['rounds']
    assert len(rounds) == 3
    assert rounds[0]['achieved'] > rounds[1]['achieved'] > rounds[2]['achieved']
    assert all(r['gave_back']['units'] > 0 for r in rounds[:2]) and 'gave_back' not in rounds[2]
    plan = Plan.from_json(json.loads((tmp_path / 'bad' / 'plan.json').read_text()))
    assert plan.achieved == pytest.approx(rounds[2]['achieved'])
    kept = load_run(tmp_path / 'bad').agent
    assert kept.widths.latent == len(plan.kept('latent'))


def test_a_plan_that_passes_is_not_backed_off(run, settings, tmp_path):
    result = prune(run, settings(gate_rounds=3, gate_violation=1.0), tmp_path / 'good')
    assert len(result.gates['stability']['rounds']) == 1


def test_a_copy_is_the_same_agent_and_none_of_it(run, fill):
    other = copy_of(run.agent)
    batch = fill().sample(np.random.default_rng(0), 8, 2)
    first, second = run.agent, copy_of(other)
    before = {k: v.clone() for k, v in second.components.state_dict().items()}
    first.restart_optimizers(1e-3)
    other.restart_optimizers(1e-3)
    for _ in range(2):  # the second one updates the policy too
        assert str(first.update(batch)) == str(other.update(batch))
    for key, value in first.components.state_dict().items():
        assert torch.equal(value, other.components.state_dict()[key]), key
        assert torch.equal(before[key], second.components.state_dict()[key])


def test_replay_needs_a_goal(run, four_parts):
    elsewhere = dataclasses.replace(run, config=dataclasses.replace(
        run.config, env=dataclasses.replace(run.config.env, id='MountainCarContinuous-v0')))
    with pytest.raises(AgentError) as error:
        replay(elsewhere, np.zeros(2))
    four_parts(error, 'no known goal', 'stability_goal')
    with pytest.raises(ConfigError) as error:
        replay(run, np.zeros(3))
    four_parts(error, '2 finite numbers')


def test_the_command_that_was_refused_has_the_gates_code(main, trained, tmp_path, capsys):
    assert main('prune', '--agent', trained, '--out', tmp_path / 'a', '--set',
                'pruning.gate_violation=0.01') == REFUSED
    assert TABLE in capsys.readouterr().err


def test_stability_scores_and_plan_agree_on_groups(run):
    plan = choose(run, run.config.pruning)
    assert set(stability_scores_of(run, run.config.pruning).units) == set(plan.sizes)
