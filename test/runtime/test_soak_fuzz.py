# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The short form of the soak's fuzzer: hundreds of malformed bundles and observations."""

from __future__ import annotations

import random

import pytest

from pruning_core.runtime.bundle import open_bundle


@pytest.fixture(scope='module')
def fuzz(load_benchmark):
    return load_benchmark('soak_fuzz')


def test_malformed_bundles_are_refused_in_words_and_leave_the_store_clean(fuzz, bundle, tmp_path):
    found = fuzz.fuzz_bundles(bundle, 400, 1, tmp_path)
    assert found['bundle_failures'] == []
    assert found['bundles'] == 400
    assert found['bundles_passed'] < 100, 'what fits together again after damage is rare'
    left = list((tmp_path / 'store').glob('.*')) if (tmp_path / 'store').exists() else []
    assert left == [], 'nothing half-written'
    assert open_bundle(bundle.path).hash == bundle.hash


def test_no_observation_leads_to_an_unsafe_command(fuzz, bundle):
    found = fuzz.fuzz_observations(bundle, 2000, 1)
    assert (found['unsafe'], found['observation_failures']) == (0, [])


def test_mutations_do_change_what_they_are_given(fuzz):
    rng = random.Random(0)
    content = bytes(range(256)) * 4
    assert sum(fuzz.mutated(content, rng) != content for _ in range(100)) > 90
