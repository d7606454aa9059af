# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m pruning_core`."""

import sys

from pruning_core.cli import main

sys.exit(main())
