# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Look through an ONNX file without running or trusting it: nothing in it may point outside.

A tensor of an ONNX graph may lie in another file, named by a path in the graph. In a bundle that
is the one file of weights beside it, within its length; any other place is refused here, before
onnxruntime could follow it. The protobuf encoding is walked by its lengths alone; depth and number
of fields are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pruning_core.errors import BundleError, explain

_MAX_DEPTH = 12  # graphs within graphs; ours have one
_MAX_FIELDS = 500_000
# Messages to be walked into: message kind -> field number -> kind of message in it.
_INSIDE: dict[str, dict[int, str]] = {
    'model': {7: 'graph', 25: 'function'},
    'graph': {1: 'node', 5: 'tensor', 15: 'sparse'},
    'function': {7: 'node', 11: 'attribute'},
    'node': {5: 'attribute'},
    'attribute': {5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph', 22: 'sparse',
                  23: 'sparse'},
    'sparse': {1: 'tensor', 2: 'tensor'},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_KEY, _VALUE = 1, 2  # of an entry of its external data


@dataclass(frozen=True)
class Beside:
    """The one other file in which tensors of a graph may lie: its name and its bytes."""

    name: str
    size: int


def check_self_contained(content: bytes, name: str, beside: Beside) -> None:
    """Walk a graph.

    Args:
        content: bytes of an ONNX file.
        name: of the file, for the message.
        beside: the one other file in which tensors may lie.

    Raises:
        BundleError: not the encoding of a graph, or something in it lies in another file.
    """
    asked = f'{name} was looked through'
    left = [_MAX_FIELDS]
    try:
        _walk(memoryview(content), 'model', 0, left, beside)
    except _OutsideError as error:
        raise BundleError(
            explain(asked, f'a tensor of it lies in {error}',
                    f'{beside.name} beside it, within its {beside.size} bytes',
                    'export the bundle again')
        ) from error
    except (ValueError, IndexError) as error:
        raise BundleError(
            explain(asked, f'it is no ONNX graph ({error})', 'what export wrote',
                    'export the bundle again')
        ) from error


class _OutsideError(Exception):
    """A tensor that is not in the file."""


def _walk(data: memoryview, kind: str, depth: int, left: list[int], beside: Beside) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError('graphs within graphs, too deep')
    if kind == 'tensor':
        _check_tensor(data, left, beside)
        return
    for number, value in _fields(data, left):
        if isinstance(value, memoryview) and (inner := _INSIDE[kind].get(number)):
            _walk(value, inner, depth + 1, left, beside)


def _check_tensor(data: memoryview, left: list[int], beside: Beside) -> None:
    """Hold every place that a tensor names against the allowed one."""
    outside, entries = False, []
    for number, value in _fields(data, left):
        if number == _DATA_LOCATION:
            outside = outside or value != 0
        elif number == _EXTERNAL_DATA and isinstance(value, memoryview):
            entries.append({n: bytes(v) for n, v in _fields(value, left)
                            if isinstance(v, memoryview)})
    if not outside and not entries:
        return
    keys = [e.get(_KEY, b'') for e in entries]
    place = {e.get(_KEY, b''): e.get(_VALUE, b'') for e in entries}
    where = place.get(b'location', b'').decode(errors='replace')
    # A key given twice could be read in two ways.
    if where != beside.name or len(keys) != len(place):
        raise _OutsideError(repr(where))
    offset, length = (_plain(place.get(k, b'0')) for k in (b'offset', b'length'))
    if offset + length > beside.size:
        raise _OutsideError(f'bytes {offset} to {offset + length} of it')


def _plain(digits: bytes) -> int:
    """Read a number that every reader reads alike: digits, no sign, few enough."""
    if not (digits.isdigit() and len(digits) < 20):
        raise ValueError(f'{digits[:20]!r} is no place in a file')
    return int(digits)


def _fields(data: memoryview, left: list[int]) -> Iterator[tuple[int, memoryview | int]]:
    """Yield number and value of every field: bytes, or an integer (0 for fixed-width numbers)."""
    at, end = 0, len(data)
    while at < end:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError('too many fields')
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(data, at)
            if length > end - at:
                raise ValueError('a field is cut off')
            yield number, data[at:at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            if at > end:
                raise ValueError('a field is cut off')
            yield number, 0
        else:
            raise ValueError(f'wire type {wire}')


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError('a number does not end')
