# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What a study may be asked for, and what it says when its trials fail or their inputs change."""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass

import pytest
from toy_trials import Given, toy

from pruning_core import images
from pruning_core.errors import ConfigError, JobError
from pruning_core.progress import silent
from pruning_core.studies import NAMES, find, latent, stability
from pruning_core.studies.runner import Trial, run_trials
from pruning_core.studies.study import KNOWN, RANGES, Asked, Study, run_study, settings_from


@pytest.mark.parametrize('name', NAMES)
def test_every_number_and_every_list_of_names_has_its_range(name):
    start = find(name).settings()
    for field in dataclasses.fields(start):
        value = getattr(start, field.name)
        each = value if isinstance(value, tuple) else (value,)
        if all(type(v) in (int, float) for v in each):
            assert field.name in RANGES, f'{name}.{field.name}'
        elif isinstance(value, tuple) and field.name not in ('configs', 'agent'):
            assert field.name in KNOWN, f'{name}.{field.name}'


@pytest.mark.parametrize(('study', 'override', 'said'), [
    ('latent', 'seeds=-2', ('-2 is out of range', '0 or more')),
    ('latent', 'latents=[]', ('it is empty', '1 or more values')),
    ('latent', 'latents=[8, 8]', ('a value stands twice', 'each value once')),
    ('latent', 'latents=["a"]', ('a str', 'a int')),
    ('latent', 'latents=8', ('a int', 'a list')),
    ('latent', 'recovery_epochs=-1', ('-1 is out of range', '0 or more')),
    ('latent', 'shares=[0.5, 1.0]', ('1.0 is out of range', 'more than 0, less than 1')),
    ('timing', 'share=-1.0', ('-1.0 is out of range', 'more than 0, less than 1')),
    ('timing', 'ways=["onse"]', ("'onse' is not known", 'once, steps')),
    ('ema', 'window=0', ('0 is out of range', '1 or more')),
    ('ema', 'gammas=[1.0]', ('1.0 is out of range', '0 or more, less than 1')),
    ('ema', 'epochs=.nan', ('a float', 'a int')),
    ('schedule', 'periods=0', ('0.0 is out of range', '1 or more')),
    ('schedule', 'strength=.inf', ('inf is out of range', '0 or more')),
    ('schedule', 'schedules=["cosin"]', ("'cosin' is not known", "did you mean 'cosine'?")),
    ('scores', 'scores=["gradeint"]', ("'gradeint' is not known", "did you mean 'gradient'?")),
    ('scores', 'episodes=0', ('0 is out of range', '1 or more')),
    ('scores', 'coupling_share=1.5', ('1.5 is out of range', '0 or more, 1 at most')),
    ('coupling', 'sparsities=[1.0]', ('1.0 is out of range', 'less than 1')),
    ('stability', 'cells=[0, 3]', ('0 is out of range', '1 or more'))])
def test_settings_that_no_trial_could_use_are_refused(study, override, said, four_parts):
    with pytest.raises(ConfigError) as error:
        settings_from(find(study), Asked(overrides=[f'{study}.{override}']))
    four_parts(error, f"{study}.{override.partition('=')[0]}", *said)


def test_widths_may_repeat():
    asked = Asked(overrides=['latent.hidden=[64, 64]'])
    assert settings_from(find('latent'), asked).hidden == (64, 64)


def test_a_study_of_nothing_is_refused(here, tmp_path, four_parts):
    asked = Asked(overrides=['latent.seeds=0'], work=tmp_path)
    with pytest.raises(ConfigError) as error:
        run_study(find('latent'), settings_from(find('latent'), asked), asked, here)
    four_parts(error, "study 'latent'", 'no trial')
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Settings:
    """Of the toy study: which of its trials fail."""

    fails: tuple[int, ...] = ()


def toy_study(**changes):
    def trials(settings, folder):
        return [Trial(f'{folder}/t{i}', toy, Given(i, fails=i in settings.fails))
                for i in range(3)]

    known = {'name': 'toy', 'question': 'why?', 'settings': Settings, 'quick': {}, 'cost': '',
             'trials': trials, 'draw': lambda result: {'toy.svg': '<svg/>', 'none.svg': ''},
             'summarise': lambda settings, results: {'mean': sum(
                 r['square'] for r in results.values()) / len(results), 'claims': {}},
             'tell': lambda result: {'mean': result['mean']}}
    return Study(**{**known, **changes})


def broken(*_):
    raise ZeroDivisionError('of what the study made')


def test_failed_trials_are_told_of_and_what_the_others_found_is_kept(here, tmp_path, four_parts):
    asked = Asked(work=tmp_path)
    with pytest.raises(JobError) as error:
        run_study(toy_study(), Settings(fails=(1,)), asked, here)
    result = tmp_path / 'toy' / 'toy.json'
    four_parts(error, "study 'toy'", '1 of 3 trials failed', 'as it was told', str(result))
    assert json.loads(result.read_text())['mean'] == 2.0
    assert (tmp_path / 'toy' / 'toy.svg').is_file()
    assert not (tmp_path / 'toy' / 'none.svg').exists(), 'nothing was to be drawn'


@pytest.mark.parametrize('part', ['summarise', 'draw', 'tell'])
def test_no_other_error_hides_those_that_failed(part, here, tmp_path):
    """And a result is named only where there is one."""
    with pytest.raises(JobError, match='1 of 3 trials failed') as error:
        run_study(toy_study(**{part: broken}), Settings(fails=(1,)), Asked(work=tmp_path), here)
    there = (tmp_path / 'toy' / 'toy.json').is_file()
    assert there is (part != 'summarise') is ('toy.json' in str(error.value))
    with pytest.raises(ZeroDivisionError):  # with nothing failed it is the error
        run_study(toy_study(**{part: broken}), Settings(), Asked(work=tmp_path / 'b'), here)


def test_where_all_trials_failed_no_result_is_named(here, tmp_path):
    with pytest.raises(JobError, match='3 of 3 trials failed') as error:
        run_study(toy_study(), Settings(fails=(0, 1, 2)), Asked(work=tmp_path), here)
    assert 'toy.json' not in str(error.value) and not (tmp_path / 'toy' / 'toy.json').exists()


def test_two_trials_of_one_name_are_refused(here, tmp_path, four_parts):
    with pytest.raises(ConfigError) as error:
        run_trials([Trial('a', toy, Given(1)), Trial('a', toy, Given(1))], tmp_path, here, silent)
    four_parts(error, "trial 'a'", 'two trials go by that name')
    assert not (tmp_path / 'a').exists()


def idx(folder, values):
    (folder / 't10k-images-idx3-ubyte').write_bytes(
        struct.pack('>4I', 0x803, len(values) // 4, 2, 2) + bytes(values))


@pytest.mark.parametrize('name', ['latent', 'ema', 'schedule', 'timing'])
def test_other_images_in_the_same_folder_are_other_trials(name, here, tmp_path, four_parts):
    study = find(name)
    given = {'data': str(tmp_path), 'config': ''}
    settings = dataclasses.replace(study.settings(), **{
        k: v for k, v in given.items() if k in study.settings.__dataclass_fields__})
    idx(tmp_path, range(80))
    first = study.trials(settings, name)
    assert [t.settings() for t in study.trials(settings, name)] == [t.settings() for t in first]
    idx(tmp_path, range(1, 81))
    assert not any(a.settings() == b.settings()
                   for a, b in zip(first, study.trials(settings, name), strict=True))
    (tmp_path / 't10k-images-idx3-ubyte').unlink()
    with pytest.raises(ConfigError) as error:  # before anything is begun
        study.trials(settings, name)
    four_parts(error, 'there are none')


def test_the_digest_is_of_names_and_content(tmp_path):
    assert images.digest('') == ''
    idx(tmp_path, range(80))
    one = images.digest(tmp_path)
    (tmp_path / 't10k-images-idx3-ubyte').rename(tmp_path / 'train-images-idx3-ubyte')
    assert images.digest(tmp_path) not in (one, '')


def test_another_agent_in_the_same_folder_is_another_row(trained, tmp_path):
    import shutil

    from pruning_core.checkpoint import load_run, save_run
    folder = tmp_path / 'mine' / 'agent'
    shutil.copytree(trained, folder)
    settings = stability.Settings(agent=(str(folder),), sparsities=(0.0, 0.5))
    before = {t.name: t.settings() for t in stability.trials(settings, 'stability')}
    assert {name.split('/')[1] for name in before} == {'mine'}, 'not that all are called agent'
    run = load_run(folder)
    next(run.agent.components.parameters()).data += 1.0
    save_run(folder, run.config, run.agent, run.importance, run.replay)
    after = {t.name: t.settings() for t in stability.trials(settings, 'stability')}
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_a_latent_of_the_settings_is_that_of_the_trials():
    trials = latent.trials(latent.Settings(latents=(3, 5), seeds=2), 'x')
    assert [t.name for t in trials] == ['x/d3_s0', 'x/d5_s0', 'x/d3_s1', 'x/d5_s1']
    assert [t.config.autoencoder.latent for t in trials] == [3, 5, 3, 5]
