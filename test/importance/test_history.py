# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The record of importance over time: round trip, resume, torn files."""

from __future__ import annotations

import numpy as np
import pytest

from pruning_core.config import ImportanceConfig, SparsityConfig
from pruning_core.errors import AgentError
from pruning_core.importance import SIGNALS, ImportanceTracker
from pruning_core.importance.history import Recorder, read_history
from pruning_core.sparsity import SparsityPressure


@pytest.fixture
def parts(net):
    """A tracker and a pressure on the net; gradients of 9 updates."""
    return (ImportanceTracker(net.graph, net.components, ImportanceConfig(warmup=2)),
            SparsityPressure(net.graph, net.components, SparsityConfig('constant')),
            net.drawn(9))


def go(net, tracker, pressure, recorder, updates):
    for gradients in updates:
        net.feed(tracker, [gradients])
        pressure.step(1e-6)
        recorder.step()


def test_rows_are_what_the_tracker_said(net, parts, tmp_path):
    tracker, pressure, given = parts
    recorder = Recorder(tmp_path / 'h', tracker, pressure, 3)
    expected, raw = [], []
    for gradients in given:
        go(net, tracker, pressure, recorder, [gradients])
        raw.append(tracker.raw[:3].mean())
        if tracker.updates % 3 == 0:
            expected.append([tracker.group_scores(s)['latent'] for s in SIGNALS]
                            + [np.mean(raw[-3:]), pressure.coefficients[0], pressure.norms[0]])
    recorder.close()
    found = read_history(tmp_path / 'h')
    assert (found.groups, found.views) == (('latent',), ('a->b',))
    assert found.updates.tolist() == [3, 6, 9]
    columns = [*(found.signals[s] for s in SIGNALS), found.raw, found.pressure, found.norm]
    np.testing.assert_allclose(np.concatenate(columns, axis=1), expected, rtol=1e-6)
    for signal in SIGNALS:
        assert found.view_signals[signal][-1, 0] == pytest.approx(
            tracker.view_scores(signal)['a->b'], rel=1e-6)


@pytest.mark.parametrize('at', [2, 3, 5])
def test_going_on_gives_the_same_bytes(net, parts, tmp_path, at):
    """Also in the middle of a row, and where more was written after the state was kept."""
    tracker, pressure, given = parts
    whole = Recorder(tmp_path / 'whole', tracker, pressure, 3)
    cut = Recorder(tmp_path / 'cut', tracker, pressure, 3)
    for t, gradients in enumerate(given):
        net.feed(tracker, [gradients])
        whole.step()
        cut.step()
        if t + 1 == at:
            state = cut.state_dict()
            cut.close()
            with (tmp_path / 'cut').open('ab') as file:
                file.write(b'lost with the process')
            cut = Recorder(tmp_path / 'cut', tracker, pressure, 3, state)
    whole.close()
    cut.close()
    assert (tmp_path / 'cut').read_bytes() == (tmp_path / 'whole').read_bytes()


def test_a_torn_row_is_left_out(net, parts, tmp_path):
    tracker, pressure, given = parts
    recorder = Recorder(tmp_path / 'h', tracker, pressure, 1)
    go(net, tracker, pressure, recorder, given)
    recorder.close()
    whole = read_history(tmp_path / 'h')
    data = (tmp_path / 'h').read_bytes()
    (tmp_path / 'h').write_bytes(data[:-5])
    assert read_history(tmp_path / 'h').updates.tolist() == whole.updates.tolist()[:-1]


@pytest.mark.parametrize(('content', 'said'), [
    (None, 'there is none'), (b'', 'damaged'), (b'no json\n', 'damaged'), (b'{}\n', 'damaged'),
    (b'{"schema": 1, "groups": ["a"], "views": []}', 'damaged'), (b'[]\n', 'damaged'),
    (b'{"schema": 2, "groups": ["a"], "views": []}\n', 'schema 2')])
def test_damaged_files(tmp_path, four_parts, content, said):
    if content is not None:
        (tmp_path / 'h').write_bytes(content)
    with pytest.raises(AgentError) as error:
        read_history(tmp_path / 'h')
    four_parts(error, said, 'record_every')
