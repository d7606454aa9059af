# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Run folders: an agent, its importance and its replay on disk, written whole or not at all.

| file | content |
|---|---|
| `config.yaml` | the resolved configuration |
| `agent.safetensors` | weights of components and targets; widths in the header |
| `importance.safetensors` | the tracker's state, gathered in training |
| `replay.safetensors` | the episodes that recovery trains on |
| `optimizer.safetensors` | Adam's moments, where `training.keep_optimizer` asks for them |
| `metrics.jsonl` | what happened, one record a line |
| `evaluation.json` | returns on the fixed seeds |
| `lineage.json` | of a pruned agent: what it was cut from, and its gates |
| `command.txt` | the command line that made it |
| `checkpoint.pt` | while training runs: everything needed to go on to the bit |

No file is a pickle that executes: weights are safetensors, `checkpoint.pt` loads `weights_only`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as arrays_to_bytes
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from pruning_core import config as configuration
from pruning_core.agent import Agent
from pruning_core.config import Config
from pruning_core.errors import AgentError, PruningError, explain
from pruning_core.importance import ImportanceTracker
from pruning_core.networks import Widths
from pruning_core.replay import Replay

CONFIG, AGENT, IMPORTANCE, REPLAY = (
    'config.yaml', 'agent.safetensors', 'importance.safetensors', 'replay.safetensors')
METRICS, EVALUATION, CHECKPOINT = 'metrics.jsonl', 'evaluation.json', 'checkpoint.pt'
LINEAGE, COMMAND, OPTIMIZER = 'lineage.json', 'command.txt', 'optimizer.safetensors'
PLAN = 'plan.json'  # what is cut, in a run folder or in that of one of its steps

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """An agent folder, opened.

    Attributes:
        folder: where it lies.
        config: the configuration that made it.
        agent: components, targets, and optimisers: as training left them where the folder has
            them, else fresh.
        importance: the tracker as training left it; None where the folder has none.
        replay: the episodes; None where the folder has none.
        evaluation: the content of evaluation.json; empty where there is none.
        lineage: of a pruned agent `parent`, `dense` (parameters, macs), `gates` and `failed`;
            empty for one that was never cut.
    """

    folder: Path
    config: Config
    agent: Agent
    importance: ImportanceTracker | None
    replay: Replay | None
    evaluation: dict[str, Any]
    lineage: dict[str, Any] = field(default_factory=dict)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, and rename it into place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        with temporary.open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in a run folder."""
    for name in (CONFIG, AGENT, IMPORTANCE, REPLAY, EVALUATION, CHECKPOINT, OPTIMIZER):
        for temporary in folder.glob(f'.{name}.*'):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=1) + '\n'))


def save_run(folder: Path, config: Config, agent: Agent, importance: ImportanceTracker | None,
             replay: Replay | None, optimizers: bool = False) -> None:
    """Write an agent folder, on request with its optimisers; each file appears whole or not."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CONFIG, lambda p: configuration.dump(config, p))
    tensors = {
        **{f'components.{k}': v.contiguous() for k, v in agent.components.state_dict().items()},
        **{f'targets.{k}': v.contiguous() for k, v in agent.targets.state_dict().items()},
    }
    header = {'widths': json.dumps(agent.widths.to_json()), 'updates': str(agent.updates)}
    if importance is not None:
        _write_bytes(folder / IMPORTANCE, tensors_to_bytes(importance.state_dict()))
    if replay is not None:
        _write_bytes(folder / REPLAY, arrays_to_bytes(replay.to_arrays()))
    if optimizers:
        _write_bytes(folder / OPTIMIZER, tensors_to_bytes({
            f'{name}.{i}.{key}': value.contiguous() for name, optimizer in _optimizers(agent)
            for i, state in optimizer.state_dict()['state'].items()
            for key, value in state.items()}))
    # Last: with it the folder counts as finished.
    _write_bytes(folder / AGENT, tensors_to_bytes(tensors, metadata=header))


def _optimizers(agent: Agent) -> tuple[tuple[str, torch.optim.Optimizer], ...]:
    return ('model', agent.model_optimizer), ('policy', agent.policy_optimizer)


def _load_optimizers(agent: Agent, tensors: Mapping[str, Tensor]) -> None:
    for name, optimizer in _optimizers(agent):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, f'{name}.').items():
            number, what = key.split('.')
            state.setdefault(int(number), {})[what] = value
        groups = optimizer.state_dict()['param_groups']
        optimizer.load_state_dict({'state': state, 'param_groups': groups})


def _write_bytes(path: Path, data: bytes) -> None:
    write_atomically(path, lambda p: p.write_bytes(data))


def _instead(folder: Path) -> tuple[str, str, str]:
    """What is there instead of an agent, what would do, and what to do about it."""
    allowed = 'a run folder that training or pruning finished'
    newest = folder / CHECKPOINT
    if newest.is_file() or previous(newest).is_file():
        return ('its training has not ended', allowed,
                'start the same train command again: it goes on where it stopped')
    if (folder / 'manifest.json').is_file():
        return ('it is a bundle, which no longer has what training needs', allowed,
                'name the run folder that it was exported from')
    found = f'there is no {AGENT} in it' if folder.is_dir() else 'there is no such folder'
    return (found, allowed,
            'train one: python -m pruning_core train --config config/pendulum_quick.yaml')


def load_run(folder: str | Path) -> Run:
    """Open an agent folder.

    Raises:
        AgentError: a file is missing, damaged, or does not belong to the others.
        ConfigError: its configuration cannot be used.
    """
    folder = Path(folder)
    if not (folder / AGENT).is_file():
        raise AgentError(
            explain(f"agent '{folder}' was asked for",
                    *_instead(folder))
        )
    config = configuration.load(folder / CONFIG)
    try:
        with safe_open(str(folder / AGENT), 'pt') as file:
            header = file.metadata() or {}
        tensors = load_tensors(folder / AGENT)
        widths = Widths.from_json(json.loads(header['widths']))
        generator = torch.Generator().manual_seed(config.training.seed)
        agent = Agent(widths, config.agent, generator)
        agent.components.load_state_dict(_part(tensors, 'components.'))
        agent.targets.load_state_dict(_part(tensors, 'targets.'))
        agent.updates = int(header['updates'])
        if (folder / OPTIMIZER).is_file():
            _load_optimizers(agent, load_tensors(folder / OPTIMIZER))
        importance = None
        if (folder / IMPORTANCE).is_file():
            importance = ImportanceTracker(
                agent.graph(), dict(agent.components.items()), config.importance)
            importance.load_state_dict(load_tensors(folder / IMPORTANCE))
        replay = None
        if (folder / REPLAY).is_file():
            replay = Replay.from_arrays(load_arrays(folder / REPLAY))
            found = replay.observations().shape[1], replay.actions().shape[1]
            if found != (widths.observations, widths.actions):
                raise ValueError(f'{REPLAY} has {found[0]} observations and {found[1]} actions, '
                                 f'the agent {widths.observations} and {widths.actions}')
        evaluation, lineage = (
            json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
            for name in (EVALUATION, LINEAGE))
    except PruningError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise AgentError(
            explain(f"agent '{folder}' was asked for",
                    f'it is damaged ({type(error).__name__}: '
                    f'{" ".join(str(error).split())[:300]})',
                    'the files as training wrote them', 'copy the folder again, or train anew')
        ) from error
    return Run(folder, config, agent, importance, replay, evaluation, lineage)


def weights_hash(folder: Path) -> str:
    """SHA-256 of a run's agent, in hexadecimal digits: what it is known by, wherever it lies."""
    return hashlib.sha256((folder / AGENT).read_bytes()).hexdigest()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)}


class Found(NamedTuple):
    """A state that training can go on from."""

    state: dict[str, Any]
    path: Path
    damaged: tuple[str, ...]  # newer files that could not be read, and why


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_suffix('.previous')


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resumable state; the one before it stays beside it as `<name>.previous`.

    Nothing is moved before the new state is whole and on the disk: where writing it fails, both
    older ones are still there.
    """
    def keep_the_one_before(temporary: Path) -> None:
        torch.save(dict(state), temporary)
        with temporary.open('rb+') as file:
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, previous(path))

    write_atomically(path, keep_the_one_before)


def load_checkpoint(path: Path) -> Found | None:
    """Read the newest whole state, or None where there is none that can be read."""
    damaged: list[str] = []
    for candidate in (path, previous(path)):
        try:
            state = torch.load(candidate, weights_only=True)
            if not isinstance(state, dict):
                raise TypeError(f'a {type(state).__name__}')
        except FileNotFoundError:
            continue
        except Exception as error:  # a torn file raises many kinds
            damaged.append(f'{candidate.name} ({type(error).__name__})')
            _LOG.warning('%s cannot be read (%s); %s', candidate, type(error).__name__,
                         'trying the one before' if candidate == path else 'none is left')
            continue
        return Found(state, candidate, tuple(damaged))
    return None
