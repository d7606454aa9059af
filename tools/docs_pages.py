# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Hook of mkdocs: pages that are made of the code when the site is built, so that they agree.

`reference/commands.md` comes from the argument parser, `reference/settings.md` from the
dataclasses of the configuration and the comments above their fields. Pages of rooms that exist
are put into the navigation. Needs neither torch nor ROS.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
import sys
import typing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pruning_core import config as configuration  # noqa: E402
from pruning_core.cli import parser  # noqa: E402

# In this order, below 'In depth'.
ROOMS = ('findings', 'frontier', 'performance', 'stability', 'engine', 'importance', 'agent',
         'own_robot', 'operations', 'security')


def on_config(config: Any) -> Any:
    """Put the pages that exist into the navigation."""
    pages = [f'{room}.md' for room in ROOMS if (ROOT / 'docs' / f'{room}.md').is_file()]
    if pages:
        config['nav'].append({'In depth': pages})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made here."""
    from mkdocs.structure.files import File

    for name, text in (('commands', commands()), ('settings', settings())):
        files.append(File.generated(config, f'reference/{name}.md', content=text))
    return files


def commands() -> str:
    """Every command with its options, as a page."""
    top = parser()
    subparsers = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    lines = ['# Commands', '', '`pruning-core` is the same as `python -m pruning_core`.', '',
             top.epilog or '', '']
    for name, command in subparsers.choices.items():
        example = (command.epilog or '').removeprefix('example: ')
        lines += [f'## {name}', '', str(command.description), '', '```', example, '```', '',
                  '| option | meaning |', '|---|---|']
        for action in command._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            names = ', '.join(f'`{o}`' for o in action.option_strings) or f'`{action.dest}`'
            meaning = str(action.help or '') % {'default': action.default}
            lines.append(f'| {names} | {_cell(meaning)} |')
        lines.append('')
    return '\n'.join(lines)


def settings() -> str:
    """Every setting of the YAML files with its default, as a page."""
    comments = _comments(ROOT / 'pruning_core' / 'config.py')
    hints = typing.get_type_hints(configuration.Config)
    lines = ['# Settings', '', 'Of a YAML file, `--set SECTION.KEY=VALUE` on the command line, '
             'and, for what pruning needs, parameters of the pruner node: all are fields of the '
             'same dataclasses. An unknown key is an error with a suggestion.', '']
    for section in dataclasses.fields(configuration.Config):
        kind = hints[section.name]
        lines += [f'## {section.name}', '', (kind.__doc__ or '').strip(), '',
                  '| key | default | meaning |', '|---|---|---|']
        for field in dataclasses.fields(kind):
            meaning = comments.get((kind.__name__, field.name), '')
            lines.append(f'| `{field.name}` | `{field.default!r}` | {_cell(meaning)} |')
        lines.append('')
    return '\n'.join(lines)


def _comments(path: Path) -> dict[tuple[str, str], str]:
    """The comment above each field of each class; fields below each other share one."""
    text = path.read_text('utf-8')
    rows = text.splitlines()
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ClassDef):
            continue
        comment = ''
        for field in node.body:
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            above: list[str] = []
            row = field.lineno - 2
            while re.match(r'\s*#', rows[row]):
                above.insert(0, rows[row].strip().lstrip('# '))
                row -= 1
            comment = ' '.join(above) or comment
            found[node.name, field.target.id] = comment
    return found


def _cell(text: str) -> str:
    return text.replace('|', '\\|').replace('<', '&lt;')
