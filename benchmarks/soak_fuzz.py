# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Malformed bundles and observations by the thousand: refused in words, or harmless.

`python benchmarks/soak_fuzz.py BUNDLE COUNT SEED` mutates manifests, graphs and archives, half of
them with hashes that fit again, so that the damage reaches the parsers; and drives planner and
supervisor with mutated observations. It prints one line of JSON: how many were tried, and every
outcome that was neither a refusal nor safe.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from pruning_core.errors import BundleError
from pruning_core.runtime.archive import pack, unpack
from pruning_core.runtime.bundle import GRAPHS, Bundle, digest, open_bundle
from pruning_core.runtime.envelope import Envelope
from pruning_core.runtime.fallback import make_fallback
from pruning_core.runtime.planner import Planner
from pruning_core.runtime.supervisor import Supervisor, SupervisorSettings
from pruning_core.runtime.trial import TrialBench

_JUNK = (None, True, 0, -1, 1e308, -0.0, '', '../../etc/passwd', [], {}, [[]], 10**400, 'nan',
         float('nan'), float('inf'))
_TRIALS = 12  # hostile graphs that are opened in a process of their own, one each


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or insert some bytes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at:at + rng.randint(1, 64)]
        elif kind == 2:
            data[at:at] = data[at:at + rng.randint(1, 64)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 16))
        else:
            del data[at:]
    return bytes(data)


def changed(values: Any, rng: random.Random) -> Any:
    """Replace or remove one place of a manifest."""
    place = values
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return values
        key = rng.choice(keys)
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
            place = inner
            continue
        if rng.random() < 0.2:
            del place[key]
        else:
            place[key] = rng.choice(_JUNK)
        return values


class BundleFuzzer:
    """Malformed archives of one bundle."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self._bundle, self._rng = bundle, random.Random(seed)

    def archive(self) -> bytes:
        """One malformed archive."""
        rng, b = self._rng, self._bundle
        kind = rng.randrange(4)
        if kind == 0:
            return mutated(pack(b), rng)
        graphs, values = dict(b.graphs), json.loads(b.manifest_bytes)
        if kind == 1:
            name = rng.choice(GRAPHS)
            graphs[name] = mutated(graphs[name], rng)
            if rng.random() < 0.5:
                values['files'][name] = {'sha256': digest(graphs[name]),
                                         'bytes': len(graphs[name])}
        elif kind == 2:
            values = changed(values, rng)
        text = json.dumps(values).encode()
        if kind == 3:
            text = mutated(b.manifest_bytes, rng)
        return pack(Bundle(digest(text), b.manifest, graphs, text))


def fuzz_bundles(bundle: Bundle, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Offer malformed archives; what passes must be what a manifest of that content means."""
    fuzzer, wrong, passed = BundleFuzzer(bundle, seed), [], 0
    hostile: list[Bundle] = []
    for _ in range(count):
        archive = fuzzer.archive()
        try:
            opened = unpack(archive, folder / 'store')
        except BundleError:
            continue
        except Exception:
            wrong.append(traceback.format_exc()[-600:])
            continue
        passed += 1
        if opened.graphs != bundle.graphs and len(hostile) < _TRIALS:
            hostile.append(opened)
        elif opened.path is not None:
            for file in opened.path.iterdir():
                file.unlink()
            opened.path.rmdir()
    refused = 0
    bench = TrialBench()
    for opened in hostile:  # graphs that are damaged and whose hashes fit
        try:
            assert opened.path is not None
            bench.run(opened.path, opened.hash)
        except BundleError:
            refused += 1
    bench.close()
    return {'bundles': count, 'bundles_passed': passed, 'trials': len(hostile),
            'trials_refused': refused, 'bundle_failures': wrong[:20]}


def fuzz_observations(bundle: Bundle, count: int, seed: int) -> dict[str, Any]:
    """Drive planner and supervisor with what no sensor should send."""
    rng, m = np.random.default_rng(seed), bundle.manifest
    low, high = np.asarray(m.action.low), np.asarray(m.action.high)
    supervisor = Supervisor(m, SupervisorSettings(0.5, hold_ticks=2, recover_ticks=2,
                                                  max_consecutive_misses=2, proof_ticks=1,
                                                  max_residual=5.0),
                            make_fallback('lqr' if m.lyapunov else 'zero', m),
                            Envelope.of(m, 0.1))
    planner = Planner(bundle, samples=16, iterations=1)
    special = np.array([0.0, -0.0, 5e-324, 1e300, -1e300, math.nan, math.inf, -math.inf, 1e-38])
    width, unsafe, wrong = len(m.observation.names), 0, []
    with np.errstate(all='ignore'):
        for _ in range(count):
            size = width if rng.random() < 0.8 else int(rng.integers(0, 2 * width))
            values = rng.normal(size=size) * 10.0 ** rng.integers(-3, 4)
            if rng.random() < 0.5 and size:
                values[rng.integers(size)] = rng.choice(special)
            age = float(rng.choice([0.0, 0.1, 0.6, math.inf, math.nan, -1.0]))
            try:
                supervisor.missed(int(rng.integers(0, 3)))
                plan = None
                if supervisor.may_act and not supervisor.problem(values, age):
                    plan = planner.plan(values, None if supervisor.may_plan else 0.0)
                d = supervisor.decide(values, age, plan.action if plan else None,
                                      plan.policy_action if plan else None,
                                      plan.residual if plan else math.nan)
            except Exception:
                wrong.append(traceback.format_exc()[-600:])
                continue
            unsafe += not (d.command.shape == low.shape and np.isfinite(d.command).all()
                           and (d.command >= low).all() and (d.command <= high).all())
    return {'observations': count, 'unsafe': unsafe, 'observation_failures': wrong[:20]}


def main() -> int:
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    bundle, began = open_bundle(folder), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        result = fuzz_bundles(bundle, count, seed, Path(scratch))
    result.update(fuzz_observations(bundle, count, seed))
    print(json.dumps({**result, 'seconds': round(time.monotonic() - began, 1)}))
    return 1 if result['bundle_failures'] or result['observation_failures'] or result[
        'unsafe'] else 0


if __name__ == '__main__':
    raise SystemExit(main())
