# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the TD-MPC reference code in; an agent folder of ours out.

The reference saves the state dictionary of its TOLD model and of the slow copy. Its layers stand
where ours do, so that a checkpoint is a renaming, once every name and shape has been checked. One
number differs: the reference's encoder sees observations as the plant gives them, ours sees them
scaled, so the scale is divided out of the encoder's first weights; the functions stay the same.

A checkpoint of TD-MPC2 is refused. Its layers (linear, LayerNorm, Mish; SimNorm) could be traced
and cut; but its heads predict a distribution over bins instead of a number, two of five Q nets are
drawn, its policy returns a mean and a deviation, and its losses differ. docs/agent.md goes through
it part by part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning_core import checkpoint as files
from pruning_core import config as configuration
from pruning_core.agent import Agent, as_tensor
from pruning_core.config import Config
from pruning_core.env import ScaledEnv
from pruning_core.errors import AgentError, explain
from pruning_core.importance import ImportanceTracker
from pruning_core.networks import COMPONENTS, TARGETS, Widths, build
from pruning_core.planner import SeededNoise
from pruning_core.progress import Progress, silent
from pruning_core.replay import Replay

NAMES = {'encoder': '_encoder', 'dynamics': '_dynamics', 'reward': '_reward', 'q1': '_Q1',
         'q2': '_Q2', 'policy': '_pi'}
# Settings of the reference for state observations; env.id and action_repeat differ by task.
REFERENCE: dict[str, dict[str, Any]] = {
    'env': {'reward_scale': 1.0}, 'network': {'activation': 'elu'},
    'agent': {'batch_size': 512, 'tau': 0.01, 'rho': 0.5, 'reward_weight': 0.5,
              'value_weight': 0.1},
}
_MEASURED = 100  # updates whose gradients are measured for importance; no weight changes


def _refuse(path: Path, found: str, do: str = 'give a file that TDMPC.save of the reference wrote'
            ) -> AgentError:
    return AgentError(
        explain(f"checkpoint '{path}' was to be imported", found,
                "a TOLD model for state observations, {'model': ..., 'model_target': ...}", do))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read the state dictionaries of a TOLD model and of its slow copy.

    Args:
        path: what the reference saved, or a bare state dictionary (then the copy equals it).

    Raises:
        AgentError: no such file, not a file of plain tensors, or not a TOLD model.
    """
    try:
        saved = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise _refuse(path, 'there is no such file', 'correct the path') from None
    except Exception as error:  # what is no archive of tensors raises many kinds
        raise _refuse(path, 'it does not load as plain tensors '
                            f'({type(error).__name__}: {" ".join(str(error).split())[:200]})'
                      ) from error
    model: Any = saved.get('model', saved) if isinstance(saved, dict) else saved
    slow: Any = saved.get('model_target', model) if isinstance(saved, dict) else model
    for state in (model, slow):
        if not isinstance(state, Mapping) or not state or not all(
                isinstance(v, Tensor) for v in state.values()):
            raise _refuse(path, 'it holds no dictionary of tensors')
    if any(name.startswith(('_Qs.', '_encoder.state.')) for name in model):
        raise _refuse(path, _of_tdmpc2(model),
                      'import a TD-MPC checkpoint, or train here: python -m pruning_core train')
    return dict(model), dict(slow)


def _of_tdmpc2(model: Mapping[str, Tensor]) -> str:
    heads = [v.shape for n, v in model.items()
             if n.startswith('_reward.') and n.endswith('weight')]
    bins = heads[-1][0] if heads else '?'
    return (f'it is a TD-MPC2 model; what is missing for it here: heads over {bins} bins, an '
            'ensemble of Q nets, a policy with mean and deviation, losses (see docs/agent.md)')


def widths_of(model: Mapping[str, Tensor], path: Path) -> Widths:
    """Read every size off a TOLD state dictionary, and check all names and shapes against it.

    Raises:
        AgentError: a name is missing or unknown, or a shape does not fit the others.
    """
    def size(name: str, axis: int) -> int:
        if name not in model or model[name].dim() != 2:
            raise _refuse(path, f'{name} is {tuple(model[name].shape)}' if name in model
                          else f'{name} is missing')
        return int(model[name].shape[axis])

    def hidden(name: str) -> tuple[int, int]:
        second = 3 if name.startswith('_Q') else 2
        return size(f'{name}.0.weight', 0), size(f'{name}.{second}.weight', 0)

    widths = Widths(
        observations=size('_encoder.0.weight', 1), actions=size('_pi.4.weight', 0),
        latent=size('_encoder.2.weight', 0), encoder=(size('_encoder.0.weight', 0),),
        dynamics=hidden('_dynamics'), reward=hidden('_reward'), q1=hidden('_Q1'),
        q2=hidden('_Q2'), policy=hidden('_pi'), activation='elu')
    _check(model, widths, path)
    return widths


def _renamed(name: str) -> str:
    component, dot, rest = name.partition('.')
    return NAMES[component] + dot + rest


def _check(model: Mapping[str, Tensor], widths: Widths, path: Path) -> None:
    wanted = {_renamed(n): tuple(v.shape) for n, v in build(widths).state_dict().items()}
    problems = [f'{n} is missing' for n in wanted if n not in model]
    problems += [f'{n} is not known' for n in model if n not in wanted]
    problems += [f'{n} is {tuple(model[n].shape)}, not {shape}' for n, shape in wanted.items()
                 if n in model and tuple(model[n].shape) != shape]
    problems += [f'{n} is not finite' for n in wanted
                 if n in model and not bool(torch.isfinite(model[n]).all())]
    if problems:
        more = f', and {len(problems) - 6} more' if len(problems) > 6 else ''
        raise _refuse(path, ', '.join(problems[:6]) + more)


def import_tdmpc(path: Path, config: Config, folder: Path, episodes: int = 10,
                 progress: Progress = silent) -> Path:
    """Turn a checkpoint into an agent folder that can be evaluated, pruned and exported.

    Args:
        path: the checkpoint.
        config: the plant and the settings; network widths are replaced by the checkpoint's.
        folder: the new run folder.
        episodes: played with the imported agent, for recovery to train on and for importance to
            be measured on; 0 leaves the folder without both.
        progress: told after every decision's episode and every measured update.

    Raises:
        AgentError: the checkpoint does not fit itself or the plant, or the folder is not empty.
    """
    model, slow = read(path)
    widths = widths_of(model, path)
    _check(slow, widths, path)
    if folder.exists() and any(folder.iterdir()):
        raise AgentError(
            explain(f"a run folder '{folder}' was asked for", 'there is something in it',
                    'a new or empty folder', 'give another --out'))
    env = ScaledEnv(config.env)
    plant = len(env.spec.observation_names), len(env.spec.action_names)
    if plant != (widths.observations, widths.actions):
        raise _refuse(path, f'it has {widths.observations} observations and {widths.actions} '
                            f"actions, '{config.env.id}' has {plant[0]} and {plant[1]}",
                      'give the plant it was trained on as --env')
    agent = Agent(widths, config.agent, torch.Generator().manual_seed(config.training.seed))
    scale = torch.tensor(env.spec.observation_scale)
    for modules, names, source in ((agent.components, COMPONENTS, model),
                                   (agent.targets, TARGETS, slow)):
        state = {n: source[_renamed(n)].float() for n in modules.state_dict()}
        if 'encoder' in names:
            state['encoder.0.weight'] = state['encoder.0.weight'] / scale
        modules.load_state_dict(state)
    config = configuration.from_dict(configuration.override(configuration.to_dict(config), [
        f'network.latent={widths.latent}', f'network.encoder_hidden={widths.encoder[0]}',
        f'network.hidden={widths.dynamics[0]}', 'network.activation=elu']))
    importance = replay = None
    if episodes:
        replay = _play(agent, env, config, episodes, progress)
        importance = _measure(agent, replay, config, progress)
    files.save_run(folder, config, agent, importance, replay)
    return folder


def _play(agent: Agent, env: ScaledEnv, config: Config, episodes: int, progress: Progress
          ) -> Replay:
    """Fill a replay with the agent's own plans, a little exploration added."""
    t, seed = config.training, config.training.seed
    rng = np.random.default_rng(seed)
    replay = Replay(t.replay_capacity, len(env.spec.observation_names),
                    len(env.spec.action_names))
    act = agent.policy
    if t.collect_samples:
        act = agent.planner(config.collecting_planner(), SeededNoise([seed])).plan
    for episode in range(episodes):
        observations = [env.reset(seed * 100_000 + episode)]
        actions: list[np.ndarray] = []
        rewards: list[float] = []
        terminated = truncated = False
        while not (terminated or truncated or len(actions) + 2 > t.replay_capacity):
            action = act(as_tensor(observations[-1][None])).numpy()[0]
            action = np.clip(action + t.noise_end * rng.standard_normal(action.shape), -1, 1)
            observation, reward, terminated, truncated = env.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(reward * config.env.reward_scale)
        replay.add(np.stack(observations), np.stack(actions), np.asarray(rewards), terminated)
        progress('play', episode + 1, episodes)
    return replay


def _measure(agent: Agent, replay: Replay, config: Config, progress: Progress
             ) -> ImportanceTracker:
    """Measure importance on the agent as it is: gradients flow, no weight moves."""
    importance = ImportanceTracker(
        agent.graph(), dict(agent.components.items()), config.importance)
    rng, before = np.random.default_rng(config.training.seed), agent.targets.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    agent.on_gradients = importance.observe
    agent.set_learning_rate(0.0)
    for i in range(_MEASURED):
        agent.update(replay.sample(rng, config.agent.batch_size, config.agent.horizon))
        importance.step()
        progress('measure', i + 1, _MEASURED)
    agent.on_gradients = lambda: None
    agent.targets.load_state_dict(before)
    agent.updates = 0
    agent.restart_optimizers(config.agent.learning_rate)
    return importance
