# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop: what it does, and that an interruption at any point changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pruning_core import config as configuration
from pruning_core.checkpoint import (
    AGENT,
    CHECKPOINT,
    IMPORTANCE,
    METRICS,
    REPLAY,
    load_checkpoint,
    load_run,
    save_checkpoint,
)
from pruning_core.errors import AgentError, ConfigError, EnvError
from pruning_core.importance import SIGNALS
from pruning_core.importance.history import HISTORY, read_history
from pruning_core.training import Trainer

PREVIOUS = 'checkpoint.previous'
FILES = ['agent.safetensors', 'config.yaml', 'importance.safetensors', 'importance_history.bin',
         'metrics.jsonl', 'replay.safetensors']


class InterruptAt:
    """Progress that interrupts at its nth report."""

    def __init__(self, nth):
        self.left = nth

    def __call__(self, *args, **facts):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def records(folder):
    """The records of a run, without what the clock says."""
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    assert all(line.pop('seconds') >= 0 for line in lines)
    return lines


@pytest.fixture
def same_result(trained):
    """Check that a folder holds, to the bit, what uninterrupted training left."""
    def check(folder):
        assert sorted(p.name for p in folder.iterdir()) == FILES
        for name in (AGENT, IMPORTANCE, REPLAY):
            expected, found = load_file(trained / name), load_file(folder / name)
            assert set(found) == set(expected)
            for key, tensor in expected.items():
                assert torch.equal(found[key].isnan(), tensor.isnan()), (name, key)
                assert torch.equal(found[key].nan_to_num(), tensor.nan_to_num()), (name, key)
        assert (folder / HISTORY).read_bytes() == (trained / HISTORY).read_bytes()
        assert records(folder) == records(trained)
        assert load_run(folder).agent.updates == load_run(trained).agent.updates

    return check


def test_what_a_run_leaves(trained, tiny):
    """4 episodes of 12 decisions; 12 updates after the second one, 6 after each of the others."""
    assert sorted(p.name for p in trained.iterdir()) == FILES
    lines = records(trained)
    assert [r['episode'] for r in lines] == [0, 1, 2, 3]
    assert [r['decisions'] for r in lines] == [12, 24, 36, 48]
    assert [r['updates'] for r in lines] == [0, 12, 18, 24]
    assert [set(r.get('evaluation', ())) for r in lines] == [
        set(), {'planned', 'policy'}, set(), {'planned', 'policy'}]
    assert [r['noise'] for r in lines] == pytest.approx([1, 1, 0.3, 0.3 - 0.25 / 20])
    assert set(lines[-1]['importance']) == set(SIGNALS)
    assert len(lines[-1]['importance']['fisher']) == 12
    assert all(np.isfinite(lines[-1][k]) for k in ('consistency', 'reward', 'value', 'return'))
    run = load_run(trained)
    assert run.config == tiny()
    assert (len(run.replay), run.replay.episodes, run.agent.updates) == (48, 4, 24)
    assert run.importance.updates == 24 and run.importance.warm
    assert lines[-1]['importance'] == {
        s: pytest.approx(run.importance.group_scores(s)) for s in SIGNALS}


def test_returns_and_rewards(trained):
    """The replay holds the reward times its scale; the record its plain sum."""
    replay = load_run(trained).replay.to_arrays()
    rewards = replay['reward'].reshape(4, 13)
    np.testing.assert_allclose(10 * rewards.sum(1), [r['return'] for r in records(trained)],
                               rtol=1e-4)
    assert np.abs(replay['action']).max() <= 1
    assert (rewards[:, -1] == 0).all() and (replay['terminated'] == 0).all()


def test_updates_that_are_owed_are_done_later(tiny, tmp_path):
    """0.3 updates per decision, 12 decisions an episode: 3.6, 7.2, 10.8, 14.4 in all."""
    trainer = Trainer(tiny('training.update_ratio=0.3', 'training.random_episodes=1',
                           'training.evaluate_every=0'), tmp_path / 'a')
    trainer.run()
    assert [r['updates'] for r in records(tmp_path / 'a')] == [3, 7, 10, 14]


def test_learning_rate_falls_over_the_episodes(tiny, tmp_path):
    trainer = Trainer(tiny('training.learning_rate_end=0.2', 'training.evaluate_every=0'),
                      tmp_path / 'a')
    trainer.run()
    for optimizer in (trainer.agent.model_optimizer, trainer.agent.policy_optimizer):
        assert optimizer.param_groups[0]['lr'] == pytest.approx(1e-3 * (1 - 0.8 * 3 / 4))


def test_a_budget_of_decisions_ends_training(tiny, tmp_path):
    """12 an episode, 30 allowed: the third episode is the last; the step size falls with it."""
    said = []

    def hear(phase, done, total, **facts):
        said.append((done, total))

    trainer = Trainer(tiny('training.decisions=30', 'training.episodes=9',
                           'training.evaluate_every=0'), tmp_path / 'a', hear)
    trainer.run()
    assert [r['decisions'] for r in records(tmp_path / 'a')] == [12, 24, 36]
    assert said[0] == (12, 30) and said[-1] == (30, 30)
    assert trainer.agent.policy_optimizer.param_groups[0]['lr'] == pytest.approx(
        1e-3 * (1 - 0.9 * 24 / 30))


def test_an_episode_without_end_is_refused(tiny, tmp_path, four_parts):
    endless = tiny('env.id=pruning_core.cartpole:CartPoleSwingUp', 'env.max_episode_steps=0',
                   'training.replay_capacity=50')
    with pytest.raises(EnvError) as error:
        Trainer(endless, tmp_path / 'a').run()
    four_parts(error, 'not ended after 50 decisions', 'env.max_episode_steps')


def test_same_seed_same_run(tiny, tmp_path, same_result):
    same_result(Trainer(tiny(), tmp_path / 'same').run())
    other = Trainer(tiny('training.seed=1'), tmp_path / 'other').run()
    assert records(other)[0]['return'] != records(tmp_path / 'same')[0]['return']


@pytest.mark.parametrize('overrides', [['training.evaluate_every=0'],
                                       ['training.checkpoint_every=3'],
                                       ['planner.pushes=3', 'planner.push_margin=0',
                                        'planner.policy_margin=0.01']])
def test_neither_watching_nor_pushes_change_what_is_learned(tiny, tmp_path, trained, overrides):
    folder = Trainer(tiny(*overrides), tmp_path / 'a').run()
    expected, found = load_file(trained / AGENT), load_file(folder / AGENT)
    assert all(torch.equal(found[k], v) for k, v in expected.items())


# Reports of the tiny run: 1 after the first episode, 12 + 1, 6 + 1 and 6 + 1 after the others.
@pytest.mark.parametrize('nth', [1, 2, 8, 13, 14, 15, 21, 22, 27, 28])
def test_interrupted_and_started_again(tiny, tmp_path, same_result, nth):
    folder = tmp_path / 'a'
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny(), folder, InterruptAt(nth)).run()
    assert not (folder / AGENT).exists()
    trainer = Trainer(tiny(), folder)
    assert trainer.episode == sum(nth >= n for n in (1, 14, 21))
    trainer.run()
    same_result(folder)


def test_interrupted_many_times(tiny, tmp_path, same_result):
    """At most 14 reports at a time."""
    folder, starts = tmp_path / 'a', 0
    while not (folder / AGENT).exists():
        starts += 1
        try:
            Trainer(tiny(), folder, InterruptAt(14)).run()
        except KeyboardInterrupt:
            continue
    assert starts == 3
    same_result(folder)


@pytest.mark.parametrize('every', [1, 10], ids=['with checkpoint', 'without'])
@pytest.mark.parametrize('blocked', [AGENT, IMPORTANCE, REPLAY])
def test_interrupted_while_the_result_is_written(tiny, tmp_path, same_result, every, blocked):
    """Whichever file could not be written: the run is not finished, and goes on."""
    folder, config = tmp_path / 'a', tiny(f'training.checkpoint_every={every}')
    trainer = Trainer(config, folder)
    (folder / blocked / 'in the way').mkdir(parents=True)
    with pytest.raises(OSError, match=blocked):
        trainer.run()
    (folder / blocked / 'in the way').rmdir()
    (folder / blocked).rmdir()
    Trainer(config, folder).run()
    same_result(folder)


@pytest.mark.parametrize(('torn', 'episode'), [([CHECKPOINT], 1), ([CHECKPOINT, PREVIOUS], 0)])
@pytest.mark.parametrize('content', [0, 100, 0.5], ids=['empty', 'head', 'half'])
def test_torn_checkpoints(tiny, tmp_path, same_result, torn, episode, content):
    """The one before is used; without any, training starts afresh. The result is the same."""
    folder = tmp_path / 'a'
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny(), folder, InterruptAt(16)).run()
    for name in torn:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:int(content * len(data)) if content < 1 else content])
    trainer = Trainer(tiny(), folder)
    assert trainer.episode == episode
    assert trainer.resumed_from == (folder / PREVIOUS if episode else None)
    trainer.run()
    same_result(folder)


def test_metrics_after_the_checkpoint_are_written_anew(tiny, tmp_path, same_result):
    """Also where a crash tore the last line."""
    folder = tmp_path / 'a'
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny(), folder, InterruptAt(16)).run()
    with (folder / METRICS).open('ab') as file:
        file.write(b'{"episode":2}\n{"epis')
    Trainer(tiny(), folder).run()
    same_result(folder)


def test_a_finished_folder_is_refused(tiny, copied, contents, four_parts):
    before = contents(copied)
    for config in (tiny(), tiny('training.seed=5')):
        with pytest.raises(AgentError) as error:
            Trainer(config, copied)
        four_parts(error, 'already holds a finished agent', '--out')
    assert contents(copied) == before


def test_another_configuration_is_refused(tiny, tmp_path, contents, same_result, four_parts):
    folder = tmp_path / 'a'
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny(), folder, InterruptAt(14)).run()
    before = contents(folder)
    with pytest.raises(AgentError) as error:
        Trainer(tiny('agent.rho=0.6'), folder)
    four_parts(error, 'another configuration', 'config.yaml')
    assert contents(folder) == before
    Trainer(configuration.load(folder / 'config.yaml'), folder).run()
    same_result(folder)


def test_episodes_shorter_than_the_horizon(tiny, tmp_path, four_parts):
    with pytest.raises(ConfigError) as error:
        Trainer(tiny('env.max_episode_steps=3', 'agent.horizon=4'), tmp_path / 'a').run()
    four_parts(error, '4 decisions', 'agent.horizon')


def test_checkpoints_keep_the_one_before(tmp_path):
    path = tmp_path / CHECKPOINT
    assert load_checkpoint(path) is None
    for i in range(3):
        save_checkpoint(path, {'i': i, 'big': 2**127 + i, 'tensor': torch.full((2,), i)})
    state, source, damaged = load_checkpoint(path)
    assert damaged == ()
    assert (state['i'], state['big'], state['tensor'].tolist(), source) == (
        2, 2**127 + 2, [2, 2], path)
    path.unlink()
    assert load_checkpoint(path).state['i'] == 1
    assert [p.name for p in tmp_path.iterdir()] == [PREVIOUS]


class Bomb:
    """Would run code where a checkpoint were unpickled carelessly."""

    def __reduce__(self):
        return exec, ('raise SystemExit("executed")',)


def test_checkpoints_execute_nothing(tmp_path):
    torch.save({'episode': Bomb()}, tmp_path / CHECKPOINT)
    assert load_checkpoint(tmp_path / CHECKPOINT) is None


def test_two_trainings_never_share_a_folder(tiny, tmp_path, four_parts):
    first = Trainer(tiny(), tmp_path / 'run')
    with pytest.raises(AgentError) as error:
        Trainer(tiny(), tmp_path / 'run')
    four_parts(error, 'another process trains there', 'give another --out')
    first.run()
    assert [r['episode'] for r in records(tmp_path / 'run')] == list(
        range(tiny().training.episodes))


def test_exact_fisher_while_training(tiny, tmp_path, trained):
    """On request; the agent learns the same, and only the Fisher scores differ."""
    folder = Trainer(tiny('importance.fisher=per_sample'), tmp_path / 'a').run()
    expected, found = load_file(trained / AGENT), load_file(folder / AGENT)
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    batch, exact = (load_run(f).importance for f in (trained, folder))
    assert exact.unseen == 0 and exact.warm
    assert exact.group_scores('gradient') == batch.group_scores('gradient')
    for name, value in exact.group_scores('fisher').items():
        assert np.isfinite(value) and value != batch.group_scores('fisher')[name]


def test_pressure_reaches_the_weights(tiny, tmp_path, trained):
    """Exact zeros, which nothing else would make; and its course in the history."""
    strong = tiny('sparsity.schedule=constant', 'sparsity.lambda_max=30000')
    folder = Trainer(strong, tmp_path / 'a').run()
    zeros = [sum(int((v == 0).sum()) for k, v in load_file(f / AGENT).items()
                 if k.startswith('components.')) for f in (trained, folder)]
    assert zeros[1] > zeros[0] + 50
    history = read_history(folder / HISTORY)
    assert (history.pressure[1:] == 30000).any() and np.isfinite(history.norm).all()
    assert history.updates.tolist() == list(range(2, 25, 2))


def of_evaluations(monkeypatch, returns):
    """Let evaluations say what they are told to; a state of the agent for each."""
    states, left = [], list(returns)

    def evaluate(trainer):
        states.append({k: v.clone() for k, v in trainer.agent.components.state_dict().items()})
        return {'planned': left.pop(0), 'policy': 0.0}
    monkeypatch.setattr(Trainer, '_evaluate', evaluate)
    return states


def best_of(tiny):
    return tiny('training.evaluate_every=1', 'training.checkpoint_every=1',
                'training.keep_best=true')


@pytest.mark.parametrize(('returns', 'kept'), [
    ([1.0, 3.0, 2.0, 2.5], 1), ([1.0, 2.0, 0.0, 2.0], 3), ([1.0, 2.0, 4.0, 3.0], 2)])
def test_the_best_agent_is_kept_not_the_last(tiny, tmp_path, monkeypatch, returns, kept):
    states = of_evaluations(monkeypatch, returns)
    trainer = Trainer(best_of(tiny), tmp_path / 'run')
    trainer.run()
    found = load_run(tmp_path / 'run').agent
    assert all(torch.equal(states[kept][k], v) for k, v in found.components.state_dict().items())
    assert found.updates == [0, 12, 18, 24][kept]
    assert not all(torch.equal(states[kept - 1][k], v)
                   for k, v in found.components.state_dict().items())


def test_the_best_agent_outlives_an_interruption(tiny, tmp_path, monkeypatch):
    states = of_evaluations(monkeypatch, [1.0, 3.0, 2.0, 2.5, 2.0])
    wait = InterruptAt(24)
    with pytest.raises(KeyboardInterrupt):
        Trainer(best_of(tiny), tmp_path / 'run', wait).run()
    assert len(states) == 3  # the best one is before the interruption
    trainer = Trainer(best_of(tiny), tmp_path / 'run')
    assert trainer.best is not None
    assert trainer.best['episode'] == 2
    trainer.run()
    found = load_run(tmp_path / 'run').agent
    assert all(torch.equal(states[1][k], v) for k, v in found.components.state_dict().items())


def test_the_best_of_no_evaluations_is_refused(tiny):
    with pytest.raises(ConfigError, match=r'training\.evaluate_every.*1 or more with'):
        tiny('training.evaluate_every=0', 'training.keep_best=true')
