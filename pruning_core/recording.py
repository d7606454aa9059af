# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Runs as ROS 2 bags (MCAP), written and read without ROS; a planner run again on what it saw.

A bag is what `ros2 bag record -s mcap` writes, and `ros2 bag`, Foxglove and PlotJuggler open it.
`record` lets a bundle control its plant in lock step; `read` finds in any bag, also one of the
real robot, what each plan came from; `replay` makes every plan again, each for itself, so that
nothing that was missed in between matters. The library is rosbags, the extra [bags].
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.errors import AgentError, BundleError, explain, missing
from pruning_core.progress import Progress, silent
from pruning_core.runtime.bundle import Bundle
from pruning_core.runtime.choice import Choice
from pruning_core.runtime.planner import Planner
from pruning_core.runtime.trace import SECTIONS, Trace

Array = npt.NDArray[np.float64]
_NUMBERS, _NUMBER, _TEXT = (
    'std_msgs/msg/Float64MultiArray', 'std_msgs/msg/Float64', 'std_msgs/msg/String')
_ARCHIVE = 'std_msgs/msg/UInt8MultiArray'


@dataclass(frozen=True)
class Recording:
    """What was read from a bag.

    Attributes:
        ticks: the plans that were made, in order.
        archives: bundles that were published while it was recorded, by hash.
    """

    ticks: tuple[Trace, ...]
    archives: Mapping[str, bytes]


@dataclass(frozen=True)
class Replayed:
    """A planner on what it planned from then, against what it decided then.

    Attributes:
        hash: of the bundle.
        ticks: plans in the bag.
        equal: of these, how many came out the same, within 1e-4 of the range of the action.
        difference: largest difference, as a share of that range; inf where only one of the two is
            a number.
        recorded_s: (ticks,) planning times then; `compute_s` now.
    """

    hash: str
    ticks: int
    equal: int
    difference: float
    recorded_s: Array
    compute_s: Array

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with quantiles in milliseconds."""
        quantiles = {
            f'{name} p{q} ms': round(1e3 * float(np.quantile(values, q / 100)), 3)
            for name, values in (('recorded', self.recorded_s), ('now', self.compute_s))
            for q in (50, 99)}
        return {'model': self.hash[:16], 'ticks': self.ticks, 'equal': self.equal,
                'largest difference': self.difference if math.isfinite(self.difference) else None,
                **quantiles}


def _rosbags() -> Any:
    try:
        import rosbags.highlevel
        import rosbags.rosbag2
        import rosbags.typesys
    except ModuleNotFoundError as error:
        raise missing('a bag was to be written or read', 'rosbags', 'bags') from error
    return rosbags


class BagWriter:
    """Writes messages of Jazzy into a new MCAP bag; whole again after any ordinary end."""

    def __init__(self, path: str | Path) -> None:
        """Open the bag.

        Raises:
            AgentError: something is there already.
            MissingExtra: rosbags is not installed.
        """
        library = _rosbags()
        path = Path(path)
        if path.exists():
            raise AgentError(
                explain(f"a recording in '{path}' was asked for", 'something is there',
                        'a name that is free', 'give another name, or move the old one away')
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._types = library.typesys.get_typestore(library.typesys.Stores.ROS2_JAZZY)
        self._writer = library.rosbag2.Writer(
            path, version=9, storage_plugin=library.rosbag2.StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> BagWriter:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Finish the bag, also after an error: what was recorded is kept."""
        self.close()

    def close(self) -> None:
        """Write the index; without it a bag needs `ros2 bag reindex`."""
        self._writer.close()

    def write(self, topic: str, kind: str, t_ns: int, data: bytes) -> None:
        """Write one message that is serialised already (CDR)."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types)
        self._writer.write(self._connections[topic], t_ns, data)

    def numbers(self, topic: str, t_ns: int, values: npt.ArrayLike, label: str = '') -> None:
        """Write a Float64MultiArray; a label names its one dimension."""
        types = self._types.types
        array = np.ascontiguousarray(values, float).ravel()
        dims = [types['std_msgs/msg/MultiArrayDimension'](label, len(array), len(array))]
        layout = types['std_msgs/msg/MultiArrayLayout'](dims if label else [], 0)
        self._message(topic, _NUMBERS, t_ns, layout, array)

    def trace(self, t_ns: int, trace: Trace) -> None:
        """Write what a plan came from, as the controller publishes it."""
        types = self._types.types
        dimensions, numbers = trace.travelling()
        dims = [types['std_msgs/msg/MultiArrayDimension'](label, size, size)
                for label, size in dimensions]
        layout = types['std_msgs/msg/MultiArrayLayout'](dims, 0)
        self._message('/controller/trace', _NUMBERS, t_ns, layout, np.array(numbers))

    def number(self, topic: str, t_ns: int, value: float) -> None:
        """Write a Float64."""
        self._message(topic, _NUMBER, t_ns, float(value))

    def text(self, topic: str, t_ns: int, value: str) -> None:
        """Write a String."""
        self._message(topic, _TEXT, t_ns, value)

    def _message(self, topic: str, kind: str, t_ns: int, *fields: Any) -> None:
        message = self._types.types[kind](*fields)
        self.write(topic, kind, t_ns, bytes(self._types.serialize_cdr(message, kind)))


def record(bundle: Bundle, path: str | Path, *, episodes: int = 1, seed: int = 0,
           samples: int = 0, iterations: int = 0, progress: Progress = silent
           ) -> dict[str, Any]:
    """Let a bundle control its plant in lock step, and keep all that the controller would publish.

    Args:
        bundle: its manifest names the plant.
        path: the new bag.
        episodes: with the seeds `seed`, `seed + 1`, ...
        seed: of the first episode and of the planner.
        samples: plans per refinement; 0 takes the bundle's default.
        iterations: refinements; 0 takes the bundle's default.
        progress: told after every episode.

    Returns:
        Number of decisions and the return of each episode.
    """
    from pruning_core.config import EnvConfig
    from pruning_core.env import make_raw

    settings = EnvConfig(**bundle.manifest.config['env'])
    plant = make_raw(settings.id, settings.max_episode_steps)
    planner = Planner(bundle, seed=seed, samples=samples, iterations=iterations)
    planner.warm_up()
    period_ns = round(1e9 * bundle.manifest.period_s)
    t_ns, ticks = time.time_ns(), 0
    returns: list[float] = []
    with BagWriter(path) as bag:
        bag.text('/controller/model', t_ns, json.dumps(
            {'hash': bundle.hash, 'parameters': bundle.manifest.parameters,
             'samples': planner.settings.samples, 'iterations': planner.settings.iterations}))
        bag.text('/controller/mode', t_ns, 'planning')
        for episode in range(episodes):
            observation, _ = plant.reset(seed=seed + episode)
            total, over = 0.0, False
            while not over:
                plan = planner.plan(observation)
                bag.numbers('/observation', t_ns, observation)
                sent_ns = t_ns + max(1, round(1e9 * plan.compute_s))
                bag.numbers('/command', sent_ns, plan.action, bundle.hash)
                bag.trace(sent_ns, planner.trace())
                bag.number('/controller/latency', sent_ns, plan.compute_s)
                bag.number('/controller/observation_age', sent_ns, 0.0)
                bag.number('/controller/reward', sent_ns, plan.reward)
                for _ in range(settings.action_repeat):
                    observation, reward, ended, cut, _ = plant.step(plan.action)
                    total += float(reward)
                    over = ended or cut
                    if over:
                        break
                bag.number('/reward', sent_ns, float(reward))
                # A plan that took longer than the period holds up the recorded clock, too.
                t_ns += max(period_ns, sent_ns - t_ns)
                ticks += 1
            returns.append(total)
            bag.number('/episode_return', t_ns, total)
            progress('record', episode + 1, episodes, decisions=ticks)
    return {'decisions': ticks, 'returns': [round(value, 2) for value in returns]}


def read(path: str | Path) -> Recording:
    """Read the plans of a bag, and the bundles that were published meanwhile.

    Args:
        path: the folder, or its .mcap file.

    Raises:
        AgentError: no bag, or one without plans.
        MissingExtra: rosbags is not installed.
    """
    library = _rosbags()
    path = Path(path)
    if not path.exists():
        raise AgentError(
            explain(f"recording '{path}' was asked for", 'there is no such folder or file',
                    'a bag folder with metadata.yaml, or an .mcap file',
                    'make one: python -m pruning_core record BUNDLE --out BAG')
        )
    ticks: list[Trace] = []
    archives: dict[str, bytes] = {}
    try:
        types = library.typesys.get_typestore(library.typesys.Stores.ROS2_JAZZY)
        with library.highlevel.AnyReader([path], default_typestore=types) as bag:
            topics = sorted(c.topic for c in bag.connections)
            wanted = [c for c in bag.connections if (c.topic.rpartition('/')[2], c.msgtype)
                      in (('trace', _NUMBERS), ('bundle', _ARCHIVE))]
            for connection, _, data in bag.messages(wanted) if wanted else ():
                message = bag.deserialize(data, connection.msgtype)
                dims = message.layout.dim
                if connection.msgtype == _NUMBERS:
                    dimensions = [(str(d.label), int(d.size)) for d in dims]
                    if {name for name, _ in dimensions} & set(SECTIONS):  # others trace, too
                        ticks.append(Trace.arrived(dimensions, message.data))
                elif dims:
                    archives[str(dims[0].label)] = bytes(message.data)
    except AgentError:
        raise
    except Exception as error:  # the library raises many kinds for a file that is no bag
        raise AgentError(
            explain(f"recording '{path}' was asked for",
                    f'it cannot be read ({" ".join(str(error).split())[:200]})',
                    'a bag folder with metadata.yaml, or an .mcap file',
                    'copy it again; one that was cut off: ros2 bag reindex FOLDER')
        ) from error
    if not ticks:
        silent_one = any(topic.endswith('/trace') for topic in topics)
        raise AgentError(
            explain(f"recording '{path}' was asked for",
                    'no plan was made while it was recorded' if silent_one else
                    'it does not have what plans came from',
                    f'a bag with ~/trace of the controller (here: {", ".join(topics)})',
                    'record a controller that plans' if silent_one else
                    'record it: ros2 bag record -s mcap --all-topics; the controllers of earlier '
                    'versions do not publish it')
        )
    return Recording(tuple(ticks), archives)


def replay(recording: Recording, bundles: Iterable[Bundle], *, progress: Progress = silent
           ) -> list[Replayed]:
    """Make recorded plans again; the same bundle and machine plan the same.

    Args:
        recording: from `read`.
        bundles: those that ran; plans of others are left out.
        progress: told after every plan.

    Raises:
        BundleError: none of the bundles is in the recording.
    """
    known = {b.hash: b for b in bundles}  # one may be named, and in the bag, too
    results = []
    for bundle in known.values():
        mine = [trace for trace in recording.ticks if trace.model == bundle.hash]
        if mine:
            results.append(_replay(mine, bundle, progress))
    if not results:
        ran = ', '.join(sorted({trace.model[:16] for trace in recording.ticks}))
        raise BundleError(
            explain('a recording was to be replayed',
                    f'of the given bundles ({", ".join(h[:16] for h in known) or "none"}) '
                    'none is in it', f'the bundles that ran: {ran}', 'name one of them: --bundle')
        )
    return results


def _replay(ticks: Sequence[Trace], bundle: Bundle, progress: Progress) -> Replayed:
    action = bundle.manifest.action
    spread = np.asarray(action.high, float) - np.asarray(action.low, float)
    planners: dict[Choice, Planner] = {}
    differences, times = [], []
    for i, trace in enumerate(ticks):
        if trace.choice not in planners:
            planners[trace.choice] = Planner(bundle, **dataclasses.asdict(trace.choice))
            planners[trace.choice].warm_up()
        plan = planners[trace.choice].repeat(trace)
        differences.append(_difference(plan.action, trace.action, spread))
        times.append(plan.compute_s)
        progress('replay', i + 1, len(ticks))
    return Replayed(bundle.hash, len(ticks), sum(d <= 1e-4 for d in differences),
                    max(differences), np.array([t.compute_s for t in ticks]), np.array(times))


def _difference(now: npt.ArrayLike, then: npt.ArrayLike, spread: Array) -> float:
    """Largest difference as a share of the range; plans that are no numbers are equal, too."""
    a, b = np.asarray(now, float), np.asarray(then, float)
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    return float(np.nan_to_num(np.abs(a - b) / spread, nan=np.inf).max())
