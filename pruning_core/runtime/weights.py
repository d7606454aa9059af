# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The weights that the graphs of a bundle share: arrays in, one safetensors file out, and back.

The graphs name the file as ONNX external data, so that any runtime opens them beside it; the
planner hands the arrays over in memory instead, as they were verified. The header also tells, as
safetensors metadata, which weights each graph takes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pruning_core.errors import BundleError, explain

Array = npt.NDArray[Any]
_DTYPES: dict[str, np.dtype[Any]] = {'F32': np.dtype('<f4'), 'I8': np.dtype('i1')}
_ALIGNMENT = 64  # bytes; a cache line, and the widest vector


@dataclass(frozen=True)
class Layout:
    """Where each array lies in the file.

    Attributes:
        header: the bytes before the arrays.
        places: offset in the file and length of each array, in bytes.
    """

    header: bytes
    places: Mapping[str, tuple[int, int]]


def lay_out(arrays: Mapping[str, Array], users: Mapping[str, Sequence[str]]) -> Layout:
    """Place arrays one behind the other, by name.

    Args:
        arrays: float32 or int8.
        users: names of the weights that each graph takes.
    """
    entries: dict[str, Any] = {'__metadata__': {
        graph: ' '.join(sorted(names)) for graph, names in sorted(users.items())}}
    begin = 0
    for name, array in sorted(arrays.items()):
        kind = next(k for k, dtype in _DTYPES.items() if dtype == array.dtype)
        entries[name] = {'dtype': kind, 'shape': list(array.shape),
                         'data_offsets': [begin, begin + array.nbytes]}
        begin += array.nbytes
    text = json.dumps(entries, separators=(',', ':')).encode()
    text += b' ' * (-(len(text) + 8) % _ALIGNMENT)
    header = struct.pack('<Q', len(text)) + text
    return Layout(header, {
        name: (len(header) + e['data_offsets'][0], e['data_offsets'][1] - e['data_offsets'][0])
        for name, e in entries.items() if name != '__metadata__'})


def join(layout: Layout, arrays: Mapping[str, Array]) -> bytes:
    """Write the file that `lay_out` planned."""
    return layout.header + b''.join(np.ascontiguousarray(arrays[n]).tobytes()
                                    for n in sorted(arrays))


def read(content: bytes) -> dict[str, dict[str, Array]]:
    """Read the file.

    Returns:
        By graph the weights that it takes, by name; they share the memory of `content`.

    Raises:
        BundleError: it is not such a file; nothing outside `content` is ever looked at.
    """
    try:
        length, = struct.unpack_from('<Q', content)
        if length > len(content) - 8:
            raise ValueError(f'a header of {length} bytes')
        header = json.loads(content[8:8 + length])
        users = header.pop('__metadata__')
        arrays = {name: _array(content, 8 + length, **entry) for name, entry in header.items()}
        return {graph: {name: arrays[name] for name in names.split()}
                for graph, names in users.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError
            ) as error:
        raise BundleError(
            explain('the weights of a bundle were read',
                    f'they are damaged ({type(error).__name__}: {error})'[:300],
                    'the safetensors file that export wrote', 'export the bundle again')
        ) from error


def _array(content: bytes, base: int, *, dtype: str, shape: list[int], data_offsets: list[int]
           ) -> Array:
    begin, end = data_offsets
    kind, count = _DTYPES[dtype], math.prod(shape)
    if not (0 <= begin <= end <= len(content) - base
            and all(type(n) is int and n >= 0 for n in shape)
            and end - begin == count * kind.itemsize):
        raise ValueError(f'{shape} at {data_offsets}')
    return np.frombuffer(content, kind, count, base + begin).reshape(shape)
