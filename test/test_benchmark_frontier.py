# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/frontier.py: what is measured, how it is paired, and what is said of it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pruning_core import config as configuration
from pruning_core.checkpoint import CONFIG, load_run
from pruning_core.networks import count_parameters
from pruning_core.scratch import from_scratch
from pruning_core.shrinking import choose


@pytest.fixture(scope='module')
def frontier(load_benchmark):
    return load_benchmark('frontier')


@pytest.fixture
def two_agents(trained, tmp_path, frontier):
    """Two agent folders, and a function that puts down a cell of one of them."""
    agents = []
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
        for file in trained.iterdir():
            if file.is_file():
                (tmp_path / name / file.name).write_bytes(file.read_bytes())
        agents.append(str(tmp_path / name))

    def put(agent, removed, updates, way, planned, policy=None):
        frontier.place(tmp_path, agent, removed, updates, way).write_text(json.dumps(
            {'planned': planned, 'policy': policy or planned}))

    return agents, put


def test_every_row_has_every_way_and_scratch_where_there_are_updates(frontier):
    found = [c[1:4] for c in frontier.cells(['a', 'b'], ['a', 'b'])]
    assert len(found) == len({(c[0], *c[1:4]) for c in frontier.cells(['a', 'b'], ['a', 'b'])})
    for removed, updates in frontier.ROWS:
        ways = {way for r, u, way in found if (r, u) == (removed, updates)}
        assert ways >= {'ours', 'importance', 'l1', 'random'}
        assert ('scratch' in ways) == (updates > 0)


def test_losses_are_paired_seed_by_seed(frontier, two_agents, tmp_path):
    agents, put = two_agents
    put(agents[0], 0, 0, 'dense', [-100.0, -300.0, -200.0, -1000.0])
    put(agents[0], 95, 300, 'ours', [-110.0, -310.0, -190.0, -994.0])
    put(agents[0], 95, 300, 'l1', [-200.0, -600.0])  # fewer seeds: against the same of the dense
    loss, low, high = frontier.losses(tmp_path, agents[:1], 95, 300, 'ours', 'planned')
    assert loss == pytest.approx(0.25) and low < 0 < high  # 1 of 400
    assert frontier.losses(tmp_path, agents[:1], 95, 300, 'l1', 'planned')[0] == \
        pytest.approx(100.0)
    assert frontier.losses(tmp_path, agents[:1], 98, 1000, 'ours', 'planned') is None


def test_with_several_agents_the_interval_is_over_them(frontier, two_agents, tmp_path):
    agents, put = two_agents
    for agent, loss in zip(agents, (2.0, 4.0), strict=True):
        put(agent, 0, 0, 'dense', [-100.0, -100.0])
        put(agent, 99, 4000, 'ours', [-100.0 - loss] * 2, [-100.0] * 2)
    loss, low, high = frontier.losses(tmp_path, agents, 99, 4000, 'ours', 'planned')
    half = 12.706 * 1.0  # Student's t with one degree of freedom, standard error 1
    assert (loss, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half), rel=1e-3)
    found = frontier.result(tmp_path, agents)
    assert found['loss_percent'] == {'99:4000': pytest.approx(3.0)}
    assert found['policy_loss_percent'] == {'99:4000': 0.0}
    assert '3.0 / 0.0' in frontier.table(found)
    frontier.draw(found, tmp_path / 'picture.svg')
    assert (tmp_path / 'picture.svg').stat().st_size > 1000


def test_a_cell_from_the_cut_to_the_returns(frontier, trained):
    cell = frontier.measure(str(trained), 50, 2, 'ours', 2)
    dense = frontier.measure(str(trained), 0, 0, 'dense', 2)
    assert dense['removed'] == 0 and 0.45 < cell['removed'] < 1
    assert len(cell['planned']) == len(cell['policy']) == 2
    assert cell['planned'] != dense['planned']


def test_scratch_has_the_widths_and_nothing_else_of_the_agent(trained):
    run = load_run(trained)
    settings = run.config.pruning
    small = from_scratch(run, choose(run, settings), settings, 2)
    assert count_parameters(small.agent.components) < count_parameters(
        load_run(trained).agent.components)
    assert small.agent.updates == 2


def test_scores_of_torch_pruning(frontier, trained):
    pytest.importorskip('torch_pruning', reason='torch-pruning is not installed')
    agent = load_run(trained).agent
    scores = frontier.torch_pruning_scores(agent)
    assert {n: len(s) for n, s in scores.items()} == {g.name: g.size for g in agent.graph().free}
    assert all(np.isfinite(s).all() and (s > 0).all() for s in scores.values())


def test_agents_that_are_missing_are_trained_beside_the_cells_of_the_others(
        frontier, trained, tiny, tmp_path, monkeypatch):
    class Threads:
        def open(self):
            return ThreadPoolExecutor(2)

        def end(self, executor):
            executor.shutdown()

    configured = tmp_path / 'tiny.yaml'
    configuration.dump(tiny(), configured)
    monkeypatch.setattr(frontier, 'CONFIGURED', configured)
    agents = [str(trained), str(tmp_path / 'dense_3')]
    assert frontier.to_train(agents) == agents[1:]
    cells = [(agent, *row, 2) for agent in agents
             for row in ((0, 0, 'dense'), (50, 0, 'ours'), (99, 1, 'ours'))]
    frontier.fill(tmp_path, cells, Threads(), agents[1:])
    assert frontier.to_train(agents) == []
    assert configuration.load(tmp_path / 'dense_3' / CONFIG).training.seed == 3
    there = {c for c in cells if frontier.place(tmp_path, *c[:4]).is_file()}
    assert there == {c for c in cells if c[1] != 99}  # such small agents have no room for it
    found = [json.loads(frontier.place(tmp_path, a, 0, 0, 'dense').read_text())['planned']
             for a in agents]
    assert found[0] != found[1]
