# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A cut in the middle of a training, and the ways that branch off one training."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from pruning_core.checkpoint import Run, load_run
from pruning_core.config import PruningConfig
from pruning_core.importance.history import HISTORY, read_history
from pruning_core.progress import silent
from pruning_core.shrinking import scores_of
from pruning_core.studies import cut_in_training
from pruning_core.studies.cut_in_training import CutInTrainingConfig, cuts_of
from pruning_core.studies.cuts import plan_by, planning_plainly
from pruning_core.studies.runner import Context
from pruning_core.training import Trainer


@pytest.fixture(scope='module')
def settings(tiny):
    """A training of eight episodes, checkpoints after every second."""
    return tiny('network.latent=16', 'network.hidden=24', 'training.episodes=8',
                'training.checkpoint_every=2', 'importance.warmup=2')


def lowest(trainer, share, seed=0):
    """Plan of what the importance of a training puts lowest."""
    run = Run(trainer.folder, trainer.config, trainer.agent, trainer.importance, trainer.replay,
              {})
    pruning = PruningConfig(sparsity=share, seed=seed)
    return plan_by(run, scores_of(run, run.agent.graph(), 'combined', seed), pruning, 'combined')


def same(one, other):
    left, right = (load_run(f).agent.components.state_dict() for f in (one, other))
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_fork_is_the_same_training(settings, tmp_path):
    """With its history, its metrics and its generators; and it leaves the first as it was."""
    whole = Trainer(settings, tmp_path / 'whole')

    def fork():
        if whole.episode == 5:
            whole.fork(tmp_path / 'fork').run()

    whole.after_episode = fork
    whole.run()
    Trainer(settings, tmp_path / 'alone').run()
    assert same(tmp_path / 'whole', tmp_path / 'alone')
    assert same(tmp_path / 'fork', tmp_path / 'alone')
    histories = [read_history(tmp_path / f / HISTORY) for f in ('fork', 'alone')]
    assert histories[0].updates.tolist() == histories[1].updates.tolist()

    def told(folder):
        rows = map(json.loads, (tmp_path / folder / 'metrics.jsonl').read_text().splitlines())
        return [(r['episode'], r['updates'], r['return']) for r in rows]
    assert told('fork') == told('alone')


def test_a_training_goes_on_with_what_a_cut_leaves(settings, tmp_path):
    """The smaller agent learns on, its importance is measured anew, and its folder is sound."""
    trainer = Trainer(settings, tmp_path / 'cut')
    seen = {}

    def cut():
        if trainer.episode == 5:
            dense = sum(p.numel() for p in trainer.agent.components.parameters())
            steps = [int(s['step']) for s in trainer.agent.model_optimizer.state.values()]
            trainer.cut(lowest(trainer, 0.5))
            left = sum(p.numel() for p in trainer.agent.components.parameters())
            seen.update(share=left / dense, steps=steps, updates=trainer.agent.updates, kept=[
                int(s['step']) for s in trainer.agent.model_optimizer.state.values()],
                weights={k: v.clone() for k, v in trainer.agent.components.state_dict().items()})

    trainer.after_episode = cut
    trainer.run()
    assert seen['share'] <= 0.5 and seen['kept'] == seen['steps'] and min(seen['kept']) > 0
    run = load_run(tmp_path / 'cut')
    found = run.agent.components.state_dict()
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in seen['weights'].items()}
    assert any(not torch.equal(found[k], v) for k, v in seen['weights'].items())
    assert run.importance.updates == run.agent.updates - seen['updates'] > 0
    history = read_history(tmp_path / 'cut' / HISTORY)
    assert len(history.updates) and history.updates[-1] <= run.importance.updates


@pytest.mark.parametrize(('last', 'share', 'cuts'), [
    (10, 0.9, [(2, 1 - 0.1**0.2), (4, 1 - 0.1**0.4), (6, 1 - 0.1**0.6), (8, 1 - 0.1**0.8),
               (10, 0.9)]),
    (1, 0.5, [(1, 0.5)]), (3, 0.5, [(1, 1 - 0.5**0.4), (2, 1 - 0.5**0.8), (3, 0.5)])])
def test_steps_remove_the_same_share_each_and_the_last_on_a_round_counts(last, share, cuts):
    assert cuts_of('once', last, share) == [(last, share)]
    found = cuts_of('steps', last, share)
    assert [n for n, _ in found] == [n for n, _ in cuts]
    assert [s for _, s in found] == pytest.approx([s for _, s in cuts])


def study(settings):
    return CutInTrainingConfig(
        settings, PruningConfig(sparsity=0.5, seed=0, recovery_updates=3), ('once', 'steps'),
        (0.5, 1.0), episodes=1, samples=8, iterations=1)


@pytest.fixture(scope='module')
def found(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp('found')
    return cut_in_training.run(study(settings), Context(folder, (), silent)), folder


def test_each_way_is_the_training_that_makes_its_cuts(settings, found, tmp_path):
    """Done by hand, with no fork."""
    ways, _ = found
    from pruning_core.networks import count_parameters
    for way, point in (('once', 0.5), ('steps', 0.5)):
        trainer = Trainer(settings, tmp_path / way)
        first = settings.training.random_episodes
        due = {first + n: share for n, share in cuts_of(
            way, round(point * (settings.training.episodes - first)), 0.5)}
        dense = count_parameters(trainer.agent.components)

        def cut(trainer=trainer, due=due, dense=dense):
            if trainer.episode in due:
                left = count_parameters(trainer.agent.components)
                further = 1 - (1 - due[trainer.episode]) * dense / left
                trainer.cut(lowest(trainer, max(0.0, further)))

        trainer.after_episode = cut
        trainer.run()
        mine = next(w for w in ways['ways'] if (w['way'], w['point']) == (way, point))
        run = planning_plainly(tmp_path / way)
        size = cut_in_training.CutConfig('once', PruningConfig(), 1, 8, 1, 0)
        assert {k: mine[k] for k in ('planned', 'policy')} == cut_in_training.measured(
            run, size, Context(tmp_path, (), silent))
        assert mine['cuts'] == list(due)
        assert mine['updates'] == run.agent.updates
        assert mine['removed'] == 1 - count_parameters(run.agent.components) / dense


def test_the_whole_training_is_what_it_would_be_without_branches(settings, found, tmp_path):
    Trainer(settings, tmp_path / 'alone').run()
    assert same(found[1] / 'whole', tmp_path / 'alone')
    assert found[0]['ways'][0]['way'] == 'never' and found[0]['ways'][0]['removed'] == 0


@pytest.mark.parametrize('every', [1, 2])
def test_interrupted_it_ends_with_the_same(settings, found, tmp_path, every):
    """In a branch, in the whole training, and in another branch.

    With a checkpoint after every episode the branch begins at one, which the whole goes on from.
    """
    settings = dataclasses.replace(settings, training=dataclasses.replace(
        settings.training, checkpoint_every=every))
    stops = [('steps 1', 7), ('train', 5), ('once 0.5', 7)]

    def interrupt(phase, done, total, /, **facts):
        if stops and (phase, done) == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            cut_in_training.run(study(settings), Context(tmp_path, (), interrupt))
    assert not stops
    assert cut_in_training.run(study(settings), Context(tmp_path, (), interrupt)) == found[0]
