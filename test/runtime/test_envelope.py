# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Where the plant may be: limits, margins, and the edge on the way back."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pruning_core.errors import ConfigError
from pruning_core.runtime.envelope import Envelope


def values(cos=1.0, sin=0.0, speed=0.0):
    return np.array([cos, sin, speed])


@pytest.mark.parametrize(('margin', 'speed', 'outside'), [
    (0.0, 8.0, False), (0.0, 8.01, True), (0.1, 9.6, False), (0.1, 9.61, True),
    (0.1, -9.61, True), (-1.0, 1e300, False)])
def test_margin_widens_the_limits_of_the_bundle(manifest, margin, speed, outside):
    found = Envelope.of(manifest, margin).beyond(values(speed=speed))
    assert bool(found) == outside
    if outside:
        assert 'angular velocity left its envelope' in found


def test_an_entry_takes_the_place_of_one_limit(manifest):
    envelope = Envelope.of(manifest, 0.0, ['angular velocity -1 2.5'])
    assert envelope.beyond(values(speed=2.4)) == ''
    assert '-1 to 2.5' in envelope.beyond(values(speed=2.6))
    assert 'cos(angle)' in envelope.beyond(values(cos=1.01)), 'the others stay'


def test_the_way_back_is_narrower(manifest):
    envelope = Envelope.of(manifest, 0.0)
    assert envelope.beyond(values(speed=7.5)) == ''
    assert envelope.beyond(values(speed=7.5), strict=True) != ''
    assert envelope.beyond(values(cos=0.8, sin=0.6, speed=7.0), strict=True) == ''


def test_unbounded_observations_are_never_outside(manifest):
    signal = dataclasses.replace(manifest.observation, low=(-math.inf, -1.0, 0.0),
                                 high=(math.inf, math.inf, 1.0))
    envelope = Envelope.of(dataclasses.replace(manifest, observation=signal), 0.1)
    assert envelope.beyond(np.array([1e308, 1e308, 0.5]), strict=True) == ''
    assert Envelope.none(manifest).beyond(values(speed=-1e308)) == ''


@pytest.mark.parametrize('text', [
    'angular velocity', 'angular velocity 1', 'angular velocity 2 1', 'angular velocity 1 1',
    'angular velocity a b', 'angular velocity nan 1', '', '1 2'])
def test_entries_of_another_form_are_refused(manifest, text, four_parts):
    with pytest.raises(ConfigError) as caught:
        Envelope.of(manifest, 0.0, [text])
    four_parts(caught, 'envelope')


def test_a_name_that_is_none_says_which_is_near(manifest, four_parts):
    with pytest.raises(ConfigError) as caught:
        Envelope.of(manifest, 0.0, ['angular velocty -1 1'])
    four_parts(caught, "did you mean 'angular velocity'", 'sin(angle)')
