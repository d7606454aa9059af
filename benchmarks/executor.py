# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How long messages keep a control thread waiting: rclpy's executor with threads beside ours.

    python benchmarks/executor.py

A thread of the same process wants to run every millisecond, with SCHED_FIFO where that is
permitted, while a message arrives each second; the process has the lowest real-time priority, as
docs/operations.md advises. Told is how late that thread ran, and how often one callback was handed
to a thread. The two take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter

MESSAGES = 10
PERIOD_S = 0.001
KINDS = ('rclpy', 'ours')


def measure(kind: str, interval_s: float) -> dict[str, float]:
    """One round, in this process."""
    import rclpy
    from rclpy.executors import MultiThreadedExecutor
    from std_msgs.msg import UInt8MultiArray

    from pruned_controller.conversions import LATCHED
    from pruned_controller.executor import PromptExecutor
    from pruning_core.runtime.realtime import be_first

    rclpy.init()
    node = rclpy.create_node('receiver')
    executor = PromptExecutor(4) if kind == 'ours' else MultiThreadedExecutor(4)
    executor.add_node(node)
    handed: Counter[int] = Counter()
    tasks = []  # kept, so that none gets the identity of another
    submit = executor._executor.submit

    def count(task, *given):
        tasks.append(task)
        handed[id(task)] += 1
        return submit(task, *given)

    executor._executor.submit = count
    received, late, end = [], [], threading.Event()
    node.create_subscription(UInt8MultiArray, 'archive', received.append, LATCHED)

    def control() -> None:
        try:
            be_first(60)
        except OSError:
            print('SCHED_FIFO is refused here', file=sys.stderr)
        sys.setswitchinterval(interval_s)
        due = time.monotonic()
        while not end.is_set():
            due = max(due + PERIOD_S, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            late.append(time.monotonic() - due)

    thread = threading.Thread(target=control)
    thread.start()
    sender = subprocess.Popen([sys.executable, __file__, '--send'])
    while sender.poll() is None:
        executor.spin_once(timeout_sec=0.1)
    end.set()
    thread.join()
    return {'latest_s': max(late), 'over_a_period': sum(x > PERIOD_S for x in late),
            'ticks': len(late), 'handed_over': max(handed.values()), 'messages': len(received)}


def send() -> None:
    """Publish an archive's worth of bytes a second, to whoever listens."""
    import rclpy
    from std_msgs.msg import UInt8MultiArray

    from pruned_controller.conversions import LATCHED, archive_message

    rclpy.init()
    publisher = rclpy.create_node('sender').create_publisher(UInt8MultiArray, 'archive', LATCHED)
    message = archive_message(bytes(480_000), 'of nothing')
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    for _ in range(MESSAGES):
        time.sleep(1.0)
        publisher.publish(message)
    time.sleep(0.5)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--interval', type=float, default=1e-3,
                   help="Python's switch interval, s; the controller sets 0.0001")
    p.add_argument('--send', action='store_true', help=argparse.SUPPRESS)
    p.add_argument('--measure', choices=KINDS, help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.send:
        send()
        return 0
    if options.measure:
        print(json.dumps(measure(options.measure, options.interval)))
        return 0
    os.environ['ROS_DOMAIN_ID'] = str(random.SystemRandom().randrange(1, 100))
    os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'UDPv4'
    first = ('chrt', '--rr', '1')
    if subprocess.run([*first, 'true'], stderr=subprocess.DEVNULL, check=False).returncode:
        first = ()
        print('real-time priorities are refused here: an ordinary process', file=sys.stderr)
    print(f'{"":8s}{"latest":>12s}{"over 1 ms":>14s}{"one callback":>16s}')
    for kind in KINDS * options.rounds:
        done = subprocess.run([*first, sys.executable, __file__, '--measure', kind,
                               '--interval', str(options.interval)],
                              stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        print(f'{kind:8s}{1e3 * found["latest_s"]:9.1f} ms'
              f'{found["over_a_period"]:7d}/{found["ticks"]}'
              f'{found["handed_over"]:10d} times', flush=True)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
