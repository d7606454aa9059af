# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Try a bundle in a process of its own, before the controller lets it into its own.

What reads an ONNX graph is a large C++ library; a hostile or damaged graph may crash it, fill the
memory or never return. `run` starts `python -m pruning_core.runtime.trial FOLDER HASH`, with
limits on memory and time and stepping back behind the controller; only a bundle that opens, warms
up and plans finite commands there is loaded here.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from pruning_core.errors import BundleError, PruningError, explain
from pruning_core.runtime.bundle import open_bundle
from pruning_core.runtime.realtime import step_back

_MEMORY = 4 << 30  # bytes of address space; onnxruntime and numpy reserve about one of these four
_PLANS = 3


def run(folder: Path, hash: str, timeout_s: float = 60.0) -> None:
    """Try a bundle; returns where it did well.

    Raises:
        BundleError: it was refused, crashed its process, or did not come to an end.
    """
    asked = f'bundle {hash[:16]} was tried in a process of its own'
    try:
        done = subprocess.run(
            [sys.executable, '-m', 'pruning_core.runtime.trial', str(folder), hash],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace',
            timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise BundleError(
            explain(asked, f'it was not done after {timeout_s:g} s', 'graphs that come to an end',
                    'export it again')
        ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ['without a word']
        raise BundleError(
            explain(asked, f'it ended with code {done.returncode}: {said[0][:300]}',
                    'a bundle that opens, warms up and plans finite commands', 'export it again')
        )


def _try(folder: str, hash: str) -> None:
    from pruning_core.runtime.planner import Planner

    bundle = open_bundle(folder, hash)
    planner = Planner(bundle)
    planner.warm_up(1)
    signal = bundle.manifest.observation
    low, high = np.maximum(signal.low, -10.0), np.minimum(signal.high, 10.0)
    rng = np.random.default_rng(0)
    for _ in range(_PLANS):
        action = planner.plan(rng.uniform(low, high)).action
        if not np.isfinite(action).all():
            raise BundleError(
                explain(f'bundle {hash[:16]} was asked for a plan', f'it gave {action.tolist()}',
                        'finite numbers', 'prune or train again')
            )


def main(arguments: list[str]) -> int:
    """Try the bundle named on the command line; returns the exit code."""
    step_back()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _try(*arguments)
    except PruningError as error:
        sys.stderr.write(f'{type(error).__name__}: {error}\n')
        return 2
    return 0


if __name__ == '__main__':
    raise SystemExit(main(sys.argv[1:]))
