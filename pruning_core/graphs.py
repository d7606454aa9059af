# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The four ONNX graphs of an agent, written node by node.

Components in, serialised models out. A graph written by hand holds nothing left over from
training, shares each weight with the other graphs and between the unrolled steps, takes the
number of samples and elites at run time, and is made in milliseconds; `export` proves each one
equal to torch.

Five rewritings bring the planner near to what its multiplications alone cost, at every width:
all plans start in the same latent, whose share of the first layers is computed once for all of
them; heads with one output are products of one row, (1, W) by (N, W) transposed, which
onnxruntime computes without padding the one output to a vector; the discount is folded into
that row, so that the rewards of a plan add up inside the products; first layers that read
sampled actions, and those of Q, have their bias multiplied by a column of ones beside the
actions; and where the network is so narrow that it saves work, the last matrix of the dynamics
is multiplied into the first ones of what follows, so that the latents between them are never
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from torch import nn

from pruning_core.config import PlannerConfig
from pruning_core.layers import (
    Entry,
    GraphBuilder,
    Matrix,
    Nodes,
    Step,
    externalise,
    steps_of,
)
from pruning_core.runtime.bundle import (
    PLAN_START,
    PLAN_STEP,
    PLAN_STEP_INT8,
    POLICY,
    PROBES,
    SHORT_START,
    SHORT_STEP,
    SHORT_STEP_INT8,
    WEIGHTS,
    WORLD_MODEL,
)
from pruning_core.runtime.planner import HORIZON, short_horizon
from pruning_core.runtime.weights import join, lay_out

_INTEGERS_FROM = 48  # outputs of the widest layer from which 8-bit products may pay


def joining_pays(hidden: int, latent: int, following: int) -> bool:
    """Whether products get cheaper by multiplying the dynamics' last matrix into what follows.

    Args:
        hidden: its inputs.
        latent: its outputs.
        following: outputs of all first matrices that read them.
    """
    return hidden * following < latent * (hidden + following)


@dataclass(frozen=True)
class _Latents:
    """Latents of plans (N, Z), or what gives them when multiplied by a matrix."""

    rows: str
    matrix: Matrix | None = None

    def into(self, steps: Sequence[Step], ones: bool = False) -> Sequence[Step]:
        """Steps that take these rows in the place of the latents, and may end in `ones`."""
        first, *rest = steps
        if isinstance(first, Matrix) and (ones or self.matrix is not None):
            return [Entry(first, self.matrix, ones), *rest]
        return steps


class AgentGraphs:
    """Writes the graphs of one agent.

    Letters as in `pruning_core.planner`: H horizon, N samples, P policy plans, K elites. Samples
    and elites are dynamic; the horizon is unrolled.
    """

    def __init__(self, components: nn.ModuleDict, planner: PlannerConfig, discount: float,
                 observation_scale: Sequence[float], action_middle: Sequence[float],
                 action_half: Sequence[float], metadata: Mapping[str, str]) -> None:
        """Take the agent's modules and what its planner needs.

        Args:
            components: the six modules.
            planner: horizon, temperature, momentum and limits are written into the graphs.
            discount: per decision.
            observation_scale: (O,) factors applied to the robot's observation.
            action_middle: (A,) centre of the action range in the robot's units.
            action_half: (A,) half of that range.
            metadata: stands in every file.

        Raises:
            ExportMismatch: a component has a layer that cannot be exported.
        """
        self.net = {name: steps_of(name, module) for name, module in components.items()}
        self.planner, self.discount = planner, discount
        self.scale = np.asarray(observation_scale, np.float32)
        self.middle = np.asarray(action_middle, np.float32)
        self.half = np.asarray(action_half, np.float32)
        self.metadata = metadata
        matrices = [step for step in self.net['encoder'] if isinstance(step, Matrix)]
        self.latent = matrices[-1].weight.shape[1]
        # One component without a layer between two matrices, and all graphs are written plainly.
        self._enterable = all(
            steps and isinstance(steps[0], Matrix)
            and sum(isinstance(step, Matrix) for step in steps) > 1
            for name, steps in self.net.items() if name != 'encoder')

    def write(self, probes: npt.NDArray[np.float32]) -> dict[str, bytes]:
        """Return every file of the bundle: the graphs, and the weights that they share.

        The variants are a shorter horizon, where there is one, and products of integers, where a
        layer is wide enough for them to pay.

        Args:
            probes: (any, O) observations, in the robot's units, that `runtime.fit` plans on; they
                lie beside the weights.
        """
        whole, short = self.planner.horizon, short_horizon(self.planner.horizon)
        graphs = {POLICY: self.policy(), WORLD_MODEL: self.world_model(),
                  PLAN_START: self.plan_start(whole), PLAN_STEP: self.plan_step(whole)}
        if short < whole:
            graphs |= {SHORT_START: self.plan_start(short), SHORT_STEP: self.plan_step(short)}
        if self._widest() >= _INTEGERS_FROM:
            graphs[PLAN_STEP_INT8] = self.plan_step(whole, 'int8')
            if short < whole:
                graphs[SHORT_STEP_INT8] = self.plan_step(short, 'int8')
        stored = {name: array for g in graphs.values() for name, array in g.shared.items()}
        stored[PROBES] = np.ascontiguousarray(probes, np.float32)
        layout = lay_out(stored, {PROBES: [PROBES], **{
            name: sorted(g.shared) for name, g in graphs.items()}})
        files = {}
        for name, g in graphs.items():
            steps = short if name in (SHORT_START, SHORT_STEP, SHORT_STEP_INT8) else whole
            model = g.model({**self.metadata, HORIZON: str(steps)})
            files[name] = externalise(model, WEIGHTS, layout.places)
        return {**files, WEIGHTS: join(layout, stored)}

    def _widest(self) -> int:
        return max(int(step.weight.shape[1]) for steps in self.net.values() for step in steps
                   if isinstance(step, Matrix))

    def _encode(self, g: GraphBuilder, observation: str) -> str:
        scaled = g.op('Mul', observation, g.constant(self.scale))
        return g.apply(self.net['encoder'], scaled)

    def _enter(self, g: GraphBuilder, name: str, latent: str, action: str
               ) -> tuple[str, list[Step]]:
        """Begin a component on one latent (1, Z) and an action (N, A) for each plan.

        Returns:
            The value after the first step, and the steps that are left.
        """
        first, *rest = self.net[name]
        if isinstance(first, Matrix) and rest:
            shared = g.gemm(first, latent, slice(0, self.latent))  # (1, W), the bias included
            return g.gemm(first, action, slice(self.latent, None), add=shared), rest
        rows = g.op('Slice', g.op('Shape', action), g.integers(0), g.integers(1))
        shape = g.op('Concat', rows, g.integers(1), axis=0)
        return g.op('Concat', g.op('Expand', latent, shape), action, axis=1), [first, *rest]

    def _row(self, g: GraphBuilder, steps: Sequence[Step], x: str, factor: float = 1.0,
             add: str | None = None, biases: float | None = None) -> str:
        """Apply steps that end in one output to (N, W).

        Args:
            g: the graph.
            steps: of a component.
            x: their input.
            factor: of the output.
            add: (1, N) to add the result to.
            biases: how often the bias counts, where products add up; None: `factor` times.

        Returns:
            (1, N) `factor` times the output, plus `add`.
        """
        *body, last = steps
        if not (isinstance(last, Matrix) and last.weight.shape[1] == 1):
            value = g.op('Mul', g.op('Reshape', g.apply(steps, x), g.integers(1, -1)),
                         g.constant(factor))
            return value if add is None else g.op('Add', value, add)
        # Of constants alone; onnxruntime computes it when it loads the graph.
        row = g.op('Mul', g.op('Reshape', g.weight(f'{last.name}.weight', last.weight),
                               g.integers(1, -1)), g.constant(factor))
        inputs = [row, g.apply(body, x)]
        if add is not None:
            inputs.append(add)
        elif last.bias is not None:
            inputs.append(g.op('Mul', g.weight(f'{last.name}.bias', last.bias),
                               g.constant(factor if biases is None else biases)))
        return g.op('Gemm', *inputs, transB=1)

    def _policy(self, g: GraphBuilder, latent: _Latents) -> str:
        """The policy's actions (N, A) in [-1, 1] at latents (N, Z)."""
        steps = latent.into(self.net['policy'])
        last = max(i for i, step in enumerate(steps) if isinstance(step, Matrix))
        tail = steps[last + 1:]
        if len(self.half) > 1 or not all(step.elementwise for step in tail
                                         if isinstance(step, Nodes)):
            return g.apply(steps, latent.rows)
        row = g.apply(tail, self._row(g, steps[:last + 1], latent.rows))
        return g.op('Reshape', row, g.integers(-1, 1))

    def _next(self, g: GraphBuilder, steps: Sequence[Step], x: str, following: Sequence[str]
              ) -> _Latents:
        """The latents after a decision.

        Args:
            g: the graph.
            steps: those of the dynamics that are left.
            x: their input.
            following: components that read the latents.
        """
        *body, last = steps
        if not (self._prepared(g) and isinstance(last, Matrix)):
            return _Latents(g.apply(steps, x))
        outputs = sum(step.weight.shape[1] for name in following
                      if isinstance(step := self.net[name][0], Matrix))
        hidden, z = last.weight.shape
        if not joining_pays(hidden, z, outputs):
            return _Latents(g.apply(steps, x))
        return _Latents(g.apply(body, x), last)

    def _prepared(self, g: GraphBuilder) -> bool:
        """Whether first layers may take inputs that were prepared for them; see `Entry`."""
        return self._enterable and g.precision == 'fp32'

    def _end(self, g: GraphBuilder, latent: _Latents, total: str, last: float) -> str:
        """Add `last` times min(q1, q2) of the policy's action: (N, Z), (1, N) -> (N,)."""
        action, ones = self._policy(g, latent), self._prepared(g)
        pair = g.op('Concat', latent.rows, self._with_ones(g, action) if ones else action, axis=1)
        value = g.op('Min', *(self._row(g, latent.into(self.net[q], ones), pair, last)
                              for q in ('q1', 'q2')))
        return g.op('Reshape', g.op('Add', total, value), g.integers(-1))

    def _with_ones(self, g: GraphBuilder, rows: str) -> str:
        """(N, A) with a last column of ones; of few actions a product is faster than a Pad."""
        a = len(self.half)
        return g.op('Gemm', rows, g.constant(np.eye(a, a + 1)), g.constant(np.eye(a + 1)[a]))

    def _values(self, g: GraphBuilder, horizon: int, start: str,
                actions: Callable[[int, _Latents], str], each: Sequence[str] = (),
                ones: bool = False) -> str:
        """Value (N,) of plans that start in one latent (1, Z).

        Args:
            g: the graph.
            horizon: steps of the plans.
            start: where all plans start.
            actions: from the step and the latent, (1, Z) at first and (N, Z) then, to (N, A).
            each: components that `actions` reads every latent with.
            ones: the actions after the first have a last column of ones.
        """
        weights = self.discount ** np.arange(horizon)
        action = actions(0, _Latents(start))
        x, rest = self._enter(g, 'reward', start, action)
        total = self._row(g, rest, x, biases=float(weights.sum()))
        x, rest = self._enter(g, 'dynamics', start, action)
        for t in range(1, horizon):
            latent = self._next(g, rest, x, ['reward', 'dynamics', *each])
            x = g.op('Concat', latent.rows, actions(t, latent), axis=1)
            total = self._row(g, latent.into(self.net['reward'], ones), x, float(weights[t]),
                              total)
            rest = [*latent.into(self.net['dynamics'], ones)]
        latent = self._next(g, rest, x, ['policy', 'q1', 'q2'])
        return self._end(g, latent, total, self.discount ** horizon)

    def _clip(self, g: GraphBuilder, value: str) -> str:
        return g.op('Clip', value, g.constant(-1.0), g.constant(1.0))

    def _steps(self, g: GraphBuilder, h: int, actions: str) -> list[str]:
        """Split (H, N, A) into H values (N, A)."""
        return self._split(g, h, g.op('Reshape', actions, g.integers(-1, len(self.half))))

    def _split(self, g: GraphBuilder, h: int, rows: str) -> list[str]:
        """Split (H N, any) into H values (N, any)."""
        return g.ops('Split', h, rows, axis=0) if h > 1 else [rows]

    def policy(self) -> GraphBuilder:
        """`observation` (B, O) -> `action` (B, A), both in the robot's units."""
        g = GraphBuilder('policy')
        latent = self._encode(g, g.input('observation', ['B', len(self.scale)]))
        action = g.apply(self.net['policy'], latent)
        physical = g.op('Add', g.op('Mul', action, g.constant(self.half)),
                        g.constant(self.middle))
        g.output(physical, 'action', ['B', len(self.half)])
        return g

    def world_model(self) -> GraphBuilder:
        """`observation`, `latent`, `action` in [-1, 1] -> what follows, and the encoder.

        `encoded` (B, Z) of the observation; `next_latent` (B, Z), `reward` (B, 1) and `value`
        (B, 1) of the latent and action.
        """
        g = GraphBuilder('world_model')
        a = len(self.half)
        encoded = self._encode(g, g.input('observation', ['B', len(self.scale)]))
        latent = g.input('latent', ['B', self.latent])
        pair = g.op('Concat', latent, g.input('action', ['B', a]), axis=1)
        value = g.op('Min', *(g.apply(self.net[q], pair) for q in ('q1', 'q2')))
        g.output(encoded, 'encoded', ['B', self.latent])
        g.output(g.apply(self.net['dynamics'], pair), 'next_latent', ['B', self.latent])
        g.output(g.apply(self.net['reward'], pair), 'reward', ['B', 1])
        g.output(value, 'value', ['B', 1])
        return g

    def plan_start(self, h: int) -> GraphBuilder:
        """`observation` (1, O), `noise` (H, P, A) -> `latent`, `policy_actions`, `policy_values`.

        (1, Z), (H, P, A) and (P,); the counterpart of `planner.plan_start`.
        """
        g = GraphBuilder('plan_start')
        a = len(self.half)
        latent = self._encode(g, g.input('observation', [1, len(self.scale)]))
        noise = self._steps(g, h, g.input('noise', [h, 'P', a]))
        proposed: list[str] = []

        def propose(t: int, at: _Latents) -> str:
            action = g.op('Add', self._policy(g, at), noise[t])
            proposed.append(self._clip(g, action))
            return proposed[-1]

        values = self._values(g, h, latent, propose, ['policy'])
        stacked = g.op('Concat', *[g.op('Unsqueeze', x, g.integers(0)) for x in proposed], axis=0)
        g.output(latent, 'latent', [1, self.latent])
        g.output(stacked, 'policy_actions', [h, 'P', a])
        g.output(values, 'policy_values', ['P'])
        return g

    def plan_step(self, h: int, precision: str = 'fp32') -> GraphBuilder:
        """One MPPI iteration; the counterpart of `planner.plan_step`.

        `latent` (1, Z), `mean` and `std` (H, A), `noise` (H, N, A), `policy_actions` (H, P, A),
        `policy_values` (P,), `elites` (1,) the number K -> `next_mean`, `next_std` (H, A),
        `elite_actions` (H, K, A) and `elite_values` (K,), best first.
        """
        g, c, a = GraphBuilder('plan_step', precision), self.planner, len(self.half)
        latent = g.input('latent', [1, self.latent])
        mean, std = g.input('mean', [h, a]), g.input('std', [h, a])
        noise = g.input('noise', [h, 'N', a])
        policy_actions = g.input('policy_actions', [h, 'P', a])
        policy_values = g.input('policy_values', ['P'])
        elites = g.input('elites', [1], TensorProto.INT64)
        one = g.integers(1)

        spread = g.op('Mul', g.op('Unsqueeze', std, one), noise)
        sampled = self._clip(g, g.op('Add', g.op('Unsqueeze', mean, one), spread))  # (H, N, A)
        ones = h > 1 and self._prepared(g)
        if ones:
            first, later = g.ops('Split', 2, sampled, g.integers(1, h - 1), axis=0)
            rows = self._with_ones(g, g.op('Reshape', later, g.integers(-1, a)))
            steps = self._steps(g, 1, first) + self._split(g, h - 1, rows)
        else:
            steps = self._steps(g, h, sampled)
        values = self._values(g, h, latent, lambda t, _: steps[t], ones=ones)
        values = g.op('Concat', values, policy_values, axis=0)
        actions = g.op('Concat', sampled, policy_actions, axis=1)
        best, index = g.ops('TopK', 2, values, elites, axis=0, largest=1, sorted=1)
        kept = g.op('Gather', actions, index, axis=1)  # (H, K, A)
        sharp = g.op('Mul', best, g.constant(np.float32(c.temperature)))
        weight = g.op('Unsqueeze', g.op('Softmax', sharp, axis=0), one)  # (K, 1)
        centre = g.op('ReduceSum', g.op('Mul', kept, weight), one, keepdims=1)  # (H, 1, A)
        deviation = g.op('Sub', kept, centre)
        variance = g.op('ReduceSum', g.op('Mul', g.op('Mul', deviation, deviation), weight), one,
                        keepdims=0)
        next_std = g.op('Clip', g.op('Sqrt', variance), g.constant(np.float32(c.min_std)),
                        g.constant(np.float32(c.max_std)))
        old = g.op('Mul', mean, g.constant(np.float32(c.momentum)))
        new = g.op('Mul', g.op('Squeeze', centre, one), g.constant(np.float32(1 - c.momentum)))
        g.output(g.op('Add', old, new), 'next_mean', [h, a])
        g.output(next_std, 'next_std', [h, a])
        g.output(kept, 'elite_actions', [h, 'K', a])
        g.output(best, 'elite_values', ['K'])
        return g
