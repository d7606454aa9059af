# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""An environment in; what will not work in training it, and why, out, in seconds.

What `ScaledEnv` refuses is found here first; beyond it come the things that only show after an
hour: episodes that never end, a seed that does not fix an episode, numbers of a size that networks
do not learn, actions without effect.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pruning_core.config import Config
from pruning_core.env import ScaledEnv, raised
from pruning_core.errors import EnvError, PruningError
from pruning_core.stability import candidate

Array = npt.NDArray[np.float64]
Level = Literal['wrong', 'doubtful', 'good']

_STEPS = 2000  # decisions tried at random
_LARGE = 100.0  # scaled observations above this are learned badly


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: 'wrong' (training will fail or mislead), 'doubtful' or 'good'.
        about: what was looked at.
        text: what was found, and what to do where it is not good.
    """

    level: Level
    about: str
    text: str


@dataclass(frozen=True)
class _Trial:
    """What acting at random gave: N decisions, in episodes of some lengths."""

    observations: Array  # (N, O), scaled
    rewards: Array  # (N,)
    lengths: Sequence[int]  # of the episodes that ended
    seconds: float


def check(config: Config) -> list[Finding]:
    """Try an environment as training would use it.

    Args:
        config: `env` says which; `agent.horizon` and `training.replay_capacity` must fit it.

    Returns:
        Findings, in the order in which they were looked at; the last ones are missing where an
        earlier one is so wrong that nothing further can be tried.
    """
    try:
        env = ScaledEnv(config.env)
    except EnvError as error:
        return [Finding('wrong', 'environment', str(error))]
    s = env.spec
    findings = [Finding(
        'good', 'spaces',
        f'{len(s.observation_names)} observations, {len(s.action_names)} actions from '
        f'{list(s.action_low)} to {list(s.action_high)}, a decision every {s.period_s:g} s')]
    try:
        trial = _try(env, config)
        findings += [*_about_episodes(env, trial, config), _about_seeds(env),
                     *_about_numbers(trial, config), _about_actions(env)]
    except EnvError as error:
        about = 'numbers' if error.__cause__ is None else 'environment'  # it raised something
        return [*findings, Finding('wrong', about, str(error))]
    except Exception as error:  # whatever else it does to us is what is wrong with it
        return [*findings, Finding('wrong', 'environment', raised(error))]
    return [*findings, _about_goal(config, s.period_s), Finding(
        'good', 'speed', f'{1e3 * trial.seconds / len(trial.rewards):.2g} ms a decision')]


def _about_goal(config: Config, period_s: float) -> Finding:
    try:
        found = candidate(config.env.id, period_s, config.env.action_repeat)
    except PruningError as error:
        return Finding('wrong', 'goal', str(error))
    except Exception as error:
        return Finding('wrong', 'goal', f'its stability_goal was tried: {raised(error)}')
    if found is None:
        return Finding('doubtful', 'goal', 'none is stated: pruning is gated on return and '
                       'latency alone; to have stability tested too, give the class a '
                       'stability_goal (docs/stability.md)')
    return Finding('good', 'goal', 'known: pruning is gated on stability, too')


def _try(env: ScaledEnv, config: Config) -> _Trial:
    rng = np.random.default_rng(0)
    observations: list[npt.NDArray[np.float32]] = []
    rewards: list[float] = []
    lengths: list[int] = []
    most = min(_STEPS, config.training.replay_capacity - 1)
    env.reset(0)
    length, started = 0, time.perf_counter()
    for _ in range(most):
        observation, reward, terminated, truncated = env.step(
            rng.uniform(-1, 1, len(env.spec.action_low)))
        observations.append(observation)
        rewards.append(reward)
        length += 1
        if terminated or truncated:
            lengths.append(length)
            length = 0
            env.reset(len(lengths))
    return _Trial(np.asarray(observations, float), np.asarray(rewards), lengths,
                  time.perf_counter() - started)


def _about_episodes(env: ScaledEnv, trial: _Trial, config: Config) -> Iterator[Finding]:
    limit, horizon = env.spec.max_decisions, config.agent.horizon
    if not trial.lengths and not limit:
        yield Finding('wrong', 'episodes', f'none ended within {len(trial.rewards)} decisions, '
                      'and there is no limit; set env.max_episode_steps')
    elif not trial.lengths:
        yield Finding('good', 'episodes', f'they end after {limit} decisions')
    else:
        text = (f'{min(trial.lengths)} to {max(trial.lengths)} decisions when acting at random'
                + (f', {limit} at most' if limit else ''))
        if max(trial.lengths) < horizon:
            yield Finding('wrong', 'episodes', f'{text}; shorter than agent.horizon, {horizon}: '
                          'lower it, or let episodes last longer')
        elif np.mean(np.asarray(trial.lengths) < horizon) > 0.5:
            yield Finding('doubtful', 'episodes', f'{text}; most are shorter than agent.horizon, '
                          f'{horizon}, and cannot be learned from: lower it')
        else:
            yield Finding('good', 'episodes', text)
    if limit >= config.training.replay_capacity:
        yield Finding('wrong', 'replay', f'{limit} decisions an episode, '
                      f'{config.training.replay_capacity} places; raise training.replay_capacity')


def _roll(env: ScaledEnv, actions: Array) -> Array:
    """Scaled observations and rewards of an episode from seed 0, (T+1, O+1)."""
    rows = [np.append(env.reset(0), 0.0)]
    for action in actions:
        observation, reward, terminated, truncated = env.step(action)
        rows.append(np.append(observation, reward))
        if terminated or truncated:
            break
    return np.asarray(rows, float)


def _about_seeds(env: ScaledEnv) -> Finding:
    actions = np.random.default_rng(1).uniform(-1, 1, (50, len(env.spec.action_low)))
    first, second = _roll(env, actions), _roll(env, actions)
    if first.shape == second.shape and np.array_equal(first, second):
        return Finding('good', 'seeds', 'the same seed and actions give the same episode')
    return Finding('doubtful', 'seeds', 'the same seed and actions give another episode: resuming '
                   'to the bit and comparing on common seeds will not work; draw from '
                   'self.np_random alone, and reset everything in reset(seed)')


def _about_numbers(trial: _Trial, config: Config) -> Iterator[Finding]:
    reach = np.abs(trial.observations).max(0)
    large = np.flatnonzero(reach > _LARGE)
    if len(large):
        yield Finding('doubtful', 'observations', 'these reach '
                      + ', '.join(f'{reach[i]:.3g} (number {i})' for i in large[:4])
                      + '; give the observation space finite limits, and they are scaled by them')
    else:
        yield Finding('good', 'observations', f'up to {reach.max():.3g} when scaled')
    still = np.flatnonzero(np.ptp(trial.observations, axis=0) == 0)
    if len(still):
        yield Finding('doubtful', 'observations', f'numbers {still.tolist()} never changed; leave '
                      'out what tells nothing')
    size = float(np.abs(trial.rewards).mean()) * config.env.reward_scale
    if not trial.rewards.any():
        yield Finding('doubtful', 'rewards', 'all are 0 when acting at random: a sparse reward is '
                      'hardly found; shape it')
    elif not 0.001 <= size <= 5:
        wanted = 0.5 / float(np.abs(trial.rewards).mean())
        yield Finding('doubtful', 'rewards', f'about {size:.2g} a decision after '
                      f'env.reward_scale; set env.reward_scale near {wanted:.1g}')
    else:
        yield Finding('good', 'rewards', f'about {size:.2g} a decision after env.reward_scale')


def _about_actions(env: ScaledEnv) -> Finding:
    count = len(env.spec.action_low)
    idle = []
    for i in range(count):
        low, high = np.zeros((20, count)), np.zeros((20, count))
        low[:, i], high[:, i] = -1, 1
        one, other = _roll(env, low), _roll(env, high)
        if one.shape == other.shape and np.array_equal(one[:, :-1], other[:, :-1]):
            idle.append(i)
    if idle:
        return Finding('doubtful', 'actions', f'numbers {idle} change no observation within 20 '
                       'decisions')
    return Finding('good', 'actions', 'each changes what is observed')
