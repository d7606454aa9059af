# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Pages and pictures say what the files say; damaged folders are answered in words."""

import dataclasses
import html
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pruning_core import figures
from pruning_core.doctor import examine
from pruning_core.errors import AgentError
from pruning_core.importance.crossovers import crossovers
from pruning_core.importance.history import HISTORY, read_history
from pruning_core.report import draw_training, text_table, write_report


def side(**changes):
    return {'hash': 'd' * 64, 'parameters': 1000, 'macs': 5_000_000, 'samples': 512,
            'iterations': 6, 'bytes': 4000, 'ticks': 40, 'missed': 160, 'modes': {'planning': 40},
            'latency': {'count': 40, 'p50_s': 0.25, 'p90_s': 0.26, 'p99_s': 0.3, 'max_s': 0.3},
            'returns': [-400.0, -600.0], **changes}


@pytest.fixture
def result():
    pruned = side(hash='a' * 64, parameters=50, macs=250_000, ticks=200, missed=0,
                  latency={'count': 200, 'p50_s': 0.01, 'p90_s': 0.01, 'p99_s': 0.0125,
                           'max_s': 0.02}, returns=[-120.0, -140.0])
    return {'kind': 'demo', 'command': 'make demo ARGS="--seed <3>"', 'env_id': 'Pendulum-v1',
            'period_s': 0.05, 'seeds': [0, 1], 'seconds': 60.0,
            'machine': {'cpu': 'A & B', 'cores': 2}, 'versions': {'python': '3.11'},
            'events': [{'t': 1.0, 'what': 'dense runs'}, {'t': 30.0, 'what': 'swapped in'},
                       {'t': 60.0, 'what': 'done'}],
            'ticks': [{'t': float(t), 'latency_s': 0.25, 'lateness_s': 0.0, 'reward': -1.0,
                       'stability': math.nan if t < 5 else 0.5,
                       'model': 'd' * 16 if t < 30 else 'a' * 16} for t in range(1, 60)],
            'rewards': [{'t': float(t), 'reward': -1.0} for t in range(1, 60)],
            'dense': side(), 'pruned': pruned}


def test_the_table_has_every_figure_and_the_factor(result):
    table = text_table(result).splitlines()
    assert table[0].split() == ['dense', 'pruned']

    def row(name):
        return next(line for line in table if line.startswith(name))[len(name):].split()

    assert row('parameters') == ['1,000', '50', '20.0', 'x']
    assert row('plan latency, 99 %') == ['300.0', 'ms', '12.5', 'ms', '24.0', 'x']
    assert row('deadlines missed') == ['160', 'of', '200', '0', 'of', '200']
    assert row('return, seed 1') == ['-600.0', '-140.0']
    assert row('return, mean') == ['-500.0', '-130.0']


def test_of_events_that_follow_each_other_the_later_one_is_named(result):
    """The swap comes half a second after the gates, and is what the picture is about."""
    events = result['events']
    result['events'] = [events[0], {'t': 29.5, 'what': 'gates passed, bundle published'},
                        *events[1:]]
    drawn = figures.timeline(result)
    named = [what for what in ('dense runs', 'gates passed', 'swapped in', 'done')
             if what in drawn]
    assert named == ['dense runs', 'swapped in']


def test_a_run_cut_off_before_the_swap_still_has_a_page(result, tmp_path):
    del result['pruned']
    (tmp_path / 'result.json').write_text(json.dumps(result))
    page = write_report(tmp_path).read_text()
    assert 'ended before the pruned agent' in page


def test_a_run_cut_off_before_any_episode_still_has_a_page(result, tmp_path):
    result |= {'ticks': [], 'rewards': [], 'events': []}
    del result['pruned'], result['dense']
    (tmp_path / 'result.json').write_text(json.dumps(result))
    assert 'ended before the pruned agent' in write_report(tmp_path).read_text()


def test_one_agent_alone_has_a_page(result, tmp_path):
    result['alone'] = 'pruned'
    del result['dense']
    (tmp_path / 'result.json').write_text(json.dumps(result))
    page = write_report(tmp_path).read_text()
    assert 'ended before' not in page and 'against' not in page.split('</h1>')[0]
    assert f"{result['pruned']['parameters']:,} parameters. A plan takes" in page


def test_the_page_of_the_demo_is_whole_and_escaped(result, tmp_path):
    (tmp_path / 'result.json').write_text(json.dumps(result))
    page = write_report(tmp_path).read_text()
    assert '95% of the parameters are gone' in page
    assert 'A &amp; B' in page and '--seed &lt;3&gt;' in page
    assert page.count('<svg') == 4, 'returns, latency, and the timeline for two widths'
    assert ElementTree.parse(tmp_path / 'picture.svg') is not None


GATES = {
    'return': {'dense': -100.0, 'pruned': -105.0, 'difference': -5.0, 'low': -9.0, 'high': -1.0,
               'loss': 0.05, 'allowed_loss': 0.1, 'seeds': 20},
    'latency': {'p50_s': 0.004, 'p99_s': 0.009, 'period_s': 0.05, 'allowed_share': 1.0,
                'allowed_p50_s': 0.005},
    'stability': {'violations': 1, 'states': 500, 'periods': 60, 'bound': 0.009, 'allowed': 0.01},
    'mask_equivalence': 1e-7, 'parity': 1e-6}


@pytest.mark.parametrize('section, key, value, gate', [
    ('', '', None, None), ('return', 'loss', 0.11, 'return, planned without a clock'),
    ('return', 'loss', math.nan, 'return, planned without a clock'),
    ('latency', 'p99_s', 0.051, 'latency'), ('latency', 'p50_s', 0.0051, 'budget'),
    ('stability', 'bound', 0.011, 'stability')])
def test_the_page_says_which_gate_failed(tmp_path, section, key, value, gate):
    gates = {k: dict(v) if isinstance(v, dict) else v for k, v in GATES.items()}
    if section:
        gates[section][key] = value
    plan = {'removed': {'q1.hidden1': [0, 2]}, 'sizes': {'q1.hidden1': 8}, 'requested': 8.0,
            'achieved': 7.5, 'budget': 'milliseconds', 'parameters': 100, 'parameters_left': 60,
            'skipped': [['q1.hidden1', 'floor 6']], 'allocation': 'uniform', 'score': 'l1'}
    (tmp_path / 'plan.json').write_text(json.dumps(plan))
    (tmp_path / 'metrics.jsonl').write_text(json.dumps(
        {'event': 'pruned', 'gates': gates, 'failed': ['it was'] if gate else []}) + '\n')
    page = write_report(tmp_path).read_text()
    rows = re.findall(r'<tr><td>([^<]*)</td>.*?<span class="(pass|fail)">', page)
    assert len(rows) == 6
    assert [name for name, verdict in rows if verdict == 'fail'] == ([gate] if gate else [])
    assert ('Refused: it was' in page) == bool(gate)
    for words in ('40.0%', '8.0 ms', '7.5 ms', 'floor 6', 'ranked by l1'):
        assert words in page


def test_pictures_of_others_are_shown_without_their_scripts(tmp_path, result):
    (tmp_path / 'result.json').write_text(json.dumps(result))
    (tmp_path / 'region_map.svg').write_text('<svg><script>alert(1)</script></svg>')
    page = write_report(tmp_path).read_text()
    assert '<script' not in page
    assert re.search(r'<img alt="region map" src="data:image/svg\+xml;base64,', page)


def test_a_training_run_has_a_curve_and_a_page(trained, tmp_path):
    for name in ('metrics.jsonl', 'config.yaml'):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    curve = draw_training(tmp_path)
    assert curve.name == 'learning_curve.svg' and 'encoder.hidden1' in curve.read_text()
    assert 'episodes' in write_report(tmp_path).read_text()


def test_importance_is_drawn_and_examined_where_it_was_recorded(trained, tmp_path):
    for name in ('metrics.jsonl', 'config.yaml', HISTORY):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    draw_training(tmp_path)
    curves = (tmp_path / 'importance.svg').read_text()
    met = [len(crossovers(h.updates, v, h.groups)) for h in [read_history(tmp_path / HISTORY)]
           for v in h.signals.values()]
    for signal, count in zip(('Gradient', 'Fisher', 'Bayesian'), met, strict=True):
        assert f'{signal}: {count} lasting crossovers' in curves
    for words in ('dynamics.hidden2', 'encoder-&gt;policy', 'Sparsity pressure', 'Norm, as a'):
        assert words in curves, words
    page = write_report(tmp_path).read_text()
    for fact in examine(tmp_path).facts:
        assert html.escape(fact) in page


def test_curves_without_pressure_have_no_rows_for_it(trained):
    history = read_history(trained / HISTORY)
    nothing = np.zeros_like(history.pressure)
    picture = figures.importance(dataclasses.replace(history, pressure=nothing))
    assert 'Sparsity pressure' not in picture and 'Bayesian' in picture
    empty = {f.name: value[:0] for f in dataclasses.fields(history)
             if isinstance(value := getattr(history, f.name), np.ndarray)}
    signals = {s: v[:0] for s, v in history.signals.items()}
    views = {s: v[:0] for s, v in history.view_signals.items()}
    assert 'Gradient: 0 lasting' in figures.importance(
        dataclasses.replace(history, signals=signals, view_signals=views, **empty))


def test_the_same_run_gives_the_same_picture(trained, tmp_path):
    for name in ('metrics.jsonl', HISTORY):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    first = draw_training(tmp_path).read_bytes(), (tmp_path / 'importance.svg').read_bytes()
    assert draw_training(tmp_path).read_bytes() == first[0]
    assert (tmp_path / 'importance.svg').read_bytes() == first[1]


@pytest.mark.parametrize('name, content, words', [
    (None, '', 'none of result.json'),
    ('result.json', '{"kind": ', 'damaged'),
    ('result.json', '[1]', 'a list'),
    ('metrics.jsonl', '', 'no episodes'),
])
def test_a_folder_without_a_report_is_answered_in_words(tmp_path, name, content, words):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(AgentError, match=words):
        write_report(tmp_path)
    assert not (tmp_path / 'report.html').exists()
