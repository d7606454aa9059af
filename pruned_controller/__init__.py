# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""ROS 2 nodes that run, prune and exercise neural-network controllers.

This is the only package that imports rclpy; everything that can do without ROS is in
`pruning_core`.
"""

import importlib.util
import sys
from pathlib import Path

from pruning_core.errors import MissingExtra, explain

__version__ = '0.1.0'

# OpenSSL's hashes would take 3.5 MB of a robot's memory to hash one bundle; Python has its own.
# Only in the controller's process, and before anything imports them.
if 'controller_node' in {Path(part).name.removeprefix('pruned_controller.').removesuffix('.py')
                         for part in sys.orig_argv[1:4]}:
    sys.modules.setdefault('_hashlib', None)  # type: ignore[arg-type]

_PROGRAMS = ('controller_node', 'demo', 'plant_node', 'pruner_node')

# A program of this package that is started without ROS 2 says so before Python's own traceback;
# an import from elsewhere is left to its author.
if importlib.util.find_spec('rclpy') is None and Path(sys.argv[0]).stem in ('-m', *_PROGRAMS):
    sys.stderr.write(f'{MissingExtra.__name__}: ' + explain(
        'a node was started', "'rclpy' cannot be imported, ROS 2 is not sourced or is made for "
        'another Python', 'a shell with ROS 2 Jazzy or newer sourced, or the environment of '
        '`make setup`', 'source /opt/ros/<distro>/setup.bash, or . .venv/setup.sh') + '\n')
    raise SystemExit(2)
