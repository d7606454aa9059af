# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The best return Pendulum-v1 allows on the fixed evaluation seeds, by dynamic programming.

Backward over the 200 steps on a grid of angle and speed, then forward from each seed's start on
the true environment with a finer one-step look-ahead. What an agent lacks to this is its regret.

    python benchmarks/pendulum_optimum.py --episodes 100
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np

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


def values(torques: int = 33) -> np.ndarray:
    """(STEPS + 1, ANGLES * SPEEDS) best return from each state with so many steps done."""
    angle, speed = (x.ravel() for x in np.meshgrid(
        np.linspace(-np.pi, np.pi, ANGLES), np.linspace(-8, 8, SPEEDS), indexing='ij'))
    ahead = []
    for torque in np.linspace(-2, 2, torques):
        next_angle, next_speed, reward = step(angle, speed, torque)
        ahead.append((*corners(next_angle, next_speed), reward.astype(np.float32)))
    value = np.zeros((STEPS + 1, angle.size), np.float32)
    for t in reversed(range(STEPS)):
        value[t] = np.max([reward + (weight * value[t + 1][index]).sum(0)
                           for index, weight, reward in ahead], axis=0)
    return value


def episode(value: np.ndarray, seed: int) -> float:
    """Return of one episode on the environment itself."""
    env = gymnasium.make('Pendulum-v1')
    env.reset(seed=seed)
    torques, total = np.linspace(-2, 2, 401), 0.0
    for t in range(STEPS):
        angle, speed = env.unwrapped.state
        next_angle, next_speed, reward = step(angle, speed, torques)
        index, weight = corners(next_angle, next_speed)
        best = torques[np.argmax(reward + (weight * value[t + 1][index]).sum(0))]
        _, paid, _, _, _ = env.step(np.array([best], np.float32))
        total += float(paid)
    return total


def main() -> None:
    """Print the mean over the first fixed seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--episodes', type=int, default=100)
    episodes = parser.parse_args().episodes
    value = values()
    returns = [episode(value, seed) for seed in evaluation_seeds(episodes)]
    print(f'optimum on {episodes} seeds: mean {np.mean(returns):.1f}, '
          f'standard deviation {np.std(returns):.1f}, worst {np.min(returns):.1f}')


if __name__ == '__main__':
    main()
