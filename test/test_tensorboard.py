# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""TensorBoard shows what metrics.jsonl says, also of a run that was interrupted."""

from __future__ import annotations

import json
import math
import sys

import pytest

from pruning_core.checkpoint import AGENT, METRICS
from pruning_core.errors import MissingExtra
from pruning_core.tensorboard import FOLDER, TensorBoard
from pruning_core.training import Trainer


@pytest.fixture(scope='module')
def shown():
    """All scalars in a folder: {name: [(step, value), ...]}."""
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')

    def read(folder):
        events = accumulator.EventAccumulator(str(folder / FOLDER))
        events.Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)]
                for tag in events.Tags()['scalars']}

    return read


def test_training_and_importance(shown, tiny, tmp_path):
    """Interrupted after the third episode: each episode once, as in the metrics."""
    def interrupt(phase, done, total, /, **facts):
        if done == 3:
            raise KeyboardInterrupt

    config = tiny('training.tensorboard=true', 'training.checkpoint_every=2')
    folder = tmp_path / 'a'
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, folder, interrupt).run()
    Trainer(config, folder).run()
    assert (folder / AGENT).exists()
    records = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    found = shown(folder)
    assert [s for s, _ in found['return']] == [12, 24, 36, 48]
    for path in (('return',), ('consistency',), ('evaluation', 'planned'),
                 ('importance', 'fisher', 'latent'), ('importance', 'gradient', 'q1.hidden2')):
        expected = []
        for record in records:
            value = record
            for key in path:
                value = value.get(key, {})
            if isinstance(value, float) and math.isfinite(value):
                expected.append((record['decisions'], pytest.approx(value, rel=1e-6)))
        assert found['/'.join(path)] == expected and expected, path


def test_without_the_library(monkeypatch, tmp_path, four_parts):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(MissingExtra) as error:
        TensorBoard(tmp_path)
    four_parts(error, '[viz]', 'pip install tensorboard')
