# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The study on a tiny agent: whole, resumable, honest about what is missing; and the commands."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pruning_core.cli import DONE, FAILED
from pruning_core.errors import ConfigError
from pruning_core.studies import stability as study_module
from pruning_core.studies.runner import run_trials
from pruning_core.studies.stability import STUDY, Settings, claims, largest_safe, table
from pruning_core.studies.study import Asked, run_study, settings_from

SMALL = {'sparsities': (0.5, 0.0), 'samples': 8, 'iterations': 1, 'cells': (2, 3),
         'local_states': 4, 'delay_states': 3, 'delays': (0, 1), 'periods': 22, 'episodes': 1,
         'recovery_updates': 2}


@pytest.fixture(scope='module')
def study(trained, here):
    """Run a study of the tiny agent in this process, and return its result."""
    def of(work, **changes):
        settings = Settings(**{**SMALL, 'agent': (str(trained),), **changes})
        run_study(STUDY, settings, Asked(work=work), here)
        return json.loads((work / 'stability' / 'stability.json').read_text())

    return of


@pytest.fixture(scope='module')
def done(study, tmp_path_factory):
    """A whole study, and the folder it was made in."""
    folder = tmp_path_factory.mktemp('study')
    return study(folder), folder


def test_rows_are_those_that_were_asked_for(done):
    result, _ = done
    assert [(r['sparsity'], r['score']) for r in result['rows']] == [
        (0.5, 'task'), (0.5, 'stability-aware'), (0.0, 'task')]
    for row in result['rows']:
        assert np.shape(row['region']['success']) == (2, 3)
        assert row['achieved'] >= row['sparsity']
        assert row['latency']['delay'] == row['latency']['p50_s'] // 0.05
        assert (row['latency']['samples'], row['latency']['iterations']) == (16, 2)
    assert [(t['sparsity'], t['agents']) for t in result['table']] == [
        (0.0, 1), (0.0, 1), (0.5, 1), (0.5, 1)]
    assert result['largest_safe_sparsity'].keys() == {'task', 'stability-aware'}


def test_an_interrupted_study_goes_on_where_it_stopped(done, study, tmp_path, monkeypatch):
    """Struck in the middle of an agent: what was measured is not measured again."""
    result, calls, check = json.loads(json.dumps(done[0])), [], study_module.check

    def strike(*arguments, **facts):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return check(*arguments, **facts)

    monkeypatch.setattr(study_module, 'check', strike)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('agent.safetensors')}
    kept = {p for p in tmp_path.rglob('parts.json') if 'region' in json.loads(p.read_text())}
    regions, region_map = [], study_module.region_map
    monkeypatch.setattr(study_module, 'region_map', lambda *a: regions.append(a) or region_map(*a))
    again = study(tmp_path)
    assert len(regions) == 3 - len(kept) < 3
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    for found in (*again['rows'], *result['rows']):
        del found['latency']  # what the clock says differs
    assert again['rows'] == result['rows']


def test_a_folder_keeps_to_its_settings(done, study, four_parts):
    result, folder = done
    with pytest.raises(ConfigError) as error:
        study(folder, periods=23)
    four_parts(error, 'other settings', 'periods')
    fewer = study(folder, sparsities=(0.0,))
    assert fewer['rows'] == result['rows'][2:]
    with pytest.raises(ConfigError) as error:
        study(folder, agent=())
    four_parts(error, 'no agents')


def test_what_is_published(done):
    result, folder = done
    assert result['command'].startswith('python -m pruning_core study stability')
    assert (result['quick'], result['failed'], result['trials']) == (False, {}, 6)
    for name in ('stability_maps.svg', 'stability_table.svg'):
        assert '<svg' in (folder / 'stability' / name).read_text()
    assert '50% stability-aware' in STUDY.tell(result)


def row(sparsity, bound, agent='a', score='task', value=1.0):
    decrease = {'bound': bound, 'share': 0.0, 'margin': None}
    return {'sparsity': sparsity, 'score': score, 'agent': agent, 'return': {'mean': value},
            'latency': {'p50_s': 0.01, 'delay': 0},
            'region': {'decrease': decrease, 'area': 1.0}, 'local': {'bound': 0, 'margin': 0},
            'delay 0': {'what': 'delay', 'value': 0, 'states': 20, 'reached': 20, 'low': 0.9},
            'delay 1': {'what': 'delay', 'value': 1, 'states': 20, 'reached': 3, 'low': 0.0}}


@pytest.mark.parametrize(('bounds', 'largest'), [
    ((0.01, 0.02, 0.03), 0.9), ((0.01, 0.2, 0.03), 0.0), ((0.2, 0.0, 0.0), None)])
def test_largest_safe_sparsity_needs_every_smaller_one(bounds, largest):
    rows = [row(s, b) for s, b in zip((0.0, 0.5, 0.9), bounds, strict=True)]
    assert largest_safe(rows, 'task') == largest


def test_one_agent_that_fails_counts():
    rows = [row(0.0, 0.01), row(0.0, 0.01, 'b'), row(0.5, 0.01), row(0.5, 0.3, 'b')]
    assert largest_safe(rows, 'task') == 0.0


def test_scores_are_compared_agent_by_agent():
    """What agents have in common says nothing of the scores; an agent without both is left out."""
    rows = []
    for number, agent in enumerate('abcd'):
        rows += [row(0.5, 0.0, agent, value=100.0 * number),
                 row(0.5, 0.0, agent, 'stability-aware', value=100.0 * number + 1)]
    rows.append(row(0.5, 0.0, 'alone', value=-1e6))
    found = claims([row(0.0, 0.0, 'a'), *rows])
    better = found['50% removed, stability-aware better than by the task: return']
    assert (better['value'], better['n'], better['verdict']) == (1.0, 4, 'holds')
    late = found['50% removed, stability-aware better than by the task: reached, 1 late']
    assert (late['value'], late['verdict']) == (0.0, 'not shown')
    assert not any(name.startswith('0%') for name in found)
    rows[0]['local']['margin'] = None  # V was not finite
    found = claims(rows)
    assert found['50% removed, stability-aware better than by the task: local margin']['n'] == 3
    both = claims([*rows, *({**r, 'sparsity': 0.975} for r in rows),
                   *({**r, 'sparsity': 0.98} for r in rows)])
    assert len(both) == 3 * len(found)


def test_table_has_students_interval():
    rows = [row(0.0, 0.0, a, value=v) for a, v in (('a', 1.0), ('b', 3.0))]
    line = table(rows)[0]
    assert (line['return'], line['delay margin'], line['agents']) == (2.0, 0.0, 2)
    assert (line['reached, 0 late'], line['reached, 1 late']) == (1.0, 0.15)
    assert line['return interval'] == pytest.approx([2 - 12.706, 2 + 12.706], abs=1e-3)


def test_the_policy_alone_without_times(trained, here, tmp_path):
    """No planner and no clock: two studies of the same agent are the same to the last digit."""
    settings = Settings(**{**SMALL, 'sparsities': (0.5,), 'policy': True, 'latency': False,
                           'agent': (str(trained),)})
    first, second = (
        STUDY.summarise(settings, run_trials(
            STUDY.trials(settings, 'stability'), tmp_path / n, here, lambda *a, **f: None).results)
        for n in 'ab')
    assert first == second
    assert 'latency' not in first['rows'][0] and 'planning p50 ms' not in first['table'][0]


def test_settings_of_the_command_line(four_parts):
    sets = ['stability.cells=[3, 4]', 'stability.periods=9']
    found = settings_from(STUDY, Asked(overrides=sets))
    assert found == Settings(cells=(3, 4), periods=9)
    quick = settings_from(STUDY, Asked(quick=True, overrides=['stability.policy=false']))
    assert quick == dataclasses.replace(Settings(**STUDY.quick), policy=False)
    for bad, said in ((['stability.cell=3'], 'cell'), (['pruning.seed=1'], 'pruning'),
                      (['stability.periods=long'], 'long')):
        with pytest.raises(ConfigError) as error:
            settings_from(STUDY, Asked(overrides=bad))
        four_parts(error, said)
    with pytest.raises(ConfigError) as error:
        settings_from(STUDY, Asked(given={'data': 'somewhere'}))
    four_parts(error, '--data')


def test_the_command(trained, tmp_path, main, capsys):
    """In processes of its own, as a user has it."""
    sets = [f'--set=stability.{k}={json.dumps(v)}' for k, v in SMALL.items()]
    assert main('study', 'stability', '--agent', trained, '--work', tmp_path / 'w', '--out',
                tmp_path / 'o', '--json', '--processes', '2', *sets) == DONE
    told = json.loads(capsys.readouterr().out)
    assert told['result'] == str(tmp_path / 'o' / 'stability.json')
    assert main('study', 'stability', '--set', 'stability.x=1') == FAILED


@pytest.mark.parametrize(('options', 'key'), [
    ((), 'reached the goal and stayed'), (('--near',), 'largest passing V'),
    (('--policy',), 'margin'),
    (('--policy', '--sweeps', '--states', 2, '--periods', 3), 'delay margin, periods'),
    (('--policy', '--bounds'), 'policy, Lipschitz'),
])
def test_stability_command(trained, main, capsys, tmp_path, options, key):
    assert main('stability', '--agent', trained, '--states', 6, '--periods', 22, '--samples', 8,
                '--iterations', 1, '--out', tmp_path, '--json', *options) == DONE
    facts = json.loads(capsys.readouterr().out)
    assert key in facts
    if '--sweeps' in options:
        assert 'mass 1.4' in facts and 'delay 2' in facts
    assert (tmp_path / 'stability_failures.csv').exists() == (facts['violations'] > 0)


def test_stability_near_tells_of_the_search_for_its_level(trained, main, capsys):
    assert main('stability', '--agent', trained, '--near', '--policy', '--states', 6,
                '--progress', 'json') == DONE
    *told, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(dict.fromkeys(line['phase'] for line in told)) == ['reference', 'stability']


def test_an_agent_against_itself(trained, main, capsys):
    assert main('stability', '--agent', trained, '--against', trained, '--states', 6, '--periods',
                4, '--policy', '--json') == DONE
    facts = json.loads(capsys.readouterr().out)
    assert facts['its violations'] == facts['violations'] > 0
    assert (facts['fails alone'], facts['the other alone']) == (0, 0)
    assert facts['95 % interval'] == [0, 0]


def test_stability_command_without_a_goal(trained, main, capsys, four_parts):
    """Episodes of twelve decisions have no window of twenty: said, not guessed."""
    assert main('stability', '--agent', trained, '--value', '--states', 1) == FAILED
    four_parts(capsys.readouterr().err.strip().partition(': ')[2], 'longer than 20 periods')
