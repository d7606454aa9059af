# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Agents that ship with the package: a name in, its folder out."""

from __future__ import annotations

from pathlib import Path

from pruning_core.errors import AgentError, explain, nearest

ROOT = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Names of the shipped agents."""
    return tuple(sorted(p.parent.name for p in ROOT.glob('*/agent.safetensors')))


def find(name_or_path: str) -> Path:
    """Return the folder of a run, given as a path or as the name of a shipped agent.

    Raises:
        AgentError: neither a folder nor a known name.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if name_or_path in names():
        return ROOT / name_or_path
    raise AgentError(
        explain(f"agent '{name_or_path}' was asked for",
                'there is no such folder' + nearest(name_or_path, names()),
                f'a run folder, or one of the shipped agents: {", ".join(names())}',
                'correct the name, or train one: python -m pruning_core train --config '
                'config/pendulum_quick.yaml')
    )
