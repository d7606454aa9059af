# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the TD-MPC reference: the same functions afterwards, or a refusal by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning_core import config as configuration
from pruning_core.checkpoint import load_run
from pruning_core.errors import AgentError
from pruning_core.evaluation import evaluate
from pruning_core.importing import REFERENCE, import_tdmpc
from pruning_core.pruner import prune


class Told(nn.Module):
    """Layers and names of the reference's model (`Sequential`s, ELU; tanh outside of `_pi`)."""

    def __init__(self, observations=3, actions=1, hidden=16, latent=6, encoder=8):
        super().__init__()
        pair = latent + actions

        def mlp(start, end):
            return nn.Sequential(nn.Linear(start, hidden), nn.ELU(), nn.Linear(hidden, hidden),
                                 nn.ELU(), nn.Linear(hidden, end))

        def q():
            return nn.Sequential(nn.Linear(pair, hidden), nn.LayerNorm(hidden), nn.Tanh(),
                                 nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, 1))

        self._encoder = nn.Sequential(nn.Linear(observations, encoder), nn.ELU(),
                                      nn.Linear(encoder, latent))
        self._dynamics, self._reward = mlp(pair, latent), mlp(pair, 1)
        self._pi, self._Q1, self._Q2 = mlp(latent, actions), q(), q()


@pytest.fixture
def told():
    torch.manual_seed(0)
    return Told(), Told()


@pytest.fixture
def saved(told, tmp_path):
    """Write the checkpoint, changed by a function of its dictionary."""
    def write(change=lambda state: state):
        state = {'model': told[0].state_dict(), 'model_target': told[1].state_dict()}
        path = tmp_path / 'told.pt'
        new = change(state)  # a dictionary or list takes its place
        torch.save(new if isinstance(new, (dict, list)) else state, path)
        return path
    return write


SMALL = ['agent.batch_size=8', 'agent.horizon=2', 'planner.samples=16', 'planner.elites=4',
         'planner.policy_samples=2', 'planner.iterations=1', 'training.collect_samples=8',
         'env.max_episode_steps=12', 'importance.warmup=3', 'pruning.sparsity=0.3',
         'pruning.multiple=4', 'pruning.floor=4', 'pruning.recovery_updates=2',
         'pruning.gate_seeds=1', 'pruning.gate_return_loss=100', 'pruning.gate_latency_share=0',
         'pruning.gate_violation=0', 'pruning.gate_states=8', 'pruning.gate_periods=25']


@pytest.fixture
def settings():
    return lambda *more: configuration.from_dict(
        configuration.override(REFERENCE, [*SMALL, *more]))


def test_functions_are_the_same(told, saved, settings, tmp_path):
    """On observations as the plant gives them, where ours are scaled; targets: the slow copy."""
    run = load_run(import_tdmpc(saved(), settings(), tmp_path / 'agent', episodes=0))
    raw = torch.tensor([[0.5, -0.8, 7.0], [1.0, 0.0, -3.0]])
    scaled = raw * torch.tensor([1.0, 1.0, 1 / 8])
    with torch.no_grad():
        for net, one in ((run.agent.components, told[0]), (run.agent.targets, told[1])):
            latent = one._encoder(raw)
            torch.testing.assert_close(net['encoder'](scaled), latent)
            pair = torch.cat([latent, torch.tensor([[0.3], [-1.0]])], dim=-1)
            torch.testing.assert_close(net['q1'](pair), one._Q1(pair))
            torch.testing.assert_close(net['q2'](pair), one._Q2(pair))
        net, one = run.agent.components, told[0]
        latent = one._encoder(raw)
        torch.testing.assert_close(net['dynamics'](pair), one._dynamics(pair))
        torch.testing.assert_close(net['reward'](pair), one._reward(pair))
        torch.testing.assert_close(net['policy'](latent), torch.tanh(one._pi(latent)))
    assert run.config.network.activation == 'elu' and run.config.network.hidden == 16
    assert run.config.agent.rho == 0.5 and run.importance is None and run.replay is None


def test_a_bare_dictionary_is_its_own_target(told, saved, settings, tmp_path):
    path = saved(lambda state: state['model'])
    run = load_run(import_tdmpc(path, settings(), tmp_path / 'agent', episodes=0))
    assert torch.equal(run.agent.targets['q1'][0].weight, told[0]._Q1[0].weight)


def test_afterwards_it_is_an_agent_like_any_other(told, saved, settings, tmp_path):
    """Evaluated, pruned and exported; measuring importance has moved no weight."""
    run = load_run(import_tdmpc(saved(), settings(), tmp_path / 'agent', episodes=3))
    assert torch.equal(run.agent.components['q1'][0].weight, told[0]._Q1[0].weight)
    assert torch.equal(run.agent.targets['q2'][3].weight, told[1]._Q2[3].weight)
    assert run.agent.updates == 0 and len(run.replay) == 36
    assert run.importance.warm and run.importance.unseen == 0
    assert evaluate(run.agent, run.config.env, (1000,), None).mean < 0
    result = prune(run, run.config.pruning, tmp_path / 'pruned')
    assert result.bundle.manifest.parameters < result.bundle.manifest.dense_parameters


def without(name):
    return lambda s: s['model'].pop(name)


def other(name, *shape):
    return lambda s: s['model'].update({name: torch.ones(shape)})


@pytest.mark.parametrize(('change', 'said'), [
    (without('_Q2.3.weight'), '_Q2.3.weight is missing'),
    (without('_pi.4.bias'), '_pi.4.bias is missing'),
    (without('_encoder.0.weight'), '_encoder.0.weight is missing'),
    (other('_Q1.5.weight', 2, 16), '_Q1.5.weight is (2, 16), not (1, 16)'),
    (other('_dynamics.0.weight', 16, 9), '_dynamics.0.weight is (16, 9), not (16, 7)'),
    (other('_encoder.0.weight', 32, 9, 7, 7), '_encoder.0.weight is (32, 9, 7, 7)'),
    (other('_task.weight', 3), '_task.weight is not known'),
    (lambda s: s['model']['_pi.0.weight'].fill_(float('nan')), '_pi.0.weight is not finite'),
    (lambda s: s['model_target'].pop('_Q1.0.bias'), '_Q1.0.bias is missing'),
    (lambda s: {'model': {'_Qs.params.0.weight': torch.ones(5, 8, 8),
                          '_encoder.state.0.weight': torch.ones(8, 3),
                          '_reward.2.weight': torch.ones(101, 8)}}, 'heads over 101 bins'),
    (lambda s: {'model': []}, 'no dictionary of tensors'),
    (lambda s: [1], 'no dictionary of tensors'),
], ids=['missing', 'bias', 'encoder', 'head', 'width', 'pixels', 'more', 'nan', 'target',
        'tdmpc2', 'list', 'no dict'])
def test_what_does_not_match_is_named(saved, settings, tmp_path, four_parts, change, said):
    path = saved(change)
    with pytest.raises(AgentError) as error:
        import_tdmpc(path, settings(), tmp_path / 'agent', episodes=0)
    four_parts(error, said)
    assert not (tmp_path / 'agent').exists()


class Bomb:
    def __reduce__(self):
        return exec, ('raise SystemExit("executed")',)


@pytest.mark.parametrize(('content', 'said'), [
    (None, 'there is no such file'), (b'', 'does not load'), (b'no archive', 'does not load')])
def test_files_that_are_no_checkpoint(settings, tmp_path, four_parts, content, said):
    if content is not None:
        (tmp_path / 'told.pt').write_bytes(content)
    with pytest.raises(AgentError) as error:
        import_tdmpc(tmp_path / 'told.pt', settings(), tmp_path / 'agent')
    four_parts(error, said)


def test_nothing_in_a_checkpoint_is_executed(settings, tmp_path, four_parts):
    torch.save({'model': Bomb()}, tmp_path / 'told.pt')
    with pytest.raises(AgentError) as error:
        import_tdmpc(tmp_path / 'told.pt', settings(), tmp_path / 'agent')
    four_parts(error, 'does not load as plain tensors')


def test_another_plant_or_a_full_folder_is_refused(saved, settings, tmp_path, four_parts):
    with pytest.raises(AgentError) as error:
        import_tdmpc(saved(), settings('env.id=pruning_core.cartpole:CartPoleSwingUp'),
                     tmp_path / 'agent')
    four_parts(error, '3 observations and 1 actions', 'has 5 and 1')
    (tmp_path / 'agent').mkdir()
    (tmp_path / 'agent' / 'mine.txt').write_text('mine')
    with pytest.raises(AgentError) as error:
        import_tdmpc(saved(), settings(), tmp_path / 'agent')
    four_parts(error, 'there is something in it')


def test_the_size_of_the_reference(tmp_path):
    """1,489,512 parameters for a plant like the pendulum."""
    from pruning_core.importing import widths_of
    from pruning_core.networks import build, count_parameters

    model = Told(hidden=512, latent=50, encoder=256).state_dict()
    assert count_parameters(build(widths_of(model, tmp_path))) == 1_489_512
