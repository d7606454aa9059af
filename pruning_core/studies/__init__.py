# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Experiments: one file each, resumable, with its result kept as `docs/studies/NAME.json`."""
