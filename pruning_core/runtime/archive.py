# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles as one array of bytes, as they travel: a tar archive, checked before it is written.

Apart from `bundle`, as what reads archives takes memory that a controller does without until
it receives one.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

from pruning_core.errors import BundleError, explain
from pruning_core.runtime.bundle import (
    FILES,
    MANIFEST,
    MAX_TOTAL,
    OPTIONAL,
    Bundle,
    open_bundle,
    put_signature,
    size_limit,
    verified,
    write_verified,
)
from pruning_core.runtime.signature import PublicKey


def pack(bundle: Bundle) -> bytes:
    """Return the bundle as one uncompressed tar archive, the same bytes for the same bundle."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w', format=tarfile.USTAR_FORMAT) as archive:
        for name, content in bundle.files().items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def unpack(data: bytes, store: Path, expect_hash: str | None = None,
           key: PublicKey | None = None) -> Bundle:
    """Verify an archive in memory, then place it in `store` under its hash.

    Args:
        data: from `pack`.
        store: folder of bundles; made if missing.
        expect_hash: refuse anything but this identity.
        key: refuse anything that was not signed with its private half.

    Raises:
        BundleError: not an archive of a bundle, damaged, unsafe or unexpected; nothing is written.
    """
    bundle = verified(_entries(data), 'archive', expect_hash, key)
    folder = store / bundle.hash[:16]
    if folder.is_dir():
        try:
            stored = open_bundle(folder, bundle.hash)
            if bundle.signature in (None, stored.signature):
                return stored
            return put_signature(stored, folder, bundle.signature)
        except BundleError:
            # Damaged since it was stored; the verified one takes its place.
            shutil.rmtree(folder)
    try:
        return write_verified(bundle, folder)
    except OSError:
        if not folder.is_dir():
            raise
        return open_bundle(folder, bundle.hash, key)  # another one with this store was faster


def _entries(data: bytes) -> dict[str, bytes]:
    """Take an archive apart, in memory; its headers are all that is read before a hash is."""
    asked = 'a bundle archive was received'
    if len(data) > MAX_TOTAL:
        raise BundleError(
            explain(asked, f'it has {len(data)} bytes', f'at most {MAX_TOTAL}',
                    'this is not a bundle of this package')
        )
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode='r:') as archive:
            for entry in archive:
                # A sparse file may claim any size; what is stored as it is fits into the data.
                whole = entry.isreg() and not entry.issparse() and entry.size <= len(data)
                if (entry.name not in (MANIFEST, *FILES, *OPTIONAL) or entry.name in contents
                        or not whole or entry.size > size_limit(entry.name)):
                    raise BundleError(
                        explain(asked, f"it holds '{entry.name}', {entry.size} bytes",
                                f'{MANIFEST}, {", ".join((*FILES, *OPTIONAL))}, at most once '
                                'each, as regular files', 'publish it again')
                    )
                file = archive.extractfile(entry)
                contents[entry.name] = file.read() if file else b''
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise BundleError(
            explain(asked, f'{len(data)} bytes that are no archive ({error})', 'a tar archive',
                    'publish it again')
        ) from error
    if MANIFEST not in contents:
        raise BundleError(explain(asked, f'it has no {MANIFEST}', 'a whole bundle',
                                  'publish it again'))
    return contents
