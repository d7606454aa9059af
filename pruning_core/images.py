# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Images to train the autoencoder on: MNIST's IDX files from a folder, or scikit-learn's digits.

A folder (or nothing) in; rows of pixels in [0, 1], split into those to train on and those to test
on, out. Nothing is fetched unless it is asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pruning_core.errors import ConfigError, explain, missing

Array = npt.NDArray[np.float32]
MIRROR = 'https://ossci-datasets.s3.amazonaws.com/mnist/'
# What MNIST's authors published, compressed; MD5 tells a torn download, nothing more.
MD5 = {'train-images-idx3-ubyte.gz': 'f68b3c2dcbeaaa9fbdd348bbdeb94873',
       't10k-images-idx3-ubyte.gz': '9fb629c4189551a2d022fa330f9573f3'}
_TRAIN, _TEST = (name.removesuffix('.gz') for name in MD5)
_TESTED = 0.2  # share that is tested on where the data have no test set of their own
_UNSIGNED_BYTES, _DIMENSIONS = 8, 3  # in the magic number of an IDX file


@dataclass(frozen=True)
class Images:
    """Grey images as rows.

    Attributes:
        train: (N, pixels) in [0, 1].
        test: (M, pixels), not among those trained on.
        name: what they are, and how they were split; for people.
    """

    train: Array
    test: Array
    name: str


def load(folder: str | Path) -> Images:
    """Read images.

    Args:
        folder: with IDX files of images under MNIST's names, compressed or not. Where it has the
            test set alone, or the training set alone, a fifth of that is tested on. Empty: the
            1,797 digits of 8 x 8 pixels that scikit-learn has on board.

    Raises:
        ConfigError: no folder, no images in it, or a damaged file.
        MissingExtra: scikit-learn's digits without scikit-learn.
    """
    if not str(folder):
        return _digits()
    images = {name: read_idx(path) for name, path in _files(folder).items()}
    if len(images) == 2:
        train, test = images[_TRAIN], images[_TEST]
        if train.shape[1] != test.shape[1]:
            raise ConfigError(
                explain(f"images in '{folder}' were asked for",
                        f'{train.shape[1]} pixels to train on, {test.shape[1]} to test on',
                        'images of one size', 'name a folder of one data set')
            )
        return Images(train, test, f'IDX files, {len(train)} images to train on, {len(test)} to '
                                   f'test on')
    (name, both), = images.items()
    return _split(both, f'{name} alone')


def digest(folder: str | Path) -> str:
    """SHA-256 of all that `load` would read from a folder; empty for scikit-learn's digits.

    Raises:
        ConfigError: no folder, or no images in it.
    """
    if not str(folder):
        return ''
    found = hashlib.sha256()
    for name, path in _files(folder).items():
        data = path.read_bytes()
        found.update(f'{name} {len(data)} '.encode() + data)
    return found.hexdigest()


def _files(folder: str | Path) -> dict[str, Path]:
    found = {name: path for name in (_TRAIN, _TEST)
             for path in (Path(folder) / f'{name}.gz', Path(folder) / name) if path.is_file()}
    if not found:
        raise ConfigError(
            explain(f"images in '{folder}' were asked for",
                    'there are none' if Path(folder).is_dir() else 'there is no such folder',
                    f'a folder with {_TRAIN}.gz, {_TEST}.gz or both',
                    'name such a folder, add --download, or leave --data out for the digits of '
                    'scikit-learn')
        )
    return found


def _split(images: Array, name: str) -> Images:
    """The last fifth is tested on; the files are in no order that would matter."""
    border = math.ceil((1 - _TESTED) * len(images))
    return Images(images[:border], images[border:],
                  f'{name}: the first {border} images to train on, the last '
                  f'{len(images) - border} to test on')


def read_idx(path: Path) -> Array:
    """(N, pixels) in [0, 1] of an IDX file of unsigned bytes, compressed or not.

    Raises:
        ConfigError: it is no such file, or is not whole.
    """
    try:
        data = path.read_bytes()
        if path.suffix == '.gz':
            data = gzip.decompress(data)
        magic, count, rows, columns = struct.unpack('>4I', data[:16])
        if magic != _UNSIGNED_BYTES << 8 | _DIMENSIONS:
            raise ValueError(f'it begins with {magic:#010x}')
        if count == 0 or len(data) != 16 + count * rows * columns:
            raise ValueError(f'{count} images of {rows} x {columns} pixels are announced, and '
                             f'{len(data) - 16} bytes follow')
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise ConfigError(
            explain(f"images in '{path}' were asked for", f'it cannot be used ({error})',
                    'an IDX file of images, one unsigned byte a pixel',
                    'fetch it again with --download')
        ) from error
    pixels = np.frombuffer(data, np.uint8, offset=16).reshape(count, rows * columns)
    return np.divide(pixels, 255, dtype=np.float32)


def _digits() -> Images:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise missing('the digits of scikit-learn were asked for, as --data names no images',
                      'sklearn', 'studies', '--data DIR with IDX files') from error
    return _split((load_digits().data / 16).astype(np.float32), 'digits of scikit-learn, 8 x 8')


def download(folder: Path, mirror: str = MIRROR,
             told: Callable[[str], object] = lambda name: None) -> None:
    """Fetch MNIST's images into a folder; what is there and whole is not fetched again.

    Args:
        folder: made if missing.
        mirror: address that the names of the files are put behind.
        told: called with the name of every file before it is fetched.

    Raises:
        ConfigError: a file could not be fetched, or is not what MNIST's authors published.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, wanted in MD5.items():
        path = folder / name
        if path.is_file() and _md5(path.read_bytes()) == wanted:
            continue
        told(name)
        try:
            with urllib.request.urlopen(mirror + name, timeout=30) as answer:
                data = answer.read()
        except (urllib.error.URLError, OSError) as error:
            raise ConfigError(
                explain(f"'{mirror}{name}' was to be fetched", f'it could not be ({error})',
                        'a network that reaches it, or the files fetched in another way',
                        f"put {name} into '{folder}' and leave --download out")
            ) from error
        if _md5(data) != wanted:
            raise ConfigError(
                explain(f"'{mirror}{name}' was to be fetched",
                        f'what came has the MD5 {_md5(data)}', wanted,
                        'try again, or put the file there yourself')
            )
        temporary = path.with_suffix('.part')
        temporary.write_bytes(data)
        temporary.replace(path)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
