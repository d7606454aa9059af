# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The four ONNX graphs of an agent, written node by node.

Components in, serialised models out. A graph written by hand holds nothing left over from
training, shares each weight between the unrolled steps, takes the number of samples and elites at
run time, and is made in milliseconds; `export` proves each one equal to torch. Operators are of
opset 17, which onnxruntime has read since 1.12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pruning_core.config import PlannerConfig
from pruning_core.errors import ExportMismatch, explain

OPSET = 17
_IR_VERSION = 8  # what onnxruntime 1.17 and older boards accept

Shape = Sequence[int | str]


class GraphBuilder:
    """Collects nodes and weights; every method returns the name of its output."""

    def __init__(self, name: str) -> None:
        """Start an empty graph."""
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[bytes, str] = {}

    def input(self, name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> str:
        """Declare an input; strings in `shape` are dynamic."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, value: str, name: str, shape: Shape) -> None:
        """Declare an output."""
        self._nodes.append(helper.make_node('Identity', [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with `count` outputs."""
        outputs = [f'{kind.lower()}_{len(self._nodes)}_{i}' for i in range(count)]
        self._nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add a constant, once for equal values."""
        array = np.asarray(value, dtype)
        key = array.tobytes() + str((array.shape, array.dtype)).encode()
        if key not in self._constants:
            name = self._constants[key] = f'constant_{len(self._constants)}'
            self._weights[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def weight(self, name: str, value: npt.NDArray[np.float32]) -> str:
        """Add a weight, once for each name."""
        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def component(self, name: str, module: nn.Module, x: str) -> str:
        """Apply a component to a (rows, channels) value.

        Raises:
            ExportMismatch: the component has a layer that has no counterpart here.
        """
        if not isinstance(module, nn.Sequential):
            raise _unknown(name, module)
        for i, layer in enumerate(module):
            prefix = f'{name}.{i}'
            if isinstance(layer, nn.Linear):
                matrix = self.weight(f'{prefix}.weight', layer.weight.detach().numpy().T)
                inputs = [x, matrix]
                if layer.bias is not None:
                    inputs.append(self.weight(f'{prefix}.bias', layer.bias.detach().numpy()))
                x = self.op('Gemm', *inputs)
            elif isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1 \
                    and layer.weight is not None and layer.bias is not None:
                x = self.op('LayerNormalization', x,
                            self.weight(f'{prefix}.weight', layer.weight.detach().numpy()),
                            self.weight(f'{prefix}.bias', layer.bias.detach().numpy()),
                            axis=-1, epsilon=layer.eps)
            elif isinstance(layer, nn.ReLU):
                x = self.op('Relu', x)
            elif isinstance(layer, nn.ELU):
                x = self.op('Elu', x, alpha=layer.alpha)
            elif isinstance(layer, nn.Tanh):
                x = self.op('Tanh', x)
            else:
                raise _unknown(prefix, layer)
        return x

    def serialise(self, metadata: Mapping[str, str]) -> bytes:
        """Check the model and return its bytes."""
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs,
                                  list(self._weights.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)],
                                  producer_name='pruned_controller')
        model.ir_version = _IR_VERSION
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def _unknown(name: str, layer: nn.Module) -> ExportMismatch:
    return ExportMismatch(
        explain(f"component layer '{name}' was to be exported", f'it is a {type(layer).__name__}',
                'nn.Sequential of Linear, LayerNorm (affine), ReLU, ELU and Tanh',
                'write this component with these layers')
    )


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
        """
        self.net, self.planner, self.discount = components, planner, discount
        self.scale = np.asarray(observation_scale, np.float32)
        self.middle = np.asarray(action_middle, np.float32)
        self.half = np.asarray(action_half, np.float32)
        self.metadata = metadata
        linears = [m for m in components['encoder'].modules() if isinstance(m, nn.Linear)]
        self.latent = linears[-1].out_features

    def _encode(self, g: GraphBuilder, observation: str) -> str:
        scaled = g.op('Mul', observation, g.constant(self.scale))
        return g.component('encoder', self.net['encoder'], scaled)

    def _min_q(self, g: GraphBuilder, pair: str) -> str:
        return g.op('Min', g.component('q1', self.net['q1'], pair),
                    g.component('q2', self.net['q2'], pair))

    def _values(self, g: GraphBuilder, latent: str, actions: Sequence[str]) -> str:
        """Value (N,) of plans from latents (N, Z) and H actions (N, A)."""
        horizon, pairs = len(actions), []
        for action in actions:
            pairs.append(g.op('Concat', latent, action, axis=1))
            latent = g.component('dynamics', self.net['dynamics'], pairs[-1])
        stacked = g.op('Concat', *pairs, axis=0)  # (H N, Z+A): one pass for all rewards
        rewards = g.component('reward', self.net['reward'], stacked)
        by_step = g.op('Reshape', rewards, g.constant([horizon, -1], np.int64))  # (H, N)
        weights = self.discount ** np.arange(horizon, dtype=np.float32)
        summed = g.op('MatMul', g.constant(weights), by_step)  # (N,)
        policy = g.component('policy', self.net['policy'], latent)
        end = self._min_q(g, g.op('Concat', latent, policy, axis=1))  # (N, 1)
        end = g.op('Mul', g.op('Squeeze', end, g.constant([1], np.int64)),
                   g.constant(np.float32(self.discount ** horizon)))
        return g.op('Add', summed, end)

    def _clip(self, g: GraphBuilder, value: str) -> str:
        return g.op('Clip', value, g.constant(-1.0), g.constant(1.0))

    def _steps(self, g: GraphBuilder, actions: str, horizon: int) -> list[str]:
        """Split (H, N, A) into H values (N, A)."""
        parts = g.ops('Split', horizon, actions, axis=0) if horizon > 1 else [actions]
        return [g.op('Squeeze', part, g.constant([0], np.int64)) for part in parts]

    def _rows(self, g: GraphBuilder, latent: str, like: str) -> str:
        """Repeat a latent (1, Z) for every row of `like` (N, A)."""
        rows = g.op('Slice', g.op('Shape', like), g.constant([0], np.int64),
                    g.constant([1], np.int64))
        shape = g.op('Concat', rows, g.constant([1], np.int64), axis=0)
        return g.op('Expand', latent, shape)

    def policy(self) -> bytes:
        """`observation` (B, O) -> `action` (B, A), both in the robot's units."""
        g = GraphBuilder('policy')
        latent = self._encode(g, g.input('observation', ['B', len(self.scale)]))
        action = g.component('policy', self.net['policy'], latent)
        physical = g.op('Add', g.op('Mul', action, g.constant(self.half)),
                        g.constant(self.middle))
        g.output(physical, 'action', ['B', len(self.half)])
        return g.serialise(self.metadata)

    def world_model(self) -> bytes:
        """`observation`, `latent`, `action` in [-1, 1] -> what follows, and the encoder.

        `encoded` (B, Z) of the observation; `next_latent` (B, Z), `reward` (B, 1) and `value`
        (B, 1) of the latent and action.
        """
        g = GraphBuilder('world_model')
        a = len(self.half)
        encoded = self._encode(g, g.input('observation', ['B', len(self.scale)]))
        latent = g.input('latent', ['B', self.latent])
        pair = g.op('Concat', latent, g.input('action', ['B', a]), axis=1)
        g.output(encoded, 'encoded', ['B', self.latent])
        g.output(g.component('dynamics', self.net['dynamics'], pair), 'next_latent',
                 ['B', self.latent])
        g.output(g.component('reward', self.net['reward'], pair), 'reward', ['B', 1])
        g.output(self._min_q(g, pair), 'value', ['B', 1])
        return g.serialise(self.metadata)

    def plan_start(self) -> bytes:
        """`observation` (1, O), `noise` (H, P, A) -> `latent`, `policy_actions`, `policy_values`.

        (1, Z), (H, P, A) and (P,); the counterpart of `planner.plan_start`.
        """
        g = GraphBuilder('plan_start')
        h, a = self.planner.horizon, len(self.half)
        latent = self._encode(g, g.input('observation', [1, len(self.scale)]))
        noise = self._steps(g, g.input('noise', [h, 'P', a]), h)
        start = rolled = self._rows(g, latent, noise[0])
        actions = []
        for t in range(h):
            proposed = g.component('policy', self.net['policy'], rolled)
            actions.append(self._clip(g, g.op('Add', proposed, noise[t])))
            if t < h - 1:
                rolled = g.component('dynamics', self.net['dynamics'],
                                     g.op('Concat', rolled, actions[-1], axis=1))
        stacked = g.op('Concat', *[g.op('Unsqueeze', x, g.constant([0], np.int64))
                                   for x in actions], axis=0)
        g.output(latent, 'latent', [1, self.latent])
        g.output(stacked, 'policy_actions', [h, 'P', a])
        g.output(self._values(g, start, actions), 'policy_values', ['P'])
        return g.serialise(self.metadata)

    def plan_step(self) -> bytes:
        """One MPPI iteration; the counterpart of `planner.plan_step`.

        `latent` (1, Z), `mean` and `std` (H, A), `noise` (H, N, A), `policy_actions` (H, P, A),
        `policy_values` (P,), `elites` (1,) the number K -> `next_mean`, `next_std` (H, A),
        `elite_actions` (H, K, A) and `elite_values` (K,), best first.
        """
        g, c = GraphBuilder('plan_step'), self.planner
        h, a = c.horizon, len(self.half)
        latent = g.input('latent', [1, self.latent])
        mean, std = g.input('mean', [h, a]), g.input('std', [h, a])
        noise = g.input('noise', [h, 'N', a])
        policy_actions = g.input('policy_actions', [h, 'P', a])
        policy_values = g.input('policy_values', ['P'])
        elites = g.input('elites', [1], TensorProto.INT64)
        one = g.constant([1], np.int64)

        spread = g.op('Mul', g.op('Unsqueeze', std, one), noise)
        sampled = self._clip(g, g.op('Add', g.op('Unsqueeze', mean, one), spread))  # (H, N, A)
        steps = self._steps(g, sampled, h)
        values = self._values(g, self._rows(g, latent, steps[0]), steps)
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
        return g.serialise(self.metadata)
