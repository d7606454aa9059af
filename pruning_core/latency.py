# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How long a cut agent will plan on this machine, before it is cut.

A table of measured layers in, a predictor from kept units to seconds out: what a budget in
milliseconds is selected by. The table is measured once per machine, number of samples and
threads, through the same nodes that the exported planner runs, and kept. A prediction is for
choosing only; what is promised is measured on the exported planner itself.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning_core.budgets import Budget, Milliseconds
from pruning_core.checkpoint import Run
from pruning_core.config import PlannerConfig
from pruning_core.errors import GateError, explain
from pruning_core.export import prepare
from pruning_core.groups import Group
from pruning_core.layers import GraphBuilder, steps_of
from pruning_core.networks import COMPONENTS, Widths, build
from pruning_core.plans import Plan
from pruning_core.progress import Progress, silent
from pruning_core.runtime.bench import probes
from pruning_core.runtime.bound import BoundGraph, session
from pruning_core.runtime.bundle import Bundle, in_memory
from pruning_core.runtime.fit import asleep, machine, plan_times, waking
from pruning_core.runtime.planner import Planner
from pruning_core.runtime.pushes import proposals
from pruning_core.surgery import apply

_SIZES = (1, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_REPEATS = 9
_ATTEMPTS = 4
_SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class LayerTable:
    """Measured seconds of one layer, matrix and activation, by its sizes.

    Attributes:
        rows: plans that pass through it at once.
        sizes: inputs, and outputs, that were measured, ascending.
        seconds: [inputs][outputs], medians.
    """

    rows: int
    sizes: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]

    def __call__(self, inputs: int, outputs: int) -> float:
        """Seconds of a layer: linear between what was measured; beyond it, by its work."""
        most = self.sizes[-1]
        beyond = max(inputs / most, 1.0) * max(outputs / most, 1.0)
        i, u = self._between(min(inputs, most))
        j, v = self._between(min(outputs, most))
        t = self.seconds
        return beyond * ((1 - u) * ((1 - v) * t[i][j] + v * t[i][j + 1])
                         + u * ((1 - v) * t[i + 1][j] + v * t[i + 1][j + 1]))

    def _between(self, size: int) -> tuple[int, float]:
        i = min(max(int(np.searchsorted(self.sizes, size, 'right')) - 1, 0), len(self.sizes) - 2)
        return i, (size - self.sizes[i]) / (self.sizes[i + 1] - self.sizes[i])


def _measure(rows: int, largest: int, threads: int, progress: Progress) -> LayerTable:
    sizes = tuple(s for s in _SIZES if s <= largest)
    sizes += tuple(s for s in _SIZES if s > largest)[:1]
    table = []
    rng = np.random.default_rng(0)
    for done, inputs in enumerate(sizes):
        line = []
        for outputs in sizes:
            layer = torch.nn.Sequential(torch.nn.Linear(inputs, outputs), torch.nn.ReLU())
            g = GraphBuilder('layer')
            g.output(g.apply(steps_of('layer', layer), g.input('x', ['N', inputs])), 'y',
                     ['N', outputs])
            graph = BoundGraph(
                session(g.model({}).SerializeToString(), {}, threads),
                {'x': rng.standard_normal((rows, inputs), np.float32)},
                {'y': np.empty((rows, outputs), np.float32)})
            graph.run()
            line.append(statistics.median(_seconds(graph.run) for _ in range(_REPEATS)))
        table.append(tuple(line))
        progress('latency table', done + 1, len(sizes))
    return LayerTable(rows, sizes, tuple(table))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _cache() -> Path:
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'pruned_controller'


def layer_table(rows: int, largest: int, threads: int = 1, progress: Progress = silent
                ) -> LayerTable:
    """Measure the layers of this machine, or read what was measured before.

    Args:
        rows: plans at once.
        largest: inputs or outputs that are needed.
        threads: of onnxruntime.
        progress: told after every line of the table.
    """
    key = json.dumps([_SCHEMA, machine(), rows, largest, threads], sort_keys=True)
    file = _cache() / f'layers_{hashlib.sha256(key.encode()).hexdigest()[:16]}.json'
    try:
        values = json.loads(file.read_text())
        if values['key'] == key:
            return LayerTable(values['rows'], tuple(values['sizes']),
                              tuple(tuple(line) for line in values['seconds']))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or torn: measured again
    table = _measure(rows, largest, threads, progress)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile('w', dir=file.parent, delete=False) as out:
            json.dump({'key': key, **dataclasses.asdict(table)}, out)
        os.replace(out.name, file)
    except OSError:
        pass  # a table that cannot be kept costs its measurement again, nothing else
    return table


def layers_time(layers: Mapping[str, Sequence[tuple[int, int]]], p: PlannerConfig,
                sampled: LayerTable, proposed: LayerTable) -> float:
    """Seconds of the layers of one full plan.

    Args:
        layers: (inputs, outputs) of every matrix of every component, in order.
        p: the planner.
        sampled: table for the sampled plans.
        proposed: table for the proposed ones.
    """
    hidden, latent = layers['dynamics'][-1]

    def component(name: str, table: LayerTable, more: int = 0) -> float:
        (inputs, outputs), *rest = layers[name]
        return table(inputs + more, outputs) + sum(table(i, o) for i, o in rest)

    def value(table: LayerTable, each: Sequence[str] = ()) -> float:
        def following(names: Sequence[str]) -> float:
            apart = sum(component(n, table) for n in names)
            if any(len(sizes) < 2 for name, sizes in layers.items() if name != 'encoder'):
                return apart
            # The graphs decide by operations; near that threshold both ways take as long, and
            # the lesser of two times that grow with every size grows with every size, too.
            joined = sum(component(n, table, hidden - latent) for n in names)
            return min(apart, joined - table(hidden, latent))

        # At the first step all plans share their latent: little is left of the first layer.
        first = sum(component(n, table, 1 - layers[n][0][0]) for n in ('dynamics', 'reward'))
        return (first + sum(component(n, table) for n in each)
                + (p.horizon - 1) * following(['reward', 'dynamics', *each])
                + following(['policy', 'q1', 'q2']))

    return p.iterations * value(sampled) + value(proposed, ['policy'])


def layers_kept(groups: Sequence[Group], kept: Mapping[str, int]
                ) -> dict[str, list[tuple[int, int]]]:
    """(inputs, outputs) of every matrix by component, when each group keeps so many units.

    Args:
        groups: of the traced agent.
        kept: units by name of a free group; others stay whole.
    """
    tensors = groups[0].tensors
    sizes = {name: list(f.shape) for name, f in tensors.items() if len(f.shape) == 2}
    for group in groups:
        gone = group.size - kept.get(group.name, group.size)
        for place in group.places:
            if place.parameter in sizes:
                sizes[place.parameter][place.dim] -= gone
    layers: dict[str, list[tuple[int, int]]] = {}
    for name, (outputs, inputs) in sizes.items():
        layers.setdefault(name.partition('.')[0], []).append((inputs, outputs))
    return layers


def plan_seconds(bundle: Bundle, plans: int = 15) -> float:
    """Median seconds of a full plan in a row with others on this machine, measured."""
    planner = Planner(bundle)
    planner.warm_up(1)
    return statistics.median(plan_times(planner, probes(bundle), plans))


def waking_seconds(bundle: Bundle) -> float:
    """What a full plan takes longer in a control loop, which sleeps before each; measured."""
    planner = Planner(bundle)
    planner.warm_up(1)
    return waking(planner, probes(bundle), asleep(bundle.manifest.period_s))


def exported(run: Run) -> Bundle:
    """The bundle of an agent, in memory alone."""
    graphs, manifest, _ = prepare(run)
    return in_memory(manifest, graphs)


def predictor(run: Run, groups: Sequence[Group], threads: int = 1, progress: Progress = silent,
              in_loop: bool = False) -> Callable[[Mapping[str, int]], float]:
    """Predict the seconds of a full plan from the units that each free group keeps.

    What the layers do not account for, the sampling, the sorting and the calls, is measured on a
    planner whose layers are as small as can be; and the whole is scaled so that the agent as it
    is comes out as measured.

    Args:
        run: the agent to be cut.
        groups: of its trace.
        threads: of onnxruntime.
        progress: told while the table is measured.
        in_loop: add what a plan takes longer there than in a row with others.
    """
    p = run.config.planner
    layers = layers_kept(groups, {})
    largest = max(n for sizes in layers.values() for size in sizes for n in size)
    tables = [layer_table(rows, largest, threads, progress)
              for rows in (p.samples, proposals(p, run.agent.widths.actions))]
    widths = run.agent.widths
    eights: Any = {name: tuple(8 for _ in getattr(widths, name)) for name in COMPONENTS}
    small = dataclasses.replace(widths, latent=8, **eights)
    least = exported(resized(run, small))
    rest = max(0.0, plan_seconds(least) - layers_time(_layers_of(small), p, *tables))
    whole = plan_seconds(exported(run), 5)
    scale = (whole - rest) / layers_time(layers, p, *tables)
    waking_s = waking_seconds(least) if in_loop else 0.0

    def predict(kept: Mapping[str, int]) -> float:
        return waking_s + rest + scale * layers_time(layers_kept(groups, kept), p, *tables)

    return predict


def _layers_of(widths: Widths) -> dict[str, list[tuple[int, int]]]:
    return {name: [(m.in_features, m.out_features) for m in module.modules()
                   if isinstance(m, torch.nn.Linear)]
            for name, module in build(widths).items()}


def resized(run: Run, widths: Widths) -> Run:
    """The same run around untrained components of other sizes; what a plan takes is the same."""
    agent = type(run.agent)(widths, run.config.agent, torch.Generator().manual_seed(0))
    return dataclasses.replace(run, agent=agent)


def plan_within(run: Run, groups: Sequence[Group], limit_ms: float,
                choose: Callable[[Budget], Plan], progress: Progress = silent) -> Plan:
    """Choose a cut whose exported planner was measured to take no more than a limit.

    The prediction chooses, the measurement decides: where it is above the limit, the next choice
    is asked for so much less.

    Args:
        run: the agent; left as it is.
        groups: of its trace.
        limit_ms: median of a full plan in a control loop, in milliseconds.
        choose: the selection under a budget.
        progress: told of the table, and of every cut that was measured.

    Raises:
        GroupError: the limits of the selection leave no cut that is small enough.
        GateError: no choice was measured to be fast enough.
    """
    predict = predictor(run, groups, progress=progress, in_loop=True)
    asked, measured = limit_ms, float('inf')
    for attempt in range(_ATTEMPTS):
        plan = choose(Milliseconds(asked, predict))
        shell = copy.copy(run.agent)
        shell.components = copy.deepcopy(run.agent.components)
        apply(plan, dict(shell.components.items()))
        bundle = exported(dataclasses.replace(run, agent=shell))
        measured = 1e3 * (plan_seconds(bundle, 40) + waking_seconds(bundle))
        progress('budget', attempt + 1, _ATTEMPTS, predicted_ms=plan.achieved, ms=measured)
        if measured <= limit_ms:
            return plan
        asked *= 0.97 * limit_ms / measured
    raise GateError(
        explain(f'an agent that plans within {limit_ms:g} ms was asked for',
                f'the smallest that was tried takes {measured:.3g} ms',
                'a limit that this machine, as busy as it is, can keep',
                'allow more milliseconds, or free the machine; nothing was cut')
    )
