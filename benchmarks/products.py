# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Hidden layers alone, one after the other: how fast onnxruntime multiplies at a width.

The floor of a planner is reckoned with the rate of wide products, which narrow ones do not reach.
This says what is lost to that before the first other node of a planner is counted.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pruning_core.runtime.bound import BoundGraph, session

ROWS, LAYERS = 512, 20


class Products:
    """Layers of equal width with ReLU, each on what the one before put out.

    Attributes:
        operations: floating-point operations of one call.
    """

    def __init__(self, width: int) -> None:
        """Build the graph and bind it."""
        self.operations = 2 * ROWS * width * width * LAYERS
        weights = np.random.default_rng(0).standard_normal((width, width)).astype('f4')
        nodes = [node for i in range(LAYERS) for node in (
            helper.make_node('Gemm', [f'y{i}', 'weights', 'bias'], [f'x{i}']),
            helper.make_node('Relu', [f'x{i}'], [f'y{i + 1}']))]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, width])
                for name in ('y0', f'y{LAYERS}')]
        graph = helper.make_graph(nodes, 'products', ends[:1], ends[1:], [
            numpy_helper.from_array(weights / np.sqrt(width / 2, dtype='f4'), 'weights'),
            numpy_helper.from_array(np.zeros(width, 'f4'), 'bias')])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
        start, end = (np.ones((ROWS, width), 'f4') for _ in range(2))
        self._graph = BoundGraph(session(model.SerializeToString(), {}), {'y0': start},
                                 {f'y{LAYERS}': end})

    def __call__(self) -> None:
        """Multiply."""
        self._graph.run()
