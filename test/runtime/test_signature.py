# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Signed bundles open with the right key alone; nothing else is ever let through."""

from __future__ import annotations

import json
import stat
import tarfile
from io import BytesIO

import pytest

pytest.importorskip('cryptography', reason='signatures need the package cryptography')

from pruning_core.errors import BundleError, ConfigError
from pruning_core.runtime.archive import pack, unpack
from pruning_core.runtime.bundle import MANIFEST, SIGNATURE, open_bundle, sign
from pruning_core.runtime.signature import load_private, load_public, make_keys


@pytest.fixture(scope='module')
def keys(tmp_path_factory):
    """A pair of keys, and the public half of another one."""
    folder = tmp_path_factory.mktemp('keys')
    make_keys(folder / 'mine.pem', folder / 'robot.pem')
    make_keys(folder / 'other.pem', folder / 'other_robot.pem')
    return folder


@pytest.fixture
def mine(keys):
    return load_private(keys / 'mine.pem')


@pytest.fixture
def robot(keys):
    return load_public(keys / 'robot.pem')


def refused(function, *arguments, match, **named):
    with pytest.raises(BundleError, match=match):
        function(*arguments, **named)


def test_a_signature_changes_neither_identity_nor_content(folder, bundle, mine, robot):
    signed = sign(folder, mine)
    assert signed.hash == bundle.hash
    assert open_bundle(folder, key=robot).hash == bundle.hash
    assert open_bundle(folder).signature == signed.signature
    assert sign(folder, mine).signature == signed.signature, 'Ed25519 is deterministic'


def test_signing_leaves_what_else_lies_in_the_folder(folder, mine, contents):
    (folder / 'fit.json').write_text('{"measured": "here"}')
    before = contents(folder)
    sign(folder, mine)
    after = contents(folder)
    assert after.pop(SIGNATURE)
    assert after == before


def test_unsigned_bundles_are_refused_where_a_key_is_configured(folder, bundle, robot, tmp_path):
    refused(open_bundle, folder, match='it is not signed', key=robot)
    refused(unpack, pack(bundle), tmp_path / 's', match='it is not signed', key=robot)
    assert not (tmp_path / 's').exists(), 'and nothing of them is stored'


def test_another_key_does_not_match(folder, keys, robot):
    sign(folder, load_private(keys / 'other.pem'))
    refused(open_bundle, folder, match='does not match', key=robot)


@pytest.mark.parametrize('damage', [
    lambda s: s[:-1] + bytes([s[-1] ^ 1]), lambda s: s[:-1], lambda s: b'', lambda s: bytes(64)])
def test_a_damaged_signature_is_refused(folder, mine, robot, damage):
    path = sign(folder, mine).path / SIGNATURE
    path.write_bytes(damage(path.read_bytes()))
    refused(open_bundle, folder, match='does not match', key=robot)


def test_a_manifest_that_was_changed_since_is_refused_before_it_is_parsed(folder, mine, robot):
    sign(folder, mine)
    (folder / MANIFEST).write_bytes(b'{ this is not JSON')
    refused(open_bundle, folder, match='does not match', key=robot)


def test_signature_of_another_bundle_is_refused(folder, make_run, mine, robot, tmp_path):
    from pruning_core.export import export

    other = export(make_run(seed=5), tmp_path / 'other')[0]
    (folder / SIGNATURE).write_bytes(sign(other.path, mine).signature)
    refused(open_bundle, folder, match='does not match', key=robot)


def test_a_signature_larger_than_one_is_refused(folder):
    (folder / SIGNATURE).write_bytes(bytes(65))
    refused(open_bundle, folder, match='larger than 64 bytes')


def test_it_travels_in_the_archive_and_upgrades_a_stored_bundle(folder, bundle, mine, robot,
                                                                 tmp_path):
    store = tmp_path / 'store'
    assert unpack(pack(bundle), store).signature is None
    signed = sign(folder, mine)
    assert unpack(pack(signed), store, key=robot).signature == signed.signature
    assert open_bundle(store / bundle.hash[:16], key=robot).hash == bundle.hash
    assert unpack(pack(bundle), store).signature == signed.signature, 'and keeps it'


def test_keys_are_not_overwritten_and_the_private_one_is_private(keys, four_parts):
    assert stat.S_IMODE((keys / 'mine.pem').stat().st_mode) == 0o600
    before = (keys / 'mine.pem').read_bytes()
    with pytest.raises(ConfigError) as caught:
        make_keys(keys / 'mine.pem', keys / 'new.pem')
    four_parts(caught, 'mine.pem')
    assert (keys / 'mine.pem').read_bytes() == before


@pytest.mark.parametrize('content', [b'', b'no key', b'-----BEGIN PUBLIC KEY-----\n-----END'])
@pytest.mark.parametrize('load', [load_private, load_public])
def test_what_is_no_key_is_refused(tmp_path, content, load, four_parts):
    (tmp_path / 'key.pem').write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / 'key.pem')
    four_parts(caught, 'key.pem', 'Ed25519')


def test_a_key_that_is_missing_or_of_another_kind_is_refused(keys, tmp_path):
    with pytest.raises(ConfigError, match='No such file'):
        load_public(tmp_path / 'none.pem')
    with pytest.raises(ConfigError, match='no public Ed25519 key'):
        load_public(keys / 'mine.pem')
    with pytest.raises(ConfigError, match='no private Ed25519 key'):
        load_private(keys / 'robot.pem')


def test_command_line_makes_keys_and_signs(main, folder, tmp_path, capsys):
    private, public = tmp_path / 'a.pem', tmp_path / 'b.pem'
    assert main('keys', '--private', private, '--public', public) == 0
    assert main('sign', folder, '--key', private, '--json') == 0
    assert '"hash"' in capsys.readouterr().out
    assert open_bundle(folder, key=load_public(public))
    assert main('sign', folder, '--key', public) == 2
    assert main('keys', '--private', private, '--public', public) == 2


def test_archive_may_hold_the_signature_once(bundle, tmp_path):
    data = BytesIO(pack(bundle))
    with tarfile.open(fileobj=data, mode='a') as archive:
        for _ in range(2):
            entry = tarfile.TarInfo(SIGNATURE)
            entry.size = 64
            archive.addfile(entry, BytesIO(bytes(64)))
    refused(unpack, data.getvalue(), tmp_path, match='at most once')
    assert json.loads(bundle.manifest_bytes)['files'].keys() == set(bundle.graphs)
