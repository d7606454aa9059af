# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Sparsity pressure: the schedules' closed forms, exact zeros, the guard, and what it reveals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pruning_core.channels import trace
from pruning_core.config import SCHEDULES, SparsityConfig
from pruning_core.errors import AgentError, ConfigError
from pruning_core.sparsity import (
    SparsityPressure,
    coefficients,
    cycles,
    neighbour_correlation,
    resilience,
    resiliences,
)

RATE = 1e-2


def config_of(schedule='cosine', **settings):
    return SparsityConfig(schedule, **{'lambda_min': 1.0, 'lambda_max': 5.0, 'period': 40,
                                       **settings})


@given(st.integers(2, 30), st.integers(0, 10_000))
def test_cosine_sums_and_periods(groups, update):
    """n (min + max) / 2 at any time; the same a period later; least at i T / n, and never less."""
    config = config_of(period=60)
    now = coefficients(config, groups, update)
    assert now.sum() == pytest.approx(groups * 3.0)
    np.testing.assert_allclose(coefficients(config, groups, update + 60), now, atol=1e-9)
    assert (now >= 1 - 1e-9).all() and (now <= 5 + 1e-9).all()
    for i in range(groups):
        phase = i * 60 / groups
        assert coefficients(config, groups, phase)[i] == pytest.approx(1.0)
        assert coefficients(config, groups, phase + 30)[i] == pytest.approx(5.0)


@pytest.mark.parametrize('groups', [2, 3, 12, 20])
def test_correlations_of_phases(groups):
    """cos(2 pi (i - j) / n), as method section 3 says; neighbours too alike from 14 groups on."""
    pressure = coefficients(config_of(period=360), groups, np.arange(360))
    i = np.arange(groups)
    np.testing.assert_allclose(np.corrcoef(pressure.T),
                               np.cos(2 * np.pi * (i[:, None] - i) / groups), atol=1e-9)
    assert neighbour_correlation('cosine', groups) == pytest.approx(math.cos(2 * math.pi / groups))
    assert (neighbour_correlation('cosine', groups) > 0.9) == (groups >= 14)


def test_distinct_frequencies_are_orthogonal():
    pressure = coefficients(config_of('frequencies', period=200), 20, np.arange(200))
    np.testing.assert_allclose(np.corrcoef(pressure.T), np.eye(20), atol=1e-9)
    assert neighbour_correlation('frequencies', 20) == 0


def test_alternatives_by_hand():
    at = np.array([0, 20, 40, 79, 80])
    expected = {'constant': [5, 5, 5, 5, 5], 'step': [5, 5, 3, 3, 2],
                'exponential': [5, 1 + 4 / math.sqrt(2), 3, 1 + 4 * 0.5 ** (79 / 40), 2],
                'none': [0, 0, 0, 0, 0]}
    for schedule, values in expected.items():
        found = coefficients(config_of(schedule), 3, at)
        np.testing.assert_allclose(found, np.repeat(values, 3).reshape(5, 3))
    one = coefficients(config_of('cosine'), 1, at)
    np.testing.assert_allclose(coefficients(config_of('in_phase'), 3, at), np.repeat(one, 3, 1))
    assert {*expected, 'cosine', 'in_phase', 'frequencies'} == set(SCHEDULES)


@pytest.fixture
def model():
    """Two groups: h1 of 4 units, h2 of 3; the weight between them is under both pressures."""
    torch.manual_seed(0)
    net = {'a': nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(),
                              nn.Linear(3, 1))}
    return net, trace(net, lambda: [net['a'](torch.zeros(2, 2))])


def weights(net):
    return {n: p.detach().clone() for n, p in net['a'].named_parameters()}


def test_soft_threshold_by_hand(model):
    net, graph = model
    before = weights(net)
    SparsityPressure(graph, net, config_of('constant', lambda_max=60.0)).step(RATE)
    first, second = (RATE * 60 / n for n in (4 * (2 + 1 + 3), 3 * (4 + 1 + 1)))
    thresholds = {'0.weight': first, '0.bias': first, '2.weight': first + second,
                  '2.bias': second, '4.weight': second, '4.bias': 0.0}
    for name, p in net['a'].named_parameters():
        old = before[name]
        expected = old.sign() * (old.abs() - thresholds[name]).clamp(min=0)
        torch.testing.assert_close(p.detach(), expected, atol=1e-7, rtol=1e-6)


def test_fewer_and_larger_steps(model):
    """One step of three times the size instead of three, where nothing crosses zero."""
    net, graph = model
    before, after = weights(net), []
    for every in (1, 3):
        net['a'].load_state_dict(before)
        pressure = SparsityPressure(graph, net, config_of('constant', lambda_max=5.0, every=every))
        for _ in range(3):
            pressure.step(1e-3)
        assert pressure.updates == 3
        after.append(weights(net))
    for name, value in after[0].items():
        torch.testing.assert_close(after[1][name], value, rtol=0, atol=1e-6)
        assert name == '4.bias' or not torch.equal(value, before[name])


def test_zeros_are_exact(model):
    """Which Adam's subgradient would never give."""
    net, graph = model
    pressure = SparsityPressure(graph, net, config_of('constant', lambda_max=1e6))
    pressure.step(RATE)
    assert all((p == 0).all() for n, p in net['a'].named_parameters() if n != '4.bias')
    assert (net['a'][4].bias != 0).all()  # an output: of no group


def test_only_part_of_an_axis(model):
    """Columns of an action beside those of the latent are left alone."""
    torch.manual_seed(1)
    net = {'e': nn.Linear(2, 3), 'd': nn.Linear(5, 1)}
    x, action = torch.zeros(2, 2), torch.zeros(2, 2)
    graph = trace(net, lambda: [net['d'](torch.cat([action, torch.tanh(net['e'](x))], -1))])
    before = net['d'].weight.detach().clone()
    SparsityPressure(graph, net, config_of('constant', lambda_max=1e6)).step(RATE)
    assert torch.equal(net['d'].weight[:, :2], before[:, :2])
    assert (net['d'].weight[:, 2:] == 0).all()


def test_none_does_nothing(model):
    net, graph = model
    before = weights(net)
    pressure = SparsityPressure(graph, net, SparsityConfig())
    pressure.step(RATE)
    assert not pressure.active and pressure.updates == 0 and np.isnan(pressure.norms).all()
    assert all(torch.equal(v, before[n]) for n, v in weights(net).items())


def test_collapse_is_named_and_the_pressure_taken_off(model):
    """The group that loses its weights is freed; the other one goes on."""
    net, graph = model
    pressure = SparsityPressure(graph, net, config_of('constant', check_every=2, collapse=0.5))
    for update in range(8):
        if update == 3:
            with torch.no_grad():
                for p in (net['a'][0].weight, net['a'][0].bias, net['a'][2].weight):
                    p.mul_(1e-3)
        pressure.step(RATE)
        frozen = update >= 4
        assert pressure.collapsed == ({'a.hidden1': 4} if frozen else {})
        assert pressure.coefficients.tolist() == [0 if frozen else 5, 5]


@pytest.mark.parametrize('at', [1, 3, 4])
def test_state_goes_on_to_the_bit(model, at):
    def run(pressure, updates):
        for _ in range(updates):
            pressure.step(RATE)

    net, graph = model
    settings = config_of(lambda_max=40.0, check_every=3, collapse=0.999)
    start = weights(net)
    whole = SparsityPressure(graph, net, settings)
    run(whole, 9)
    end = weights(net)
    net['a'].load_state_dict(start)
    first = SparsityPressure(graph, net, settings)
    run(first, at)
    second = SparsityPressure(graph, net, settings)
    second.load_state_dict(first.state_dict())
    run(second, 9 - at)
    assert whole.collapsed and second.collapsed == whole.collapsed
    np.testing.assert_array_equal(second.norms, whole.norms)
    assert all(torch.equal(v, end[n]) for n, v in weights(net).items())


def test_state_of_another_model(model, four_parts):
    net, graph = model
    pressure = SparsityPressure(graph, net, config_of())
    state = {**pressure.state_dict(), 'norms': torch.zeros(5)}
    with pytest.raises(AgentError) as error:
        pressure.load_state_dict(state)
    four_parts(error, '2 groups', '5')


@pytest.mark.parametrize(('delay', 'share'), [(0, 0.0), (40, 0.0), (40, 0.3), (100, 0.0)])
def test_resilience_finds_slope_and_lag(delay, share):
    """A log-norm made of a trend, the lagged pressure and noise."""
    rng = np.random.default_rng(0)
    t = np.arange(0, 2000, 10.0)
    pressure = coefficients(config_of(period=400), 4, t)[:, 1]
    late = coefficients(config_of(period=400), 4, t - delay)[:, 1]
    log_norm = 1 + 1e-3 * t - 2e-7 * t**2 - 0.02 * late + share * 0.02 * rng.normal(size=len(t))
    found = resilience(t, pressure, np.exp(log_norm), 400)
    assert found.slope == pytest.approx(-0.02, rel=0.1)
    assert found.lag == pytest.approx(delay, abs=20)
    assert found.explained > (0.9 if share else 0.999)


@pytest.mark.parametrize('schedule', ['cosine', 'in_phase', 'frequencies', 'step'])
@pytest.mark.parametrize('lasting', [0.0, 0.9, 1.0])
def test_resilience_tells_who_gives_way_under_every_schedule(schedule, lasting):
    """Groups shrink under their own pressure by laws of one form; who gives way more is lower.

    With lasting 0 a norm follows the pressure, with 1 its sum. A search for the lag over more than
    half of a group's own cycle would turn the sign of the groups that are pressed fastest.
    """
    config = config_of(schedule, period=1000)
    t = np.arange(0, 3000, 5.0)
    pressure = coefficients(config, 5, t)
    strengths = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    answer = np.zeros_like(pressure)
    for row in range(len(t)):
        answer[row] = (lasting * answer[row - 1] if row else 0) - 1e-4 * strengths * pressure[row]
    own = cycles(config, 5)
    found = resiliences(config, t, pressure, np.exp(answer + 1e-5 * t[:, None]))
    assert all(f.slope < 0 for f in found)
    assert all(0 <= f.lag <= own[g] / 4 for g, f in enumerate(found))
    if schedule != 'frequencies' or lasting == 0:  # what sums up answers less to what is faster
        assert sorted((f.slope for f in found), reverse=True) == [f.slope for f in found]


@pytest.mark.parametrize('schedule', ['exponential', 'constant', 'none'])
def test_no_resilience_under_a_pressure_that_could_be_a_trend(schedule):
    """A norm that only trains, without any answer, must not look as if it gave way."""
    config = config_of(schedule, period=400)
    t = np.arange(0, 2000, 10.0)
    norm = np.exp(np.log1p(t / 100))
    own = cycles(config, 3)
    assert not np.isfinite(own).any()
    assert all(resilience(t, coefficients(config, 3, t)[:, g], norm, own[g]) is None
               for g in range(3))


def test_the_cycle_of_a_group_is_when_its_pressure_is_the_same_again():
    for schedule in ('cosine', 'in_phase', 'frequencies'):
        config = config_of(schedule, period=120)
        for g, cycle in enumerate(cycles(config, 6)):
            t = np.arange(0, 120, 0.5)
            now, later, half = (coefficients(config, 6, t + x)[:, g]
                                for x in (0, cycle, cycle / 2))
            np.testing.assert_allclose(later, now, atol=1e-9)
            np.testing.assert_allclose(half + now, 6.0, atol=1e-9)  # and no earlier


def test_resilience_of_weights_that_only_shrink():
    """Their norm follows the sum of the pressure: a quarter of a period late, and negative."""
    t = np.arange(0, 2000, 10.0)
    pressure = coefficients(config_of(period=400), 4, t)[:, 0]
    found = resilience(t, pressure, np.exp(-1e-3 * np.cumsum(pressure)), 400)
    assert found.slope < 0 and found.lag == pytest.approx(100, abs=20)


def test_resilience_needs_a_period_and_a_pressure_that_varies():
    t = np.arange(0, 300, 10.0)
    varying, norm = coefficients(config_of(period=400), 2, t)[:, 0], np.ones(len(t))
    assert resilience(t, varying, norm, 400) is None
    assert resilience(t, np.ones(len(t)), norm, 100) is None
    assert resilience(t, varying, np.full(len(t), np.nan), 100) is None


@pytest.mark.parametrize(('settings', 'said'), [
    ({'schedule': 'cosinus'}, "did you mean 'cosine'?"), ({'lambda_max': -1.0}, 'lambda_max'),
    ({'lambda_min': 2e3}, 'lambda_max'), ({'period': 1}, 'period'),
    ({'collapse': 1.0}, 'collapse'), ({'check_every': 0}, 'check_every'),
    ({'every': 0}, 'sparsity.every')])
def test_settings_out_of_range(settings, said, four_parts):
    with pytest.raises(ConfigError) as error:
        SparsityConfig(**settings)
    four_parts(error, said)
