# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The planner on the robot against the torch planner it was exported from."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from pruning_core.errors import BundleError, ConfigError, PruningError
from pruning_core.export import export
from pruning_core.planner import TorchPlanner, plan_start
from pruning_core.runtime.bound import BoundGraph, session
from pruning_core.runtime.bundle import (
    MANIFEST,
    PLAN_START,
    PLAN_STEP,
    WORLD_MODEL,
    open_bundle,
    write,
)
from pruning_core.runtime.planner import Planner, horizons
from pruning_core.runtime.pushes import push_noise

GOOD = [1.0, 0.0, 0.0]
SMALL = {'latent': 6, 'encoder_hidden': 16, 'hidden': 16}
SHORT = {'horizon': 2, 'samples': 32, 'policy_samples': 4, 'elites': 8, 'iterations': 3}
SIZES = {
    'tiny': ({}, {}, 'Pendulum-v1'),
    'latent cut': ({}, {'latent': 3}, 'Pendulum-v1'),
    'every width cut': ({}, {'latent': 5, 'encoder': (7,), 'dynamics': (9, 4), 'reward': (3, 16),
                             'q1': (5, 6), 'q2': (16, 2), 'policy': (1, 11)}, 'Pendulum-v1'),
    'one step ahead': ({'planner': {'horizon': 1, 'samples': 16, 'policy_samples': 1, 'elites': 3,
                                    'iterations': 2}}, {}, 'Pendulum-v1'),
    'elu, five steps': ({'network': {**SMALL, 'activation': 'elu'}, 'planner': {
        'horizon': 5, 'samples': 64, 'policy_samples': 5, 'elites': 9, 'iterations': 6}}, {},
        'Pendulum-v1'),
    'two actions': ({}, {'latent': 4}, 'TestCrane-v0'),
    'pushes': ({'planner': {**SHORT, 'pushes': 2, 'push_margin': 0.001}}, {}, 'Pendulum-v1'),
    'margin': ({'planner': {**SHORT, 'policy_margin': 1.6}}, {}, 'Pendulum-v1'),
    'margin, pushes': ({'planner': {**SHORT, 'policy_margin': 1.9, 'pushes': 2,
                                    'push_margin': 1.4}}, {}, 'Pendulum-v1'),
    'two actions, margin, pushes': ({'planner': {**SHORT, 'policy_margin': 1.6, 'pushes': 2,
                                                 'push_margin': 0.7}}, {}, 'TestCrane-v0'),
    'two actions, pushes': ({'planner': {**SHORT, 'pushes': 2, 'push_margin': 0.001}},
                            {'latent': 4}, 'TestCrane-v0'),
}


@pytest.fixture(scope='module')
def made(make_run, tmp_path_factory):
    """Returns a function from a row of SIZES to run and bundle."""
    known = {}

    def make(name):
        if name not in known:
            settings, widths, env = SIZES[name]
            base = {'network': SMALL, 'planner': SHORT}
            run = make_run({**base, **settings}, widths, env=env)
            known[name] = run, export(run, tmp_path_factory.mktemp('planner') / 'bundle')[0]
        return known[name]
    return make


class SameNoise:
    """The numbers that the bundle's planner draws, in the shape that torch's wants."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, horizon, plans, actions):
        drawn = self.rng.standard_normal((horizon, plans, actions), dtype=np.float32)
        return torch.from_numpy(drawn[:, None])


def reference(run, seed, samples=0, iterations=0):
    agent = run.agent
    return TorchPlanner(agent.components, run.config.planner.scaled(samples, iterations),
                        run.config.agent.discount, run.config.agent.policy_noise, SameNoise(seed))


def observations(manifest, count, seed=0):
    signal = manifest.observation
    reach = np.array([4.0 if math.isinf(v) else v for v in signal.high])
    return np.random.default_rng(seed).uniform(-reach, reach, (count, len(reach)))


@pytest.mark.parametrize(('name', 'samples', 'iterations'), [
    *((name, 0, 0) for name in SIZES), ('tiny', 100, 5), ('tiny', 8, 1), ('two actions', 16, 2)])
def test_agrees_with_torch_on_the_same_noise_tick_after_tick(made, name, samples, iterations):
    """Several ticks: the warm start and the order of the noise are compared, too."""
    run, bundle = made(name)
    action = bundle.manifest.action
    middle, half = (np.add(action.high, action.low) / 2, np.subtract(action.high, action.low) / 2)
    planner = Planner(bundle, seed=7, samples=samples, iterations=iterations)
    torch_planner = reference(run, 7, samples, iterations)
    found, expected = [], []
    for observation in observations(bundle.manifest, 6):
        scaled = observation * np.asarray(bundle.manifest.observation.scale)
        expected.append(torch_planner.plan(torch.tensor(scaled[None], dtype=torch.float32))[0])
        found.append((planner.plan(observation).action - middle) / half)
    assert np.abs(np.array(found) - np.clip(np.array(expected), -1, 1)).max() < 1e-4
    assert np.ptp(found, axis=0).min() > 0.01  # the observations do matter


@pytest.mark.parametrize(('name', 'kinds'), [
    ('margin', {'policy', 'refined'}), ('margin, pushes', {'policy', 'refined', 'push'}),
    ('two actions, margin, pushes', {'policy', 'refined', 'push'})])
def test_agrees_with_torch_on_who_acts(made, name, kinds):
    """Over ticks in which each of them does, with what it leaves to the next one."""
    run, bundle = made(name)
    planner, torch_planner = Planner(bundle, seed=3), reference(run, 3)
    acted = set()
    for observation in observations(bundle.manifest, 40, seed=1):
        scaled = observation * np.asarray(bundle.manifest.observation.scale)
        torch_planner.plan(torch.tensor(scaled[None], dtype=torch.float32))
        planner.plan(observation)
        np.testing.assert_allclose(planner.mean, torch_planner._mean[:, 0], atol=1e-4)
        proposed = [np.array_equal(planner.mean, p)
                    for p in planner._policy_actions.transpose(1, 0, 2)]
        acted.add('policy' if proposed[0] else 'push' if any(proposed) else 'refined')
    assert acted == kinds


@pytest.mark.parametrize('name', ['tiny', 'two actions'])
def test_policy_reward_and_residual_agree_with_torch(made, name):
    run, bundle = made(name)
    net, manifest = run.agent.components, bundle.manifest
    first, second = observations(manifest, 2)
    planner = Planner(bundle)
    plan, after = planner.plan(first), planner.plan(second)
    middle = np.add(manifest.action.high, manifest.action.low) / 2
    half = np.subtract(manifest.action.high, manifest.action.low) / 2
    with torch.no_grad():
        scaled = torch.tensor(np.array([first, second]) * manifest.observation.scale,
                              dtype=torch.float32)
        latent = net['encoder'](scaled)
        acted = torch.tensor((plan.action - middle) / half, dtype=torch.float32)
        pair = torch.cat([latent[0], acted])
        reward = float(net['reward'](pair)) / manifest.reward_scale
        gap = torch.linalg.norm(net['dynamics'](pair) - latent[1]) / torch.linalg.norm(latent[1])
        policy = net['policy'](latent[0]).numpy() * half + middle
    assert plan.policy_action == pytest.approx(policy, abs=1e-4)
    assert plan.reward == pytest.approx(reward, abs=1e-4)
    assert math.isnan(plan.residual)
    assert after.residual == pytest.approx(float(gap), abs=1e-4)


@pytest.mark.parametrize('name', ['tiny', 'two actions'])
def test_value_without_refinement_is_that_of_the_policy_in_the_units_of_the_plant(made, name):
    run, bundle = made(name)
    observation, = observations(bundle.manifest, 1)
    scaled = torch.tensor(observation * bundle.manifest.observation.scale, dtype=torch.float32)
    silence = torch.zeros(2, 1, 1, len(bundle.manifest.action.names))
    with torch.no_grad():
        start = plan_start(run.agent.components, scaled[None], silence, bundle.manifest.discount)
    value = float(start.policy_values) / bundle.manifest.reward_scale
    assert Planner(bundle).plan(observation, 0.0).value == pytest.approx(value, abs=1e-4)


PUSHING = ('pushes', 'two actions, pushes')


@pytest.mark.parametrize('name', PUSHING)
def test_without_refinement_the_policy_acts_or_a_push_that_is_worth_more(made, name):
    run, bundle = made(name)
    manifest = bundle.manifest
    p, actions = manifest.planner, len(manifest.action.names)
    noise = np.concatenate([np.zeros((2, 1, actions), 'f4'), push_noise(2, p.pushes, actions)], 1)
    seen = observations(manifest, 30)
    with torch.no_grad():
        starts = [plan_start(
            run.agent.components,
            torch.tensor(o * manifest.observation.scale, dtype=torch.float32)[None],
            torch.from_numpy(noise[:, None]), manifest.discount) for o in seen]
    more = [float(s.policy_values[0, 1:].max() - s.policy_values[0, 0]) for s in starts]
    settings = dataclasses.replace(p, push_margin=float(np.median(more)))  # half of them push
    planner = Planner(dataclasses.replace(
        bundle, manifest=dataclasses.replace(manifest, planner=settings)))
    for observation, start, gain in zip(seen, starts, more, strict=True):
        values = start.policy_values[0]
        best = 1 + int(values[1:].argmax()) if gain > settings.push_margin else 0
        plan = planner.plan(observation, 0.0)
        assert plan.value * manifest.reward_scale == pytest.approx(float(values[best]), abs=1e-4)
        np.testing.assert_allclose(planner.mean, start.policy_actions[:, 0, best], atol=1e-5)
        np.testing.assert_allclose(
            plan.action, planner._middle + planner._half * planner.mean[0], atol=1e-5)


@pytest.mark.parametrize('name', PUSHING)
@pytest.mark.parametrize('iterations', [1, 3])
def test_a_plan_is_worth_what_it_says_and_what_a_push_is_less_the_margin(made, name, iterations):
    _, bundle = made(name)
    planner = Planner(bundle, seed=1, samples=4, iterations=iterations)
    first, p = planner.settings.policy_samples, bundle.manifest.planner
    for observation in observations(bundle.manifest, 20):
        plan = planner.plan(observation)
        value = plan.value * bundle.manifest.reward_scale
        assert value >= planner._policy_values[first:].max() - p.push_margin - 1e-4
        latent, mean = planner.latent.copy(), planner.mean.copy()
        assert planner.value_of(latent, mean) == pytest.approx(plan.value, abs=1e-3)


@pytest.mark.parametrize('settings', [{'pushes': 2}, {'policy_margin': 1e-6}])
def test_what_integers_refined_is_valued_in_floats(make_run, tmp_path, settings):
    """As what it is held against: the same plan has the same value in both."""
    run = make_run({'network': {'latent': 16, 'encoder_hidden': 64, 'hidden': 64}, 'planner': {
        'horizon': 2, 'samples': 32, 'policy_samples': 4, 'elites': 8, 'iterations': 3,
        **settings}})
    bundle = export(run, tmp_path / 'bundle')[0]
    integers, floats = (Planner(bundle, precision=p) for p in ('int8', 'fp32'))
    for observation in observations(bundle.manifest, 5):
        plan = integers.plan(observation)
        value = floats.value_of(integers.latent.copy(), integers.mean.copy())
        assert plan.value == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_push_nothing(made, wrong):
    _, bundle = made('pushes')
    planner = Planner(bundle)
    planner.plan(GOOD)
    plan = planner.mean.copy()
    planner._policy_values[:] = wrong
    assert planner._chosen(1.0) == 1.0
    planner._policy_values[:] = 9.0
    assert math.isnan(planner._chosen(math.nan))
    assert (planner.mean == plan).all()
    assert planner._chosen(1.0) == 9.0


def test_the_policy_acts_where_the_refined_plan_is_worth_little_more(made):
    """With a margin that half of the refined plans exceed; the plan says what acts is worth."""
    _, bundle = made('margin')
    manifest = bundle.manifest

    def planner(margin):
        return Planner(dataclasses.replace(bundle, manifest=dataclasses.replace(
            manifest, planner=dataclasses.replace(manifest.planner, policy_margin=margin))))

    seen, always, never = observations(manifest, 30), planner(1e-12), planner(1e9)
    refined, own, more = [], [], []
    for observation in seen:
        for one in (always, never):
            one.reset(5)
        refined.append(always.plan(observation))
        own.append(never.plan(observation))
        np.testing.assert_array_equal(own[-1].action, own[-1].policy_action)
        assert own[-1].value == pytest.approx(
            float(never._policy_values[0]) / manifest.reward_scale, abs=1e-5)
        more.append((refined[-1].value - own[-1].value) * manifest.reward_scale)
    assert np.median(more) > 0
    half = planner(float(np.median(more)))
    for observation, one, other, gain in zip(seen, refined, own, more, strict=True):
        half.reset(5)
        found, expected = half.plan(observation), (one if gain > np.median(more) else other)
        np.testing.assert_array_equal(found.action, expected.action)
        assert found.value == expected.value


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_a_policy_whose_value_is_not_finite_takes_no_place(made, wrong):
    _, bundle = made('margin')
    planner = Planner(bundle)
    planner.plan(GOOD)
    planner._mean[:] = 0.123
    planner._policy_values[:] = wrong
    assert planner._chosen(-5.0) == -5.0
    assert (planner.mean == np.float32(0.123)).all()
    planner._policy_values[:] = 1.0
    assert planner._chosen(math.nan) == 1.0, 'of a refined plan that is not finite it does'
    assert (planner.mean == planner._policy_actions[:, 0]).all()


def test_value_of_a_plan_outlives_a_tick_that_went_wrong(made):
    _, bundle = made('pushes')
    planner = Planner(bundle)
    planner.plan(GOOD)
    latent, mean = planner.latent.copy(), planner.mean.copy()
    value = planner.value_of(latent, mean)
    planner.plan([math.nan] * 3)
    assert planner.value_of(latent, mean) == value


def test_no_graph_is_opened_twice(made, monkeypatch):
    opened = []
    monkeypatch.setattr('pruning_core.runtime.planner.session',
                        lambda content, *rest: opened.append(content) or session(content, *rest))
    for name in ('tiny', 'pushes', 'margin'):
        Planner(made(name)[1])
        assert len(opened) == len(set(opened)) == 3
        opened.clear()


def test_a_bundle_from_before_there_were_pushes_has_none(made, tmp_path):
    """It opens, with the same hash, and proposes what it did."""
    _, bundle = made('pushes')
    manifest = dataclasses.replace(bundle.manifest, planner=dataclasses.replace(
        bundle.manifest.planner, pushes=0, push_margin=0.03))
    older = write(tmp_path / 'older', manifest, bundle.graphs)
    known = json.loads((tmp_path / 'older' / MANIFEST).read_text())['planner']
    assert not {'policy_margin', 'pushes', 'push_margin'} & set(known)
    again = open_bundle(tmp_path / 'older')
    assert (again.hash, again.manifest.planner.pushes) == (older.hash, 0)
    planner = Planner(again)
    planner.plan(GOOD)
    assert planner._policy_actions.shape[1] == 4
    assert Planner(bundle)._policy_actions.shape[1] == 4 + 4


def test_same_seed_same_commands_and_another_seed_others(bundle):
    def commands(seed):
        planner = Planner(bundle, seed=seed)
        return [planner.plan(o).action.tolist() for o in observations(bundle.manifest, 5)]
    assert commands(3) == commands(3)
    assert commands(3) != commands(4)


def test_runs_that_share_a_planner_are_each_as_if_alone(bundle):
    """Noise, warm start and residual are a run's own."""
    rng = np.random.default_rng(3)
    seen = rng.uniform(-1, 1, (3, 5, 3))  # run, decision, observation
    shared = Planner(bundle)
    courses = [shared.course(10 + run) for run in range(3)]
    plans = {}
    for decision in range(5):
        for run in rng.permutation(3):
            shared.follow(courses[run])
            plans[run, decision] = shared.plan(seen[run, decision])
    for run in range(3):
        alone = Planner(bundle, seed=10 + run)
        for decision in range(5):
            plan, expected = plans[run, decision], alone.plan(seen[run, decision])
            np.testing.assert_array_equal(plan.action, expected.action)
            np.testing.assert_equal(plan.residual, expected.residual)


def test_reset_begins_the_run_that_is_followed_anew(bundle):
    shared = Planner(bundle)
    first, second = shared.course(1), shared.course(2)
    shared.follow(first)
    shared.plan(GOOD)
    shared.reset(7)
    shared.follow(second)
    shared.plan(GOOD)
    shared.follow(first)
    fresh = Planner(bundle, seed=7)
    np.testing.assert_array_equal(shared.plan(GOOD).action, fresh.plan(GOOD).action)


def test_warm_up_leaves_no_trace(bundle):
    warm, cold = Planner(bundle), Planner(bundle)
    assert warm.warm_up() > 0
    for observation in observations(bundle.manifest, 3):
        one, other = warm.plan(observation), cold.plan(observation)
        assert one.action.tolist() == other.action.tolist()
        assert one.residual == pytest.approx(other.residual, nan_ok=True)


@pytest.mark.parametrize(('name', 'same'), [('one step ahead', True), ('elu, five steps', False)])
def test_plan_starts_from_the_last_one_moved_on_by_a_decision_until_reset(made, name, same):
    """Of a plan of one decision nothing is left. The same noise is drawn in both."""
    _, bundle = made(name)
    following, fresh = Planner(bundle, seed=1), Planner(bundle, seed=1)
    following.plan(GOOD)
    fresh.plan(GOOD)
    fresh.reset()
    assert (following.plan(GOOD).action.tolist() == fresh.plan(GOOD).action.tolist()) == same


@pytest.mark.filterwarnings('ignore:overflow encountered')
@pytest.mark.parametrize('bad', [[1e300, 0, 0], [0, 0, 3.4e38], [math.nan, 0, 0],
                                 [math.inf, 0, 0]])
@pytest.mark.parametrize('budget_s', [None, 0.0])
def test_one_bad_observation_does_not_spoil_the_plans_after_it(bundle, bad, budget_s):
    planner = Planner(bundle)
    planner.plan(GOOD)
    with contextlib.suppress(PruningError):  # as good as a plan that is not finite
        planner.plan(bad, budget_s)
    after = planner.plan(GOOD)
    assert np.isfinite(after.action).all()
    assert math.isfinite(after.value)


@pytest.mark.parametrize('bad', [[1.0], 1.0, [1.0, 0.0], [1.0] * 4, [], [GOOD]])
def test_observation_of_another_shape_is_refused_in_words(bundle, bad):
    with pytest.raises(PruningError, match='observation.*allowed: '):
        Planner(bundle).plan(bad)


# --- the budget, on a clock that each look at moves on by one second ------------------------


def counting(bundle, **settings):
    seconds = itertools.count()
    return Planner(bundle, clock=lambda: float(next(seconds)), **settings)


@pytest.mark.parametrize(('budget_s', 'iterations'), [
    (None, 6), (0.0, 0), (0.5, 0), (1.0, 1), (2.5, 1), (3.0, 2), (4.0, 3), (7.0, 6), (1e9, 6)])
def test_another_iteration_starts_only_if_the_slowest_would_fit(bundle, budget_s, iterations):
    """One second for the first graph, one for each iteration, one for the last graph."""
    plan = counting(bundle, iterations=6).plan(GOOD, budget_s)
    assert plan.iterations == iterations
    assert plan.compute_s == iterations + 2
    assert np.isfinite(plan.action).all()
    if iterations == 0:
        assert plan.action.tolist() == plan.policy_action.tolist()


def test_one_long_stall_does_not_end_planning_for_good(bundle):
    now, step = [0.0], [1.0]

    def clock():
        now[0] += step[0]
        return now[0]

    planner = Planner(bundle, clock=clock)
    planner.plan(GOOD)
    step[0] = 100.0
    planner.plan(GOOD)
    step[0] = 1.0
    done = [planner.plan(GOOD, 10.0).iterations for _ in range(400)]
    assert done[0] == 0
    assert done[-1] == 3


class Work:
    """A machine whose clock moves on only when graphs run: a second for each valued plan."""

    def __init__(self, monkeypatch):
        self.now, self.slower = 0.0, 1.0
        run = BoundGraph.run

        def timed(graph):
            noise = graph._arrays[0].get('noise')
            sampled = noise is not None and 'mean' in graph._arrays[0]
            self.now += self.slower * noise.shape[1] if sampled else 0.0
            run(graph)

        monkeypatch.setattr(BoundGraph, 'run', timed)

    def planner(self, bundle, **settings):
        planner = Planner(bundle, clock=lambda: self.now, **settings)
        planner.warm_up()
        return planner


@pytest.mark.parametrize(('budget_s', 'iterations', 'samples'), [
    (96, 3, 96), (95, 3, 80), (64, 2, 64), (40, 2, 40), (31, 3, 28), (16, 1, 16), (12, 2, 12),
    (4, 1, 4), (3.9, 0, 0), (0, 0, 0)])
def test_fewer_samples_before_fewer_iterations_and_the_plan_says_so(
        bundle, monkeypatch, budget_s, iterations, samples):
    """32 samples and 3 iterations, a second each; sizes of 32, 16, 8 and 4."""
    plan = Work(monkeypatch).planner(bundle).plan(GOOD, budget_s)
    assert (plan.iterations, plan.samples) == (iterations, samples)
    assert (plan.given_up_iterations, plan.given_up_samples) == (3 - iterations, 96 - samples)
    assert plan.compute_s <= budget_s


def test_what_the_end_of_a_plan_takes_is_not_forgotten_where_there_was_none(made, monkeypatch):
    """A second for valuing the refined plan, which ticks without refinement go without."""
    work = Work(monkeypatch)
    planner = work.planner(made('pushes')[1])
    for _ in range(100):
        assert planner.plan(GOOD, 4.5).iterations == 0  # four samples and the end need five
    for budget_s in (5.5, 17.0, 97.0):
        plan = planner.plan(GOOD, budget_s)
        assert plan.iterations > 0 and plan.compute_s <= budget_s
    assert plan.samples == 96


@pytest.mark.parametrize('stalled', [1, 4], ids=['valuing', 'refining'])
def test_a_stall_anywhere_does_not_end_refinement_for_good(made, monkeypatch, stalled):
    """A stall in a graph of so many rows, once; then the machine is as it was."""
    work = Work(monkeypatch)
    planner = work.planner(made('pushes')[1], samples=4, iterations=1)
    run, left = BoundGraph.run, [1]

    def stall(graph):
        noise = graph._arrays[0].get('noise')
        if left[0] and noise is not None and noise.shape[1] == stalled:
            left[0] = 0
            work.now += 1000.0
        run(graph)

    monkeypatch.setattr(BoundGraph, 'run', stall)
    assert planner.plan(GOOD).compute_s > 1000
    done = [planner.plan(GOOD, 6.0).iterations for _ in range(400)]
    assert done[0] == 0
    assert done[-1] == 1


@given(budget_s=st.floats(0, 200), slower=st.floats(0.2, 20),
       name=st.sampled_from(['tiny', 'pushes', 'margin']))
@example(budget_s=69.5, slower=19.25, name='tiny')  # even the smallest iteration is too long
@example(budget_s=69.5, slower=19.25, name='pushes')
def test_budget_is_kept_or_missed_by_one_iteration(made, budget_s, slower, name):
    """Also in the tick in which the machine becomes slower than it ever was."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        work = Work(monkeypatch)
        planner = work.planner(made(name)[1])
        work.slower = slower
        plan = planner.plan(GOOD, budget_s)
        later = [planner.plan(GOOD, budget_s).compute_s for _ in range(12)]
        assert max(plan.compute_s, *later) <= budget_s + slower * (32 + (name != 'tiny'))
        assert sum(t <= 1.1 * budget_s for t in later) >= 6


def test_a_stall_costs_samples_for_a_while_and_not_for_good(bundle, monkeypatch):
    work = Work(monkeypatch)
    planner = work.planner(bundle)
    work.slower = 50.0
    planner.plan(GOOD, 100.0)
    work.slower = 1.0
    done = [planner.plan(GOOD, 100.0).samples for _ in range(150)]
    assert done[0] < 96
    assert done[-1] == 96


@given(share=st.floats(0, 10), seed=st.integers(0, 5))
def test_every_budget_gives_a_finite_command_within_limits(bundle, share, seed):
    planner = Planner(bundle, seed=seed)
    for observation in observations(bundle.manifest, 3, seed):
        plan = planner.plan(observation, share * bundle.manifest.period_s)
        for command in (plan.action, plan.policy_action):
            assert np.isfinite(command).all()
            assert (command >= bundle.manifest.action.low).all()
            assert (command <= bundle.manifest.action.high).all()
        assert plan.iterations + plan.given_up_iterations == 3
        assert plan.samples + plan.given_up_samples == 96


def test_buffers_are_allocated_once(bundle):
    """A tick leaves no array behind, and every command is its own."""
    planner = Planner(bundle)
    first = planner.plan(GOOD)
    kept = first.action.copy()
    mean = planner.mean
    planner.plan([-1.0, 0.0, 4.0])
    assert planner.mean is mean
    assert first.action.tolist() == kept.tolist()


def test_reset_with_a_seed_starts_the_noise_again(bundle):
    planner = Planner(bundle, seed=3)
    first = planner.plan(GOOD).action.tolist()
    planner.plan(GOOD)
    planner.reset()
    assert planner.plan(GOOD).action.tolist() != first
    planner.reset(3)
    assert planner.plan(GOOD).action.tolist() == first


# --- variants ------------------------------------------------------------------------------------


def test_short_horizon_is_that_of_torch(made):
    run, bundle = made('elu, five steps')
    short = dataclasses.replace(run.config.planner, horizon=3)
    torch_planner = TorchPlanner(run.agent.components, short, run.config.agent.discount,
                                 run.config.agent.policy_noise, SameNoise(2))
    planner = Planner(bundle, seed=2, horizon=3)
    assert horizons(bundle) == (5, 3)
    for observation in observations(bundle.manifest, 4):
        scaled = torch.tensor((observation * bundle.manifest.observation.scale)[None],
                              dtype=torch.float32)
        expected = np.clip(torch_planner.plan(scaled)[0].numpy(), -1, 1)
        assert planner.plan(observation).action == pytest.approx(2 * expected, abs=2e-4)


@pytest.mark.parametrize(('wrong', 'named'), [
    ({'horizon': 4}, 'horizon of 4'), ({'precision': 'fp8'}, "precision 'fp8'"),
    ({'precision': 'int8'}, "precision 'int8'"), ({'horizon': -1}, 'horizon of -1')])
def test_variants_that_a_bundle_does_not_have_are_refused(bundle, wrong, named):
    with pytest.raises(ConfigError, match=f'{named}.*; allowed: .*; choose'):
        Planner(bundle, **wrong)


def test_a_plant_whose_best_plan_is_known(make_run, tmp_path):
    """z' = z + a / 2, reward -|z' - 1|, of exported layers: from 0 the best is 1, 1, 0, 0."""
    run = make_run({'planner': {'horizon': 4, 'samples': 400, 'elites': 40, 'policy_samples': 5,
                                'iterations': 8, 'temperature': 10.0, 'min_std': 0.01},
                    'agent': {'policy_noise': 0.0}})

    def linear(rows, bias=0.0):
        layer = nn.Linear(len(rows[0]), len(rows))
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(rows))
            layer.bias.copy_(torch.as_tensor(bias).expand(len(rows)))
        return layer

    nothing = linear([[0.0, 0.0]])
    run.agent.components = nn.ModuleDict({
        'encoder': nn.Sequential(linear([[1.0, 0.0, 0.0]])),
        'dynamics': nn.Sequential(linear([[1.0, 0.5]])),
        'reward': nn.Sequential(linear([[1.0, 0.5], [-1.0, -0.5]], torch.tensor([-1.0, 1.0])),
                                nn.ReLU(), linear([[-1.0, -1.0]])),
        'q1': nn.Sequential(nothing), 'q2': nn.Sequential(nothing),
        'policy': nn.Sequential(linear([[0.0]]), nn.Tanh())})
    planner = Planner(export(run, tmp_path / 'line')[0])
    assert planner.plan([0.0, 0.0, 0.0]).action == pytest.approx([2.0], abs=0.1)
    assert planner.mean[:, 0] == pytest.approx([1, 1, 0, 0], abs=0.1)
    planner.reset()
    # The rewards of the four steps are -0.5, 0, 0 and 0; half of that in the plant's units is 0.5.
    assert planner.plan([0.0, 0.0, 0.0]).value == pytest.approx(-0.5 / 0.5, abs=0.1)


@pytest.mark.parametrize(('samples', 'iterations', 'found'), [
    (0, 0, (32, 3, 8, 4)), (64, 0, (64, 3, 16, 8)), (16, 9, (16, 9, 4, 2)), (1, 1, (1, 1, 1, 1))])
def test_budget_of_samples_keeps_the_shares(bundle, samples, iterations, found):
    planner = Planner(bundle, samples=samples, iterations=iterations)
    s, plan = planner.settings, planner.plan(GOOD)
    assert (s.samples, s.iterations, s.elites, s.policy_samples) == found
    assert (plan.samples, plan.iterations) == (found[0] * found[1], found[1])
    assert (plan.given_up_samples, plan.given_up_iterations) == (0, 0)


@example(2, 5, 7, 1)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 24), st.integers(1, 30))
def test_any_budget_of_samples_leaves_enough_plans_for_the_elites(
        scaled_planner, samples, policy_samples, elites, asked):
    s = scaled_planner(samples, policy_samples, min(elites, samples + policy_samples), asked)
    assert 1 <= s.elites <= s.samples + s.policy_samples
    assert s.policy_samples >= 1


@pytest.fixture(scope='module')
def scaled_planner(bundle):
    """Returns a function from a bundle's numbers and the samples asked for to the settings."""
    def settings(samples, policy_samples, elites, asked):
        planner = dataclasses.replace(bundle.manifest.planner, samples=samples,
                                      policy_samples=policy_samples, elites=elites)
        changed = dataclasses.replace(bundle.manifest, planner=planner)
        return Planner(dataclasses.replace(bundle, manifest=changed), samples=asked).settings
    return settings


@pytest.mark.parametrize('wrong', [
    {'samples': -1}, {'iterations': -1}, {'threads': 0}, {'threads': -2}])
def test_settings_out_of_range_are_refused(bundle, wrong):
    with pytest.raises(ConfigError, match='asked for.*allowed|1 or more'):
        Planner(bundle, **wrong)


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4))
def test_commands_stay_within_limits_that_are_not_symmetric(crane, observation):
    plan = crane.plan(observation)
    for command in (plan.action, plan.policy_action):
        assert (command >= crane.manifest.action.low).all()
        assert (command <= crane.manifest.action.high).all()


@pytest.fixture(scope='module')
def crane(made):
    return Planner(made('two actions')[1], iterations=1)


# --- graphs that do not belong ---------------------------------------------------------------


@pytest.mark.parametrize('name', [PLAN_START, PLAN_STEP, WORLD_MODEL])
@pytest.mark.parametrize('content', [b'', b'no graph', None], ids=['empty', 'text', 'half'])
def test_graph_that_onnxruntime_cannot_read_is_refused(bundle, name, content):
    content = bundle.graphs[name][:-100] if content is None else content
    damaged = dataclasses.replace(bundle, graphs={**bundle.graphs, name: content})
    with pytest.raises(BundleError):
        Planner(damaged)


def test_refusal_of_a_graph_has_four_parts():
    with pytest.raises(BundleError, match='was loaded: onnxruntime refused.*; allowed: .*; .*'):
        session(b'no graph', {})


@pytest.mark.parametrize(('key', 'value'), [
    ('period_s', '0.02'), ('observations', '4'), ('actions', '2'), ('horizon', '3'),
    ('horizon', None)])
@pytest.mark.parametrize('name', [PLAN_START, PLAN_STEP, WORLD_MODEL])
def test_graph_of_another_contract_is_refused(bundle, name, key, value):
    model = onnx.load_from_string(bundle.graphs[name])
    found = {p.key: p.value for p in model.metadata_props}
    found[f'pruned_controller.{key}'] = value
    onnx.helper.set_model_props(model, {k: v for k, v in found.items() if v is not None})
    other = dataclasses.replace(
        bundle, graphs={**bundle.graphs, name: model.SerializeToString()})
    with pytest.raises(BundleError, match=f'its pruned_controller.{key} is {value}; allowed'):
        Planner(other)


def test_graphs_swapped_for_one_another_are_refused(bundle):
    graphs = {**bundle.graphs, PLAN_START: bundle.graphs[WORLD_MODEL]}
    with pytest.raises(BundleError):
        Planner(dataclasses.replace(bundle, graphs=graphs))
