# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The best return Pendulum-v1 allows on the fixed evaluation seeds, by dynamic programming.

Backward over the 200 steps on a grid of angle and speed, then forward from each seed's start on
the true environment with a finer one-step look-ahead. What an agent lacks to this is its regret.

    python benchmarks/pendulum_optimum.py --episodes 100 --agent pendulum_dense

`--agent` prints the regret of an agent that was evaluated on these seeds (`evaluate --write`),
and of several also whether they lack it on the same ones; with `--policy` its policy is run here,
alone, so that there may be thousands of seeds; `--discount 0.99` plans for the discounted return
of an episode without end, as agents learn it, and counts the whole one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import gymnasium
import numpy as np

from pruning_core import zoo
from pruning_core.agent import as_tensor
from pruning_core.checkpoint import EVALUATION, Run, load_run
from pruning_core.env import ScaledEnv
from pruning_core.evaluation import evaluation_seeds

ANGLES, SPEEDS, STEPS, DT = 361, 321, 200, 0.05


def step(angle, speed, torque):
    """Next angle and speed, and the reward; Pendulum-v1's own equations."""
    wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
    reward = -(wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = np.clip(speed + (15 * np.sin(angle) + 3 * torque) * DT, -8, 8)
    return angle + speed * DT, speed, reward


def corners(angle, speed):
    """Grid indices (4, ...) around states and their bilinear weights (4, ...)."""
    a = (angle + np.pi) % (2 * np.pi) / (2 * np.pi) * (ANGLES - 1)
    s = (speed + 8) / 16 * (SPEEDS - 1)
    i, j = np.minimum(a.astype(int), ANGLES - 2), np.minimum(s.astype(int), SPEEDS - 2)
    u, v = a - i, s - j
    first = i * SPEEDS + j
    index = np.stack([first, first + 1, first + SPEEDS, first + SPEEDS + 1]).astype(np.int32)
    weight = np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v]).astype(np.float32)
    return index, weight


def values(torques: int = 33, discount: float = 1.0) -> np.ndarray:
    """(STEPS + 1, ANGLES * SPEEDS) best return from each state with so many steps done.

    With a discount, of an episode without end: the same after any number of steps.
    """
    angle, speed = (x.ravel() for x in np.meshgrid(
        np.linspace(-np.pi, np.pi, ANGLES), np.linspace(-8, 8, SPEEDS), indexing='ij'))
    ahead = []
    for torque in np.linspace(-2, 2, torques):
        next_angle, next_speed, reward = step(angle, speed, torque)
        ahead.append((*corners(next_angle, next_speed), reward.astype(np.float32)))
    value = np.zeros((STEPS + 1, angle.size), np.float32)

    def before(later: np.ndarray) -> np.ndarray:
        return np.max([reward + discount * (weight * later[index]).sum(0)
                       for index, weight, reward in ahead], axis=0)

    for t in reversed(range(STEPS)):
        value[t] = before(value[t + 1])
    if discount < 1:
        for _ in range(STEPS):  # of what lies 400 steps ahead, 2 % are left
            value[0] = before(value[0])
        value[:] = value[0]
    return value


def episode(value: np.ndarray, seed: int, discount: float = 1.0) -> float:
    """Return of one episode on the environment itself."""
    env = gymnasium.make('Pendulum-v1')
    env.reset(seed=seed)
    torques, total = np.linspace(-2, 2, 401), 0.0
    for t in range(STEPS):
        angle, speed = env.unwrapped.state
        next_angle, next_speed, reward = step(angle, speed, torques)
        index, weight = corners(next_angle, next_speed)
        best = torques[np.argmax(reward + discount * (weight * value[t + 1][index]).sum(0))]
        _, paid, _, _, _ = env.step(np.array([best], np.float32))
        total += float(paid)
    return total


def main() -> None:
    """Print the mean over the first fixed seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--episodes', type=int, default=100)
    parser.add_argument('--discount', type=float, default=1.0)
    parser.add_argument('--agent', action='append', default=[],
                        help='run folder, or name of a shipped agent; repeat it to compare seeds')
    parser.add_argument('--policy', action='store_true',
                        help='run the policy alone on the seeds, instead of reading evaluations')
    options = parser.parse_args()
    episodes, discount = options.episodes, options.discount
    value = values(discount=discount)
    returns = np.array([episode(value, seed, discount) for seed in evaluation_seeds(episodes)])
    print(f'optimum on {episodes} seeds: mean {np.mean(returns):.1f}, '
          f'standard deviation {np.std(returns):.1f}, worst {np.min(returns):.1f}')
    for way in ('policy',) if options.policy else ('planned', 'policy'):
        if options.policy:
            found = {name: policy_returns(load_run(zoo.find(name)), evaluation_seeds(episodes))
                     for name in options.agent}
        else:
            found = {name: kept_returns(name, way, episodes) for name in options.agent}
        known = {name: returns - r for name, r in found.items() if r is not None}
        for name in sorted(set(found) - set(known)):
            print(f'{name}, {way}: not evaluated on these seeds')
        for name, r in known.items():
            worst = np.sort(r)[::-1][:episodes // 10]
            print(f'regret of {name}, {way}: mean {r.mean():.1f} '
                  f'({-r.mean() / np.mean(returns):.1%}), median {np.median(r):.1f}; the '
                  f'worst tenth of the seeds has {worst.sum() / r.sum():.0%} of it')
        if len(known) > 1:
            print_common(way, np.array(list(known.values())))


def policy_returns(run: Run, seeds: Sequence[int]) -> np.ndarray:
    """(episodes,) returns of the policy alone, all episodes side by side."""
    scaled = ScaledEnv(run.config.env)
    plant = (run.config.env.id, run.config.env.action_repeat, scaled.spec.max_decisions)
    if plant != ('Pendulum-v1', 1, STEPS):
        raise SystemExit(f'an agent for {plant[0]} with {plant[2]} decisions of {plant[1]} steps '
                         f'was given; allowed: Pendulum-v1 with {STEPS} of 1; name such a one')
    scale, starts = np.array(scaled.spec.observation_scale), []
    for seed in seeds:
        scaled.reset(seed)
        starts.append(scaled.env.unwrapped.state)
    (angle, speed), total = np.array(starts).T, np.zeros(len(starts))
    for _ in range(STEPS):
        seen = np.stack([np.cos(angle), np.sin(angle), speed], axis=1) * scale
        torque = 2 * run.agent.policy(as_tensor(seen)).numpy()[:, 0]
        angle, speed, paid = step(angle, speed, torque)
        total += paid
    return total


def kept_returns(name: str, way: str, episodes: int) -> np.ndarray | None:
    """(episodes,) returns of an evaluation; None where it was not made on these seeds."""
    path = zoo.find(name) / EVALUATION
    kept = json.loads(path.read_text()).get(way, {}) if path.is_file() else {}
    returns = np.array(kept.get('returns', ())[:episodes])
    return returns if len(returns) == episodes else None


def print_common(way: str, found: np.ndarray) -> None:
    """How far agents lack the same on the same seeds; found: (agents, episodes)."""
    between = np.corrcoef(found)[np.triu_indices(len(found), 1)]
    print(f'{way}: correlation over seeds between agents {between.min():.2f} to '
          f'{between.max():.2f}; where all of them lack most:')
    env = gymnasium.make('Pendulum-v1')
    for i in np.argsort(-found.min(axis=0))[:5]:
        seed = evaluation_seeds(found.shape[1])[i]
        env.reset(seed=seed)
        angle, speed = env.unwrapped.state
        print(f'  seed {seed}, from {angle:.2f} rad and {speed:.2f} rad/s: '
              f'{found[:, i].min():.0f} to {found[:, i].max():.0f}')


if __name__ == '__main__':
    main()
