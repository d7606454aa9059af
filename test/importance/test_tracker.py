# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Importance against the definitions, written out as loops over a net of two layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pruning_core.config import ImportanceConfig
from pruning_core.errors import AgentError, GroupError
from pruning_core.importance import SIGNALS, ImportanceTracker
from pruning_core.importance.tracker import GATHERED

UNITS = 3
NAMES = ('a.weight', 'a.bias', 'b.weight')


def tracker_of(net, **settings):
    return ImportanceTracker(net.graph, net.components,
                             ImportanceConfig(**{'warmup': 1, **settings}))


def sized(given):
    """The signs of gradients, with magnitudes 1, 100 and 10 in units 0, 1 and 2."""
    for g in given:
        for i, size in enumerate((1.0, 100.0, 10.0)):
            for name in NAMES:
                part = np.s_[:, i] if name == 'b.weight' else np.s_[i]
                g[name][part] = size * np.sign(g[name][part])
    return given


def smoothed(values, gamma):
    """The definition: I~ from 0, divided by 1 - gamma^t."""
    ema = np.zeros(UNITS)
    for value in values:
        ema = gamma * ema + (1 - gamma) * value
    return ema / (1 - gamma ** len(values))


@pytest.mark.parametrize('gamma', [0.0, 0.5, 0.9])
@pytest.mark.parametrize('updates', [1, 2, 7])
def test_gradient_and_fisher_by_hand(net, gamma, updates):
    """Means of |g| and of g squared over a unit's slices; bias-corrected from the first update."""
    tracker, given = tracker_of(net, gamma=gamma), net.drawn(updates)
    net.feed(tracker, given)
    per_update = np.array(  # (T, units, 4)
        [[net.of_unit(g, i) for i in range(UNITS)] for g in given])
    np.testing.assert_allclose(tracker.unit_scores('gradient')['latent'],
                               smoothed(np.abs(per_update).mean(2), gamma), rtol=1e-6)
    np.testing.assert_allclose(tracker.unit_scores('fisher')['latent'],
                               smoothed((per_update ** 2).mean(2), gamma), rtol=1e-6)


def test_without_smoothing_the_last_update_counts(net):
    tracker, given = tracker_of(net, gamma=0.0), net.drawn(3)
    net.feed(tracker, given)
    np.testing.assert_allclose(tracker.unit_scores('gradient')['latent'],
                               [np.abs(net.of_unit(given[-1], i)).mean() for i in range(UNITS)],
                               rtol=1e-6)


@pytest.mark.parametrize('scale', [1.0, 1e-2, 50.0])
def test_bayesian_by_hand(net, scale):
    """Gamma posterior of the mean gradient in units of the warm-up median (method section 2)."""
    gamma, warmup, updates = 0.8, 4, 9
    tracker = tracker_of(net, gamma=gamma, forgetting=gamma, warmup=warmup)
    given = net.drawn(updates, scale)
    values = np.array([[net.of_unit(g, i) for i in range(UNITS)] for g in given])
    y, f = np.abs(values).mean(2), (values ** 2).mean(2)
    y0 = np.median(y[:warmup].mean(0))
    f0 = np.median(smoothed(f[:warmup], gamma))
    variance = np.mean((y[:warmup] - y[:warmup].mean(0)) ** 2)
    k = np.clip(y[:warmup].mean() ** 2 / variance, 0.5, 50)
    alpha, beta, b = np.full(UNITS, 3.0), np.full(UNITS, 2.0), []
    for t in range(warmup - 1, updates):
        alpha = gamma * alpha + (1 - gamma) * 3 + k
        beta = gamma * beta + (1 - gamma) * 2 + k * y[t] / y0
        b.append(np.log(1 + beta / (alpha - 1)) * (1 + f[t] / f0))
    net.feed(tracker, given[:warmup - 1])
    assert not tracker.warm
    assert np.isnan(tracker.unit_scores('bayesian')['latent']).all()
    net.feed(tracker, given[warmup - 1:])
    assert tracker.warm
    np.testing.assert_allclose(tracker.unit_scores('bayesian')['latent'], smoothed(b, gamma),
                               rtol=1e-5)


def test_larger_gradients_are_more_important(net):
    """The posterior must not invert the ranking, as one over a rate would."""
    tracker = tracker_of(net, gamma=0.9, warmup=3)
    given = sized(net.drawn(12))
    net.feed(tracker, given)
    for score in (*SIGNALS, 'combined'):
        assert np.argsort(tracker.unit_scores(score)['latent']).tolist() == [0, 2, 1], score


def test_scaling_the_loss_leaves_bayesian_and_combined_unchanged(net):
    found = []
    for scale in (1.0, -3.0, 0.01):
        tracker = tracker_of(net, warmup=3)
        net.feed(tracker, net.drawn(10, scale))
        found.append([tracker.unit_scores(s)['latent'] for s in ('bayesian', 'combined')])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4)


def test_fisher_is_never_below_the_squared_gradient(net):
    tracker = tracker_of(net, gamma=0.0)
    for gradients in net.drawn(20):
        net.feed(tracker, [gradients])
        scores = {s: tracker.unit_scores(s)['latent'] for s in SIGNALS}
        assert (scores['fisher'] >= scores['gradient'] ** 2 - 1e-12).all()


def test_combined_is_the_mean_of_the_ranks(net):
    """Normalised to (rank - 1/2) / n; the three signals rank alike or not."""
    tracker = tracker_of(net, warmup=1)
    net.feed(tracker, net.drawn(5))
    ranks = [(np.argsort(np.argsort(tracker.unit_scores(s)['latent'])) + 0.5) / UNITS
             for s in SIGNALS]
    np.testing.assert_allclose(tracker.unit_scores('combined')['latent'], np.mean(ranks, axis=0))


def test_ties_are_averaged(net):
    tracker = tracker_of(net, warmup=1)
    net.feed(tracker, [{n: np.ones_like(g) for n, g in net.drawn(1)[0].items()}])
    np.testing.assert_allclose(tracker.unit_scores('combined')['latent'], [0.5] * UNITS)


def test_every_backward_pass_counts(net):
    """Two passes in one update: all that were seen are averaged."""
    first, second = net.drawn(2)
    tracker = tracker_of(net, gamma=0.0)
    for gradients in (first, second):
        net.set_gradients(gradients)
        tracker.observe()
    tracker.step()
    both = [np.abs(np.concatenate([net.of_unit(first, i), net.of_unit(second, i)])).mean()
            for i in range(UNITS)]
    np.testing.assert_allclose(tracker.unit_scores('gradient')['latent'], both, rtol=1e-6)
    assert tracker.updates == 1


def test_the_order_of_the_passes_does_not_matter(net):
    first, second = net.drawn(2)
    del second['b.weight']  # as where the policy's pass does not reach the model
    states = []
    for order in ((first, second), (second, first)):
        tracker = tracker_of(net)
        for gradients in order:
            net.set_gradients(gradients)
            tracker.observe()
        tracker.step()
        states.append(tracker.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_permuted_units_have_permuted_scores(net):
    """Whatever a unit is called, what counts are its gradients."""
    order = [2, 0, 1]
    plain, permuted = tracker_of(net, warmup=3), tracker_of(net, warmup=3)
    given = net.drawn(8)
    net.feed(plain, given)
    net.feed(permuted, [{'a.weight': g['a.weight'][order], 'a.bias': g['a.bias'][order],
                         'b.weight': g['b.weight'][:, order]} for g in given])
    for score in GATHERED:
        np.testing.assert_allclose(permuted.unit_scores(score)['latent'],
                                   plain.unit_scores(score)['latent'][order], rtol=1e-9)


def test_the_papers_posterior(net):
    """alpha gathers y, beta counts; in units of the warm-up median."""
    given, gamma = net.drawn(6), 0.5
    tracker = tracker_of(net, posterior='paper', gamma=gamma, forgetting=1.0, warmup=2)
    net.feed(tracker, given)
    values = np.array([[net.of_unit(g, i) for i in range(UNITS)] for g in given])
    y, f = np.abs(values).mean(2), (values ** 2).mean(2)
    y0, f0 = np.median(y[:2].mean(0)), np.median(smoothed(f[:2], gamma))
    alpha, beta, b = np.ones(UNITS), 1.0, []
    for t in range(1, 6):
        alpha, beta = alpha + y[t] / y0, beta + 1
        b.append(np.log(1 + alpha / beta) * (1 + f[t] / f0))
    np.testing.assert_allclose(tracker.unit_scores('bayesian')['latent'], smoothed(b, gamma),
                               rtol=1e-5)
    assert tracker_of(net).config.posterior == 'mean'


def test_ucb_is_the_mean_and_kappa_deviations(net):
    low, high = (tracker_of(net, kappa=k, warmup=2, forgetting=1.0) for k in (0.0, 2.0))
    given = net.drawn(9)
    del given[7]['a.weight'], given[7]['a.bias'], given[7]['b.weight']
    for tracker in (low, high):
        assert np.isnan(tracker.unit_scores('ucb')['latent']).all()
        net.feed(tracker, given)
    mean, bound = (t.unit_scores('ucb')['latent'] for t in (low, high))
    state = {n: v.numpy() for n, v in low.state_dict().items()}
    np.testing.assert_allclose(mean, (state['beta'] / (state['alpha'] - 1))[:UNITS])
    np.testing.assert_allclose(bound, mean * (1 + 2 / np.sqrt(state['alpha'][:UNITS] - 2)))


def test_no_gradient_is_not_a_zero_gradient(net):
    """Without b's gradient, the mean is over a's numbers alone; without any, there is no score."""
    (given,) = net.drawn(1)
    tracker = tracker_of(net, gamma=0.0)
    net.set_gradients({})
    tracker.observe()
    tracker.step()
    assert tracker.unseen == UNITS
    assert np.isnan(tracker.unit_scores('gradient')['latent']).all()
    assert math.isnan(tracker.group_scores('gradient')['latent'])
    net.feed(tracker, [{n: g for n, g in given.items() if n.startswith('a.')}])
    np.testing.assert_allclose(
        tracker.unit_scores('gradient')['latent'],
        [np.abs(net.of_unit(given, i)[:3]).mean() for i in range(UNITS)], rtol=1e-6)
    assert tracker.unseen == 0


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_broken_batches_are_skipped_and_counted(net, bad):
    good, broken, last = net.drawn(3)
    broken['a.bias'][1] = bad
    tracker, other = tracker_of(net), tracker_of(net)
    net.feed(tracker, [good, broken, last])
    net.feed(other, [good, last])
    assert (tracker.skipped, tracker.updates, other.skipped) == (1, 3, 0)
    for score in (*SIGNALS, 'combined'):
        np.testing.assert_array_equal(tracker.unit_scores(score)['latent'],
                                      other.unit_scores(score)['latent'])


def test_only_every_kth_update_is_observed(net):
    given = net.drawn(7)
    tracker, other = tracker_of(net, every=3), tracker_of(net)
    net.feed(tracker, given)
    net.feed(other, given[::3])
    np.testing.assert_array_equal(tracker.unit_scores('fisher')['latent'],
                                  other.unit_scores('fisher')['latent'])


@pytest.mark.parametrize('at', [1, 3, 6])
def test_state_goes_on_to_the_bit(net, at):
    """Saved before, at and after the end of the warm-up."""
    given = net.drawn(8)
    whole, first, second = (tracker_of(net, warmup=3) for _ in range(3))
    net.feed(whole, given)
    net.feed(first, given[:at])
    state = first.state_dict()
    net.feed(first, given[at:at + 1])  # the saved state must not follow
    second.load_state_dict(state)
    net.feed(second, given[at:])
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_state_of_another_model_is_refused(net, make_agent, four_parts):
    agent = make_agent()
    other = ImportanceTracker(agent.graph(), dict(agent.components.items()), ImportanceConfig())
    for state in (tracker_of(net).state_dict(), {}):
        with pytest.raises(AgentError) as error:
            other.load_state_dict(state)
        four_parts(error, '182 units', f'the file has {len(state) and UNITS}')


def test_unknown_scores_are_named(net, four_parts):
    with pytest.raises(GroupError) as error:
        tracker_of(net).unit_scores('fischer')
    four_parts(error, "'fischer'", "did you mean 'fisher'?", 'combined')


@pytest.fixture
def observed(make_agent, fill):
    """An agent's tracker after some updates."""
    def observe(*overrides, updates=6):
        agent = make_agent('importance.warmup=2', *overrides)
        tracker = ImportanceTracker(agent.graph(), dict(agent.components.items()),
                                    ImportanceConfig(warmup=2))
        agent.on_gradients = tracker.observe
        rng = np.random.default_rng(0)
        for _ in range(updates):
            agent.update(fill().sample(rng, 8, 2))
            tracker.step()
        return agent, tracker

    return observe


def test_measured_before_clipping(observed):
    """A clip that changes every gradient leaves the first update's importance alone."""
    scores = [observed(f'agent.clip_norm={c}', updates=1)[1].unit_scores('gradient')
              for c in (1e-6, 1e6)]
    for name, values in scores[0].items():
        np.testing.assert_array_equal(values, scores[1][name], err_msg=name)
        assert np.isnan(values).all() if name.startswith('policy') else values.mean() > 1e-5


def test_against_autograd(observed, make_agent, fill):
    """One update: the mean |gradient| of a reward unit, of the loss weighed by hand."""
    _, tracker = observed(updates=1)
    agent, batch = make_agent(), fill().sample(np.random.default_rng(0), 8, 2)
    net, c = agent.components, agent.config
    z = net['encoder'](torch.from_numpy(batch.observation[0]))
    loss = torch.zeros(())
    for t in range(2):  # the reward net's own loss only, and its path through the latents
        pair = torch.cat([z, torch.from_numpy(batch.action[t])], -1)
        gap = net['reward'](pair)[:, 0] - torch.from_numpy(batch.reward[t])
        loss = loss + c.rho ** t * c.reward_weight * (gap ** 2).mean()
        z = net['dynamics'](pair)
    loss.backward()
    first, second = net['reward'][0], net['reward'][2]
    total = (first.weight.grad.abs().sum(1) + first.bias.grad.abs()
             + second.weight.grad.abs().sum(0)) / (7 + 1 + 16)
    np.testing.assert_allclose(tracker.unit_scores('gradient')['reward.hidden1'], total.numpy(),
                               rtol=1e-4)


def test_policy_is_seen_when_it_is_updated(observed):
    _, one = observed(updates=1)
    _, two = observed(updates=2)
    assert one.unseen == 32
    assert two.unseen == 0


def test_groups_are_means_of_their_units_and_ranked_among_each_other(observed):
    _, tracker = observed()
    for score in SIGNALS:
        groups = tracker.group_scores(score)
        for name, values in tracker.unit_scores(score).items():
            assert groups[name] == pytest.approx(values.mean()), (score, name)
    names = list(groups)
    ranks = [(np.argsort(np.argsort([tracker.group_scores(s)[n] for n in names])) + 0.5) / 12
             for s in SIGNALS]
    found = tracker.group_scores('combined')
    np.testing.assert_allclose([found[n] for n in names], np.mean(ranks, axis=0))


def test_sums_over_units_favour_large_groups(observed):
    agent, tracker = observed()
    summed = ImportanceTracker(agent.graph(), dict(agent.components.items()),
                               ImportanceConfig(warmup=2, aggregate='sum'))
    summed.load_state_dict(tracker.state_dict())
    for group in tracker.groups:
        assert summed.group_scores('fisher')[group.name] == pytest.approx(
            group.size * tracker.group_scores('fisher')[group.name])


def test_summary(observed):
    _, tracker = observed(updates=1)
    assert tracker.summary() == 'warming up, 1 of 2'
    _, tracker = observed(updates=4)
    scores = tracker.group_scores('combined')
    assert tracker.summary() == f'{max(scores, key=scores.get)} most, ' \
                                f'{min(scores, key=scores.get)} least'


def test_agreement_of_the_signals(net):
    """Where every slice of a unit has one magnitude, the three signals must rank alike."""
    tracker = tracker_of(net, warmup=2)
    given = sized(net.drawn(4))
    net.feed(tracker, given)
    assert tracker.signal_agreement() == {
        'gradient-fisher': 1, 'gradient-bayesian': 1, 'fisher-bayesian': 1}


@pytest.fixture
def viewed(observed):
    """A tracker that saw one set of gradients, and those gradients."""
    agent, tracker = observed(updates=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for p in agent.components.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        tracker.observe()
        tracker.step()
    return agent.components, tracker


def test_views_of_the_latent_group(viewed):
    """Through the policy's columns alone, through each other consumer, and through all."""
    net, tracker = viewed
    heads = ('dynamics', 'reward', 'q1', 'q2', 'policy')
    assert [v.name for v in tracker.views] == [f'encoder->{c}' for c in (*heads, 'all')]
    raw = {v.name: a for v, a in zip(tracker.views, np.split(tracker.raw[-36:], 6), strict=True)}
    columns = {c: net[c][0].weight.grad[:, :6].abs().double() for c in heads}
    for name, weight in columns.items():
        np.testing.assert_allclose(raw[f'encoder->{name}'], weight.mean(0), rtol=1e-6)
    np.testing.assert_allclose(raw['encoder->all'], torch.cat(list(columns.values())).mean(0),
                               rtol=1e-6)
    for score in (*SIGNALS, 'ucb'):
        for name, values in tracker.view_unit_scores(score).items():
            assert values.shape == (6,)
            assert tracker.view_scores(score)[name] == pytest.approx(values.mean())


def test_a_view_is_ranked_in_the_place_of_its_group(viewed):
    _, tracker = viewed
    found = tracker.view_scores('combined')
    for view in found:
        ranks = []
        for signal in SIGNALS:
            value = tracker.view_scores(signal)[view]
            others = [v for g, v in tracker.group_scores(signal).items() if g != 'latent']
            ranks.append((np.sum(np.array(others) < value) + 0.5) / 12)
        assert found[view] == pytest.approx(np.mean(ranks))
