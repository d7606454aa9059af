# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Runs as ROS 2 bags (MCAP), written and read without ROS; a planner run again on what it saw.

A bag is what `ros2 bag record -s mcap` writes, and `ros2 bag`, Foxglove and PlotJuggler open it.
`record` lets a bundle control its plant in lock step; `read` finds in any bag, also one of the
real robot, which observation each command came from; `replay` plans again on these observations.
The library is rosbags, the extra [bags].
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.errors import AgentError, BundleError, explain, missing
from pruning_core.progress import Progress, silent
from pruning_core.runtime.bundle import Bundle
from pruning_core.runtime.joint_map import JointMap
from pruning_core.runtime.planner import Planner

Array = npt.NDArray[np.float64]
_NUMBERS, _NUMBER, _TEXT, _JOINTS = (
    'std_msgs/msg/Float64MultiArray', 'std_msgs/msg/Float64', 'std_msgs/msg/String',
    'sensor_msgs/msg/JointState')
_ARCHIVE = 'std_msgs/msg/UInt8MultiArray'
# Plans that a swap may have made on trial before the first command; each moves the noise on.
_TRIAL_PLANS = 40


@dataclass(frozen=True)
class Tick:
    """One decision, as a bag tells it.

    Attributes:
        t_s: when the command was sent, seconds since the start of the bag.
        observation: (O,) what it was decided on.
        command: (A,) what was sent.
        model: hash of the bundle, or its first digits.
        latency_s: seconds from observation to command, as published; NaN where it was not.
    """

    t_s: float
    observation: Array
    command: Array
    model: str
    latency_s: float


@dataclass(frozen=True)
class Recording:
    """What was read from a bag.

    Attributes:
        ticks: in order.
        facts: content of `~/model`, by hash: samples and iterations of its planner.
        unmatched: commands for which no observation was found.
        archives: bundles that were published while it was recorded, by hash.
    """

    ticks: tuple[Tick, ...]
    facts: Mapping[str, Mapping[str, Any]]
    unmatched: int
    archives: Mapping[str, bytes]


@dataclass(frozen=True)
class Replayed:
    """A planner on the observations that a bundle saw, against what it sent then.

    Attributes:
        hash: of the bundle.
        ticks: decisions in the bag.
        equal: of these, how many came out the same, within 1e-4 of the range of the action.
        difference: largest difference, as a share of that range.
        trial_plans: plans made before the first command, by which the noise had moved on.
        recorded_s: (ticks,) latencies then; `compute_s` planning times now.
    """

    hash: str
    ticks: int
    equal: int
    difference: float
    trial_plans: int
    recorded_s: Array
    compute_s: Array

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with quantiles in milliseconds."""
        quantiles = {
            f'{name} p{q} ms': round(1e3 * float(np.nanquantile(values, q / 100)), 3)
            for name, values in (('recorded', self.recorded_s), ('now', self.compute_s))
            if np.isfinite(values).any() for q in (50, 99)}
        return {'model': self.hash[:16], 'ticks': self.ticks, 'equal': self.equal,
                'largest difference': self.difference, 'trial plans': self.trial_plans,
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


def read(path: str | Path, joint_map: Sequence[str] = ()) -> Recording:
    """Read a bag, and find the observation that each command was decided on.

    A command is sent `latency` after its tick began, and the observation was `observation_age` old
    then; both are published with it. Commands without them (the safe one at the end, ...) are no
    decisions.

    Args:
        path: the folder, or its .mcap file.
        joint_map: how observations are made of `joint_states`; empty for a bag of `observation`.

    Raises:
        AgentError: no bag, or one that lacks a topic.
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
    wanted = {name: [] for name in (
        'observation', 'joint_states', 'command', 'latency', 'observation_age', 'model', 'bundle')
    }  # type: dict[str, list[tuple[int, Any]]]
    try:
        types = library.typesys.get_typestore(library.typesys.Stores.ROS2_JAZZY)
        with library.highlevel.AnyReader([path], default_typestore=types) as bag:
            chosen = [c for c in bag.connections if c.topic.rpartition('/')[2] in wanted
                      and c.msgtype in (_NUMBERS, _NUMBER, _TEXT, _JOINTS, _ARCHIVE)]
            topics = sorted(c.topic for c in bag.connections)
            for connection, t_ns, data in bag.messages(chosen):
                message = bag.deserialize(data, connection.msgtype)
                wanted[connection.topic.rpartition('/')[2]].append((t_ns, message))
    except Exception as error:  # the library raises many kinds for a file that is no bag
        raise AgentError(
            explain(f"recording '{path}' was asked for",
                    f'it cannot be read ({" ".join(str(error).split())[:200]})',
                    'a bag folder with metadata.yaml, or an .mcap file',
                    'copy it again; one that was cut off: ros2 bag reindex FOLDER')
        ) from error
    mapping = JointMap(joint_map) if joint_map else None
    source = 'joint_states' if mapping else 'observation'
    for name in (source, 'command', 'latency', 'observation_age'):
        if not wanted[name]:
            hint = 'give --joint-map' if name == 'observation' and wanted['joint_states'] else \
                'record it: ros2 bag record -s mcap --all-topics'
            raise AgentError(
                explain(f"recording '{path}' was asked for", f"it has no messages on '{name}'",
                        f'the topics {source}, command, latency and observation_age (here: '
                        f'{", ".join(topics)})', hint)
            )
    seen = [(_stamp_ns(t, m) if mapping else t,
             mapping(m) if mapping else np.asarray(m.data, float)) for t, m in wanted[source]]
    facts = {}
    models = []
    for t_ns, message in wanted['model']:
        told = json.loads(message.data)
        facts[told['hash']] = told
        models.append((t_ns, str(told['hash'])))
    ticks, unmatched = _match(wanted['command'], wanted['latency'], wanted['observation_age'],
                              seen, models)
    archives = {str(m.layout.dim[0].label): bytes(m.data) for _, m in wanted['bundle']
                if m.layout.dim}
    return Recording(tuple(ticks), facts, unmatched, archives)


def _stamp_ns(t_ns: int, message: Any) -> int:
    stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
    return min(t_ns, stamp) if stamp else t_ns


def _match(commands: Sequence[tuple[int, Any]], latencies: Sequence[tuple[int, Any]],
           ages: Sequence[tuple[int, Any]], seen: Sequence[tuple[int, Array]],
           models: Sequence[tuple[int, str]]) -> tuple[list[Tick], int]:
    """Give each command its latency, its observation and its model."""
    latency_t, age_t, seen_t, command_t = (
        np.asarray([t for t, _ in messages], np.int64)
        for messages in (latencies, ages, seen, commands))
    period_ns = float(np.median(np.diff(command_t))) if len(command_t) > 1 else math.inf
    # What belongs to one command is published with it: far closer than to the next.
    near_ns = max(0.25 * period_ns, 1e6) if math.isfinite(period_ns) else 1e9
    # Where nothing is missing, order tells more than times, which a stalled machine stretches; one
    # command more is the safe one at the end.
    whole = len(latencies) == len(ages) and len(commands) - len(latencies) in (0, 1)
    ticks, unmatched = [], 0
    for n, (t_ns, message) in enumerate(commands):
        i, j = (min(n, len(ages) - 1),) * 2 if whole else (
            _nearest(latency_t, t_ns), _nearest(age_t, t_ns))
        latency_s, age_s = float(latencies[i][1].data), float(ages[j][1].data)
        far = n >= len(ages) if whole else max(
            abs(latency_t[i] - t_ns), abs(age_t[j] - t_ns)) > near_ns
        if far or not math.isfinite(latency_s + age_s):
            unmatched += 1
            continue
        at = t_ns - round(1e9 * (latency_s + age_s))
        k = _nearest(seen_t, at)
        if abs(seen_t[k] - at) > near_ns:
            unmatched += 1
            continue
        label = str(message.layout.dim[0].label) if message.layout.dim else ''
        model = label or next((h for t, h in reversed(models) if t <= t_ns),
                              models[0][1] if models else '')
        ticks.append(Tick((t_ns - int(command_t[0])) * 1e-9, seen[k][1],
                          np.asarray(message.data, float), model, latency_s))
    return ticks, unmatched


def _nearest(times: npt.NDArray[np.int64], t_ns: int) -> int:
    """Position of the entry of a sorted array that is nearest to a time."""
    i = int(np.searchsorted(times, t_ns))
    candidates = [c for c in (i - 1, i) if 0 <= c < len(times)]
    return min(candidates, key=lambda c: abs(int(times[c]) - t_ns))


def replay(recording: Recording, bundles: Iterable[Bundle], *, seed: int = 0,
           progress: Progress = silent) -> list[Replayed]:
    """Plan again on recorded observations; the same bundle, seed and machine plan the same.

    Args:
        recording: from `read`.
        bundles: those that ran; ticks of others are left out.
        seed: `planner.seed` of the controller.
        progress: told after every plan.

    Raises:
        BundleError: none of the bundles is in the recording.
    """
    results = []
    known = list({b.hash: b for b in bundles}.values())  # one may be named, and in the bag, too
    for bundle in known:
        mine = [t for t in recording.ticks if t.model and bundle.hash.startswith(t.model)]
        if mine:
            facts = recording.facts.get(bundle.hash, {})
            results.append(_replay(mine, lambda b=bundle, f=facts: Planner(  # type: ignore[misc]
                b, seed=seed, samples=int(f.get('samples', 0)),
                iterations=int(f.get('iterations', 0))), bundle, progress))
    if not results:
        ran = ', '.join(sorted({t.model[:16] for t in recording.ticks})) or 'none'
        raise BundleError(
            explain('a recording was to be replayed',
                    f'of the given bundles ({", ".join(b.hash[:16] for b in known) or "none"}) '
                    'none is in it', f'the bundles that ran: {ran}', 'name one of them: --bundle')
        )
    return results


def _replay(ticks: Sequence[Tick], make: Callable[[], Planner], bundle: Bundle,
            progress: Progress) -> Replayed:
    action = bundle.manifest.action
    spread = np.asarray(action.high, float) - np.asarray(action.low, float)
    trials = _trials(ticks[0], make, spread)
    planner = make()
    planner.warm_up()
    _skip(planner, ticks[0], trials)
    differences, times = [], []
    for i, tick in enumerate(ticks):
        plan = planner.plan(tick.observation)
        differences.append(float(np.max(np.abs(plan.action - tick.command) / spread)))
        times.append(plan.compute_s)
        progress('replay', i + 1, len(ticks))
    return Replayed(bundle.hash, len(ticks), sum(d <= 1e-4 for d in differences),
                    max(differences), trials, np.asarray([t.latency_s for t in ticks]),
                    np.asarray(times))


def _trials(first: Tick, make: Callable[[], Planner], spread: Array) -> int:
    """How many plans were made before the first one that was sent; 0 where none fits."""
    planner = make()
    planner.warm_up()
    for trials in range(_TRIAL_PLANS):
        planner.reset()
        command = planner.plan(first.observation).action
        if np.max(np.abs(command - first.command) / spread) <= 1e-4:
            return trials
    return 0


def _skip(planner: Planner, first: Tick, trials: int) -> None:
    for _ in range(trials):
        planner.plan(first.observation)
    planner.reset()
