# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Stability-aware importance: the readout, the loss by hand, and which units it can see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pruning_core.config import ImportanceConfig
from pruning_core.errors import AgentError
from pruning_core.runtime.errormap import Lyapunov
from pruning_core.shrinking import choose, stability_scores_of
from pruning_core.stability import pendulum
from pruning_core.stability_loss import (
    Readout,
    fit_readout,
    mix,
    stability_loss,
    stability_scores,
    value_of,
)

SCALE = np.array([1.0, 1.0, 0.125])


def test_readout_recovers_a_linear_encoder(make_agent, fill):
    """A wide linear encoder loses nothing: the observation comes back in the plant's units."""
    agent, replay = make_agent(), fill(episodes=20)
    agent.components['encoder'] = nn.Linear(3, 6)
    readout = fit_readout(agent, replay, SCALE)
    observation = torch.from_numpy(replay.observations())
    with torch.no_grad():
        found = readout(agent.components['encoder'](observation)).numpy()
    np.testing.assert_allclose(found, replay.observations() / SCALE, atol=2e-2)
    assert min(readout.r2) > 0.999


def test_r2_tells_when_the_latent_does_not_hold_the_observation(make_agent, fill):
    agent = make_agent()
    agent.components['encoder'] = nn.Linear(3, 6)
    with torch.no_grad():
        agent.components['encoder'].weight[:, 1] = 0
    r2 = fit_readout(agent, fill(episodes=40), SCALE).r2
    assert r2[0] > 0.99 and r2[2] > 0.99 and abs(r2[1]) < 0.2


def test_value_is_that_of_the_monitor():
    v, rng = pendulum(0.05), np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (20, 3))
    found = value_of(v, torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(found, [v.value(o) for o in observations], rtol=1e-6)


class Shrinking(nn.Module):
    """Latents times a factor, whatever the action is."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, pair):
        return self.factor * pair[..., :2]


@pytest.mark.parametrize(('factor', 'loss'), [(0.5, 0.0), (1.0, 0.1), (2.0, 63.1)])
def test_loss_by_hand(make_agent, factor, loss):
    """V = x2 + y2 from V = 1 over three steps: relu(factor^6 - 0.9)."""
    agent = make_agent(observations=2)
    agent.components['encoder'], agent.components['dynamics'] = nn.Identity(), Shrinking(factor)
    agent.components['policy'] = nn.Linear(2, 1)
    v = Lyapunov(('0', '1'), np.eye(2), np.zeros((1, 2)), np.zeros(1), 3, 0.1, 0.0)
    readout = Readout(torch.eye(2), torch.zeros(2), (1.0, 1.0))
    start = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    found = stability_loss(agent, readout, v, start, torch.ones(2))
    assert float(found.detach()) == pytest.approx(loss, abs=1e-5)
    found.backward()
    expected = 6 * factor**5 if loss else 0.0
    assert float(agent.components['dynamics'].factor.grad) == pytest.approx(expected, abs=1e-3)


def test_which_units_take_part(run):
    """Encoder, latent, dynamics and policy have scores; reward and values have none."""
    weights = {k: v.clone() for k, v in run.agent.components.state_dict().items()}
    found = stability_scores_of(run, run.config.pruning)
    for name, values in found.units.items():
        part = name.startswith(('encoder', 'latent', 'dynamics', 'policy'))
        assert np.isfinite(values).all() == part, name
    assert len(found.r2) == 3 and found.loss >= 0
    assert all(torch.equal(v, weights[k]) for k, v in run.agent.components.state_dict().items())
    assert all(p.grad is None for p in run.agent.components.parameters())
    assert all(p.requires_grad for p in run.agent.components.parameters())


def test_same_seed_same_scores(run):
    rolled = [stability_scores(run.agent, run.replay, pendulum(0.05), SCALE,
                               ImportanceConfig(warmup=2), batches=3,
                               rng=np.random.default_rng(s)) for s in (0, 0, 1)]
    latent = [r.units['latent'] for r in rolled]
    np.testing.assert_array_equal(latent[0], latent[1])
    assert rolled[0].loss == rolled[1].loss != rolled[2].loss


def test_mixing_by_hand():
    task = {'a': np.array([1.0, 2.0]), 'b': np.array([3.0, 4.0, np.nan])}
    other = {'a': np.array([9.0, 5.0]), 'b': np.array([np.nan, 7.0, np.nan])}
    mixed = mix(task, other, 0.5)
    np.testing.assert_allclose(mixed['a'], [(1 / 8 + 5 / 6) / 2, (3 / 8 + 1 / 6) / 2])
    np.testing.assert_allclose(mixed['b'], [5 / 8, (7 / 8 + 3 / 6) / 2, np.nan])
    for name, values in mix(task, other, 0.0).items():
        np.testing.assert_array_equal(np.argsort(values), np.argsort(task[name]))


def test_the_weight_changes_the_plan(run):
    settings = run.config.pruning
    plans = [choose(run, dataclasses.replace(settings, stability_weight=w)) for w in (0, 0.5, 1)]
    assert plans[0].removed != plans[2].removed
    for name in ('reward.hidden1', 'q1.hidden2'):
        assert plans[0].removed[name] == plans[2].removed[name]


def test_plants_and_folders_without_what_it_takes(run, four_parts):
    elsewhere = dataclasses.replace(run.config, env=dataclasses.replace(
        run.config.env, id='MountainCarContinuous-v0'))
    for broken, said in ((dataclasses.replace(run, config=elsewhere), 'no known goal'),
                         (dataclasses.replace(run, replay=None), 'no replay')):
        with pytest.raises(AgentError) as error:
            stability_scores_of(broken, run.config.pruning)
        four_parts(error, 'stability-aware importance', said)
