# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle tried in its own process: what would hurt the controller ends there."""

from __future__ import annotations

import pytest

from pruning_core.errors import BundleError
from pruning_core.export import export
from pruning_core.runtime import trial
from pruning_core.runtime.bundle import PLAN_STEP, write


def test_a_good_bundle_passes(bundle):
    trial.run(bundle.path, bundle.hash)


def test_another_bundle_than_the_announced_one_is_refused(bundle, four_parts):
    with pytest.raises(BundleError) as caught:
        trial.run(bundle.path, 'f' * 64)
    four_parts(caught, 'code 2', 'as announced')


def test_graphs_that_do_not_fit_together_end_the_trial_only(bundle, make_run, tmp_path):
    other = export(make_run(widths={'latent': 4}, seed=3), tmp_path / 'other')[0]
    mixed = write(tmp_path / 'mixed', bundle.manifest,
                  {**bundle.graphs, PLAN_STEP: other.graphs[PLAN_STEP]})
    with pytest.raises(BundleError, match='tried in a process of its own'):
        trial.run(mixed.path, mixed.hash)


@pytest.mark.parametrize(('text', 'words'), [
    ('import os; os.abort()', 'code -6'),
    ('bytes(1 << 40)', 'MemoryError'),
    ('import time; time.sleep(300)', 'not done after'),
], ids=['crash', 'memory', 'endless'])
def test_whatever_happens_there_is_a_refusal_here(bundle, monkeypatch, tmp_path, text, words):
    """The real child, with something hostile in place of onnxruntime."""
    (tmp_path / 'onnxruntime.py').write_text(text)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    with pytest.raises(BundleError, match=words):
        trial.run(bundle.path, bundle.hash, timeout_s=5.0)
