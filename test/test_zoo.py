# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The agents that ship with the package open, fit together and are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning_core import zoo
from pruning_core.checkpoint import load_run
from pruning_core.cli import parser
from pruning_core.errors import AgentError
from pruning_core.networks import count_parameters


@pytest.fixture(scope='module', params=zoo.names())
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


def test_dense_pendulum_has_the_reference_sizes():
    run = load_run(zoo.find('pendulum_dense'))
    assert run.config.env.id == 'Pendulum-v1'
    assert count_parameters(run.agent.components) == 1_489_512
    assert len(run.agent.graph().free) == 12


@pytest.mark.parametrize('name', zoo.names())
def test_each_says_how_it_was_made_and_what_it_returns(name):
    facts = zoo.describe(name)
    command = facts['made by'].split()
    assert command[:3] == ['python', '-m', 'pruning_core']
    parser().parse_args(command[3:])
    assert facts['plant'] == load_run(zoo.find(name)).config.env.id
    assert 'seeds' in facts['return, planned'] and Path(facts['report']).is_file()


def test_a_pruned_agent_says_what_it_was_cut_from(copied, monkeypatch):
    (copied / 'lineage.json').write_text('{"parent": "some_dense"}')
    monkeypatch.setattr(zoo, 'ROOT', copied.parent)
    facts = zoo.describe('agent')
    assert facts['cut from'] == 'some_dense' and 'made by' not in facts


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
