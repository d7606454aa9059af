# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""An argument parser whose refusals say what was asked, found and allowed, and what to do.

argparse knows all of that; it only says it in another order, and does not look for the name that
was meant.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from typing import ClassVar, NoReturn, TypeVar

from pruning_core.errors import ConfigError, explain, nearest

WRONG_USE = 2
_MOST = 2**32 - 1
_Number = TypeVar('_Number', int, float)


def at_least(least: _Number) -> Callable[[str], _Number]:
    """A type of argument: numbers from `least` on, up to 2^32 - 1."""
    kind = type(least)

    def parse(text: str) -> _Number:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"'{text}' is no {'whole ' if kind is int else ''}number") from None
        if not least <= value <= _MOST:  # nor is NaN
            raise argparse.ArgumentTypeError(f'{text} is out of range: from {least} to {_MOST}')
        return value
    return parse


def bundle_hash(text: str) -> str:
    """A type of argument: the SHA-256 that a bundle goes by."""
    if not re.fullmatch('[0-9a-f]{64}', text):
        raise argparse.ArgumentTypeError(f"'{text}' is no hash: 64 digits, 0 to 9 and a to f")
    return text


class Parser(argparse.ArgumentParser):
    """Parses as argparse does, without abbreviated options: they change when options are added."""

    def __init__(self, **options: object) -> None:
        """Take what argparse takes."""
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Say what is wrong on standard error, as JSON on standard output too, and exit with 2."""
        text, words = self._explained(message), ' '.join(Parser._called_with)
        lines = re.search(r'--progress[ =]json\b', words) is not None
        if lines or re.search(r'--json\b', words):
            sys.stdout.write(json.dumps({'error': text, 'kind': ConfigError.__name__,
                                         'exit': WRONG_USE}, indent=None if lines else 1) + '\n')
        sys.stderr.write(f'{ConfigError.__name__}: {text}\n')
        raise SystemExit(WRONG_USE)

    def _explained(self, message: str) -> str:
        asked, help_ = f"'{self.prog}' was called", f'see: {self.prog} --help'
        found = re.fullmatch(
            r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if found:
            name, value, allowed = found.groups()
            known = [each.strip("' ") for each in allowed.split(',')]
            return explain(asked, f"{name} '{value}' is not known{nearest(value, known)}",
                           ', '.join(known), help_)
        found = re.fullmatch(r'unrecognized arguments: (.*)', message)
        if found:
            value = re.split(r'[ =]', found[1])[0]
            known = sorted(self._options_in(Parser._called_with))
            return explain(asked, f"'{value}' is not known{nearest(value, known)}",
                           ', '.join(known), help_)
        usage = ' '.join(self.format_usage().partition(': ')[2].split())
        return explain(asked, message, usage, help_)

    _called_with: ClassVar[list[str]] = []  # words of the newest call, for its sub-parsers, too

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parse; remembers the words, so that a refusal can name the options of their command."""
        Parser._called_with = list(sys.argv[1:] if args is None else args)
        return super().parse_args(args, namespace)

    def _options_in(self, words: list[str]) -> set[str]:
        """Options of this parser and of the command among the words."""
        options = {o for action in self._actions for o in action.option_strings}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, command in action.choices.items():
                    if name in words:
                        options |= {o for a in command._actions for o in a.option_strings}
        return options - {'-h'}
