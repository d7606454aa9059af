# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Two run folders on one page say what each folder says; other folders are answered in words."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from pruning_core.checkpoint import (
    AGENT,
    CONFIG,
    EVALUATION,
    load_run,
    save_run,
    write_json,
)
from pruning_core.comparison import write_comparison
from pruning_core.errors import AgentError
from pruning_core.pruner import prune


def evaluation(mean):
    return {'gate': {'seeds': [0, 1], 'mean': mean, 'low': mean - 5, 'high': mean + 5,
                     'worst': mean - 9, 'returns': [mean - 9, mean + 9]}}


@pytest.fixture(scope='module')
def folders(trained, tmp_path_factory):
    """The trained agent, and a third and two thirds of it."""
    top = tmp_path_factory.mktemp('compared')
    made = [shutil.copytree(trained, top / 'dense')]
    for name, share in (('some', 0.3), ('much', 0.6)):
        run = load_run(trained)
        settings = run.config.pruning.__class__(**{**vars(run.config.pruning), 'sparsity': share})
        made.append(prune(run, settings, top / name).folder)
    for folder, mean in zip(made, (-100.5, -120.5, -140.5), strict=True):
        write_json(folder / EVALUATION, evaluation(mean))
    return made


def rows(page):
    """Cells of every table row, by its first cell."""
    text = page.read_text('utf-8')
    found = [re.findall(r'<t[dh][^>]*>(.*?)</t[dh]>', row) for row in re.findall(
        r'<tr>(.*?)</tr>', text)]
    return {cells[0]: cells[1:] for cells in found}


def test_every_folder_is_a_column(folders, tmp_path):
    table = rows(write_comparison(folders, tmp_path / 'new' / 'page.html'))
    assert table['gate: mean return'] == ['-100.5', '-120.5', '-140.5']
    assert table['gate: 95 % interval'][2] == '-145.5 to -135.5'
    parameters = [int(value.replace(',', '')) for value in table['parameters']]
    assert parameters[0] == 2384 and parameters[0] > parameters[1] > parameters[2]
    removed = 1 - parameters[2] / parameters[0]
    assert table['parameters removed'] == ['-', table['parameters removed'][1], f'{removed:.1%}']


def test_the_dense_agent_is_shown_by_what_the_gate_measured_of_it(folders, tmp_path):
    """On the seeds of the gate; what training ended with is of others."""
    dense, some, _ = (shutil.copytree(f, tmp_path / f.name) for f in folders)
    trained_with = {'seeds': [7, 8, 9], 'mean': -1.5, 'low': -2, 'high': -1, 'worst': -2,
                    'returns': [-1, -1.5, -2]}
    write_json(dense / EVALUATION, {'planned': trained_with})
    write_json(some / EVALUATION, {**evaluation(-120.5), 'dense': evaluation(-100.5)['gate']})
    page = write_comparison([dense, some], tmp_path / 'page.html')
    table = rows(page)
    assert table['gate: mean return'] == ['-100.5', '-120.5']
    assert table['planned: mean return'] == ['-1.5', '-']
    assert 'on the same 2 seeds' in page.read_text()

    run = load_run(dense)  # another agent of the same widths is not the one that was cut
    next(run.agent.components.parameters()).data += 1.0
    save_run(tmp_path / 'other', run.config, run.agent, run.importance, None)
    write_json(tmp_path / 'other' / EVALUATION, {'planned': trained_with})
    page = write_comparison([tmp_path / 'other', some], tmp_path / 'page.html')
    assert rows(page)['gate: mean return'] == ['-', '-120.5']

    write_json(some / EVALUATION, evaluation(-120.5))  # and nothing of the dense one
    page = write_comparison([dense, some], tmp_path / 'page.html')
    assert rows(page)['gate: mean return'] == ['-', '-120.5']
    assert 'of different seeds' in page.read_text() and 'same 2 seeds' not in page.read_text()


def test_returns_on_different_plants_are_not_drawn_together(folders, tmp_path):
    dense, some, _ = (shutil.copytree(f, tmp_path / f.name) for f in folders)
    config = (some / CONFIG).read_text()
    (some / CONFIG).write_text(config.replace('id: Pendulum-v1', 'id: arm:Arm'))
    page = write_comparison([dense, some], tmp_path / 'page.html').read_text()
    assert 'different plants' in page and 'on the same 2 seeds' not in page


def test_groups_and_settings_stand_side_by_side(folders, tmp_path):
    table = rows(write_comparison(folders[1:], tmp_path / 'page.html'))
    assert table['pruning.sparsity'] == ['0.3', '0.6']
    assert 'training.seed' not in table, 'it is the same in both'
    kept = [json.loads((folder / 'plan.json').read_text()) for folder in folders[1:]]
    for group, units in kept[0]['sizes'].items():
        left = [units - len(plan['removed'].get(group, ())) for plan in kept]
        assert table[group] == [f'{n} of {units}' for n in left]


@pytest.mark.parametrize('make, words', [
    (lambda f, t: [f[0]], 'two or more'),
    (lambda f, t: [f[0], t / 'nowhere'], 'not there'),
    (lambda f, t: [f[0], t], 'no run folder'),
    (lambda f, t: [f[0], damaged(f[1], t / 'a', CONFIG)], 'damaged'),
    (lambda f, t: [f[0], damaged(f[1], t / 'b', AGENT)], 'cannot be'),
])
def test_what_cannot_be_compared(folders, tmp_path, make, words, four_parts):
    page = tmp_path / 'page.html'
    with pytest.raises(AgentError, match=words) as error:
        write_comparison(make(folders, tmp_path), page)
    four_parts(error)
    assert not page.exists()


def damaged(folder, copy, name):
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(b'\xff\xfe: [')
    return copy
