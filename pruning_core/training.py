# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop: a configuration in, a run folder with agent, importance and replay out.

Decisions and gradient updates alternate by episode: an episode is collected with a cheap plan
around the policy, then `update_ratio` updates per decision follow. Progress goes to
`metrics.jsonl`; a checkpoint at episode boundaries holds every generator, so that an interrupted
run started again with the same command ends with the same weights.
"""

from __future__ import annotations

import copy
import dataclasses
import fcntl
import logging
import math
import os
import shutil
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pruning_core import checkpoint as files
from pruning_core import config as configuration
from pruning_core.agent import Agent, as_tensor
from pruning_core.config import Config
from pruning_core.env import ScaledEnv
from pruning_core.errors import AgentError, ConfigError, EnvError, explain
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.importance import SIGNALS, ImportanceTracker
from pruning_core.importance.history import HISTORY, Recorder
from pruning_core.networks import Widths
from pruning_core.planner import SeededNoise
from pruning_core.plans import Plan
from pruning_core.progress import Progress, silent
from pruning_core.replay import Replay
from pruning_core.runtime.memory import keep_freed_memory
from pruning_core.runtime.metrics import JsonlWriter
from pruning_core.shrinking import cut
from pruning_core.sparsity import SparsityPressure
from pruning_core.task_loss import Windows, task_loss
from pruning_core.tensorboard import TensorBoard

_LOG = logging.getLogger(__name__)
_EVALUATION_SEED = 500  # learning-curve seeds; apart from training's and from the fixed ones


def _episode_seed(seed: int, episode: int) -> int:
    """Seeds below 10,000 that evaluation uses, and those of other trainings, are left out."""
    return seed * 100_000 + (episode if episode < _EVALUATION_SEED else 10_000 + episode)


def _locked(folder: Path) -> int:
    """Keep other trainings out of a folder while this process lives; returns the open lock."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise AgentError(
            explain(f"training into '{folder}' was asked for", 'another process trains there now',
                    'a folder of its own for each training', 'wait for it, or give another --out')
        ) from error
    return handle


class Trainer:
    """One training run in one folder.

    Attributes:
        after_update: called after every gradient update, when importance has taken it in.
        after_episode: called between two episodes, and after the last.
    """

    def __init__(self, config: Config, folder: Path, progress: Progress = silent) -> None:
        """Make the environment and a fresh agent, or go on from the folder's checkpoint.

        Args:
            config: what to train.
            folder: the run folder; made if missing.
            progress: told after every episode.

        Raises:
            AgentError: the folder holds a run with another configuration, or is in use.
        """
        self.config, self.folder, self.progress = config, folder, progress
        seed = config.training.seed
        keep_freed_memory()
        if config.training.threads:
            torch.set_num_threads(config.training.threads)
        self.env = ScaledEnv(config.env)
        spec = self.env.spec
        observations, actions = len(spec.observation_names), len(spec.action_names)
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.agent = Agent(Widths.dense(config.network, observations, actions), config.agent,
                           self.generator)
        self._watch()
        self.recorder: Recorder | None = None
        self._recorded: dict[str, Any] | None = None  # state of the recorder to go on from
        self.after_update: Callable[[], object] = lambda: None
        self.after_episode: Callable[[], object] = lambda: None
        self.replay = Replay(config.training.replay_capacity, observations, actions)
        self.noise = SeededNoise([seed])
        self.episode = 0
        self.decisions = 0
        self.owed = 0.0  # updates not yet done, carried over between episodes
        self.seconds = 0.0
        self.best: dict[str, Any] | None = None  # its return, episode and state
        self.resumed_from: Path | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._unlock = weakref.finalize(self, os.close, _locked(folder))
        try:
            files.remove_leftovers(folder)
            self._resume()
        except BaseException:
            self._unlock()
            raise
        files.write_atomically(folder / files.CONFIG, lambda p: configuration.dump(config, p))

    @property
    def share(self) -> float:
        """How far training has come, from 0 to 1: in episodes or in decisions."""
        t = self.config.training
        decided = self.decisions / t.decisions if t.decisions else 0.0
        return min(1.0, max(self.episode / t.episodes, decided))

    @property
    def finished(self) -> bool:
        """Whether no further episode is to be collected."""
        return self.share >= 1

    def run(self) -> Path:
        """Train to the end and write the run folder; returns it."""
        t = self.config.training
        board = TensorBoard(self.folder, self.decisions) if t.tensorboard else None
        metrics = JsonlWriter(self.folder / files.METRICS)
        self.recorder = self._new_recorder()
        try:
            started = time.perf_counter() - self.seconds
            while not self.finished:
                record = self._episode()
                self.seconds = time.perf_counter() - started
                record['seconds'] = round(self.seconds, 2)
                self.episode += 1
                if t.evaluate_every and self.episode % t.evaluate_every == 0:
                    record['evaluation'] = self._evaluate()
                    self._compare(record['evaluation']['planned'])
                metrics.write(record)
                if board is not None:
                    board.write(record)
                if self.episode % t.checkpoint_every == 0 and not self.finished:
                    self._checkpoint()
                self._tell(ret=record['return'], updates=float(self.agent.updates),
                           importance=self.importance.summary())
                self.after_episode()
            if self.recorder is not None:
                self.recorder.close()
            if self.best is not None:
                self._restore_agent(self.best['agent'])
            files.save_run(self.folder, self.config, self.agent, self.importance, self.replay,
                           self.config.training.keep_optimizer)
        finally:
            metrics.close()
            if board is not None:
                board.close()
            if self.recorder is not None:
                self.recorder.close()
            self._unlock()
        newest = self.folder / files.CHECKPOINT
        for path in (newest, files.previous(newest)):
            path.unlink(missing_ok=True)
        return self.folder

    def fork(self, folder: Path, progress: Progress = silent) -> Trainer:
        """Copy the run as it is between two episodes; the copy can go on by itself.

        Args:
            folder: of the copy; empty or missing.
            progress: that the copy tells.
        """
        state = self._state()  # first: it has the history written down
        folder.mkdir(parents=True, exist_ok=True)
        for name in (files.METRICS, HISTORY):
            if (self.folder / name).is_file():
                shutil.copy(self.folder / name, folder)
        files.save_checkpoint(folder / files.CHECKPOINT, state)
        return Trainer(self.config, folder, progress)

    def cut(self, plan: Plan) -> None:
        """Remove units between two episodes; what is left trains on, with Adam's moments.

        Importance, pressure and the search for the best agent begin anew: they were those of
        another network. The folder's checkpoints are then of a smaller agent than its
        configuration makes, and cannot be gone on from.

        Raises:
            GroupError: the cut does not verify; the agent is as it was.
        """
        cut(self.agent, plan)
        self._watch()
        self.best = self._recorded = None
        if self.recorder is not None:
            self.recorder.close()
            self.recorder = self._new_recorder()

    def _watch(self) -> None:
        """Measure importance and press on groups from now on, of the agent as it is."""
        graph, components = self.agent.graph(), dict(self.agent.components.items())
        self.importance = ImportanceTracker(graph, components, self.config.importance)
        self.agent.on_gradients = self.importance.observe
        self.pressure = SparsityPressure(graph, components, self.config.sparsity)

    def _new_recorder(self) -> Recorder | None:
        every = self.config.importance.record_every
        return Recorder(self.folder / HISTORY, self.importance, self.pressure, every,
                        self._recorded) if every else None

    def _tell(self, **facts: float | str) -> None:
        """Report progress, in what ends the training: decisions or episodes."""
        t = self.config.training
        if t.decisions and not (self.finished and self.decisions < t.decisions):
            self.progress('train', min(self.decisions, t.decisions), t.decisions, **facts)
        else:
            self.progress('train', self.episode, t.episodes, **facts)

    def _episode(self) -> dict[str, Any]:
        """Collect one episode, then do the updates it pays for."""
        t, c = self.config.training, self.config
        random = self.episode < t.random_episodes
        share = min(1.0, max(0, self.episode - t.random_episodes) / max(1, t.noise_episodes))
        noise = t.noise_start + share * (t.noise_end - t.noise_start)
        plan = self.agent.policy
        if t.collect_samples:
            cheap = c.collecting_planner()
            cheap = dataclasses.replace(cheap, horizon=t.collect_horizon or cheap.horizon)
            plan = self.agent.planner(cheap, self.noise).plan
        observation = self.env.reset(_episode_seed(t.seed, self.episode))
        observations: list[npt.NDArray[np.float32]] = [observation]
        actions: list[npt.NDArray[Any]] = []
        rewards: list[float] = []
        terminated = truncated = False
        while not (terminated or truncated):
            if random:
                action = self.rng.uniform(-1, 1, len(self.env.spec.action_low))
            else:
                action = plan(as_tensor(observation[None])).numpy()[0]
                action = np.clip(action + noise * self.rng.standard_normal(action.shape), -1, 1)
            observation, reward, terminated, truncated = self.env.step(action)
            if len(actions) + 2 > t.replay_capacity:
                raise EnvError(
                    explain(f"an episode of '{c.env.id}' was collected",
                            f'it has not ended after {len(actions) + 1} decisions',
                            'episodes that end, or training.replay_capacity above their length',
                            'set env.max_episode_steps')
                )
            observations.append(observation)
            actions.append(action)
            rewards.append(reward)
        self.replay.add(np.stack(observations), np.stack(actions),
                        np.asarray(rewards) * c.env.reward_scale, terminated)
        self.owed += t.update_ratio * len(actions)
        if self.episode + 1 >= t.random_episodes:
            losses = self._updates(int(self.owed))
            self.owed -= int(self.owed)
        else:
            losses = {}
        self.decisions += len(actions)
        return {'episode': self.episode, 'decisions': self.decisions,
                'updates': self.agent.updates, 'return': float(np.sum(rewards)),
                'noise': 1.0 if random else noise, **losses,
                'importance': {s: self.importance.group_scores(s) for s in SIGNALS},
                **({'collapsed': self.pressure.collapsed} if self.pressure.collapsed else {})}

    def _updates(self, count: int) -> dict[str, float]:
        totals: dict[str, list[float]] = {}
        t = self.config.training
        share = 1 - (1 - t.learning_rate_end) * self.share
        self.agent.set_learning_rate(self.config.agent.learning_rate * share)
        summary = self.importance.summary()
        for i in range(count):
            batch = self.replay.sample(
                self.rng, self.config.agent.batch_size, self.config.agent.horizon)
            self.importance.observe_samples(
                lambda sample: task_loss(self.agent, sample), Windows.of(batch))
            losses = self.agent.update(batch)
            self.pressure.step(self.agent.model_optimizer.param_groups[0]['lr'])
            self.importance.step()
            if self.recorder is not None:
                self.recorder.step()
            self.after_update()
            for name, value in losses._asdict().items():
                totals.setdefault(name, []).append(value)
            self._tell(updates=f'{i + 1}/{count}', importance=summary)
        known = {name: [v for v in values if not math.isnan(v)] for name, values in totals.items()}
        return {name: float(np.mean(values)) if values else math.nan
                for name, values in known.items()}

    def _evaluate(self) -> dict[str, float]:
        """Mean return of the cheap plan and of the policy alone on a few seeds of their own."""
        t, c = self.config.training, self.config
        seeds = [s - evaluation_seeds(1)[0] + _EVALUATION_SEED
                 for s in evaluation_seeds(t.evaluate_seeds)]
        planner = c.collecting_planner() if t.collect_samples else None
        planned = evaluate(self.agent, c.env, seeds, planner).mean
        return {'planned': planned, 'policy': evaluate(self.agent, c.env, seeds, None).mean}

    def _compare(self, planned: float) -> None:
        """Keep the present agent where none did better; of equals, the one that learned longer."""
        if self.config.training.keep_best and (
                self.best is None or planned >= self.best['return']):
            self.best = {'return': planned, 'episode': self.episode,
                         'agent': copy.deepcopy(self._agent_state())}

    def _checkpoint(self) -> None:
        """Keep the present state; a disk that is full now may have room at the next one."""
        try:
            files.save_checkpoint(self.folder / files.CHECKPOINT, self._state())
        except OSError as error:
            _LOG.warning(
                'no checkpoint at episode %d (%s); training goes on, but an interruption would go '
                'back to the one before', self.episode, error)

    def _plant(self) -> dict[str, Any]:
        """What must not change between two halves of a training."""
        s = self.env.spec
        return {'observations': len(s.observation_names), 'actions': len(s.action_names),
                'period_s': s.period_s, 'observation_scale': list(s.observation_scale),
                'action_low': list(s.action_low), 'action_high': list(s.action_high)}

    def _agent_state(self) -> dict[str, Any]:
        """What a finished agent is made of."""
        return {
            'components': self.agent.components.state_dict(),
            'targets': self.agent.targets.state_dict(),
            'model_optimizer': self.agent.model_optimizer.state_dict(),
            'policy_optimizer': self.agent.policy_optimizer.state_dict(),
            'updates': self.agent.updates, 'importance': self.importance.state_dict()}

    def _state(self) -> dict[str, Any]:
        replay = {k: torch.from_numpy(np.asarray(v)) for k, v in self.replay.to_arrays().items()}
        return {
            'config': configuration.to_dict(self.config), 'plant': self._plant(),
            'replay': replay, **self._agent_state(), 'best': self.best,
            'pressure': self.pressure.state_dict(),
            'recorder': self._recorded if self.recorder is None else self.recorder.state_dict(),
            'generator': self.generator.get_state(), 'rng': self.rng.bit_generator.state,
            'noise': [g.get_state() for g in self.noise.generators],
            'episode': self.episode, 'decisions': self.decisions, 'owed': self.owed,
            'seconds': self.seconds,
            'metrics_bytes': (self.folder / files.METRICS).stat().st_size,
        }

    def _resume(self) -> None:
        found = files.load_checkpoint(self.folder / files.CHECKPOINT)
        if found is None:
            if (self.folder / files.AGENT).exists():
                raise AgentError(
                    explain(f"training into '{self.folder}' was asked for",
                            'it already holds a finished agent', 'an empty or interrupted folder',
                            'give another --out, or remove that folder')
                )
            (self.folder / files.METRICS).unlink(missing_ok=True)
            return
        state, self.resumed_from = found.state, found.path
        newest = self.folder / files.CHECKPOINT
        try:
            self._check(state)
            self._restore(state)
            if found.path != newest:
                newest.unlink(missing_ok=True)  # torn; it must not take the good one's place
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise AgentError(
                explain(f"training into '{self.folder}' was asked for",
                        f'{found.path.name} is no checkpoint of it ({type(error).__name__}: '
                        f'{" ".join(str(error).split())[:300]})',
                        'a checkpoint that this version wrote',
                        'give another --out; nothing in that folder was changed')
            ) from error

    def _check(self, state: dict[str, Any]) -> None:
        """Refuse a checkpoint of another configuration or plant, saying what differs."""
        try:
            # A setting that came with a later version has its default in an older checkpoint.
            theirs = configuration.to_dict(configuration.from_dict(state['config']))
        except ConfigError as error:
            raise AgentError(
                explain(f"training into '{self.folder}' was asked for",
                        f'its checkpoint has settings that this version does not take ({error})',
                        'settings that this version takes',
                        'go on with the version that wrote it, or give another --out')
            ) from error
        differing = [
            f'{section}.{key} is {theirs[section][key]!r} there and {value!r} here'
            for section, values in configuration.to_dict(self.config).items()
            for key, value in values.items() if theirs[section][key] != value]
        if differing:
            raise AgentError(
                explain(f"training into '{self.folder}' was asked for",
                        'it holds an interrupted run with another configuration: '
                        + ', '.join(differing),
                        f'the configuration in {self.folder / files.CONFIG}',
                        'give that configuration, or another --out')
            )
        plant = self._plant()
        changed = [f'{key} was {value} and is {plant.get(key)}'
                   for key, value in state.get('plant', plant).items() if plant.get(key) != value]
        if changed:
            raise AgentError(
                explain(f"training into '{self.folder}' was asked for",
                        f"'{self.config.env.id}' is no longer the plant it began with: "
                        + ', '.join(changed), 'the same environment to the end',
                        'go back to that version of the environment, or give another --out')
            )

    def _restore_agent(self, state: dict[str, Any]) -> None:
        self.agent.components.load_state_dict(state['components'])
        self.agent.targets.load_state_dict(state['targets'])
        self.agent.model_optimizer.load_state_dict(state['model_optimizer'])
        self.agent.policy_optimizer.load_state_dict(state['policy_optimizer'])
        self.agent.updates = state['updates']
        self.importance.load_state_dict(state['importance'])

    def _restore(self, state: dict[str, Any]) -> None:
        self._restore_agent(state)
        self.best = state.get('best')  # not in checkpoints of before there was one
        self.pressure.load_state_dict(state['pressure'])
        self._recorded = state['recorder']
        self.replay = Replay.from_arrays({k: v.numpy() for k, v in state['replay'].items()})
        self.generator.set_state(state['generator'])
        self.rng.bit_generator.state = state['rng']
        for generator, value in zip(self.noise.generators, state['noise'], strict=True):
            generator.set_state(value)
        self.episode, self.decisions = state['episode'], state['decisions']
        self.owed, self.seconds = state['owed'], state['seconds']
        metrics = self.folder / files.METRICS
        if metrics.is_file() and metrics.stat().st_size >= state['metrics_bytes']:
            os.truncate(metrics, state['metrics_bytes'])
        else:
            _LOG.warning('%s lacks records from before episode %d; the agent is not touched by it',
                         metrics, self.episode)
