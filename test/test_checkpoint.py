# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Run folders: written whole, read back to the bit, and refused with a reason where damaged."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from pruning_core.checkpoint import (
    AGENT,
    CONFIG,
    EVALUATION,
    IMPORTANCE,
    REPLAY,
    load_run,
    save_run,
    write_atomically,
    write_json,
)
from pruning_core.errors import AgentError, ConfigError, PruningError


def test_round_trip(run, trained, tmp_path):
    """Saved again, an opened folder holds the same numbers."""
    write_json(tmp_path / EVALUATION, {'planned': 1})
    save_run(tmp_path, run.config, run.agent, run.importance, run.replay)
    again = load_run(tmp_path)
    assert again.config == run.config and again.evaluation == {'planned': 1}
    for name in (AGENT, IMPORTANCE, REPLAY):
        one, other = load_file(trained / name), load_file(tmp_path / name)
        assert all(torch.equal(v.nan_to_num(), other[k].nan_to_num()) for k, v in one.items())
    assert again.agent.updates == run.agent.updates == 24
    assert again.agent.widths == run.agent.widths


def test_weights_are_those_that_were_saved(make_agent, tiny, tmp_path):
    """Online and target networks apart, of an agent whose groups all have other sizes."""
    agent = make_agent('network.latent=5', 'network.encoder_hidden=7', 'network.hidden=9')
    with torch.no_grad():
        agent.targets['q1'][0].weight.add_(1.0)
    save_run(tmp_path, tiny(), agent, None, None)
    again = load_run(tmp_path)
    assert again.importance is None and again.replay is None and again.evaluation == {}
    for mine, loaded in ((agent.components, again.agent.components),
                         (agent.targets, again.agent.targets)):
        for (name, p), q in zip(mine.named_parameters(), loaded.parameters(), strict=True):
            assert torch.equal(p, q), name
    assert not any(p.requires_grad for p in again.agent.targets.parameters())
    assert torch.equal(again.agent.policy(torch.ones(2, 3)), agent.policy(torch.ones(2, 3)))


def test_nothing_half_written_remains(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')

    def fail(temporary):
        temporary.write_text('half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['a.txt']
    write_json(path, {'a': 1})
    assert json.loads(path.read_text()) == {'a': 1}
    assert path.stat().st_mode & 0o777 == 0o644


def truncate(name, keep=0.5):
    def change(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:int(keep * len(data))])
    return change


def resave(change):
    """Change tensors or header of the agent's file."""
    def apply(folder):
        from safetensors import safe_open

        with safe_open(str(folder / AGENT), 'pt') as file:
            header = dict(file.metadata())
        tensors = load_file(folder / AGENT)
        change(tensors, header)
        save_file(tensors, folder / AGENT, metadata=header)
    return apply


def widths(**values):
    return resave(lambda t, h: h.update(widths=json.dumps({**json.loads(h['widths']), **values})))


def other_replay(folder):
    """One of a plant with five observations."""
    arrays = {'observation': np.zeros((9, 5), 'f4'), 'action': np.zeros((9, 1), 'f4'),
              'reward': np.zeros(9, 'f4'), 'terminated': np.zeros(9, 'f4'),
              'lengths': np.array([9]), 'capacity': np.array([100])}
    save_arrays(arrays, folder / REPLAY)


@pytest.mark.parametrize('damage', [
    truncate(AGENT), truncate(AGENT, 0.0), truncate(AGENT, 0.01), truncate(IMPORTANCE),
    truncate(REPLAY), lambda f: (f / AGENT).write_bytes(b'\x80\x04 a pickle'),
    lambda f: (f / EVALUATION).write_text('{"planned":'),
    lambda f: (f / EVALUATION).write_bytes(b'\xff'),
    resave(lambda t, h: t.pop('components.encoder.0.weight')),
    resave(lambda t, h: t.update({'components.encoder.9.weight': torch.ones(1)})),
    resave(lambda t, h: t.update({'targets.q1.0.bias': torch.ones(3)})),
    resave(lambda t, h: h.pop('widths')), resave(lambda t, h: h.update(widths='{')),
    resave(lambda t, h: h.update(widths='[1]')), resave(lambda t, h: h.update(updates='many')),
    widths(latent=7), widths(latent=-7), widths(latent='six'), widths(q1=3),
    lambda f: save_file({'alpha': torch.zeros(182)}, f / IMPORTANCE),
    lambda f: save_arrays({'observation': np.zeros((2, 3), 'f4')}, f / REPLAY), other_replay,
], ids=['half', 'empty', 'head', 'importance', 'replay', 'pickle', 'json', 'bytes', 'less', 'more',
        'shape', 'no widths', 'torn widths', 'list', 'updates', 'latent', 'negative', 'text',
        'number', 'importance keys', 'replay keys', 'replay of another plant'])
def test_damaged_folders_are_refused(copied, damage, four_parts):
    damage(copied)
    with pytest.raises(AgentError) as error:
        load_run(copied)
    four_parts(error)


@pytest.mark.parametrize(('damage', 'kind', 'said'), [
    (lambda f: shutil.rmtree(f), AgentError, ['there is no such folder', 'train']),
    (lambda f: (f / AGENT).unlink(), AgentError, [f'there is no {AGENT} in it']),
    (lambda f: (f / CONFIG).unlink(), ConfigError, ['there is no such file']),
    (lambda f: (f / CONFIG).write_text('agnt: {}'), ConfigError, ["did you mean 'agent'?"]),
    (truncate(IMPORTANCE), AgentError, ['it is damaged (SafetensorError', 'copy the folder']),
], ids=['folder', 'agent', 'no config', 'config', 'importance'])
def test_what_is_said(copied, damage, kind, said, four_parts):
    damage(copied)
    with pytest.raises(kind) as error:
        load_run(copied)
    assert isinstance(error.value, PruningError)
    four_parts(error, *said)


def test_importance_of_another_model_is_refused(copied, make_agent, tiny, four_parts):
    save_run(copied, tiny(), make_agent('network.latent=5'), None, None)
    with pytest.raises(AgentError) as error:
        load_run(copied)
    four_parts(error, 'importance of 181 units', 'the file has 182')
