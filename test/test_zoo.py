# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The agents that ship with the package open, fit together and are found by name."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from pruning_core import zoo
from pruning_core.checkpoint import load_run
from pruning_core.cli import main, parser
from pruning_core.errors import AgentError
from pruning_core.evaluation import budget_of
from pruning_core.networks import count_parameters
from pruning_core.runtime.bundle import open_bundle

SHIPPED = [name for name in zoo.names() if (zoo.ROOT / name).is_dir()]


@pytest.fixture(scope='module', params=SHIPPED)
def shipped(request):
    return load_run(zoo.find(request.param))


def test_names():
    assert 'pendulum_dense' in zoo.names()
    assert list(zoo.names()) == sorted(zoo.names())


def test_shipped_agents_are_whole(shipped):
    """With importance of every unit and a replay of this plant, ready to be pruned."""
    assert shipped.replay is not None and len(shipped.replay) > 1000
    assert shipped.importance is not None and shipped.importance.warm
    assert shipped.importance.unseen == 0
    assert shipped.replay.observations().shape[1] == shipped.agent.widths.observations
    assert all(torch.isfinite(p).all() for p in shipped.agent.components.parameters())
    action = shipped.agent.policy(torch.from_numpy(shipped.replay.observations()[:50]))
    assert torch.isfinite(action).all() and action.abs().max() <= 1 and action.std() > 0.1


def test_what_is_kept_of_returns_was_planned_as_the_agent_plans(shipped):
    """Else `prune` would measure the dense agent again, and pages would show another's return."""
    kept = [e['planner'] for e in shipped.evaluation.values() if e.get('planner')]
    assert kept
    for planner in kept:
        assert planner == budget_of(
            shipped.config.planner.scaled(planner['samples'], planner['iterations']))


def test_dense_pendulum_has_the_reference_sizes():
    run = load_run(zoo.find('pendulum_dense'))
    assert run.config.env.id == 'Pendulum-v1'
    assert count_parameters(run.agent.components) == 1_489_512
    assert len(run.agent.graph().free) == 12


@pytest.mark.parametrize('name', [n for n in SHIPPED if n in zoo.PRUNED])
def test_shipped_bundles_are_what_their_name_says(name):
    """Made by the recipe of that name, verified as a robot does, and small enough for git."""
    opened = open_bundle(zoo.bundle(name))
    assert 1 - opened.manifest.parameters / opened.manifest.dense_parameters >= int(
        name.partition('_')[2]) / 100 > 0
    assert opened.manifest.gates['return']['loss'] <= opened.manifest.gates['return'][
        'allowed_loss']
    folder = zoo.find(name)
    assert (folder / 'command.txt').read_text().split()[3:-2] == list(zoo.PRUNED[name])
    assert sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) < 4e6


@pytest.mark.parametrize('name', SHIPPED)
def test_each_says_how_it_was_made_and_what_it_returns(name):
    facts = zoo.describe(name)
    command = facts['made by'].split()
    assert command[:3] == ['python', '-m', 'pruning_core']
    parser().parse_args(command[3:])
    assert facts['plant'] == load_run(zoo.find(name)).config.env.id
    returns = facts.get('return, planned') or facts['return, gate']
    assert 'seeds' in returns and Path(facts['report']).is_file()


def test_a_pruned_agent_says_what_it_was_cut_from(copied, monkeypatch):
    (copied / 'lineage.json').write_text('{"parent": "some_dense"}')
    monkeypatch.setattr(zoo, 'ROOT', copied.parent)
    facts = zoo.describe('agent')
    assert facts['cut from'] == 'some_dense' and 'made by' not in facts


@pytest.fixture
def kitchen(trained, tmp_path, monkeypatch):
    """An empty working folder, and one recipe that takes a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(zoo.PRUNED, 'pendulum_30', (
        'prune', '--agent', str(trained), '--sparsity', '0.3',
        *(part for setting in QUICK for part in ('--set', f'pruning.{setting}'))))
    return tmp_path


QUICK = ('multiple=4', 'floor=4', 'recovery_updates=2', 'gate_seeds=2', 'gate_return_loss=100',
         'gate_latency_share=0', 'gate_violation=0')


def test_what_does_not_ship_is_made(kitchen, capsys, four_parts):
    """By the command that the list shows for it; then its name stands for it."""
    assert zoo.describe('pendulum_30')['not made yet'].endswith('zoo make pendulum_30')
    with pytest.raises(AgentError) as error:
        zoo.find('pendulum_30')
    four_parts(error, 'not made yet', 'python -m pruning_core zoo make pendulum_30')
    assert main(['zoo', 'make', 'pendulum_30', '--json']) == 0
    made = kitchen / 'runs' / 'zoo' / 'pendulum_30'
    assert json.loads(capsys.readouterr().out)['folder'] == 'runs/zoo/pendulum_30'
    assert zoo.find('pendulum_30').resolve() == made and 'pendulum_30' in zoo.names()
    assert zoo.bundle('pendulum_30').resolve() == made / 'bundle'
    facts = zoo.describe('pendulum_30')
    assert facts['made by'] == shlex.join(
        ['python', '-m', 'pruning_core', *zoo.command('pendulum_30', made.relative_to(kitchen))])
    assert (kitchen / facts['report']).name == 'report.html' and 'bundle' in facts
    assert main(['zoo', 'make', 'pendulum_30']) == 2, 'what is there is not written over'
    assert 'something is there already' in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['zoo', 'make'], ['zoo', 'make', 'pendulum_31']])
def test_what_cannot_be_made(kitchen, capsys, arguments):
    assert main(arguments) == 2
    assert 'pendulum_30, pendulum_50' in capsys.readouterr().err
    assert not (kitchen / 'runs').exists()


def test_every_recipe_is_a_command():
    for name in zoo.PRUNED:
        options = parser().parse_args(zoo.command(name, Path('x')))
        assert options.agent in zoo.names() and name.endswith(f'_{100 * options.sparsity:.0f}')


def test_bundle_of_a_folder(trained, tmp_path, four_parts):
    """A bundle itself, a run with one, a dense agent; what failed its gates has none."""
    assert zoo.bundle(str(trained)) == trained and zoo.plant(str(trained)) == 'Pendulum-v1'
    failed = tmp_path / 'failed'
    shutil.copytree(trained, failed)
    (failed / 'lineage.json').write_text('{"failed": ["return"]}')
    with pytest.raises(AgentError) as error:
        zoo.bundle(str(failed))
    four_parts(error, 'has none', 'prune again')
    (failed / 'bundle').mkdir()
    (failed / 'bundle' / 'manifest.json').write_text('{}')
    assert zoo.bundle(str(failed)) == zoo.bundle(str(failed / 'bundle')) == failed / 'bundle'


def test_a_path_is_found_first(tmp_path, monkeypatch):
    assert zoo.find(str(tmp_path)) == tmp_path
    (tmp_path / 'pendulum_dense').mkdir()
    assert zoo.find('pendulum_dense') == zoo.ROOT / 'pendulum_dense'
    monkeypatch.chdir(tmp_path)
    assert zoo.find('pendulum_dense') == Path('pendulum_dense')


def test_unknown_names(four_parts):
    with pytest.raises(AgentError) as error:
        zoo.find('pendulum_dens')
    four_parts(error, "did you mean 'pendulum_dense'?", 'one of the shipped agents: ', 'train')
