# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What is fitted to a machine, by which clock, and when it is measured again."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pruning_core.errors import ConfigError
from pruning_core.runtime import fit as module
from pruning_core.runtime.bench import probes
from pruning_core.runtime.bundle import open_bundle
from pruning_core.runtime.fit import FIT, Choice, Judge, candidates, fit, load, machine
from pruning_core.runtime.planner import Plan, Planner


@pytest.fixture
def opened(folder):
    return open_bundle(folder)


@pytest.fixture
def clocked(monkeypatch):
    """A machine on which a plan takes a microsecond per valued plan and step, one thread best."""
    class Timed(Planner):
        def plan(self, observation, budget_s=None):
            found = super().plan(observation, budget_s)
            seconds = 1e-6 * found.samples * self.settings.horizon * self.threads
            return dataclasses.replace(found, compute_s=seconds)

        def __init__(self, bundle, *, threads=1, **settings):
            super().__init__(bundle, threads=threads, **settings)
            self.threads = threads

    monkeypatch.setattr(module, 'Planner', Timed)
    return Timed


@pytest.mark.parametrize('budget_us', [1000, 100, 40])
def test_choice_fits_and_is_the_best_that_does(opened, clocked, budget_us):
    """The clock is known, so is what fits; nothing that fits is worth more, beyond the noise."""
    found = fit(opened, period_s=2e-6 * budget_us, share=0.5)
    c = found.choice
    assert 1e-6 * c.samples * c.iterations * c.horizon * c.threads <= found.budget_s
    assert found.budget_s == pytest.approx(1e-6 * budget_us)
    assert c.threads == 1
    assert {t['p50_s'] <= found.budget_s for t in found.tried} == {True}
    assert found.loss <= min(t['loss'] for t in found.tried) + max(found.error, 1e-9) + 1e-6
    assert found.p50_s <= found.p99_s <= found.budget_s


def test_plans_are_timed_as_a_loop_makes_them_after_a_sleep(opened, clocked, monkeypatch):
    """A plan that was slept before takes 50 us more here; what is chosen fits with that."""
    slept = []
    monkeypatch.setattr(module.time, 'sleep', slept.append)
    plan = clocked.plan

    def cold(self, observation, budget_s=None):
        found = plan(self, observation, budget_s)
        more = 5e-5 * bool(slept)
        before.extend(slept)
        slept.clear()
        return dataclasses.replace(found, compute_s=found.compute_s + more)

    before = []
    monkeypatch.setattr(clocked, 'plan', cold)
    found = fit(opened, period_s=2e-4, share=0.5)
    c = found.choice
    assert found.p50_s == pytest.approx(
        5e-5 + 1e-6 * c.samples * c.iterations * c.horizon * c.threads)
    assert found.p50_s <= found.budget_s == pytest.approx(1e-4)
    assert set(before) == {2e-4}, 'a period'
    fit(opened, period_s=1.0, again=True)
    assert max(before) == 0.1, 'nobody waits for a minute'
    with pytest.raises(ConfigError, match='smallest'):
        fit(opened, period_s=1e-4, share=0.5)  # the smallest would fit in a row


def test_choice_is_kept_and_measured_again_for_other_machines_bundles_and_budgets(
        opened, clocked, monkeypatch, folder):
    searched = []
    search = module._search
    monkeypatch.setattr(module, '_search', lambda *a: searched.append(a) or search(*a))
    first = fit(opened, period_s=1e-3)
    assert fit(opened, period_s=1e-3) == first and len(searched) == 1
    assert json.loads((folder / FIT).read_text())['bundle'] == opened.hash
    assert open_bundle(folder).hash == opened.hash  # what lies beside a bundle is not part of it
    fit(opened, period_s=1e-3, share=0.4)
    assert len(searched) == 2
    fit(opened, period_s=1e-3, share=0.4, again=True)
    assert len(searched) == 3
    other = {**machine(), 'processor': 'another'}
    monkeypatch.setattr(module, 'machine', lambda: other)
    assert fit(opened, period_s=1e-3, share=0.4).machine == other and len(searched) == 4


@pytest.mark.parametrize('damage', [
    lambda v: '', lambda v: json.dumps({'schema': module.SCHEMA}),
    lambda v: json.dumps({**v, 'schema': 0}),
    lambda v: json.dumps({**v, 'bundle': 'ab'}),
    lambda v: json.dumps({**v, 'choice': {**v['choice'], 'horizon': 77}}),
    lambda v: json.dumps({**v, 'choice': {**v['choice'], 'precision': 'fp8'}}),
    lambda v: json.dumps(v)[:-20]])
def test_choice_that_is_damaged_or_of_another_is_not_taken(opened, clocked, folder, damage):
    first = fit(opened, period_s=1e-3)
    assert load(opened, first.budget_s) == first
    (folder / FIT).write_text(damage(json.loads((folder / FIT).read_text())))
    assert load(opened, first.budget_s) is None
    assert fit(opened, period_s=1e-3).bundle == opened.hash


def test_folder_that_cannot_be_written_costs_a_measurement_and_nothing_else(
        opened, clocked, monkeypatch, folder):
    def full(*_):
        raise OSError('no room')

    monkeypatch.setattr(module.os, 'replace', full)
    assert fit(opened, period_s=1e-3).choice.samples >= 1
    assert not list(folder.glob('*fit*'))


@pytest.mark.parametrize(('period_s', 'share', 'found'), [
    (1e-9, 0.5, 'the smallest takes'), (-1.0, 0.5, 'period of'), (1.0, 0.0, 'a share of 0'),
    (1.0, -0.5, 'a share of'), (float('nan'), 0.5, 'period of')])
def test_budget_that_nothing_fits_is_refused(opened, clocked, period_s, share, found):
    with pytest.raises(ConfigError, match=f'{found}.*; allowed: .*; .*'):
        fit(opened, period_s=period_s, share=share)


def test_full_plan_itself_loses_nothing_and_a_spoiled_one_does(opened):
    judge = Judge(opened, probes(opened))

    class Spoiled(Planner):
        def plan(self, observation, budget_s=None) -> Plan:
            found = super().plan(observation, budget_s)
            self._mean[0] = -np.sign(self._mean[0])
            return found

    class Same(Planner):
        def reset(self, seed=None):
            super().reset(1000 if seed is not None else None)

    loss, _ = judge.loss(Same(opened))
    spoiled, _ = judge.loss(Spoiled(opened))
    assert loss == pytest.approx(0, abs=1e-4)
    assert spoiled > 0.05


def test_value_of_a_plan_is_that_of_the_graph(opened):
    """Of the elites' best: valuing its own plan again gives the value it was found with."""
    planner = Planner(opened, samples=16, iterations=1)
    observation = probes(opened)[0]
    planner.plan(observation)
    latent = planner.latent.copy()
    rng = np.random.default_rng(0)
    plans = rng.uniform(-1, 1, (5, *planner.mean.shape)).astype(np.float32)
    values = [planner.value_of(latent, p) for p in plans]
    assert len(set(values)) == 5
    assert values == [planner.value_of(latent, p) for p in plans]


def test_candidates_hold_every_horizon_and_precision_and_the_full_plan(opened):
    found = candidates(opened)
    p = opened.manifest.planner
    assert Choice(p.samples, p.iterations, p.horizon, 1, 'fp32') in found
    assert {c.horizon for c in found} == {2, 1}
    assert len(set(found)) == len(found)
