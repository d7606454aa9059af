# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles: a folder in; a verified, immutable `Bundle` out, or a refusal.

A bundle holds `manifest.json`, four ONNX graphs and the weights that they share, and may hold
variants of the planner's graphs: a shorter horizon, and products of 8-bit integers. The manifest
lists the SHA-256 of every file; the SHA-256 of the manifest is the bundle's identity.
`manifest.sig`, where there is one, is a signature of the manifest. Everything is read once,
checked in memory and used from there, so that what was verified is what runs. Signature and hashes
are checked before anything is parsed; no name leaves the folder, no link is followed, no graph
points out of its bundle, sizes and counts are bounded, and nothing is unpickled or decompressed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pruning_core.errors import BundleError, explain
from pruning_core.runtime import signature as signatures
from pruning_core.runtime.choice import MOST_PUSHES
from pruning_core.runtime.errormap import Lyapunov
from pruning_core.runtime.onnx_scan import Beside, check_self_contained
from pruning_core.runtime.signature import PrivateKey, PublicKey

SCHEMA = 2  # 1 held its weights once in every graph
MANIFEST, SIGNATURE = 'manifest.json', 'manifest.sig'
FIT = 'fit.json'  # how a planner was fitted to this machine; beside a bundle, no part of it
POLICY, WORLD_MODEL, PLAN_START, PLAN_STEP = (
    'policy.onnx', 'world_model.onnx', 'plan_start.onnx', 'plan_step.onnx')
GRAPHS = (POLICY, WORLD_MODEL, PLAN_START, PLAN_STEP)
WEIGHTS = 'weights.safetensors'
PROBES = 'probes'  # observations beside the weights, for `runtime.fit`
FILES = (*GRAPHS, WEIGHTS)
PLAN_STEP_INT8, SHORT_START, SHORT_STEP, SHORT_STEP_INT8 = (
    'plan_step_int8.onnx', 'short_start.onnx', 'short_step.onnx', 'short_step_int8.onnx')
VARIANTS = (PLAN_STEP_INT8, SHORT_START, SHORT_STEP, SHORT_STEP_INT8)
OPTIONAL = (SIGNATURE, *VARIANTS)
_MAX_MANIFEST = 1 << 20
_MAX_GRAPH = 1 << 29
MAX_TOTAL = 1 << 30  # of all files together
_SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class Signal:
    """The names, units, limits and scaling of an observation or an action of D numbers.

    Attributes:
        names: D names; `units` D units.
        low: D smallest values; `high` the largest (observations may be unbounded: None in JSON).
        scale: D factors from the robot's number to the agent's; for actions, half the range.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class PlannerSettings:
    """Planner defaults; `pruning_core.config.PlannerConfig` tells what each field means."""

    horizon: int
    samples: int
    policy_samples: int
    elites: int
    iterations: int
    temperature: float
    momentum: float
    min_std: float
    max_std: float
    policy_noise: float
    policy_margin: float = 0.0  # of these three, bundles have those alone that they use
    pushes: int = 0
    push_margin: float = 0.03


@dataclass(frozen=True)
class Manifest:
    """What a robot must know of the graphs beside it.

    Attributes:
        env_id: the plant it was trained on.
        period_s: control period in seconds.
        observation: O inputs; `action` A outputs, in the robot's units.
        planner: defaults.
        discount: per decision.
        reward_scale: the graphs' rewards and values are multiplied by this.
        widths: sizes of every component.
        parameters: now, and `dense_parameters` before pruning.
        macs: multiply-accumulates of one full plan now, and `dense_macs` before pruning.
        parent: hash of the bundle it was pruned from, or None.
        gates: what was checked before it was published, with the figures; `failed` among them
            where it was not passed.
        lyapunov: stability candidate of the plant, where it has a goal.
        opset: ONNX operator set of the graphs.
        config: the resolved configuration.
        seeds: of training and recovery.
        files: SHA-256 and bytes of every file.
    """

    env_id: str
    period_s: float
    observation: Signal
    action: Signal
    planner: PlannerSettings
    discount: float
    reward_scale: float
    widths: Mapping[str, Any]
    parameters: int
    dense_parameters: int
    macs: int
    dense_macs: int
    parent: str | None
    gates: Mapping[str, Any]
    lyapunov: Lyapunov | None
    opset: int
    config: Mapping[str, Any]
    seeds: Mapping[str, int]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def sparsity(self) -> float:
        """Share of the dense parameters that are gone."""
        return 1 - self.parameters / self.dense_parameters

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """Which gates refused it, in words; such a bundle was exported by force."""
        failed = self.gates.get('failed', ())
        return tuple(map(str, failed)) if isinstance(failed, (list, tuple)) else (str(failed),)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; infinite limits become None."""
        values = asdict(self)
        for name in ('observation', 'action'):
            for limit in ('low', 'high'):
                values[name][limit] = [
                    v if math.isfinite(v) else None for v in values[name][limit]]
        values['lyapunov'] = self.lyapunov.to_json() if self.lyapunov else None
        if not self.planner.policy_margin:
            del values['planner']['policy_margin']
        if not self.planner.pushes:
            del values['planner']['pushes'], values['planner']['push_margin']
        return {'schema': SCHEMA, **values}


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        hash: 64 hexadecimal digits; the identity.
        manifest: what stands in manifest.json.
        graphs: the bytes of each ONNX file, and of the weights.
        path: where it was read from; None for an archive that was not unpacked.
        signature: of the manifest; None where there is none.
    """

    hash: str
    manifest: Manifest
    graphs: Mapping[str, bytes]
    manifest_bytes: bytes
    path: Path | None = None
    signature: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(len(content) for content in self.files().values())

    def files(self) -> dict[str, bytes]:
        """Every file by its name, in the order in which they are packed."""
        signed = {} if self.signature is None else {SIGNATURE: self.signature}
        return {MANIFEST: self.manifest_bytes, **signed, **dict(sorted(self.graphs.items()))}


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write(folder: Path, manifest: Manifest, graphs: Mapping[str, bytes]) -> Bundle:
    """Write a bundle: to a temporary name, synced, verified, then renamed to `folder`.

    Args:
        folder: the new folder; an older bundle there is replaced, anything else is refused.
        manifest: its `files` are filled in here.
        graphs: bytes of the ONNX files, and of the weights.

    Raises:
        BundleError: `folder` holds something that is no bundle, or the bundle does not verify.
    """
    return write_verified(in_memory(manifest, graphs, str(folder)), folder)


def in_memory(manifest: Manifest, graphs: Mapping[str, bytes], where: str = 'memory') -> Bundle:
    """Put a bundle together without writing it; see `write`.

    Raises:
        BundleError: it does not verify.
    """
    files = {n: {'sha256': digest(g), 'bytes': len(g)} for n, g in sorted(graphs.items())}
    values = {**manifest.to_json(), 'files': files}
    data = (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + '\n').encode()
    return verified({MANIFEST: data, **graphs}, where)


def _strange(folder: Path) -> str:
    """Name what a bundle must not take the place of; empty where there is nothing."""
    if folder.is_symlink():
        return 'a link'
    if not folder.exists():
        return ''
    if not folder.is_dir():
        return 'a file'
    # Without a manifest it is no bundle, whatever its files are called.
    ours = {MANIFEST, *FILES, *OPTIONAL, FIT} if (folder / MANIFEST).is_file() else set()
    found = sorted(p.name for p in folder.iterdir()
                   if p.name not in ours and not p.name.startswith((f'.{FIT}.', f'.{SIGNATURE}.'))
                   or p.is_symlink() or not p.is_file())
    return ', '.join(found[:3]) + (', ...' if len(found) > 3 else '')


def write_verified(bundle: Bundle, folder: Path) -> Bundle:
    """Write a verified bundle to a folder, whole or not at all.

    Raises:
        BundleError: `folder` holds something that is no bundle.
        OSError: it cannot be written.
    """
    strange = _strange(folder)
    if strange:
        raise BundleError(
            explain(f"a bundle was to be written to '{folder}'",
                    f'something else is there: {strange}',
                    'a new folder, an empty one, or an older bundle and nothing but it',
                    'choose another folder')
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}.'))
    try:
        temporary.chmod(0o755)
        for name, content in bundle.files().items():
            with (temporary / name).open('wb') as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        old = _former(folder)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)  # of a write that was cut off at its very end
            os.replace(folder, old)
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replace(bundle, path=folder)


def sign(folder: Path, key: PrivateKey) -> Bundle:
    """Sign a bundle where it lies; its identity stays, and so does what else is in the folder.

    Raises:
        BundleError: it does not verify, or cannot be written.
    """
    bundle = open_bundle(folder)
    signature = signatures.sign(bundle.manifest_bytes, key)
    try:
        return put_signature(bundle, folder, signature)
    except OSError as error:
        raise BundleError(
            explain(f"bundle '{folder}' was to be signed", str(error),
                    'a folder that can be written', 'check its permissions')
        ) from error


def put_signature(bundle: Bundle, folder: Path, signature: bytes) -> Bundle:
    """Write a signature beside the manifest, whole or not at all; raises OSError."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f'.{SIGNATURE}.', delete=False) as file:
        try:
            file.write(signature)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, folder / SIGNATURE)
        except BaseException:
            os.unlink(file.name)
            raise
    return replace(bundle, signature=signature, path=folder)


def _former(folder: Path) -> Path:
    """Where a bundle lies for the moment in which another one takes its name."""
    return folder.with_name(f'.{folder.name}.former')


def open_bundle(path: str | Path, expect_hash: str | None = None,
                key: PublicKey | None = None) -> Bundle:
    """Read and verify a bundle folder.

    Args:
        path: the folder.
        expect_hash: refuse anything but this identity.
        key: refuse anything that was not signed with its private half.

    Raises:
        BundleError: missing, damaged, unsafe, of another schema, or another bundle than expected.
    """
    path = Path(path)
    asked = f"bundle '{path}' was asked for"
    if not path.exists() and _former(path).is_dir():
        os.replace(_former(path), path)  # the writer died between its two renames
    if not path.is_dir():
        raise BundleError(
            explain(asked, 'there is no such folder', 'a folder that holds ' + MANIFEST,
                    'make one: python -m pruning_core export --agent AGENT --out FOLDER')
        )
    contents: dict[str, bytes] = {}
    for name in (MANIFEST, *FILES, *OPTIONAL):
        content = _content(path / name, asked)
        if content is not None:
            contents[name] = content
        elif name not in OPTIONAL:
            raise BundleError(
                explain(asked, f'{name} is missing',
                        f'the regular files {MANIFEST}, {", ".join(FILES)}',
                        f"name '{path / 'bundle'}': it is the bundle of this run folder"
                        if (path / 'bundle' / MANIFEST).is_file() else
                        'export or copy the bundle again')
            )
    return replace(verified(contents, str(path), expect_hash, key), path=path)


def _content(file: Path, asked: str) -> bytes | None:
    """Read one file of a bundle; None where it is missing.

    Opened first and looked at then, so that nobody can put a link in its place in between; a pipe
    does not block.
    """
    most = size_limit(file.name)
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        what = 'a link' if file.is_symlink() else f'not to be opened ({error.strerror})'
        raise BundleError(
            explain(asked, f'{file.name} is {what}', 'regular files that can be read',
                    'export or copy the bundle again')
        ) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise BundleError(
            explain(asked, f'{file.name} is something else than a file', 'regular files',
                    'export or copy the bundle again')
        )
    with open(descriptor, 'rb') as handle:
        # No more than it has: a buffer of the limit's size costs a second where memory is locked.
        content = handle.read(min(found.st_size, most) + 1)
    if len(content) > most:
        raise BundleError(
            explain(asked, f'{file.name} is larger than {most} bytes', 'at most that',
                    'this is not a bundle of this package')
        )
    return content


def size_limit(name: str) -> int:
    """Return how many bytes a file of a bundle may have."""
    return {MANIFEST: _MAX_MANIFEST, SIGNATURE: _SIGNATURE_BYTES}.get(name, _MAX_GRAPH)


def verified(contents: Mapping[str, bytes], where: str, expect_hash: str | None = None,
             key: PublicKey | None = None) -> Bundle:
    """Check identity, signature, hashes and fields, in this order.

    Args:
        contents: bytes of every file by name.
        where: for messages.
        expect_hash: as of `open_bundle`.
        key: as of `open_bundle`.

    Raises:
        BundleError: as of `open_bundle`.
    """
    asked = f"bundle '{where}' was verified"
    data, signature = contents[MANIFEST], contents.get(SIGNATURE)
    graphs = {n: c for n, c in contents.items() if n not in (MANIFEST, SIGNATURE)}
    identity = digest(data)
    if expect_hash is not None and identity != expect_hash:
        raise BundleError(
            explain(asked, f'its hash is {identity[:16]}', f'{expect_hash[:16]}, as announced',
                    'publish or copy it again')
        )
    if sum(len(c) for c in contents.values()) > MAX_TOTAL:
        raise BundleError(
            explain(asked, f'its files have more than {MAX_TOTAL} bytes together',
                    'at most that', 'this is not a bundle of this package')
        )
    if key is not None:
        signatures.check(data, signature, key, f"bundle '{where}'")
    try:
        values = json.loads(data, parse_constant=_no_number)
        schema = values['schema']
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(
            explain(asked, f'{MANIFEST} cannot be read ({type(error).__name__}: {error})',
                    'the JSON that export wrote', 'export the bundle again')
        ) from error
    if type(schema) is not int or schema != SCHEMA:
        raise BundleError(
            explain(asked, f'its schema version is {schema}', f'version {SCHEMA}',
                    'export it again with this version of pruned_controller')
        )
    files = values.get('files')
    if (not isinstance(files, dict) or set(files) != set(graphs)
            or not set(FILES) <= set(files) <= {*FILES, *VARIANTS}):
        raise BundleError(
            explain(asked, f'it lists {sorted(files) if isinstance(files, dict) else files!r}',
                    ', '.join(FILES), 'export or copy the bundle again')
        )
    for name, content in graphs.items():
        listed = files[name].get('sha256') if isinstance(files[name], dict) else None
        if digest(content) != listed:
            raise BundleError(
                explain(asked, f'{name} is damaged: its hash is {digest(content)[:16]}',
                        f'{str(listed)[:16]}, as the manifest says', 'copy or export it again')
            )
    for name, content in graphs.items():  # none is looked into before all are known to be whole
        if name != WEIGHTS:
            check_self_contained(content, name, Beside(WEIGHTS, len(graphs[WEIGHTS])))
    return Bundle(identity, _parse(values, asked), graphs, data, signature=signature)


def _parse(values: Mapping[str, Any], asked: str) -> Manifest:
    try:
        fields = {k: v for k, v in values.items() if k != 'schema'}
        fields['observation'] = _signal(fields['observation'])
        fields['action'] = _signal(fields['action'])
        fields['planner'] = PlannerSettings(**fields['planner'])
        if fields['lyapunov'] is not None:
            fields['lyapunov'] = Lyapunov.from_json(fields['lyapunov'])
        manifest = Manifest(**fields)
        _check(manifest)
        if json.loads(json.dumps(manifest.to_json())) != values:
            raise ValueError('a field is unknown, or its value of another type')
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(
            explain(asked, f'{MANIFEST} does not hold what it must ({error})',
                    'the fields of runtime.bundle.Manifest', 'export the bundle again')
        ) from error
    return manifest


def _no_number(name: str) -> None:
    raise ValueError(f'{name} is no JSON')


def _signal(values: Mapping[str, Any]) -> Signal:
    signal = Signal(
        names=tuple(str(n) for n in values['names']), units=tuple(str(u) for u in values['units']),
        low=tuple(-math.inf if v is None else float(v) for v in values['low']),
        high=tuple(math.inf if v is None else float(v) for v in values['high']),
        scale=tuple(float(v) for v in values['scale']),
    )
    lengths = {len(signal.names), len(signal.units), len(signal.low), len(signal.high),
               len(signal.scale)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f'a signal has fields of lengths {sorted(lengths)}')
    if not all(math.isfinite(s) and s > 0 for s in signal.scale):
        raise ValueError(f'scales are {signal.scale}')
    if not all(low < high for low, high in zip(signal.low, signal.high, strict=True)):
        raise ValueError(f'limits are {signal.low} to {signal.high}')
    return signal


def _check(manifest: Manifest) -> None:
    """Check what a damaged or hand-made manifest could still get wrong."""
    p = manifest.planner
    kinds: dict[type | tuple[type, ...], tuple[str, ...]] = {
        str: ('env_id',), int: ('parameters', 'dense_parameters', 'macs', 'dense_macs', 'opset'),
        dict: ('widths', 'gates', 'config', 'seeds'), (str, type(None)): ('parent',),
    }
    for kind, names in kinds.items():
        for name in names:
            value = getattr(manifest, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f'{name} is {value!r}')
    if not 0 <= manifest.discount < 1:
        raise ValueError(f'discount is {manifest.discount!r}, not from 0 to below 1')
    for name in ('temperature', 'momentum', 'policy_noise', 'policy_margin', 'push_margin'):
        if isinstance(getattr(p, name), bool) or not 0 <= getattr(p, name) < math.inf:
            raise ValueError(f'planner.{name} is {getattr(p, name)!r}, not 0 or more')
    candidate = manifest.lyapunov
    if candidate is not None and (
            candidate.needs > len(manifest.observation.names)
            or candidate.goal_action.shape != (len(manifest.action.names),)):
        raise ValueError('the stability candidate is for other observations or actions')
    positive = {
        'period_s': manifest.period_s, 'reward_scale': manifest.reward_scale,
        'parameters': manifest.parameters, 'dense_parameters': manifest.dense_parameters,
        'planner.horizon': p.horizon, 'planner.samples': p.samples,
        'planner.policy_samples': p.policy_samples, 'planner.elites': p.elites,
        'planner.iterations': p.iterations, 'planner.min_std': p.min_std,
        'planner.max_std': p.max_std,
    }
    for name, value in positive.items():
        if isinstance(value, bool) or not (math.isfinite(value) and value > 0):
            raise ValueError(f'{name} is {value!r}, which is not above 0')
    for name in ('horizon', 'samples', 'policy_samples', 'elites', 'iterations'):
        if not isinstance(getattr(p, name), int) or getattr(p, name) > 1_000_000:
            raise ValueError(f'planner.{name} is {getattr(p, name)!r}, no sensible whole number')
    if type(p.pushes) is not int or not 0 <= p.pushes <= MOST_PUSHES:
        raise ValueError(f'planner.pushes is {p.pushes!r}, no sensible whole number')
    if p.elites > p.samples + p.policy_samples:
        raise ValueError(f'planner.elites is {p.elites}, more than there are plans')
    if not all(math.isfinite(v) for v in manifest.action.low + manifest.action.high):
        raise ValueError('actions have no finite limits')
