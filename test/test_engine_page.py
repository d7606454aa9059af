# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The page about the engine shows what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / 'docs' / 'engine.md'


def test_examples():
    """Every Python example, run in order, prints what stands below it."""
    text = re.sub(r'^```.*$', '', PAGE.read_text(), flags=re.MULTILINE)
    example = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(example.examples) > 20
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0
