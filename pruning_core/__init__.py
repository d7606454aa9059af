# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Component-aware pruning of neural-network controllers; free of ROS.

Importing this package imports neither torch nor onnxruntime.
"""

__version__ = '0.1.0'
