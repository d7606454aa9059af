# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Training that is killed, loses its disk, or comes back to another world."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import types

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from safetensors.numpy import load_file

from pruning_core import checkpoint as files
from pruning_core.cartpole import CartPoleSwingUp
from pruning_core.errors import AgentError, EnvError
from pruning_core.training import Trainer

PREVIOUS = 'checkpoint.previous'


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(does):
    """Run `does` in a child process that has to die by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            does()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def result(folder):
    """Everything that training leaves, but the clock's part of it."""
    lines = [json.loads(line) for line in (folder / files.METRICS).read_text().splitlines()]
    for line in lines:
        del line['seconds']
    # Arrays as bytes: NaN equals NaN then, and the order of a file's header does not count.
    return lines, {(name, key): value.tobytes()
                   for name in (files.AGENT, files.REPLAY, files.IMPORTANCE)
                   for key, value in load_file(folder / name).items()}


@pytest.fixture
def as_if_nothing_happened(trained):
    def check(folder):
        assert result(folder) == result(trained)
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            p.name for p in trained.iterdir())
    return check


def at_report(nth):
    count = iter(range(1, 1000))

    def progress(*args, **facts):
        if next(count) == nth:
            die()
    return progress


def half_of(name, monkeypatch, nth):
    """Let the process die halfway through its nth writing of a file whose name has this in it."""
    sync, count = os.fsync, iter(range(1, 1000))

    def torn(handle):
        path = os.readlink(f'/proc/self/fd/{handle}')
        if name in path and next(count) == nth:
            os.truncate(path, os.path.getsize(path) // 2)
            die()
        sync(handle)
    monkeypatch.setattr(os, 'fsync', torn)


@pytest.mark.parametrize('nth', [1, 5, 14, 20, 28])
def test_killed_at_any_report(tiny, tmp_path, as_if_nothing_happened, nth):
    folder = tmp_path / 'a'
    killed(lambda: Trainer(tiny(), folder, at_report(nth)).run())
    Trainer(tiny(), folder).run()
    as_if_nothing_happened(folder)


# Each checkpoint is synced twice: whole under its temporary name, and before it takes its place.
@pytest.mark.parametrize(('name', 'nth'), [
    ('checkpoint', 1), ('checkpoint', 2), ('checkpoint', 3), ('checkpoint', 5), ('agent', 1),
    ('importance', 1), ('replay', 1), ('config', 1)])
def test_killed_while_a_file_is_written(tiny, tmp_path, as_if_nothing_happened, monkeypatch, name,
                                        nth):
    folder = tmp_path / 'a'

    def run():
        half_of(name, monkeypatch, nth)
        Trainer(tiny(), folder).run()

    killed(run)
    Trainer(tiny(), folder).run()
    as_if_nothing_happened(folder)


def test_killed_between_the_two_renames(tiny, tmp_path, as_if_nothing_happened, monkeypatch):
    """The newest is gone then, but the one before is there."""
    folder = tmp_path / 'a'
    replace = os.replace

    def run():
        def then_die(source, target):
            replace(source, target)
            if str(target).endswith(PREVIOUS):
                die()
        monkeypatch.setattr(os, 'replace', then_die)
        Trainer(tiny(), folder).run()

    killed(run)
    trainer = Trainer(tiny(), folder)
    assert trainer.episode == 1 and trainer.resumed_from == folder / PREVIOUS
    trainer.run()
    as_if_nothing_happened(folder)


def test_a_torn_checkpoint_never_takes_the_place_of_a_good_one(tiny, tmp_path, caplog,
                                                               as_if_nothing_happened):
    """Torn, gone on from the one before, and killed again before there is another."""
    folder = tmp_path / 'a'
    killed(lambda: Trainer(tiny(), folder, at_report(22)).run())
    newest = folder / files.CHECKPOINT
    newest.write_bytes(newest.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        killed(lambda: Trainer(tiny(), folder, at_report(3)).run())
        trainer = Trainer(tiny(), folder)
    assert trainer.resumed_from == folder / PREVIOUS and not newest.exists()
    trainer.run()
    as_if_nothing_happened(folder)


def test_a_torn_checkpoint_is_said(tiny, tmp_path, caplog):
    folder = tmp_path / 'a'
    killed(lambda: Trainer(tiny(), folder, at_report(22)).run())
    newest = folder / files.CHECKPOINT
    newest.write_bytes(newest.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        Trainer(tiny(), folder)
    assert f'{newest} cannot be read' in caplog.text and 'trying the one before' in caplog.text


def test_a_full_disk_costs_a_checkpoint_and_no_more(tiny, tmp_path, monkeypatch, caplog,
                                                    as_if_nothing_happened):
    """Both older checkpoints stay, training goes on, and says so."""
    folder, save = tmp_path / 'a', torch.save
    seen = []

    def full(state, path):
        if state['episode'] == 3:
            seen.append(sorted(p.name for p in folder.glob('checkpoint*')))
            raise OSError(errno.ENOSPC, 'No space left on device')
        save(state, path)

    monkeypatch.setattr(torch, 'save', full)
    kept = []
    with caplog.at_level(logging.WARNING):
        Trainer(tiny(), folder, lambda *a, **k: kept.append(
            sorted(p.name for p in folder.glob('checkpoint*')))).run()
    both = [PREVIOUS, files.CHECKPOINT]
    assert seen == [both] and kept[-1] == both
    assert 'no checkpoint at episode 3' in caplog.text and 'No space left' in caplog.text
    as_if_nothing_happened(folder)


def test_lost_metrics_do_not_stop_it(tiny, tmp_path, trained, caplog):
    folder = tmp_path / 'a'
    killed(lambda: Trainer(tiny(), folder, at_report(15)).run())
    (folder / files.METRICS).unlink()
    with caplog.at_level(logging.WARNING):
        Trainer(tiny(), folder).run()
    assert 'lacks records from before episode 2' in caplog.text
    records, written = result(folder)
    assert records == result(trained)[0][2:]
    assert written == result(trained)[1]


@pytest.fixture
def interrupted(tiny, tmp_path, monkeypatch):
    """A folder with an interrupted run on a plant that can be changed; how to go on with it."""
    class Plant(CartPoleSwingUp):
        pass

    module = types.ModuleType('changing_plant')
    module.Plant = Plant
    monkeypatch.setitem(sys.modules, 'changing_plant', module)

    def config(*more):
        return tiny('env.id=changing_plant:Plant', *more)

    folder = tmp_path / 'a'
    killed(lambda: Trainer(config(), folder, at_report(15)).run())
    return folder, Plant, lambda *more: Trainer(config(*more), folder)


def more_observations(plant):
    plant.observation_space = Box(-np.ones(7, np.float32), np.ones(7, np.float32))
    plant.observation_signals = ()
    plant._get_obs = lambda self: np.zeros(7, np.float32)


def stronger(plant):
    plant.action_space = Box(np.array([-99], np.float32), np.array([99], np.float32))


@pytest.mark.parametrize(('change', 'said'), [
    (more_observations, 'observations was 5 and is 7'),
    (stronger, 'action_high was [10.0] and is [99.0]'),
    (lambda plant: setattr(plant, 'dt', 0.05), 'period_s was 0.04 and is 0.05')],
    ids=['observations', 'limits', 'period'])
def test_a_plant_that_changed_is_refused(interrupted, contents, four_parts, change, said):
    folder, plant, go_on = interrupted
    before = contents(folder)
    change(plant)
    with pytest.raises(AgentError) as error:
        go_on()
    four_parts(error, 'no longer the plant it began with', said)
    assert contents(folder) == before


def test_a_plant_that_breaks_down_costs_nothing(interrupted, four_parts):
    """NaN in the last episode: refused with the numbers; mended, training goes on from before."""
    folder, plant, go_on = interrupted
    right = plant._get_obs
    plant._get_obs = lambda self: np.full(5, np.nan, np.float32)
    with pytest.raises(EnvError) as error:
        go_on().run()
    four_parts(error, 'nan', 'data gathered so far is kept')
    plant._get_obs = right
    trainer = go_on()
    assert trainer.episode == 2
    trainer.run()
    assert (folder / files.AGENT).is_file()


def test_what_differs_in_the_configuration_is_named(interrupted, four_parts):
    _, _, go_on = interrupted
    with pytest.raises(AgentError) as error:
        go_on('agent.rho=0.6')
    four_parts(error, 'agent.rho is 0.7 there and 0.6 here')


def resave(folder, change):
    for name in (files.CHECKPOINT, PREVIOUS):
        state = torch.load(folder / name, weights_only=True)
        change(state)
        torch.save(state, folder / name)


def test_a_setting_that_came_later_has_its_default(interrupted):
    """The checkpoint of an older version goes on under a newer configuration."""
    folder, _, go_on = interrupted
    resave(folder, lambda state: state['config']['agent'].pop('precision'))
    assert go_on().episode == 2
    with pytest.raises(AgentError, match="precision is 'float32' there and 'bfloat16' here"):
        go_on('agent.precision=bfloat16')


@pytest.mark.parametrize(('change', 'said'), [
    (lambda s: s['config']['agent'].update(moonlight=1), 'settings that this version does not'),
    (lambda s: s.pop('rng'), "no checkpoint of it (KeyError: 'rng')"),
    (lambda s: s['components'].pop('encoder.0.weight'), 'no checkpoint of it (RuntimeError')],
    ids=['newer', 'less', 'weights'])
def test_checkpoints_of_something_else_are_refused(interrupted, contents, four_parts, change,
                                                   said):
    folder, _, go_on = interrupted
    resave(folder, change)
    before = contents(folder)
    with pytest.raises(AgentError) as error:
        go_on()
    four_parts(error, said)
    assert contents(folder) == before
