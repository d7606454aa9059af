# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What runs on the robot: numpy, onnxruntime and the standard library alone."""
