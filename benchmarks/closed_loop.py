# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Returns of a bundle on the fixed seeds, planned by the very planner that runs on a robot.

Every episode is kept in a cache as soon as it is done, under the weights and the planner's
settings, so that a benchmark can be interrupted, and repeated at once.

    python benchmarks/closed_loop.py --bundle runs/bundle --episodes 100 --samples 128
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pruning_core.config import EnvConfig
from pruning_core.env import make_raw
from pruning_core.evaluation import evaluation_seeds
from pruning_core.progress import Progress, for_people
from pruning_core.runtime.bundle import PLAN_START, WEIGHTS, Bundle, open_bundle
from pruning_core.runtime.planner import Planner
from pruning_core.runtime.weights import read

CACHE = Path('runs/bench/returns')


def identity(bundle: Bundle) -> str:
    """Hash of the agent's numbers, whatever the graphs around them look like."""
    sha = hashlib.sha256()
    for name, array in sorted(read(bundle.graphs[WEIGHTS])[PLAN_START].items()):
        sha.update(name.encode() + array.tobytes())
    return sha.hexdigest()[:16]


def episode(planner: Planner, env: EnvConfig, seed: int, *, policy_alone: bool = False) -> float:
    """Undiscounted return of one episode; its seed is that of the plant and of the noise."""
    plant = make_raw(env.id, env.max_episode_steps)
    observation, _ = plant.reset(seed=seed)
    planner.reset(seed)
    total, done = 0.0, False
    while not done:
        if policy_alone:
            action = planner.plan(observation, 0.0).policy_action
        else:
            action = planner.plan(observation).action
        for _ in range(env.action_repeat):
            observation, reward, terminated, truncated, _ = plant.step(action)
            total += float(reward)
            done = terminated or truncated
            if done:
                break
    return total


def returns(bundle: Bundle, seeds: Sequence[int], *, samples: int = 0, iterations: int = 0,
            horizon: int = 0, precision: str = 'fp32', policy_alone: bool = False,
            cache: Path = CACHE, until: float = math.inf, progress: Progress | None = None
            ) -> dict[int, float]:
    """Returns by seed, from the cache where they are known.

    Args:
        bundle: exported with its configuration.
        seeds: of the episodes.
        samples: see `Planner`, as the next three.
        iterations: see above.
        horizon: see above.
        precision: see above.
        policy_alone: plan nothing.
        cache: folder of known returns.
        until: time of `time.monotonic` after which no episode is started.
        progress: told after every episode.
    """
    planner = Planner(bundle, samples=samples, iterations=iterations, horizon=horizon,
                      precision=precision)
    s = planner.settings
    setting = 'policy' if policy_alone else (
        f'{s.samples}x{s.iterations}_h{s.horizon}'
        + (f'_o{s.policy_margin:g}' if s.policy_margin else '')
        + (f'_p{s.pushes}m{s.push_margin:g}' if s.pushes else '') + f'_{precision}')
    file = cache / f'{identity(bundle)}_{setting}.jsonl'
    file.parent.mkdir(parents=True, exist_ok=True)
    known: dict[int, float] = {}
    if file.exists():
        for line in file.read_text().splitlines():
            if line.endswith('}'):  # the last one may have been cut off
                record = json.loads(line)
                known[record['seed']] = record['return']
    env = EnvConfig(**bundle.manifest.config['env'])
    with file.open('a') as out:
        for i, seed in enumerate(seeds):
            if seed not in known:
                if time.monotonic() > until:
                    break
                known[seed] = episode(planner, env, seed, policy_alone=policy_alone)
                out.write(f'\n{json.dumps({"seed": seed, "return": known[seed]})}\n')
                out.flush()
            if progress is not None:
                progress(f'returns {setting}', i + 1, len(seeds))
    return {seed: known[seed] for seed in seeds if seed in known}


def main() -> None:
    """Print the mean return of a bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--bundle', required=True, type=Path)
    parser.add_argument('--episodes', type=int, default=100)
    parser.add_argument('--skip', type=int, default=0,
                        help='seeds to leave to another process; both write the same cache')
    parser.add_argument('--samples', type=int, default=0)
    parser.add_argument('--iterations', type=int, default=0)
    parser.add_argument('--horizon', type=int, default=0)
    parser.add_argument('--precision', default='fp32')
    parser.add_argument('--policy', action='store_true', help='the policy alone')
    parser.add_argument('--minutes', type=float, default=math.inf,
                        help='after which no episode is started; the next call goes on')
    o = parser.parse_args()
    seeds = evaluation_seeds(o.episodes)[o.skip:]
    by_seed = returns(open_bundle(o.bundle), seeds, samples=o.samples, iterations=o.iterations,
                      horizon=o.horizon, precision=o.precision, policy_alone=o.policy,
                      until=time.monotonic() + 60 * o.minutes, progress=for_people())
    found = list(by_seed.values())
    print(f'{len(found)} seeds: mean {np.mean(found):.2f}, standard deviation '
          f'{np.std(found):.2f}, worst {np.min(found):.2f}')


if __name__ == '__main__':
    main()
