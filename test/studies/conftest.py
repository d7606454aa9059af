# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Lets this process, and those that it starts, import the trials of the tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
