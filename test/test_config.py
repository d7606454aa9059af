# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""YAML in, frozen dataclasses out; whatever is wrong is said, with a suggestion."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pruning_core import config
from pruning_core.config import Config, PlannerConfig
from pruning_core.errors import ConfigError

SHIPPED = sorted((Path(__file__).parent.parent / 'config').glob('pendulum*.yaml'))
SECTIONS = [f.name for f in dataclasses.fields(Config)]


def test_defaults_are_the_empty_file(tmp_path):
    (tmp_path / 'empty.yaml').write_text('')
    assert config.load(tmp_path / 'empty.yaml') == Config()


@pytest.mark.parametrize('path', SHIPPED, ids=lambda p: p.name)
def test_shipped_files_load_and_round_trip(path, tmp_path):
    loaded = config.load(path)
    config.dump(loaded, tmp_path / 'resolved.yaml')
    assert config.load(tmp_path / 'resolved.yaml') == loaded
    assert loaded.env.id == yaml.safe_load(path.read_text())['env']['id']


def test_resolved_file_states_every_setting(tmp_path):
    config.dump(Config(), tmp_path / 'c.yaml')
    written = yaml.safe_load((tmp_path / 'c.yaml').read_text())
    assert {s: set(v) for s, v in written.items()} == {
        s: {f.name for f in dataclasses.fields(getattr(Config(), s))} for s in SECTIONS}


@pytest.mark.parametrize('section', SECTIONS)
def test_nobody_writes_to_a_config(section):
    part = getattr(Config(), section)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(part, dataclasses.fields(part)[0].name, None)


@pytest.mark.parametrize(('text', 'section', 'key', 'value'), [
    ('agent.learning_rate=1e-3', 'agent', 'learning_rate', 1e-3),  # a string in YAML 1.1
    ('agent.learning_rate=1', 'agent', 'learning_rate', 1.0),
    ('pruning.sparsity=0', 'pruning', 'sparsity', 0.0),
    ('env.id=my.module:Plant', 'env', 'id', 'my.module:Plant'),
    ('env.id=a=b', 'env', 'id', 'a=b'),
    ('network.hidden=32', 'network', 'hidden', 32),
])
def test_override(text, section, key, value, tmp_path):
    (tmp_path / 'c.yaml').write_text('agent:\n  horizon: 4\n')
    loaded = config.load(tmp_path / 'c.yaml', [text])
    found = getattr(getattr(loaded, section), key)
    assert (found, type(found)) == (value, type(value))
    assert loaded.agent.horizon == 4


def test_override_leaves_its_source_alone():
    values = {'agent': {'horizon': 4}}
    assert config.override(values, ['agent.horizon=5', 'env.id=X']) == {
        'agent': {'horizon': 5}, 'env': {'id': 'X'}}
    assert values == {'agent': {'horizon': 4}}


@pytest.mark.parametrize(('values', 'said'), [
    ({'pruning': {'sparsty': 0.5}}, ["'pruning.sparsty'", "did you mean 'sparsity'?"]),
    ({'prunning': {}}, ["'prunning'", "did you mean 'pruning'?"]),
    ({'pruning': {'sparsity': 1.5}}, ["'pruning.sparsity' was set to 1.5", 'below 1']),
    ({'pruning': {'sparsity': 1.0}}, ['1.0']),
    ({'pruning': {'sparsity': -0.1}}, ['-0.1']),
    ({'pruning': {'sparsity': 'nan'}}, ['nan']),
    ({'pruning': {'score': 'fischer'}}, ["did you mean 'fisher'?", 'bayesian']),
    ({'pruning': {'allocation': 'unifrom'}}, ["did you mean 'uniform'?"]),
    ({'pruning': {'coupling_share': 1.1}}, ['pruning.coupling_share']),
    ({'network': {'activation': 'rellu'}}, ["did you mean 'relu'?"]),
    ({'network': {'hidden': 0}}, ['network.hidden']),
    ({'network': {'hidden': 16.5}}, ['a float', 'a int']),
    ({'network': {'hidden': True}}, ['a bool']),
    ({'network': {'hidden': 'wide'}}, ["'wide'"]),
    ({'agent': {'discount': 1.0}}, ['agent.discount']),
    ({'agent': {'tau': 0}}, ['agent.tau']),
    ({'agent': {'learning_rate': 'fast'}}, ["'fast'", 'a float']),
    ({'planner': {'elites': 600}}, ['planner.elites', 'samples + policy_samples']),
    ({'planner': {'min_std': 3.0}}, ['planner.min_std']),
    ({'planner': {'pushes': -1}}, ['planner.pushes', 'from 0 to 16']),
    ({'planner': {'pushes': 17}}, ['planner.pushes', 'from 0 to 16']),
    ({'planner': {'pushes': [1, 2]}}, ['planner.pushes']),
    ({'planner': {'push_margin': -0.1}}, ['planner.push_margin', '0 or more']),
    ({'planner': {'policy_margin': -0.1}}, ['planner.policy_margin', '0 or more']),
    ({'training': {'random_episodes': 31}}, ['training.random_episodes']),
    ({'training': {'checkpoint_every': 0}}, ['training.checkpoint_every']),
    ({'training': {'seed': -1}}, ['training.seed']),
    ({'importance': {'gamma': 1.0}}, ['importance.gamma']),
    ({'env': {'reward_scale': 0.0}}, ['env.reward_scale']),
    ({'env': {'period_s': 'nan'}}, ['env.period_s']),
    ({'agent': 3}, ["section 'agent'", 'a mapping']),
    (['agent'], ["section 'top level'", 'a list']),
])
def test_wrong_values_are_refused(values, said, four_parts):
    with pytest.raises(ConfigError) as error:
        config.from_dict(values)
    four_parts(error, *said)


def test_data_is_collected_by_the_plain_planner():
    given = config.from_dict({
        'planner': {'pushes': 3, 'policy_margin': 0.1, 'samples': 100},
        'training': {'collect_samples': 50, 'collect_iterations': 1}})
    planner = given.collecting_planner()
    assert (planner.pushes, planner.samples, planner.iterations) == (0, 50, 1)
    assert planner.policy_margin == 0
    assert planner.temperature == given.planner.temperature
    assert given.with_plain_planner() == config.from_dict({
        'planner': {'samples': 100},
        'training': {'collect_samples': 50, 'collect_iterations': 1}})


@pytest.mark.parametrize('text', ['pruning.sparsity', 'sparsity=0.5', '=3', '.a=3', 'a.=3',
                                  'pruning.sparsity=[', 'pruning.sparsity=: :'])
def test_overrides_of_another_form_are_refused(text, four_parts):
    with pytest.raises(ConfigError) as error:
        config.from_dict(config.override({}, [text]))
    four_parts(error, 'sparsity' if 'sparsity' in text else text)


@pytest.mark.parametrize(('content', 'said'), [
    (None, ['there is no such file', 'other.yaml']),
    (b'a: [', ['it cannot be read']),
    (b'\xff\xfe\x00', ['it cannot be read']),
    (b'- agent\n', ['a list', 'a mapping']),
])
@pytest.mark.parametrize('overrides', [[], ['agent.horizon=2']], ids=['plain', 'override'])
def test_files_that_cannot_be_read(content, said, overrides, tmp_path, four_parts):
    (tmp_path / 'other.yaml').write_text('')
    if content is not None:
        (tmp_path / 'c.yaml').write_bytes(content)
    with pytest.raises(ConfigError) as error:
        config.load(tmp_path / 'c.yaml', overrides)
    four_parts(error, *said)


def test_smaller_planner_keeps_the_shares():
    """The same elites and policy plans per sample; 0 keeps the number."""
    planner = PlannerConfig(samples=512, policy_samples=25, elites=64, iterations=6)
    half = planner.scaled(256, 0)
    assert (half.samples, half.policy_samples, half.elites, half.iterations) == (256, 12, 32, 6)
    one = planner.scaled(1, 1)
    assert (one.samples, one.policy_samples, one.elites, one.iterations) == (1, 1, 1, 1)
    assert planner.scaled(0, 0) == planner
    assert half.temperature == planner.temperature


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 80), st.integers(1, 100))
@example(samples=10, policy_samples=5, elites=15, asked=5)  # 2.5 rounds down, 7.5 up
def test_any_budget_is_a_planner(samples, policy_samples, elites, asked):
    """Rounding the shares never asks for more elites than there are plans."""
    planner = PlannerConfig(samples=samples, policy_samples=policy_samples,
                            elites=min(elites, samples + policy_samples))
    smaller = planner.scaled(asked, 1)
    assert 1 <= smaller.elites <= smaller.samples + smaller.policy_samples
