# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""torch layers as ONNX nodes: a component in, the nodes that compute it out.

A component is read as a flat list of steps, each a matrix with its bias, a normalisation or an
activation, so that a graph may take its first or last matrix apart. What has no counterpart here
is refused by name; a subclass counts as unknown unless it is listed, since its `forward` may do
anything. Operators are of opset 17.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pruning_core.errors import ExportMismatch, explain

# onnxruntime reads this opset since 1.12, and this version of the file format, too.
OPSET, IR_VERSION = 17, 8
ALLOWED = ('nn.Sequential, nested or not, of Linear, LayerNorm, ReLU, LeakyReLU, ELU, SiLU, Mish, '
           'GELU, Tanh, Sigmoid, Identity and Dropout, and NormedLinear and SimNorm of TD-MPC2')

Array = npt.NDArray[np.float32]
Shape = Sequence[int | str]


@dataclass(frozen=True)
class Matrix:
    """y = x W + b, with W (inputs, outputs) and b (outputs,) or None; `name` in the agent."""

    name: str
    weight: Array
    bias: Array | None


@dataclass(frozen=True)
class Entry:
    """A component's first matrix, on inputs that were prepared for it.

    y = (x[:, :n] W1 + b1, x[:, n:]) W2 + b2, with n the inputs of `before`, W1 and b1, and what
    else `matrix`, W2 and b2, takes after them; without `before`, y = x W2 + b2. With `ones` a last
    column of ones follows, by which the bias is multiplied: onnxruntime adds a bias in a pass of
    its own.
    """

    matrix: Matrix
    before: Matrix | None = None
    ones: bool = False


@dataclass(frozen=True)
class Nodes:
    """Anything else: `write` adds its nodes to a graph and returns the name of their output.

    `elementwise` where it does not mix channels.
    """

    write: Callable[[GraphBuilder, str], str]
    elementwise: bool = False


Step = Matrix | Entry | Nodes


class GraphBuilder:
    """Collects nodes and weights; every method returns the name of its output.

    Attributes:
        shared: weights that other graphs may take, too, by name.
    """

    def __init__(self, name: str, precision: str = 'fp32') -> None:
        """Start an empty graph; 'int8' multiplies 8-bit integers where a matrix is whole."""
        self.name, self.precision = name, precision
        self.shared: dict[str, npt.NDArray[Any]] = {}
        self._quantised: dict[str, list[str]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[bytes, str] = {}
        self._entries: dict[tuple[str, str, bool], list[str]] = {}
        self._named: dict[str, str] = {}

    def input(self, name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> str:
        """Declare an input; strings in `shape` are dynamic."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, value: str, name: str, shape: Shape) -> None:
        """Declare an output; a value that a node makes has its name in the model."""
        if value in self._named or not any(value in node.output for node in self._nodes):
            value = self.op('Identity', value)
        self._named[value] = name
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

    def integers(self, *values: int) -> str:
        """Add a constant list of integers: axes, shapes and bounds."""
        return self.constant(values, np.int64)

    def weight(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a weight, once for each name; its numbers are stored outside the graph."""
        if name not in self._weights:
            self.shared[name] = np.ascontiguousarray(value)
            self._weights[name] = numpy_helper.from_array(self.shared[name], name)
        return name

    def gemm(self, matrix: Matrix, x: str, rows: slice = slice(None), add: str | None = None
             ) -> str:
        """Multiply by a matrix, or by some of its rows.

        Args:
            matrix: (inputs, outputs).
            x: (rows, inputs), or as many inputs as `rows` leaves.
            rows: of the matrix. A part is cut out by a node, which onnxruntime folds when it
                loads the graph, so that the file holds the matrix once.
            add: what takes the place of the bias.
        """
        if self.precision == 'int8' and rows == slice(None) and add is None:
            return self._integer_gemm(matrix, x)
        weight = self.weight(f'{matrix.name}.weight', matrix.weight)
        if rows != slice(None):
            begin, end, _ = rows.indices(len(matrix.weight))
            weight = self.op('Slice', weight, self.integers(begin), self.integers(end))
        inputs = [x, weight]
        if add is not None:
            inputs.append(add)
        elif matrix.bias is not None:
            inputs.append(self.weight(f'{matrix.name}.bias', matrix.bias))
        return self.op('Gemm', *inputs)

    def _enter(self, entry: Entry, x: str) -> str:
        """Multiply by what onnxruntime makes of an entry's matrices when it loads them."""
        key = (entry.before.name if entry.before else '', entry.matrix.name, entry.ones)
        if key not in self._entries:
            self._entries[key] = self._folded(entry)
        return self.op('Gemm', x, *self._entries[key])

    def _folded(self, entry: Entry) -> list[str]:
        """The matrix and, unless ones multiply it, the bias of an entry: nodes of constants."""
        before, matrix = entry.before, entry.matrix
        weight = self.weight(f'{matrix.name}.weight', matrix.weight)
        bias = (self.weight(f'{matrix.name}.bias', matrix.bias) if matrix.bias is not None
                else self.constant(np.zeros(matrix.weight.shape[1])))
        if before is not None:
            inner, inputs = before.weight.shape[1], len(matrix.weight)
            shared = self.op('Slice', weight, self.integers(0), self.integers(inner))
            rest = self.op('Slice', weight, self.integers(inner), self.integers(inputs))
            weight = self.op('MatMul', self.weight(f'{before.name}.weight', before.weight), shared)
            if inputs > inner:
                weight = self.op('Concat', weight, rest, axis=0)
            if before.bias is not None:
                moved = self.weight(f'{before.name}.bias', before.bias)
                bias = self.op('Add', self.op('MatMul', moved, shared), bias)
        if not entry.ones:
            return [weight, bias]
        return [self.op('Concat', weight, self.op('Unsqueeze', bias, self.integers(0)), axis=0)]

    def _integer_gemm(self, matrix: Matrix, x: str) -> str:
        """Multiply integers: the input is quantised as it comes, the matrix once, by column.

        Columns take 7 of the 8 bits: the sums of processors without VNNI would overflow.
        """
        if x not in self._quantised:
            self._quantised[x] = self.ops('DynamicQuantizeLinear', 3, x)
        integers, scale, zero = self._quantised[x]
        step = np.maximum(np.abs(matrix.weight).max(axis=0), 1e-30) / 63
        weight = self.weight(f'{matrix.name}.int8', np.round(matrix.weight / step).astype(np.int8))
        product = self.op('MatMulInteger', integers, weight, zero)
        steps = self.weight(f'{matrix.name}.step', step.astype(np.float32))
        y = self.op('Mul', self.op('Cast', product, to=TensorProto.FLOAT),
                    self.op('Mul', scale, steps))
        if matrix.bias is None:
            return y
        return self.op('Add', y, self.weight(f'{matrix.name}.bias', matrix.bias))

    def apply(self, steps: Sequence[Step], x: str) -> str:
        """Apply steps to a (rows, channels) value."""
        for step in steps:
            if isinstance(step, Matrix):
                x = self.gemm(step, x)
            elif isinstance(step, Entry):
                x = self._enter(step, x)
            else:
                x = step.write(self, x)
        return x

    def model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the model, checked, with all its numbers in it."""
        nodes = []
        for made in self._nodes:
            node = onnx.NodeProto()
            node.CopyFrom(made)
            for names in (node.input, node.output):
                names[:] = [self._named.get(name, name) for name in names]
            nodes.append(node)
        graph = helper.make_graph(nodes, self.name, self._inputs, self._outputs,
                                  list(self._weights.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)],
                                  producer_name='pruned_controller')
        model.ir_version = IR_VERSION
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


def externalise(model: onnx.ModelProto, location: str, places: Mapping[str, tuple[int, int]]
                ) -> bytes:
    """Take out the numbers that lie in another file, and return the model's bytes.

    Args:
        model: changed in place.
        location: name of that file, beside the model's own.
        places: offset and length in it, by name of the weight.
    """
    for tensor in model.graph.initializer:
        if tensor.name in places:
            tensor.ClearField('raw_data')
            tensor.data_location = TensorProto.EXTERNAL
            offset, length = places[tensor.name]
            for key, value in (('location', location), ('offset', offset), ('length', length)):
                tensor.external_data.add(key=key, value=str(value))
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def steps_of(name: str, module: nn.Module) -> list[Step]:
    """Read a component as a list of steps.

    Args:
        name: of the component in the agent; weights are named after it.
        module: an `nn.Sequential`, or one of its layers.

    Raises:
        ExportMismatch: a layer has no counterpart here.
    """
    kind = type(module)
    if type(module) is nn.Sequential:
        return [step for i, layer in enumerate(module) for step in steps_of(f'{name}.{i}', layer)]
    if type(module) is nn.Linear:
        return [_matrix(name, module)]
    if kind.__name__ == 'NormedLinear' and isinstance(module, nn.Linear):
        # TD-MPC2: a Linear that normalises and activates its own output.
        return [_matrix(name, module), *steps_of(f'{name}.ln', module.get_submodule('ln')),
                *steps_of(f'{name}.act', module.get_submodule('act'))]
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return [_layer_norm(name, module)]
    if kind.__name__ == 'SimNorm' and isinstance(size := getattr(module, 'dim', None), int):
        return [Nodes(lambda g, x: _simplices(g, x, size))]
    if kind in ACTIVATIONS:
        return [Nodes(lambda g, x: ACTIVATIONS[kind](g, x, module), elementwise=True)]
    if kind in (nn.Identity, nn.Dropout):
        return []
    raise ExportMismatch(
        explain(f"component layer '{name}' was to be exported", f'it is a {kind.__name__}',
                ALLOWED, 'write this component with these layers'))


def _matrix(name: str, layer: nn.Linear) -> Matrix:
    bias = layer.bias.detach().numpy() if layer.bias is not None else None
    return Matrix(name, layer.weight.detach().numpy().T, bias)


def _layer_norm(name: str, layer: nn.LayerNorm) -> Nodes:
    width = layer.normalized_shape[0]
    weights = {f'{name}.weight': np.ones(width, np.float32)}
    for part in ('weight', 'bias'):
        parameter = getattr(layer, part)
        if parameter is not None:
            weights[f'{name}.{part}'] = parameter.detach().numpy()

    def write(g: GraphBuilder, x: str) -> str:
        return g.op('LayerNormalization', x, *(g.weight(n, w) for n, w in weights.items()),
                    axis=-1, epsilon=layer.eps)

    return Nodes(write)


def _simplices(g: GraphBuilder, x: str, size: int) -> str:
    """Softmax over every `size` neighbouring channels."""
    shape = g.op('Shape', x)
    grouped = g.op('Reshape', x, g.integers(0, -1, size))
    return g.op('Reshape', g.op('Softmax', grouped, axis=-1), shape)


def _elu(g: GraphBuilder, x: str, layer: nn.ELU) -> str:
    """max(x, 0) + alpha (exp(min(x, 0)) - 1): onnxruntime vectorises these, but not its Elu."""
    zero = g.constant(0.0)
    below = g.op('Sub', g.op('Exp', g.op('Min', x, zero)), g.constant(1.0))
    if layer.alpha != 1.0:
        below = g.op('Mul', below, g.constant(layer.alpha))
    return g.op('Add', g.op('Relu', x), below)


def _mish(g: GraphBuilder, x: str, layer: nn.Mish) -> str:
    return g.op('Mul', x, g.op('Tanh', g.op('Softplus', x)))


def _gelu(g: GraphBuilder, x: str, layer: nn.GELU) -> str:
    half = g.op('Mul', x, g.constant(0.5))
    if layer.approximate == 'tanh':
        cube = g.op('Mul', g.op('Mul', x, x), x)
        inner = g.op('Add', x, g.op('Mul', cube, g.constant(0.044715)))
        bent = g.op('Tanh', g.op('Mul', inner, g.constant(math.sqrt(2 / math.pi))))
    else:
        bent = g.op('Erf', g.op('Mul', x, g.constant(math.sqrt(0.5))))
    return g.op('Mul', half, g.op('Add', bent, g.constant(1.0)))


ACTIVATIONS: dict[type[nn.Module], Callable[[GraphBuilder, str, Any], str]] = {
    nn.ReLU: lambda g, x, layer: g.op('Relu', x),
    nn.LeakyReLU: lambda g, x, layer: g.op('LeakyRelu', x, alpha=layer.negative_slope),
    nn.ELU: _elu,
    nn.SiLU: lambda g, x, layer: g.op('Mul', x, g.op('Sigmoid', x)),
    nn.Mish: _mish,
    nn.GELU: _gelu,
    nn.Tanh: lambda g, x, layer: g.op('Tanh', x),
    nn.Sigmoid: lambda g, x, layer: g.op('Sigmoid', x),
}
