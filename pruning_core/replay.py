# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Whole episodes in; batches of H+1 consecutive observations out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pruning_core.errors import ConfigError, explain

Array = npt.NDArray[np.float32]


class Batch(NamedTuple):
    """Windows of consecutive decisions; B windows of H decisions."""

    observation: Array  # (H+1, B, O), scaled
    action: Array  # (H, B, A), in [-1, 1]
    reward: Array  # (H, B), scaled
    terminated: Array  # (H, B), 1 where the episode ended for good (not at a time limit)
    row: npt.NDArray[np.int64]  # (H+1, B), place of each observation in `Replay.observations`


class Replay:
    """Episodes in one flat store; the oldest whole episodes go when it is full.

    An episode of T decisions takes T+1 rows: its last row holds the final observation only, so a
    window never crosses from one episode into the next.
    """

    def __init__(self, capacity: int, observations: int, actions: int) -> None:
        """Allocate room for `capacity` rows of O observations and A actions."""
        self.capacity = capacity
        self._rows = 0
        self._lengths: list[int] = []  # rows per episode
        self._starts: dict[int, npt.NDArray[np.int64]] = {}  # by horizon, until episodes change
        self._observation = np.zeros((capacity, observations), np.float32)
        self._action = np.zeros((capacity, actions), np.float32)
        self._reward = np.zeros(capacity, np.float32)
        self._terminated = np.zeros(capacity, np.float32)

    def __len__(self) -> int:
        """Return the number of decisions stored."""
        return self._rows - len(self._lengths)

    @property
    def episodes(self) -> int:
        """Number of episodes stored."""
        return len(self._lengths)

    def add(self, observation: npt.ArrayLike, action: npt.ArrayLike, reward: npt.ArrayLike,
            terminated: bool) -> None:
        """Add one episode.

        Args:
            observation: (T+1, O) scaled observations.
            action: (T, A) in [-1, 1].
            reward: (T,) scaled rewards.
            terminated: whether the last decision ended the episode for good.

        Raises:
            ConfigError: the episode is longer than the whole store.
        """
        observation = np.asarray(observation, np.float32)
        rows = len(observation)
        if rows > self.capacity:
            raise ConfigError(
                explain(f'an episode of {rows} rows was stored', f'room for {self.capacity}',
                        'training.replay_capacity above the longest episode', 'raise it')
            )
        while self._rows + rows > self.capacity:
            self._drop_oldest()
        here = slice(self._rows, self._rows + rows)
        self._observation[here] = observation
        self._action[here] = 0
        self._reward[here] = 0
        self._terminated[here] = 0
        self._action[self._rows:self._rows + rows - 1] = np.asarray(action, np.float32)
        self._reward[self._rows:self._rows + rows - 1] = np.asarray(reward, np.float32)
        self._terminated[self._rows + rows - 2] = float(terminated)
        self._rows += rows
        self._lengths.append(rows)
        self._starts.clear()

    def _drop_oldest(self) -> None:
        gone = self._lengths.pop(0)
        for store in (self._observation, self._action, self._reward, self._terminated):
            store[:self._rows - gone] = store[gone:self._rows]
        self._rows -= gone

    def starts(self, horizon: int) -> npt.NDArray[np.int64]:
        """Rows from which a window of `horizon` decisions stays inside one episode."""
        if horizon not in self._starts:
            starts, row = [np.zeros(0, np.int64)], 0
            for length in self._lengths:
                starts.append(np.arange(row, row + max(0, length - horizon)))
                row += length
            self._starts[horizon] = np.concatenate(starts)
        return self._starts[horizon]

    def sample(self, rng: np.random.Generator, batch: int, horizon: int) -> Batch:
        """Draw `batch` windows of `horizon` decisions, uniformly over all possible starts.

        Raises:
            ConfigError: no stored episode is as long as the horizon.
        """
        starts = self.starts(horizon)
        if len(starts) == 0:
            raise ConfigError(
                explain(f'a replay window of {horizon} decisions was asked for',
                        f'{self.episodes} episodes, all shorter', 'a horizon within one episode',
                        'lower agent.horizon, or collect longer episodes')
            )
        rows = starts[rng.integers(len(starts), size=batch)] + np.arange(horizon + 1)[:, None]
        return Batch(self._observation[rows], self._action[rows[:-1]], self._reward[rows[:-1]],
                     self._terminated[rows[:-1]], rows)

    def observations(self) -> Array:
        """Return every stored observation, (rows, O); final ones of episodes included."""
        return self._observation[:self._rows].copy()

    def actions(self) -> Array:
        """Return the action taken at each of `observations`, (rows, A); 0 at final ones."""
        return self._action[:self._rows].copy()

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the content as named arrays; `from_arrays` is the inverse."""
        rows = self._rows
        return {
            'observation': self._observation[:rows].copy(), 'action': self._action[:rows].copy(),
            'reward': self._reward[:rows].copy(), 'terminated': self._terminated[:rows].copy(),
            'lengths': np.asarray(self._lengths, np.int64),
            'capacity': np.asarray([self.capacity], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> Replay:
        """Rebuild a replay from `to_arrays`."""
        observation, action = arrays['observation'], arrays['action']
        replay = cls(int(arrays['capacity'][0]), observation.shape[1], action.shape[1])
        rows = replay._rows = len(observation)
        replay._lengths = [int(n) for n in arrays['lengths']]
        replay._observation[:rows] = observation
        replay._action[:rows] = action
        replay._reward[:rows] = arrays['reward']
        replay._terminated[:rows] = arrays['terminated']
        return replay
