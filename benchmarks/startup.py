# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A controller process from exec to its first command, and the memory it holds.

    python benchmarks/startup.py --bundle runs/bundle
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import Float64MultiArray

from pruned_controller.conversions import COMMAND, NEWEST
from pruning_core.runtime.bench import probes
from pruning_core.runtime.bundle import open_bundle


def rss_mb(process: int) -> float:
    """Resident memory of a process in MB."""
    for line in Path(f'/proc/{process}/status').read_text().splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) * 1024 / 1e6
    return float('nan')


def measure(bundle: Path, timeout_s: float = 30.0) -> tuple[float, float]:
    """Start a controller beside a plant that always has an observation.

    Returns:
        Seconds from exec to the first command, with `configure` and `activate` called as soon as
        they are there, and MB of resident memory two seconds later.
    """
    os.environ['ROS_DOMAIN_ID'] = str(100 + os.getpid() % 100)
    observation = Float64MultiArray(data=[float(x) for x in probes(open_bundle(bundle))[0]])
    rclpy.init()
    node = rclpy.create_node('startup')
    commanded: list[float] = []
    publisher = node.create_publisher(Float64MultiArray, 'observation', NEWEST)
    node.create_subscription(Float64MultiArray, 'command',
                             lambda _: commanded.append(time.perf_counter()), COMMAND)
    node.create_timer(0.01, lambda: publisher.publish(observation))
    change = node.create_client(ChangeState, '/controller/change_state')
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, '-m', 'pruned_controller.controller_node', '--ros-args',
         '-p', f'bundle:={bundle}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        steps = [Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE]
        asked = None
        while not commanded and time.perf_counter() - began < timeout_s:
            rclpy.spin_once(node, timeout_sec=0.005)
            if asked is not None and asked.done():
                steps.pop(0)
                asked = None
            if asked is None and steps and change.service_is_ready():
                request = ChangeState.Request()
                request.transition.id = steps[0]
                asked = change.call_async(request)
        if not commanded:
            raise SystemExit('the controller sent no command; run it by hand to see why')
        end = time.perf_counter() + 2.0
        while time.perf_counter() < end:
            rclpy.spin_once(node, timeout_sec=0.05)
        return commanded[0] - began, rss_mb(process.pid)
    finally:
        process.terminate()
        process.wait(10)
        node.destroy_node()
        rclpy.shutdown()


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--bundle', required=True, type=Path)
    seconds, memory = measure(parser.parse_args().bundle)
    print(f'{seconds:.2f} s to the first command, {memory:.1f} MB')


if __name__ == '__main__':
    main()
