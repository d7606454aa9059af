# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Agents that ship with the package: a name in, its folder out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pruning_core.errors import AgentError, explain, nearest

ROOT = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Names of the shipped agents."""
    return tuple(sorted(p.parent.name for p in ROOT.glob('*/agent.safetensors')))


def describe(name: str) -> dict[str, Any]:
    """Tell what a shipped agent is, without opening its weights.

    Returns:
        Name, folder, plant, command that made it, returns with their interval, picture and, of a
        pruned agent, what it was cut from; only what its folder holds.
    """
    import yaml

    folder = ROOT / name
    facts: dict[str, Any] = {'agent': name, 'folder': str(folder)}
    facts['plant'] = yaml.safe_load((folder / 'config.yaml').read_text())['env']['id']
    if (folder / 'command.txt').is_file():
        facts['made by'] = (folder / 'command.txt').read_text().strip()
    if (folder / 'lineage.json').is_file():
        lineage = json.loads((folder / 'lineage.json').read_text())
        facts['cut from'] = lineage.get('parent')
    if (folder / 'evaluation.json').is_file():
        for way, result in json.loads((folder / 'evaluation.json').read_text()).items():
            facts[f'return, {way}'] = (
                f"{result['mean']:.1f} ({result['low']:.1f} to {result['high']:.1f}) on "
                f"{len(result['seeds'])} seeds")
    for report in ('report.html', 'learning_curve.svg'):
        if (folder / report).is_file():
            facts['report'] = str(folder / report)
            break
    return facts


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
