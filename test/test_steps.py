# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Pruning in several steps: what each leaves, and going on after an interruption."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pruning_core.checkpoint import load_run, save_run
from pruning_core.errors import AgentError, ConfigError
from pruning_core.networks import count_parameters
from pruning_core.pruner import STEPS, prune
from pruning_core.shrinking import choose, shrink
from pruning_core.steps import shrink_in_steps


@pytest.fixture
def go(copied, tmp_path):
    """Shrink the trained agent, loaded anew, with some settings changed."""
    def shrink(name='steps', progress=None, **settings):
        run = load_run(copied)
        settings = dataclasses.replace(run.config.pruning, **{
            'sparsity': 0.6, 'steps': 5, 'recovery_updates': 15, 'multiple': 1, 'floor': 1,
            'score': 'l1', 'recovery_task': 0.1, **settings})
        return shrink_in_steps(run, settings, tmp_path / name,
                               **({'progress': progress} if progress else {}))

    return shrink


def weights(agent):
    return [p.detach() for p in (*agent.components.parameters(), *agent.targets.parameters())]


def keep_optimizer(folder):
    """Give a trained agent the moments of a few updates more."""
    run = load_run(folder)
    for _ in range(3):
        run.agent.update(run.replay.sample(np.random.default_rng(0), 8, 2))
    save_run(folder, run.config, run.agent, run.importance, run.replay, optimizers=True)


def test_moments_are_kept_and_cut_like_the_weights(copied):
    keep_optimizer(copied)
    run, same = load_run(copied), load_run(copied)
    state = list(run.agent.model_optimizer.state.values())
    assert len(state) == sum(1 for n in ('encoder', 'dynamics', 'reward', 'q1', 'q2')
                             for _ in run.agent.components[n].parameters())
    assert float(state[0]['step']) == 3 and float(state[0]['exp_avg_sq'].sum()) > 0
    settings = dataclasses.replace(run.config.pruning, score='l1', recovery_updates=0,
                                   carry_optimizer=True)
    plan = choose(run, settings)
    shrink(run, plan, settings)
    kept = plan.kept('encoder.hidden1')
    for key in ('exp_avg', 'exp_avg_sq'):
        moment = run.agent.model_optimizer.state[
            run.agent.components['encoder'][0].weight][key]
        before = same.agent.model_optimizer.state[same.agent.components['encoder'][0].weight][key]
        assert torch.equal(moment, before[kept])


def test_moments_that_are_not_there_are_asked_for(trained):
    run = load_run(trained)
    settings = dataclasses.replace(run.config.pruning, score='l1', carry_optimizer=True)
    with pytest.raises(AgentError, match=r'training\.keep_optimizer=true'):
        shrink(run, choose(run, settings), settings)


def test_every_step_takes_the_same_share_of_what_is_left(go, trained, tmp_path):
    last, records = go()
    dense = count_parameters(load_run(trained).agent.components)
    kept = np.array([1 - r['achieved'] for r in records])
    wanted = 0.4 ** (np.arange(1, 6) / 5)
    assert (kept <= wanted + 1e-9).all() and (kept > wanted - 0.1).all()
    assert [r['updates'] for r in records] == [3] * 5
    assert [p.name for p in sorted(tmp_path.glob('steps/[0-9]'))] == ['1', '2', '3', '4']
    for step, share in zip((1, 4), (kept[0], kept[3]), strict=True):
        there = load_run(tmp_path / 'steps' / str(step))
        assert count_parameters(there.agent.components) == pytest.approx(share * dense)
        assert there.importance.updates == 3
    assert last.plan.parameters == dense
    assert last.plan.parameters_left == count_parameters(last.agent.components)


def test_one_step_leaves_no_folder(go, tmp_path):
    last, records = go(steps=1)
    assert not (tmp_path / 'steps').exists() and len(records) == 1
    assert records[0]['updates'] == 15 and last.plan.requested == 0.6


@pytest.mark.parametrize(('at', 'carry'), [(2, False), (4, False), (3, True)])
def test_interrupted_it_ends_with_the_same_weights(go, copied, at, carry):
    if carry:
        keep_optimizer(copied)
    whole, records = go('whole', carry_optimizer=carry)
    cuts = 0

    def stop(phase, done, total, **facts):
        nonlocal cuts
        cuts += phase == 'cut' and done == 1
        if cuts == at and phase == 'recover':
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go('torn', progress=stop, carry_optimizer=carry)
    seen = []
    again, same = go('torn', carry_optimizer=carry,
                     progress=lambda phase, done, *a, **k: seen.append((phase, done)))
    assert seen.count(('cut', 1)) == 5 - at + 1  # only what was not done
    assert same == records and again.plan == whole.plan
    assert all(torch.equal(a, b) for a, b in zip(
        weights(again.agent), weights(whole.agent), strict=True))


def test_other_settings_do_not_go_on_there(go):
    def stop(phase, done, total, **facts):
        if phase == 'score' and done == 0:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt

    calls = []
    with pytest.raises(KeyboardInterrupt):
        go(progress=stop)
    with pytest.raises(AgentError, match=r'other settings \(sparsity\)'):
        go(sparsity=0.7)
    go()


def test_it_imitates_the_dense_agent_not_the_step_before(go, monkeypatch):
    from pruning_core import shrinking

    asked = []
    real = shrinking.record

    def record(components, visits, kept):
        asked.append((count_parameters(components['dynamics']), list(kept)))
        return real(components, visits, kept)

    monkeypatch.setattr(shrinking, 'record', record)
    last, _ = go(coupling_share=1.0)
    assert len({size for size, _ in asked}) == 1
    assert asked[-1][1] == last.plan.kept('latent').tolist()
    kept = [set(k) for _, k in asked]
    assert all(b <= a for a, b in zip(kept, kept[1:], strict=False)) and kept[-1] < kept[0]


def test_unused_updates_go_to_later_steps(go):
    _, records = go(recovery_updates=750, settle=1e-9, score='random')
    assert [r['updates'] for r in records[:4]] == [100] * 4
    assert sum(r['updates'] for r in records) == 750


def test_through_prune_the_steps_stay_in_the_run_folder(trained, tmp_path):
    run = load_run(trained)
    settings = dataclasses.replace(run.config.pruning, steps=3, recovery_updates=6, score='l1')
    calls = []

    def stop(phase, done, total, **facts):
        calls.append(phase)
        if calls.count('score') == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(load_run(trained), settings, tmp_path / 'small', progress=stop)
    assert {p.name for p in tmp_path.iterdir()} == {f'.small.{STEPS}'}
    result = prune(load_run(trained), settings, tmp_path / 'small')
    assert {p.name for p in tmp_path.iterdir()} == {'small'}
    other = prune(load_run(trained), settings, tmp_path / 'other')
    assert result.plan == other.plan
    assert result.gates['return'] == other.gates['return']
    assert (result.folder / STEPS / '2' / 'agent.safetensors').is_file()
    for step in '12':
        one, same = (load_run(r.folder / STEPS / step).agent for r in (result, other))
        assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(same), strict=True))


def test_steps_too_short_to_measure_anything_name_what_to_raise(go, four_parts):
    with pytest.raises(AgentError) as error:
        go(score='combined', steps=3, recovery_updates=3)
    four_parts(error, 'raise pruning.recovery_updates')


def test_steps_and_a_latency_budget_exclude_each_other(trained):
    with pytest.raises(ConfigError, match=r'pruning\.latency_ms'):
        dataclasses.replace(load_run(trained).config.pruning, steps=2, latency_ms=3.0)
