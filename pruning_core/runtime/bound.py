# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""onnxruntime sessions for a control loop, and graphs bound to buffers that stay where they are.

Bytes of a graph in, a session or a `BoundGraph` out. A bound graph reads its inputs from arrays
and writes its outputs into arrays that were allocated once, so that a tick allocates nothing and
copies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from pruning_core.errors import BundleError, explain

Array = npt.NDArray[Any]


def session(content: bytes, weights: Mapping[str, Array], threads: int = 1
            ) -> onnxruntime.InferenceSession:
    """Open a graph for a control loop: fixed threads, none of them spinning between ticks.

    Args:
        content: the ONNX file.
        weights: the arrays that lie outside it, by name; see `weights.read`.
        threads: of one node.

    Raises:
        BundleError: onnxruntime does not take the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    options.log_severity_level = 3
    try:
        if weights:
            options.add_external_initializers(
                list(weights), [onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(w))
                                for w in weights.values()])
        return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime's own classes share no public root
        raise BundleError(
            explain('an ONNX graph was loaded', f'onnxruntime refused it ({error})'[:500],
                    f'a graph that onnxruntime {onnxruntime.__version__} reads',
                    'update onnxruntime, or export the bundle again')
        ) from error


class BoundGraph:
    """A graph that reads from and writes to fixed arrays."""

    def __init__(self, session: onnxruntime.InferenceSession, inputs: Mapping[str, Array],
                 outputs: Mapping[str, Array]) -> None:
        """Bind every input, and the outputs that are wanted; the arrays must be contiguous."""
        self._session, self._binding = session, session.io_binding()
        self._arrays = (dict(inputs), dict(outputs))  # onnxruntime only points to them
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        for name, array in outputs.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        """Compute the outputs from what stands in the inputs now."""
        self._session.run_with_iobinding(self._binding)
