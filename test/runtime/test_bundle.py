# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles: what was written is what opens, and nothing damaged or unsafe ever does."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.errors import BundleError
from pruning_core.runtime import bundle as module
from pruning_core.runtime.archive import pack, unpack
from pruning_core.runtime.bundle import (
    FILES,
    MANIFEST,
    POLICY,
    SHORT_START,
    SHORT_STEP,
    WORLD_MODEL,
    open_bundle,
    write,
)

FOUR_PARTS = re.compile(r'.+: .+; allowed: .+; .+', re.DOTALL)


def refused(function, *arguments, match=''):
    """Asserts that the package refuses, in four parts, and returns what it said."""
    with pytest.raises(BundleError, match=match) as caught:
        function(*arguments)
    assert FOUR_PARTS.fullmatch(str(caught.value)), str(caught.value)
    return str(caught.value)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


# --- round trip ------------------------------------------------------------------------------


def test_opened_bundle_is_the_written_one(bundle):
    opened = open_bundle(bundle.path)
    assert opened.hash == bundle.hash == hashlib.sha256(
        (bundle.path / MANIFEST).read_bytes()).hexdigest()
    assert opened.manifest.to_json() == bundle.manifest.to_json()
    assert opened.graphs == bundle.graphs
    assert opened.size == sum(len(c) for c in content(bundle.path).values())
    assert opened.path == bundle.path
    assert set(content(bundle.path)) == {MANIFEST, *FILES, SHORT_START, SHORT_STEP}


def test_same_agent_gives_the_same_bundle_to_the_byte(bundle, tmp_path):
    again = write(tmp_path / 'again', bundle.manifest, bundle.graphs)
    assert again.hash == bundle.hash
    assert content(again.path) == content(bundle.path)


def test_infinite_observation_limits_survive_as_valid_json(bundle, tmp_path):
    signal = dataclasses.replace(bundle.manifest.observation, low=(-math.inf, -1.0, -8.0),
                                 high=(1.0, math.inf, 8.0))
    changed = dataclasses.replace(bundle.manifest, observation=signal, lyapunov=None)
    written = write(tmp_path / 'bundle', changed, bundle.graphs)
    text = (written.path / MANIFEST).read_text()
    assert 'Infinity' not in text
    assert open_bundle(written.path).manifest.observation == signal
    assert open_bundle(written.path).manifest.lyapunov is None


def test_sparsity_is_the_share_of_parameters_that_are_gone(manifest):
    cut = dataclasses.replace(manifest, parameters=50, dense_parameters=1000)
    assert cut.sparsity == pytest.approx(0.95)
    assert manifest.sparsity == 0


def test_archive_round_trip(bundle, tmp_path):
    data = pack(bundle)
    assert data == pack(open_bundle(bundle.path))
    stored = unpack(data, tmp_path / 'new' / 'store', bundle.hash)
    assert stored.path == tmp_path / 'new' / 'store' / bundle.hash[:16]
    assert content(stored.path) == content(bundle.path)
    before = (stored.path / MANIFEST).stat().st_mtime_ns
    assert unpack(data, stored.path.parent).hash == bundle.hash
    assert (stored.path / MANIFEST).stat().st_mtime_ns == before  # kept, not written again


def test_stored_bundle_that_was_damaged_since_is_replaced(bundle, tmp_path):
    stored = unpack(pack(bundle), tmp_path)
    (stored.path / POLICY).write_bytes(b'rotten')
    assert content(unpack(pack(bundle), tmp_path).path) == content(bundle.path)


def test_another_bundle_than_the_announced_one_is_refused(bundle, tmp_path):
    refused(open_bundle, bundle.path, 'f' * 64, match='as announced')
    refused(unpack, pack(bundle), tmp_path, 'f' * 64, match='as announced')
    assert open_bundle(bundle.path, bundle.hash).hash == bundle.hash
    assert not list(tmp_path.iterdir())


# --- damage to the files ---------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link_to_itself(path):
    """What it points to is the right content, but may be changed behind the bundle's back."""
    outside = path.parent.parent / f'outside {path.name}'
    path.rename(outside)
    path.symlink_to(outside)


DAMAGE = {
    'missing': lambda path: path.unlink(),
    'empty': lambda path: path.write_bytes(b''),
    'truncated': lambda path: os.truncate(path, path.stat().st_size // 2),
    'two bytes short': lambda path: os.truncate(path, path.stat().st_size - 2),
    'one byte more': lambda path: path.write_bytes(path.read_bytes() + b'\0'),
    'a link out': link_to_itself,
    'a broken link': lambda path: (path.unlink(), path.symlink_to('nowhere')),
    'a folder': lambda path: (path.unlink(), path.mkdir()),
    'a pipe': lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize('name', [MANIFEST, *FILES])
@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_file_is_refused_by_name(folder, name, damage):
    DAMAGE[damage](folder / name)
    assert name in refused(open_bundle, folder)


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('damage', ['truncated', 'two bytes short', 'one byte more'])
def test_hashes_are_compared_before_anything_is_looked_into(folder, name, damage):
    DAMAGE[damage](folder / name)
    refused(open_bundle, folder, match=f'{name} is damaged: its hash is')


@pytest.mark.parametrize('name', [*FILES, SHORT_START, SHORT_STEP])
def test_one_flipped_bit_of_a_graph_is_seen(folder, name):
    flip(folder / name)
    refused(open_bundle, folder, match=f'{name} is damaged')


def test_one_flipped_bit_of_the_manifest_changes_the_identity(folder, bundle):
    flip(folder / MANIFEST)
    refused(open_bundle, folder, bundle.hash, match='as announced')


def test_folder_that_is_none_is_refused(tmp_path):
    refused(open_bundle, tmp_path / 'nowhere', match='no such folder')
    refused(open_bundle, tmp_path, match='manifest.json is missing')


@pytest.mark.parametrize('name', [MANIFEST, POLICY])
def test_huge_file_is_refused_before_it_is_parsed(folder, monkeypatch, name):
    monkeypatch.setattr(module, '_MAX_GRAPH', 1 << 20)
    os.truncate(folder / name, 1 << 31)
    refused(open_bundle, folder, match=f'{name} is larger than 1048576 bytes')


def test_reading_takes_the_memory_of_the_bundle_and_no_more(folder, bundle):
    """A buffer as large as the limit would stop a process with locked memory for a second."""
    tracemalloc.start()
    try:
        open_bundle(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * bundle.size + (8 << 20)


def test_files_that_are_not_listed_are_never_read(folder, bundle):
    (folder / 'readme.txt').write_text('kept')
    opened = open_bundle(folder)
    assert opened.hash == bundle.hash
    assert set(opened.graphs) == set(bundle.graphs)


# --- damage to the manifest ------------------------------------------------------------------


@pytest.mark.parametrize('text', [
    b'', b'{', b'null', b'7', b'[]', b'"text"', b'{}', b'\xff\xfe', b'{"schema": 1',
    b'[' * 100_000, b'{"schema": 1}', b'{"schema": 1, "files": []}',
    b'{"schema": 1, "files": null}', b'{"schema": 1, "files": {"policy.onnx": 1}}'])
def test_manifest_that_is_none_is_refused(folder, text):
    (folder / MANIFEST).write_bytes(text)
    refused(open_bundle, folder)


@pytest.mark.parametrize('schema', [0, 1, 99, '1', None, [1], True, 1.5])
def test_other_schema_is_refused(edit, schema):
    refused(edit, lambda m: m.update(schema=schema), match='schema version is')


@pytest.mark.parametrize('files', [
    lambda f: {**f, '../policy.onnx': f[POLICY]},
    lambda f: {**f, 'extra.onnx': f[POLICY]},
    lambda f: {k: v for k, v in f.items() if k != POLICY},
    lambda f: {('/etc/passwd' if k == POLICY else k): v for k, v in f.items()},
    lambda f: {**f, POLICY: None},
    lambda f: {**f, POLICY: {}},
    lambda f: {**f, POLICY: {**f[POLICY], 'sha256': None}},
    lambda f: {**f, POLICY: {**f[POLICY], 'sha256': f[WORLD_MODEL]['sha256']}},
    lambda f: list(f),
], ids=['leaves the folder', 'one more', 'one less', 'absolute', 'no entry', 'no hash',
        'null hash', 'another hash', 'a list'])
def test_list_of_files_that_does_not_fit_is_refused(edit, files):
    refused(edit, lambda m: m.update(files=files(m['files'])))


HUGE = 10 ** 400
WRONG = [
    ('period_s', 0), ('period_s', -0.05), ('period_s', '0.05'), ('period_s', True),
    ('period_s', math.nan), ('period_s', math.inf), ('period_s', HUGE), ('period_s', None),
    ('reward_scale', 0), ('reward_scale', [1]), ('discount', math.nan), ('discount', 'much'),
    ('discount', 1.5), ('parameters', 0), ('parameters', -3), ('parameters', '9'),
    ('dense_parameters', 0), ('env_id', None), ('env_id', 7), ('opset', 'new'), ('parent', 7),
    ('widths', None), ('gates', []), ('config', 'none'), ('seeds', 0), ('macs', 'many'),
    ('planner', None), ('planner', {}), ('planner.horizon', 0), ('planner.horizon', 2.0),
    ('planner.horizon', True), ('planner.samples', 10**9), ('planner.samples', '32'),
    ('planner.elites', 1000), ('planner.iterations', HUGE), ('planner.min_std', math.nan),
    ('planner.max_std', -1), ('planner.policy_noise', math.nan), ('planner.policy_noise', 'loud'),
    ('planner.policy_noise', -0.1), ('planner.temperature', None), ('planner.momentum', math.inf),
    ('planner.unknown', 1), ('observation', None), ('observation', []), ('observation', 'three'),
    ('observation.names', []), ('observation.names', ['a', 'b']), ('observation.names', 'abc'),
    ('observation.names', [1, 2, 3]), ('observation.names', None), ('observation.units', ['1']),
    ('observation.low', [0, 0]), ('observation.low', [9, 9, 9]), ('observation.low', 3),
    ('observation.low', ['-1', '-1', '-8']), ('observation.low', [math.nan, -1, -8]),
    ('observation.low', [-HUGE, -1, -8]), ('observation.scale', [0, 1, 1]),
    ('observation.scale', [math.inf, 1, 1]), ('observation.scale', [-1, 1, 1]),
    ('observation.scale', [None, 1, 1]), ('action.low', [None]), ('action.high', [None]),
    ('action.low', [math.nan]), ('action.high', [math.inf]), ('action.low', [-math.inf]),
    ('action.low', [2.0]), ('action.low', [3.0]), ('action.high', []), ('action.high', [1, 2]),
    ('action.unknown', 1), ('lyapunov', 7), ('lyapunov', {}), ('lyapunov', []),
    ('lyapunov.terms', ['0', '__import__("os")']), ('lyapunov.terms', ['0', '3']),
    ('lyapunov.P', [[1, 2], [3, 4]]), ('lyapunov.P', [[math.nan, 0], [0, 1]]),
    ('lyapunov.K', [[1, 2], [3, 4]]), ('lyapunov.goal_action', [0, 0]), ('lyapunov.steps', 0),
    ('unknown', 1), ('path', None),
]


def put(values, place, value):
    *parents, name = place.split('.')
    for parent in parents:
        values = values[parent]
    values[name] = value


@pytest.mark.parametrize(('place', 'value'), WRONG,
                         ids=[f'{p}={str(v)[:20]}' for p, v in WRONG])
def test_wrong_field_is_refused(edit, place, value):
    assert len(refused(edit, lambda m: put(m, place, value))) < 2000


def test_plant_with_another_number_of_actions_than_its_candidate_is_refused(edit):
    """The fallback's command would have another length than the robot's."""
    def change(m):
        m['lyapunov'].update(K=[[1.0, 2.0], [3.0, 4.0]], goal_action=[0.0, 0.0])
    refused(edit, change)


@pytest.mark.parametrize(('pushes', 'margin'), [
    (3, 0.03), (16, 0.0), (3, -0.1), (3, math.nan), (3, None), (-1, 0.03), (17, 0.03),
    (2.5, 0.03), (True, 0.03), (0, 0.03)])
def test_pushes_of_a_manifest(edit, pushes, margin):
    def change(m):
        m['planner'].update(pushes=pushes, push_margin=margin)
    if (pushes, margin) in ((3, 0.03), (16, 0.0)):
        assert edit(change).manifest.planner.pushes == pushes
    else:
        refused(edit, change)


@pytest.mark.parametrize('margin', [0.03, 1, -0.1, math.inf, math.nan, None, 'x', True, 0.0])
def test_margin_of_the_policy_in_a_manifest(edit, margin):
    def change(m):
        m['planner'].update(policy_margin=margin)
    if margin in (0.03, 1) and margin is not True:
        assert edit(change).manifest.planner.policy_margin == margin
    else:
        refused(edit, change)


def fields():
    """Every place of a manifest, nested ones with dots."""
    return ['schema', 'env_id', 'period_s', 'observation', 'action', 'planner', 'discount',
            'reward_scale', 'widths', 'parameters', 'dense_parameters', 'macs', 'dense_macs',
            'parent', 'gates', 'lyapunov', 'opset', 'config', 'seeds', 'files',
            *(f'planner.{f.name}' for f in dataclasses.fields(module.PlannerSettings)
              if not f.name.startswith(('push', 'policy_margin'))),  # they came later
            *(f'{s}.{f.name}' for s in ('observation', 'action')
              for f in dataclasses.fields(module.Signal))]


@pytest.mark.parametrize('place', fields())
def test_missing_field_is_refused(edit, place):
    def remove(values):
        *parents, name = place.split('.')
        for parent in parents:
            values = values[parent]
        del values[name]
    refused(edit, remove)


# --- any mutation ----------------------------------------------------------------------------

scalars = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
           | st.sampled_from([0, 1, -1, HUGE, 1e308, '0', 'cos(0)', MANIFEST]))
junk = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4)
                    | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ())
    for key, inner in items:
        yield from places(inner, (*path, key))


class Fuzzed:
    """A folder that every example writes its own manifest into."""

    def __init__(self, bundle, folder):
        self.folder = shutil.copytree(bundle.path, folder)
        self._text = bundle.manifest_bytes

    @property
    def values(self):
        return json.loads(self._text)

    def open(self, text):
        (self.folder / MANIFEST).write_text(text)
        return open_bundle(self.folder)


@pytest.fixture(scope='module')
def fuzzed(bundle, tmp_path_factory):
    return Fuzzed(bundle, tmp_path_factory.mktemp('fuzz') / 'bundle')


@settings(max_examples=400)
@given(st.data())
def test_any_mutation_of_the_manifest_is_refused_or_loads_equal(fuzzed, data):
    values = fuzzed.values
    known = [p for p in places(values) if p and p[0] != 'config']
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(known))
        inner = values
        try:
            for key in parents:
                inner = inner[key]
            if data.draw(st.booleans()) and data.draw(st.booleans()):
                del inner[last]
            else:
                inner[last] = data.draw(junk)
        except (TypeError, KeyError, IndexError):
            continue  # the mutation before this one took the place away
    text = json.dumps(values)
    try:
        opened = fuzzed.open(text)
    except BundleError as error:
        assert FOUR_PARTS.fullmatch(str(error))
        return
    assert json.loads(json.dumps(opened.manifest.to_json(), allow_nan=False)) == json.loads(text)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=4),
       st.integers(0, 3))
def test_any_damage_to_an_archive_is_refused_or_harmless(bundle_and_archive, store, flips, where):
    """Three of four flips hit a header, where names, kinds and sizes stand."""
    bundle, archive = bundle_and_archive
    data, headers = bytearray(archive.content), archive.headers
    for place, bits in flips:
        at = place % len(data) if where == 3 else (
            headers[place % len(headers)] + (place // len(headers)) % 512)
        data[at] ^= bits
    try:
        assert unpack(bytes(data), store, bundle().hash).graphs == bundle().graphs
    except BundleError as error:
        assert FOUR_PARTS.fullmatch(str(error))
    assert {p.name for p in store.iterdir()} <= {bundle().hash[:16]}
    assert [p.name for p in store.parent.iterdir()] == ['store']


class Archive:
    """The bytes, and where the headers lie."""

    def __init__(self, data):
        self.content = data
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            self.headers = [entry.offset for entry in archive]

    def __repr__(self):
        return 'Archive'


@pytest.fixture(scope='module')
def bundle_and_archive(bundle):
    return (lambda: bundle), Archive(pack(bundle))


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp('fuzzed') / 'store'
    path.mkdir()
    return path


# --- archives --------------------------------------------------------------------------------


def entry(name, data=b'', **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def archive_of(entries):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w') as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize('change', [
    lambda e: [*e, entry('../escaped', b'x')],
    lambda e: [*e, entry('/escaped', b'x')],
    lambda e: [*e, entry('sub/policy.onnx', b'x')],
    lambda e: [*e, entry('notes.txt', b'x')],
    lambda e: [*e, e[1]],
    lambda e: [*e[:1], *e[2:]],
    lambda e: e[1:],
    lambda e: [],
    lambda e: [*e[:-1], entry(e[-1][0].name, type=tarfile.SYMTYPE, linkname='/etc/passwd')],
    lambda e: [*e[:-1], entry(e[-1][0].name, type=tarfile.LNKTYPE, linkname=MANIFEST)],
    lambda e: [*e[:-1], entry(e[-1][0].name, type=tarfile.FIFOTYPE)],
    lambda e: [*e[:-1], entry(e[-1][0].name, type=tarfile.DIRTYPE)],
], ids=['leaves the store', 'absolute', 'in a folder', 'something else', 'twice', 'a graph less',
        'no manifest', 'nothing', 'a link', 'a hard link', 'a pipe', 'a folder'])
def test_unsafe_archive_is_refused_and_writes_nothing(bundle, tmp_path, change):
    entries = [entry(MANIFEST, bundle.manifest_bytes), *(
        entry(n, g) for n, g in sorted(bundle.graphs.items()))]
    assert unpack(archive_of(entries), tmp_path / 'good').hash == bundle.hash
    refused(unpack, archive_of(change(entries)), tmp_path / 'store')
    assert [p.name for p in tmp_path.iterdir()] == ['good']


@pytest.mark.parametrize('share', [0.0, 0.001, 0.3, 0.7])
def test_torn_archive_is_refused(bundle, tmp_path, share):
    data = pack(bundle)
    refused(unpack, data[:int(share * len(data))], tmp_path / 'store')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('data', [b'no archive', b'\x1f\x8b' + b'x' * 600, b'\0' * 10240])
def test_what_is_no_archive_is_refused(tmp_path, data):
    refused(unpack, data, tmp_path / 'store')


def test_entry_that_claims_a_huge_size_is_refused_before_it_is_read(tmp_path):
    info = tarfile.TarInfo(POLICY)
    info.size = 1 << 32
    refused(unpack, info.tobuf() + bytes(2048), tmp_path / 'store')


# --- writing is whole or not at all ----------------------------------------------------------


@pytest.fixture
def other(bundle):
    """Another manifest for the same graphs."""
    return dataclasses.replace(bundle.manifest, gates={'return': {'pruned': -150.0}})


def test_new_bundle_replaces_an_older_one_and_leaves_nothing_behind(folder, bundle, other):
    written = write(folder, other, bundle.graphs)
    assert open_bundle(folder).hash == written.hash != bundle.hash
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize('there', ['a file', 'a folder of other things', 'a link'])
def test_something_else_is_never_replaced(bundle, tmp_path, there):
    target = tmp_path / 'target'
    if there == 'a file':
        target.write_text('thesis')
    elif there == 'a link':
        (tmp_path / 'elsewhere').mkdir()
        target.symlink_to(tmp_path / 'elsewhere')
    else:
        target.mkdir()
        (target / 'thesis.txt').write_text('thesis')
    before = sorted(tmp_path.rglob('*'))
    refused(write, target, bundle.manifest, bundle.graphs, match='something else is there')
    assert sorted(tmp_path.rglob('*')) == before


def test_bundle_that_would_not_verify_is_not_written(bundle, tmp_path):
    bad = dataclasses.replace(bundle.manifest, period_s=-1.0)
    refused(write, tmp_path / 'bundle', bad, bundle.graphs)
    refused(write, tmp_path / 'bundle', bundle.manifest, {POLICY: b''})
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_the_older_bundle_and_no_rest(folder, bundle, other):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = content(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        with pytest.raises((BundleError, OSError)):
            write(folder, other, bundle.graphs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


CRASH = """
import os, sys
from pruning_core.runtime.bundle import open_bundle, write
source, target, crash_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
from pathlib import Path
bundle = open_bundle(source)
calls, rename = [], os.replace
def replace(*arguments):
    if len(calls) == crash_at:
        os._exit(9)
    calls.append(rename(*arguments))
os.replace = replace
write(Path(target), bundle.manifest, bundle.graphs)
os._exit(0)
"""


@pytest.mark.parametrize('crash_at', [0, 1, 2])
def test_crash_at_any_rename_leaves_the_old_or_the_new_bundle(
        folder, bundle, other, tmp_path, crash_at):
    old = write(folder, other, bundle.graphs)
    done = subprocess.run([sys.executable, '-c', CRASH, bundle.path, folder, str(crash_at)],
                          check=False, timeout=60)
    assert done.returncode in (0, 9)
    assert open_bundle(folder).hash in (old.hash, bundle.hash)
