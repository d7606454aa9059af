# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Agents that ship with the package, or are made from them: a name in, its folder out.

Dense agents and the smallest pruned ones ship as folders below this one. Those that would weigh
megabytes ship as the command that makes them; once made, they are found below `MADE`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pruning_core.errors import AgentError, explain, nearest

ROOT = Path(__file__).parent
_BUNDLE = 'bundle'
MADE = Path('runs') / 'zoo'  # where `zoo make` puts them, from the working folder

# What pruning each takes, apart from where it goes. Latency is measured but no gate: it is the
# robot's that counts, and what has 30 % cut misses the plant's period with a full plan anywhere.
PRUNED: dict[str, tuple[str, ...]] = {
    f'pendulum_{share}': ('prune', '--agent', 'pendulum_dense', '--sparsity', f'{share / 100:g}',
                          '--set', 'pruning.gate_latency_share=0')
    for share in (30, 50, 70, 90, 95)}
PRUNED['half_cheetah_95'] = ('prune', '--agent', 'half_cheetah', '--sparsity', '0.95',
                             '--set', 'pruning.recovery_updates=4000',
                             '--set', 'pruning.gate_latency_share=0')


def names() -> tuple[str, ...]:
    """Names of the shipped agents, and of those made here."""
    return tuple(sorted({p.parent.name for root in (ROOT, MADE)
                         for p in root.glob('*/agent.safetensors')}))


def to_make() -> tuple[str, ...]:
    """Names of agents that are neither shipped nor made yet."""
    return tuple(sorted(set(PRUNED) - set(names())))


def _folder(name: str) -> Path:
    """Folder of a name that is there; a shipped one stands for it wherever one works."""
    shipped = ROOT / name
    return shipped if (shipped / 'agent.safetensors').is_file() else MADE / name


def command(name: str, folder: Path) -> list[str]:
    """Arguments of `python -m pruning_core` that make an agent.

    Raises:
        AgentError: there is no such recipe.
    """
    if name not in PRUNED:
        ships = (ROOT / name / 'agent.safetensors').is_file()
        raise AgentError(
            explain(f"agent '{name}' was to be made", 'it ships, and need not be made' if ships
                    else 'there is no such recipe' + nearest(name, PRUNED), ', '.join(PRUNED),
                    f'use it: python -m pruning_core inspect {name}' if ships
                    else 'name one of these'))
    return [*PRUNED[name], '--out', str(folder)]


def describe(name: str) -> dict[str, Any]:
    """Tell what an agent is, without opening its weights.

    Returns:
        Name, folder, plant, command that made it, returns with their interval, picture and, of a
        pruned agent, what it was cut from; only what its folder holds.
    """
    import yaml

    if name in to_make():
        return {'agent': name, 'not made yet': f'python -m pruning_core zoo make {name}'}
    folder = _folder(name)
    facts: dict[str, Any] = {'agent': name, 'folder': str(folder)}
    facts['plant'] = yaml.safe_load((folder / 'config.yaml').read_text())['env']['id']
    if (folder / 'command.txt').is_file():
        facts['made by'] = (folder / 'command.txt').read_text().strip()
    if (folder / 'lineage.json').is_file():
        lineage = json.loads((folder / 'lineage.json').read_text())
        if lineage.get('parent'):
            facts['cut from'] = lineage['parent']
    if (folder / 'evaluation.json').is_file():
        for way, result in json.loads((folder / 'evaluation.json').read_text()).items():
            facts[f'return, {way}'] = (
                f"{result['mean']:.1f} ({result['low']:.1f} to {result['high']:.1f}) on "
                f"{len(result['seeds'])} seeds")
    if (folder / _BUNDLE / 'manifest.json').is_file():
        manifest = json.loads((folder / _BUNDLE / 'manifest.json').read_text())
        facts['parameters'] = f"{manifest['parameters']:,} of {manifest['dense_parameters']:,}"
        size = sum(int(file['bytes']) for file in manifest['files'].values())
        facts['bundle'] = f'{size / 1e3:,.0f} kB'
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
        return _folder(name_or_path)
    if name_or_path in PRUNED:
        raise AgentError(
            explain(f"agent '{name_or_path}' was asked for", 'it is not made yet',
                    f'one that is there: {", ".join(names())}',
                    f'make it: python -m pruning_core zoo make {name_or_path}'))
    is_path = len(path.parts) > 1
    raise AgentError(
        explain(f"agent '{name_or_path}' was asked for",
                'there is no such folder'
                + ('' if is_path else nearest(name_or_path, (*names(), *to_make()))),
                f'a run folder, or one of the shipped agents: {", ".join(names())}',
                'correct the name, or train one, or prune one, first: '
                'python -m pruning_core train --config config/pendulum_quick.yaml')
    )


def bundle(name_or_path: str) -> Path:
    """Return the bundle of an agent, or the agent's folder where it has none.

    Args:
        name_or_path: bundle folder, run folder, or name of an agent.

    Raises:
        AgentError: neither a folder nor a known name, or a folder with nothing in it.
    """
    path = Path(name_or_path)
    if (path / 'manifest.json').is_file():
        return path
    folder = find(name_or_path)
    if (folder / _BUNDLE / 'manifest.json').is_file():
        return folder / _BUNDLE
    if (folder / 'agent.safetensors').is_file() and not (folder / 'lineage.json').is_file():
        return folder
    raise AgentError(
        explain(f"the bundle of '{name_or_path}' was asked for", 'that folder has none',
                'a bundle folder, a dense agent, or a pruned one that passed its gates',
                'prune again, or export it: python -m pruning_core export --help'))


def plant(name_or_path: str) -> str:
    """Environment id of an agent."""
    import yaml

    return str(yaml.safe_load((find(name_or_path) / 'config.yaml').read_text())['env']['id'])
