# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How bundles get into a loop, and what outlives the process; without a node."""

from __future__ import annotations

import dataclasses
import json
import os
from concurrent.futures import CancelledError

import numpy as np
import pytest

from pruned_controller import bundles as desk_module
from pruned_controller.bundles import STATE, BundleDesk, Told
from pruned_controller.parameters import CONTROLLER
from pruning_core.errors import BundleError, ConfigError
from pruning_core.runtime.archive import pack
from pruning_core.runtime.bundle import MANIFEST, write
from pruning_core.runtime.planner import Planner

GOOD = np.array([1.0, 0.0, 0.1])


@pytest.fixture
def open_desk(bundles, tmp_path):
    """Returns a function that opens a desk; what it says is in `said`."""
    made = []

    def make(running=False, **changed):
        settings = {p.name: p.default for p in CONTROLLER}
        settings |= {'bundle': str(bundles[0].path), 'store': str(tmp_path / 'store'),
                     'swap.trial': False, 'swap.shadow_ticks': 2, 'swap.window_ticks': 5}
        settings |= {k.replace('__', '.'): v for k, v in changed.items()}
        said = []
        fresh = iter(GOOD + 1e-3 * i for i in range(10**6))
        desk = BundleDesk(settings, lambda: next(fresh), lambda: running,
                          Told(*(lambda t, k=k: said.append((k, t))
                                 for k in ('info', 'warning', 'error'))))
        desk.said = said
        made.append(desk)
        return desk
    yield make
    for desk in made:
        desk.close()


def state_of(desk):
    return json.loads((desk._store / STATE).read_text())


def receive(desk, bundle):
    return desk.receive(pack(bundle), bundle.hash).result(60)


def proven(desk):
    """Let the loop take what is pending and run it through its window."""
    model = desk.switch.take()
    for _ in range(5):
        assert desk.switch.judge(False, 1.0) == ''
    desk.tidy_up()
    return model


def test_a_bundle_that_failed_its_gates_is_warned_of_at_the_start_and_when_it_comes(
        open_desk, bundles, tmp_path):
    first, other = (write(tmp_path / f'failed-{i}', dataclasses.replace(
        b.manifest, gates={**b.manifest.gates, 'failed': [f'it fell {i} times']}), b.graphs)
        for i, b in enumerate(bundles[:2]))
    desk = open_desk(bundle=str(first.path))

    def warned():
        return [t for k, t in desk.said if k == 'warning' and 'failed its gates' in t]
    assert len(warned()) == 1 and 'it fell 0 times' in warned()[0]
    receive(desk, other)
    assert len(warned()) == 2
    assert 'it fell 1 times' in warned()[1] and other.hash[:16] in warned()[1]
    receive(desk, bundles[1])
    assert len(warned()) == 2


def test_a_received_bundle_waits_for_the_loop_and_is_stored(open_desk, bundles):
    desk = open_desk(running=True)
    said = receive(desk, bundles[1])
    assert 'after 2 ticks beside it' in said
    assert desk.switch.active.hash == bundles[0].hash
    assert desk.switch.pending.hash == bundles[1].hash
    assert proven(desk).hash == bundles[1].hash
    assert state_of(desk) == {'start': bundles[0].hash, 'good': bundles[1].hash, 'rejected': {}}


def test_without_a_loop_it_is_taken_at_once(open_desk, bundles):
    desk = open_desk()
    receive(desk, bundles[1])
    assert desk.switch.active.hash == bundles[1].hash


def test_the_same_one_again_is_told_and_nothing_is_done(open_desk, bundles):
    desk = open_desk(running=True)
    assert 'already in use' in receive(desk, bundles[0])
    assert desk.switch.pending is None


def test_another_period_is_refused(open_desk, bundles):
    desk = open_desk(running=True)
    with pytest.raises(BundleError, match='its period_s is 0.1; allowed: 0.05'):
        receive(desk, bundles[2])
    assert desk.switch.pending is None


def test_a_trial_is_made_where_it_is_asked_for(open_desk, bundles, monkeypatch):
    tried = []
    monkeypatch.setattr('pruned_controller.bundles.TrialBench.run',
                        lambda self, folder, hash: tried.append(hash))
    receive(open_desk(swap__trial=True), bundles[1])
    assert tried == [bundles[1].hash]


def test_restart_begins_with_what_proved_itself_where_it_is_asked_to(open_desk, bundles):
    desk = open_desk(running=True)
    receive(desk, bundles[1])
    proven(desk)
    again = open_desk(resume=True)
    assert again.switch.active.hash == bundles[1].hash
    assert again.switch.active.origin == 'resumed'
    assert open_desk(resume=False).switch.active.hash == bundles[0].hash


def test_what_was_still_on_probation_is_not_taken_up_again(open_desk, bundles):
    desk = open_desk(running=True)
    receive(desk, bundles[1])
    desk.switch.take()
    desk.switch.judge(False, 1.0)
    desk.tidy_up()
    assert open_desk(resume=True).switch.active.hash == bundles[0].hash


def test_another_start_bundle_ends_what_followed_the_old_one(open_desk, bundles, tmp_path):
    desk = open_desk(running=True)
    receive(desk, bundles[1])
    proven(desk)
    other = write(tmp_path / 'new', dataclasses.replace(bundles[0].manifest, seeds={'x': 1}),
                  bundles[0].graphs)
    assert open_desk(resume=True, bundle=str(other.path)).switch.active.hash == other.hash


def test_a_last_good_bundle_that_was_damaged_is_left_and_said(open_desk, bundles):
    desk = open_desk(running=True)
    receive(desk, bundles[1])
    proven(desk)
    (desk._store / bundles[1].hash[:16] / MANIFEST).write_text('{}')
    again = open_desk(resume=True)
    assert again.switch.active.hash == bundles[0].hash
    assert any(k == 'error' and 'not taken up again' in t for k, t in again.said)


@pytest.mark.parametrize('text', ['', '{', '[]', '{"start": 1}', '{"start": "", "good": "", '
                                  '"rejected": []}', 'null', '[' * 10_000])
def test_a_state_that_cannot_be_read_is_begun_anew(open_desk, tmp_path, text, bundles):
    (tmp_path / 'store').mkdir()
    (tmp_path / 'store' / STATE).write_text(text)
    desk = open_desk(resume=True)
    assert desk.switch.active.hash == bundles[0].hash
    assert any(k == 'warning' for k, _ in desk.said)


def test_a_state_cannot_lead_out_of_the_store(open_desk, tmp_path, bundles):
    outside = write(tmp_path / 'x', dataclasses.replace(bundles[0].manifest, seeds={'x': 2}),
                    bundles[0].graphs)
    (tmp_path / 'store').mkdir()
    (tmp_path / 'store' / STATE).write_text(json.dumps(
        {'start': bundles[0].hash, 'good': '../x', 'rejected': {}}))
    assert open_desk(resume=True).switch.active.hash == bundles[0].hash != outside.hash


def test_quarantine_holds_across_restarts_until_a_person_insists(open_desk, bundles, four_parts):
    desk = open_desk(running=True)
    receive(desk, bundles[1])
    desk.switch.take()
    while not desk.switch.judge(True, float('nan')):
        pass
    desk.tidy_up()
    again = open_desk(running=True)
    with pytest.raises(BundleError) as caught:
        receive(again, bundles[1])
    four_parts(caught, 'changed back before', '~/reload')
    assert 'replaces' in again.reload(str(bundles[1].path)).result(60)
    assert again.switch.take().hash == bundles[1].hash


def test_rollback_uses_the_model_that_is_still_loaded(open_desk, bundles, four_parts):
    desk = open_desk(running=True)
    with pytest.raises(BundleError) as caught:
        desk.roll_back()
    four_parts(caught, 'there is none')
    first = desk.switch.active
    receive(desk, bundles[1])
    proven(desk)
    assert bundles[0].hash[:16] in desk.roll_back()
    taken = desk.switch.take()
    assert taken.planner is first.planner
    assert not desk.switch.on_probation, 'nobody overrules it'


def test_a_store_that_cannot_be_written_is_told_and_nothing_else_happens(open_desk, tmp_path,
                                                                         bundles):
    (tmp_path / 'store').write_text('a file')
    desk = open_desk(running=True)
    desk.tidy_up()
    assert any(k == 'error' and 'state.json' in t for k, t in desk.said)
    with pytest.raises(OSError):
        receive(desk, bundles[1])
    assert desk.switch.pending is None
    said = len(desk.said)
    desk.tidy_up()
    assert len(desk.said) == said, 'once is enough'


def test_keys_are_demanded_of_every_bundle(open_desk, bundles, tmp_path, four_parts):
    pytest.importorskip('cryptography', reason='signatures need the package cryptography')
    from pruning_core.runtime.bundle import sign
    from pruning_core.runtime.signature import load_private, make_keys

    make_keys(tmp_path / 'a.pem', tmp_path / 'b.pem')
    with pytest.raises(BundleError) as caught:
        open_desk(public_key=str(tmp_path / 'b.pem'))
    four_parts(caught, 'not signed')
    with pytest.raises(ConfigError):
        open_desk(public_key=str(tmp_path / 'none.pem'))
    copy = write(tmp_path / 'signed', bundles[0].manifest, bundles[0].graphs)
    signed = sign(copy.path, load_private(tmp_path / 'a.pem'))
    desk = open_desk(running=True, bundle=str(signed.path), public_key=str(tmp_path / 'b.pem'))
    with pytest.raises(BundleError, match='not signed'):
        receive(desk, bundles[1])
    other = write(tmp_path / 'other', bundles[1].manifest, bundles[1].graphs)
    assert 'replaces' in receive(desk, sign(other.path, load_private(tmp_path / 'a.pem')))


def test_a_graph_of_a_newer_operator_set_is_refused_and_the_running_one_stays(
        open_desk, bundles, tmp_path, four_parts):
    import onnx

    graph = onnx.load_from_string(bundles[1].graphs['plan_step.onnx'])
    graph.opset_import[0].version = 999
    newer = write(tmp_path / 'newer', bundles[1].manifest,
                  {**bundles[1].graphs, 'plan_step.onnx': graph.SerializeToString()})
    desk = open_desk(running=True)
    with pytest.raises(BundleError) as caught:
        receive(desk, newer)
    four_parts(caught, 'onnxruntime refused it', 'update onnxruntime')
    assert desk.switch.pending is None
    assert desk.switch.active.hash == bundles[0].hash


def test_the_planner_is_fitted_before_control_and_never_during_it(open_desk, bundles,
                                                                  monkeypatch):
    from pruning_core.runtime import fit, swap

    choice = fit.Choice(samples=8, iterations=1, horizon=2, threads=1, precision='fp32')
    made = fit.Fit(choice, 0.0, 0.0, 0.0, 0.0, 0.025, '', {}, ())
    measured, looked_up = [], []
    monkeypatch.setattr(swap.fit, 'fit', lambda bundle, share: (
        measured.append((bundle.hash, share)), made)[1])
    monkeypatch.setattr(swap.fit, 'load', lambda bundle, budget_s: looked_up.append(budget_s))
    desk = open_desk(running=True, planner__fit=0.5, planner__samples=16)
    assert measured == [(bundles[0].hash, 0.5)]
    assert desk.switch.active.planner.settings.samples == 8
    receive(desk, bundles[1])
    assert len(measured) == 1
    assert looked_up == [pytest.approx(0.025)]
    assert desk.switch.pending.planner.settings.samples == 16, 'not fitted here yet: as set'


@pytest.mark.parametrize(('budget', 'warned'), [(0.0, True), (0.04, False), (0.06, True)])
def test_a_slow_plan_is_warned_of_unless_the_budget_stops_it(open_desk, monkeypatch, budget,
                                                             warned):
    load = desk_module.load
    monkeypatch.setattr(desk_module, 'load', lambda *a, **k: (load(*a, **k)[0], 0.051))
    desk = open_desk(planner__budget=budget)  # the period is 0.05 s
    assert [kind for kind, text in desk.said if 'miss deadlines' in text] == ['warning'] * warned


@pytest.mark.parametrize(('budget', 'given'), [(0.0, None), (0.02, 0.02)])
def test_the_shadow_run_has_the_budget_of_the_loop(open_desk, bundles, monkeypatch, budget, given):
    plans, plan = [], Planner.plan
    monkeypatch.setattr(Planner, 'plan', lambda self, values, budget_s=None: (
        plans.append(budget_s), plan(self, values, budget_s))[1])
    desk = open_desk(running=True, planner__budget=budget)
    receive(desk, bundles[1])
    assert plans[-2:] == [given, given], 'two shadow ticks, after warming up'


def test_whoever_comes_after_a_cleanup_is_told_that_it_was_cancelled(open_desk, bundles):
    desk = open_desk(running=True)
    desk.close()
    told = []
    for future in (desk.receive(pack(bundles[1]), bundles[1].hash),
                   desk.reload(str(bundles[1].path)), desk.resize()):
        future.add_done_callback(told.append)
        with pytest.raises(CancelledError):
            future.result()
    assert len(told) == 3


def test_the_oldest_received_bundles_make_room_but_none_that_may_be_needed(open_desk, bundles,
                                                                             tmp_path):
    desk = open_desk(running=True, store_keep=3)
    made = [write(tmp_path / 'made', dataclasses.replace(bundles[1].manifest, seeds={'of': n}),
                  bundles[1].graphs) for n in range(7)]
    mine = desk._store / 'my own notes'
    mine.mkdir(parents=True)
    receive(desk, made[0])
    proven(desk)
    os.utime(desk._store / made[0].hash[:16], (1e9, 1e9))
    for age, one in enumerate(made[1:], 1):
        receive(desk, one)
        os.utime(desk._store / one.hash[:16], (1e9 + age, 1e9 + age))
    receive(desk, made[-1])
    kept = {f.name for f in desk._store.iterdir() if f.is_dir()}
    assert kept == {one.hash[:16] for one in (made[0], *made[-3:])} | {mine.name}
    again = open_desk(resume=True)
    assert again.switch.active.hash == made[0].hash


def test_a_store_may_keep_everything(open_desk, bundles, tmp_path):
    desk = open_desk(store_keep=0)
    for n in range(4):
        manifest = dataclasses.replace(bundles[1].manifest, seeds={'of': n})
        receive(desk, write(tmp_path / 'made', manifest, bundles[1].graphs))
    assert len([f for f in desk._store.iterdir() if f.is_dir()]) == 4
