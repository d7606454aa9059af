# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""ROS 2 nodes that run, prune and exercise neural-network controllers.

This is the only package that imports rclpy; everything that can do without ROS is in
`pruning_core`.
"""

__version__ = '0.1.0'
