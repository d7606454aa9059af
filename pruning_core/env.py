# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Gymnasium id in; an environment with scaled observations and actions, and its spec, out.

The agent sees observations divided by their largest value where the space is bounded, and acts in
[-1, 1]; the spec keeps what is needed to undo both on the robot.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import logging
import math
import numbers
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from pruning_core.config import EnvConfig
from pruning_core.errors import AgentError, EnvError, PruningError, explain

Array = npt.NDArray[np.float32]
_LOG = logging.getLogger(__name__)
# Where code lies that is not the plant's: this package's and Python's.
_LIBRARIES = (str(Path(__file__).resolve().parent), sysconfig.get_path('stdlib'))

# Names and units of the observations and actions of environments that state them in their
# documentation; MuJoCo's motors have gears, so that their commands are no newtons. An environment
# of one's own states them itself, as `observation_signals` and `action_signals`; the signals of
# all others are numbered and carry no unit.
SIGNAL_NAMES: dict[str, tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]] = {
    'Pendulum-v1': (
        (('cos(angle)', '1'), ('sin(angle)', '1'), ('angular velocity', 'rad/s')),
        (('torque', 'N m'),),
    ),
    'InvertedPendulum-v5': (
        (('cart position', 'm'), ('pole angle', 'rad'), ('cart velocity', 'm/s'),
         ('pole angular velocity', 'rad/s')),
        (('motor', '1'),),
    ),
    'InvertedDoublePendulum-v5': (
        (('cart position', 'm'), ('sin(lower angle)', '1'), ('sin(upper angle)', '1'),
         ('cos(lower angle)', '1'), ('cos(upper angle)', '1'), ('cart velocity', 'm/s'),
         ('lower angular velocity', 'rad/s'), ('upper angular velocity', 'rad/s'),
         ('force of the rail', 'N')),
        (('motor', '1'),),
    ),
    'Reacher-v5': (
        (('cos(shoulder)', '1'), ('cos(elbow)', '1'), ('sin(shoulder)', '1'),
         ('sin(elbow)', '1'), ('target x', 'm'), ('target y', 'm'),
         ('shoulder velocity', 'rad/s'), ('elbow velocity', 'rad/s'),
         ('fingertip to target, x', 'm'), ('fingertip to target, y', 'm')),
        (('shoulder motor', '1'), ('elbow motor', '1')),
    ),
}


@dataclass(frozen=True)
class EnvSpec:
    """What the robot must know of the plant the agent was trained on.

    Attributes:
        id: Gymnasium id.
        period_s: seconds between two decisions.
        max_decisions: decisions per episode; 0 where the environment sets no limit.
        observation_names: O names, and `observation_units` their units.
        observation_low: O smallest values; `observation_high` the largest (may be infinite).
        observation_scale: O factors that the agent's input is multiplied with.
        action_names: A names, and `action_units` their units.
        action_low: A smallest values; `action_high` the largest; the agent's -1 and 1.
    """

    id: str
    period_s: float
    max_decisions: int
    observation_names: tuple[str, ...]
    observation_units: tuple[str, ...]
    observation_low: tuple[float, ...]
    observation_high: tuple[float, ...]
    observation_scale: tuple[float, ...]
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]


def make_raw(id: str, max_episode_steps: int = 0) -> gymnasium.Env[Any, Any]:
    """Make a Gymnasium environment from an id or from `'module:Class'`.

    Args:
        id: Gymnasium id, or an importable class.
        max_episode_steps: plant steps per episode; 0 takes the environment's own limit.

    Raises:
        EnvError: the id is unknown, or the environment cannot be made.
    """
    limit = {'max_episode_steps': max_episode_steps} if max_episode_steps else {}
    module, colon, name = id.partition(':')
    if colon and name.isidentifier() and name not in gymnasium.registry:
        env = _of_class(id, module, name)
        return gymnasium.wrappers.TimeLimit(env, max_episode_steps) if max_episode_steps else env
    try:
        _hear_each_warning_once(id)
        return gymnasium.make(id, **limit)  # type: ignore[arg-type]
    except (gymnasium.error.UnregisteredEnv, ModuleNotFoundError, AttributeError) as error:
        near = difflib.get_close_matches(id, list(gymnasium.registry), n=1, cutoff=0.6)
        raise EnvError(
            explain(f"environment '{id}' was asked for",
                    'it is not known' + (f", did you mean '{near[0]}'?" if near else ''),
                    "a Gymnasium id such as 'Pendulum-v1', or 'module:Class'",
                    f'correct env.id, or install the package that has it ({error})')
        ) from error
    except gymnasium.error.Error as error:
        raise EnvError(
            explain(f"environment '{id}' was asked for", f'it cannot be made ({error})',
                    'an environment whose own libraries are installed', 'install what it names')
        ) from error
    except Exception as error:
        raise EnvError(
            explain(f"environment '{id}' was asked for", f'making it raised {raised(error)}',
                    'an environment that can be made without arguments', 'correct its __init__')
        ) from error


def _of_class(id: str, module: str, name: str) -> gymnasium.Env[Any, Any]:
    """Import a class and make one of it; what either raises is the class's own doing."""
    asked = f"environment '{id}' was asked for"
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and (
                f'{module}.'.startswith(f'{error.name}.')):
            raise EnvError(
                explain(asked, f"there is no module '{module}'", 'a module that Python can import',
                        'correct env.id, call from the folder that the module lies in, or name '
                        'that folder in PYTHONPATH')) from error
        raise EnvError(
            explain(asked, f"importing '{module}' raised {raised(error)}",
                    'a module that can be imported',
                    'install what it needs' if isinstance(error, ModuleNotFoundError)
                    else 'correct the module')) from error
    kind = getattr(found, name, None)
    if not callable(kind):
        raise EnvError(
            explain(asked, f"'{module}' has " + (f"no '{name}'" if kind is None else
                                                 f"a '{name}' that is no class ({kind!r})"),
                    'a class of that module', 'correct env.id'))
    try:
        env = kind()
    except (Exception, SystemExit) as error:
        raise EnvError(
            explain(asked, f'{name}() raised {raised(error)}',
                    'a class that can be made without arguments', 'correct its __init__')
        ) from error
    missing = [a for a in ('observation_space', 'action_space') if not hasattr(env, a)]
    if missing or not isinstance(env, gymnasium.Env):
        raise EnvError(
            explain(asked, f'{name} has no {", ".join(missing)}' if missing
                    else f'{name} is no gymnasium.Env', 'a gymnasium.Env with both '
                    'spaces set', 'derive it from gymnasium.Env, and set them in __init__'))
    return env


def raised(error: BaseException) -> str:
    """An error of somebody else's code in a line: kind, text and the line of theirs it came from.

    A line of a library or of this package would lead astray; a syntax error names its own.
    """
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if not (
        f.filename.startswith(('<frozen', *_LIBRARIES)) or 'site-packages' in f.filename)]
    where = '' if isinstance(error, SyntaxError) or not theirs else (
        f' ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})')
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}{where}'


def _hear_each_warning_once(id: str) -> None:
    """Let MuJoCo log what it says, and once: it says the same of each environment that is made."""
    spec = gymnasium.registry.get(id)
    if spec is None or not str(spec.entry_point).startswith('gymnasium.envs.mujoco'):
        return
    with contextlib.suppress(ImportError, AttributeError):  # `make` says what is missing
        importlib.import_module('mujoco').set_mju_user_warning(_warn_once)


@functools.lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    _LOG.warning('MuJoCo: %s', text)


def _box(space: gymnasium.Space[Any], what: str, id: str) -> Box:
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise EnvError(
            explain(f"environment '{id}' was asked for", f'its {what} space is {space}',
                    f'a Box {what} space of one dimension', 'choose or wrap the environment')
        )
    if what == 'action' and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise EnvError(
            explain(f"environment '{id}' was asked for", f'its actions are unbounded ({space})',
                    'finite limits for every action', 'wrap it with RescaleAction or ClipAction')
        )
    return space


def _period_s(env: gymnasium.Env[Any, Any], config: EnvConfig) -> float:
    if config.period_s:
        return config.period_s
    dt = getattr(env.unwrapped, 'dt', None)
    if dt is None:
        frame_rate = env.metadata.get('render_fps')
        dt = 1.0 / frame_rate if isinstance(frame_rate, numbers.Real) and frame_rate else None
    if not isinstance(dt, numbers.Real) or not math.isfinite(dt) or dt <= 0:
        raise EnvError(
            explain(f"the control period of environment '{config.id}' was asked for",
                    'the environment tells neither a dt nor a frame rate' if dt is None else
                    f'its dt is {dt!r}',
                    'seconds above 0', 'set env.period_s')
        )
    return float(dt) * config.action_repeat


def _signals(env: gymnasium.Env[Any, Any], what: str, count: int,
             known: tuple[tuple[str, str], ...], id: str) -> tuple[tuple[str, str], ...]:
    """Names and units: the environment's own, else the known ones, else numbers."""
    stated = getattr(env.unwrapped, f'{what}_signals', known)
    signals = tuple((str(name), str(unit)) for name, unit in stated) if stated else tuple(
        (f'{what}[{i}]', '') for i in range(count))
    if len(signals) != count:
        raise EnvError(
            explain(f"environment '{id}' was asked for",
                    f'it states {len(signals)} {what} signals, its space has {count}',
                    'one (name, unit) for each number of the space',
                    f'correct {what}_signals of the class')
        )
    return signals


def describe(env: gymnasium.Env[Any, Any], config: EnvConfig) -> EnvSpec:
    """Read the spec of a raw environment.

    Raises:
        EnvError: spaces that a TD-MPC agent cannot use, or an unknown period.
    """
    observation = _box(env.observation_space, 'observation', config.id)
    action = _box(env.action_space, 'action', config.id)
    o, a = observation.shape[0], action.shape[0]
    o_known, a_known = SIGNAL_NAMES.get(config.id, ((), ()))
    o_names = _signals(env, 'observation', o, o_known, config.id)
    a_names = _signals(env, 'action', a, a_known, config.id)
    reach = np.maximum(np.abs(observation.low), np.abs(observation.high)).astype(float)
    bounded = np.isfinite(reach) & (reach > 0) & (reach < 1e6)
    scale = np.where(bounded, 1.0 / np.maximum(reach, 1e-9), 1.0)
    limit = env.spec.max_episode_steps if env.spec else None
    limit = config.max_episode_steps or limit or 0

    def floats(values: npt.ArrayLike) -> tuple[float, ...]:
        return tuple(float(v) for v in np.asarray(values))

    return EnvSpec(
        id=config.id, period_s=_period_s(env, config),
        max_decisions=math.ceil(limit / config.action_repeat),
        observation_names=tuple(n for n, _ in o_names),
        observation_units=tuple(u for _, u in o_names),
        observation_low=floats(observation.low), observation_high=floats(observation.high),
        observation_scale=floats(scale),
        action_names=tuple(n for n, _ in a_names), action_units=tuple(u for _, u in a_names),
        action_low=floats(action.low), action_high=floats(action.high),
    )


class ScaledEnv:
    """An environment as the agent sees it: scaled observations, actions in [-1, 1].

    `reset(seed)` and `step(action)` check what the environment returns: a non-finite observation
    or reward stops the run with the numbers in the message, before it reaches the replay.
    """

    def __init__(self, config: EnvConfig) -> None:
        """Make the environment; see `make_raw` and `describe` for the errors."""
        self.env = make_raw(config.id, config.max_episode_steps)
        self.config = config
        self.spec = describe(self.env, config)
        self._scale = np.asarray(self.spec.observation_scale, np.float32)
        low, high = np.asarray(self.spec.action_low), np.asarray(self.spec.action_high)
        self._middle, self._half = (low + high) / 2, (high - low) / 2

    def reset(self, seed: int | None = None) -> Array:
        """Start an episode; returns the (O,) scaled observation."""
        with self._named('reset'):
            answer = self.env.reset(seed=seed)
        observation, _ = self._unpacked('reset', answer, 2)
        return self._checked(observation, 0.0)

    def step(self, action: npt.ArrayLike) -> tuple[Array, float, bool, bool]:
        """Apply an action for `action_repeat` plant steps.

        Args:
            action: (A,) in [-1, 1]; clipped.

        Returns:
            (O,) scaled observation, unscaled reward, terminated, truncated.

        Raises:
            EnvError: the environment raised, or returned a non-finite number.
            AgentError: the action is not finite.
        """
        if not np.isfinite(np.asarray(action, float)).all():
            raise AgentError(
                explain(f"environment '{self.config.id}' was to be stepped",
                        f'the agent acts with {np.asarray(action).tolist()}', 'finite actions',
                        'its training has diverged: train it again, into another folder, with a '
                        'lower learning rate or a smaller env.reward_scale'))
        physical = self._middle + self._half * np.clip(np.asarray(action, float), -1, 1)
        total, terminated, truncated = 0.0, False, False
        for _ in range(self.config.action_repeat):
            with self._named('step'):
                answer = self.env.step(physical.astype(np.float32))
            observation, reward, terminated, truncated, _ = self._unpacked('step', answer, 5)
            try:
                total += float(reward)
            except (TypeError, ValueError) as error:
                raise self._returned('step', f'the reward {reward!r}', 'a number') from error
            if terminated or truncated:
                break
        return self._checked(observation, total), total, terminated, truncated

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Say of what the environment raises that it was the environment."""
        try:
            yield
        except PruningError:
            raise
        except Exception as error:
            raise EnvError(
                explain(f"{what} of environment '{self.config.id}' was called",
                        f'it raised {raised(error)}', f'a {what} that returns',
                        'correct the environment; data gathered so far is kept')) from error

    def _returned(self, what: str, found: str, allowed: str) -> EnvError:
        return EnvError(
            explain(f"{what} of environment '{self.config.id}' was called",
                    f'it returned {found}', allowed, 'correct the environment'))

    def _unpacked(self, what: str, answer: Any, count: int) -> tuple[Any, ...]:
        if not isinstance(answer, tuple) or len(answer) != count:
            size = f'{len(answer)} values' if isinstance(answer, tuple) else type(answer).__name__
            raise self._returned(what, size, f"{count} values, as Gymnasium's interface says")
        return answer

    def _checked(self, observation: npt.ArrayLike, reward: float) -> Array:
        try:
            observation = np.asarray(observation, np.float32)
        except (TypeError, ValueError) as error:
            raise self._returned('reset or step', f'an observation that is no array of numbers '
                                 f'({type(observation).__name__})',
                                 'what its observation_space says') from error
        if observation.shape != self._scale.shape:
            raise EnvError(
                explain(f"environment '{self.config.id}' was stepped",
                        f'it returned an observation of shape {observation.shape}',
                        f'{self._scale.shape}, as its observation_space says',
                        'correct the environment, or its space')
            )
        if not (np.isfinite(observation).all() and math.isfinite(reward)):
            raise EnvError(
                explain(f"environment '{self.config.id}' was stepped",
                        f'it returned observation {observation.tolist()}, reward {reward}',
                        'finite numbers', 'correct the environment; data gathered so far is kept')
            )
        return observation * self._scale
