# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Images: IDX files whole and broken, the digits on board, and fetching."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys

import numpy as np
import pytest

from pruning_core import images
from pruning_core.cli import FAILED
from pruning_core.errors import ConfigError, MissingExtra

TEST, TRAIN = 't10k-images-idx3-ubyte', 'train-images-idx3-ubyte'


def idx(count=10, rows=2, columns=3, magic=0x803):
    pixels = (np.arange(count * rows * columns) % 256).astype(np.uint8)
    return struct.pack('>4I', magic, count, rows, columns) + pixels.tobytes()


def test_one_file_is_split_two_are_not(tmp_path):
    (tmp_path / TEST).write_bytes(idx())
    alone = images.load(tmp_path)
    assert alone.train.shape == (8, 6) and alone.test.shape == (2, 6)
    np.testing.assert_allclose(alone.train[1], np.arange(6, 12) / 255, rtol=1e-6)
    assert '8 images' in alone.name
    (tmp_path / f'{TRAIN}.gz').write_bytes(gzip.compress(idx(20)))
    both = images.load(tmp_path)
    assert both.train.shape == (20, 6) and both.test.shape == (10, 6)


@pytest.mark.parametrize(('content', 'said'), [
    (b'', 'cannot be used'), (idx(magic=0x801), '0x00000801'), (idx()[:-1], '59 bytes follow'),
    (idx(count=0), 'announced')])
def test_broken_files(content, said, tmp_path, four_parts):
    (tmp_path / TEST).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        images.load(tmp_path)
    four_parts(error, said)


def test_torn_archive_and_missing_folders(tmp_path, four_parts):
    (tmp_path / f'{TEST}.gz').write_bytes(gzip.compress(idx())[:-9])
    for folder, said in ((tmp_path, 'cannot be used'), (tmp_path / 'nowhere', 'no such folder')):
        with pytest.raises(ConfigError) as error:
            images.load(folder)
        four_parts(error, said)


def test_sizes_must_agree(tmp_path, four_parts):
    (tmp_path / TEST).write_bytes(idx())
    (tmp_path / TRAIN).write_bytes(idx(columns=4))
    with pytest.raises(ConfigError) as error:
        images.load(tmp_path)
    four_parts(error, '8 pixels to train on, 6 to test on')


def test_digits_are_on_board():
    pytest.importorskip('sklearn', reason='the digits are in the extra [studies]')
    found = images.load('')
    assert found.train.shape == (1438, 64) and found.test.shape == (359, 64)
    assert found.train.min() >= 0 and found.train.max() == 1


def test_digits_without_scikit_learn(monkeypatch, four_parts):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(MissingExtra) as error:
        images.load('')
    four_parts(error, '[studies]')


def test_download(tmp_path, monkeypatch, four_parts):
    """From a folder instead of the world; what is there and whole is not fetched again."""
    source, target, fetched = tmp_path / 'mirror', tmp_path / 'data', []
    source.mkdir()
    for name in images.MD5:
        (source / name).write_bytes(gzip.compress(idx(), mtime=0))
    good = hashlib.md5((source / name).read_bytes()).hexdigest()
    mirror = source.as_uri() + '/'
    with pytest.raises(ConfigError) as error:
        images.download(target, mirror)
    four_parts(error, 'MD5')
    assert not list(target.iterdir())
    monkeypatch.setattr(images, 'MD5', dict.fromkeys(images.MD5, good))
    images.download(target, mirror, fetched.append)
    images.download(target, mirror, fetched.append)
    assert fetched == list(images.MD5) and len(images.load(target).train) == 10
    (target / name).unlink()
    with pytest.raises(ConfigError) as error:
        images.download(target, (tmp_path / 'gone').as_uri() + '/')
    four_parts(error, 'could not be')


def test_download_needs_a_folder(main, capsys, four_parts):
    assert main('study', 'latent', '--download') == FAILED
    four_parts(capsys.readouterr().err.strip().partition(': ')[2], '--data')
