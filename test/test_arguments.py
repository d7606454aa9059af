# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The command line before any command runs: help, wrong words, completion, errors as JSON."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys

import pytest

from pruning_core.cli import FAILED, main, parser


def commands():
    action, = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


@pytest.mark.parametrize('name', sorted(commands()))
def test_every_command_has_an_example_that_parses(name):
    command = commands()[name]
    assert command.description.endswith('.')
    example = command.epilog.removeprefix('example: python -m pruning_core ')
    assert example.split()[0] == name
    assert parser().parse_args(shlex.split(example)).command == name


@pytest.mark.parametrize('name', sorted(commands()))
def test_every_option_has_help_and_json_is_everywhere(name):
    for action in commands()[name]._actions:
        assert action.help, action.option_strings or action.dest
    assert any('--json' in a.option_strings for a in commands()[name]._actions)


@pytest.mark.parametrize('words, said', [
    (['trian'], "COMMAND 'trian' is not known, did you mean 'train'?"),
    (['prune', '--agent', 'x', '--sparstiy=0.5'], "'--sparstiy' is not known, did you mean "
     "'--sparsity'?"),
    (['prune', '--agent', 'x', '--spars', '0.5'], "did you mean '--sparsity'?"),
    (['train', '--config', 'x', '--progress', 'jsn'], "--progress 'jsn' is not known, did you "
     "mean 'json'?"),
    (['evaluate', '--agent', 'x', '--episodes', 'three'], "'three' is no whole number"),
    (['train'], 'the following arguments are required: --config'),
    ([], 'the following arguments are required: COMMAND'),
])
def test_wrong_words_are_answered_in_four_parts(words, said, capsys, four_parts):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (FAILED, '')
    kind, _, message = err.strip().partition(': ')
    assert kind == 'ConfigError' and '\n' not in message
    four_parts(message, said)


def test_an_error_is_json_where_json_was_asked_for(capsys):
    assert main(['inspect', 'pendulum_dnse', '--json']) == FAILED
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told['exit'] == FAILED and told['kind'] == 'AgentError'
    assert told['error'] in err and "did you mean 'pendulum_dense'?" in told['error']


def test_the_exit_codes_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(['--help'])
    text = ' '.join(capsys.readouterr().out.split())
    for code, meaning in ((0, 'done'), (1, 'a gate refused'), (2, 'something asked for'),
                          (130, 'interrupted')):
        assert f'{code} {meaning}' in text


@pytest.mark.parametrize('line, wanted', [
    ('pruning-core tr', {'train '}),
    ('pruning-core re', {'record', 'replay', 'report'}),
    ('pruning-core prune --spars', {'--sparsity '}),
    ('pruning-core train --progress ', {'bar', 'json'}),
])
def test_completion(line, wanted, tmp_path):
    pytest.importorskip('argcomplete', reason='completion needs the extra [complete]')
    answer = tmp_path / 'answer'
    subprocess.run(
        [sys.executable, '-c', 'from pruning_core.cli import main; main()'], check=True,
        env={**os.environ, '_ARGCOMPLETE': '1', '_ARGCOMPLETE_IFS': '|', 'COMP_LINE': line,
             'COMP_POINT': str(len(line)), '_ARGCOMPLETE_STDOUT_FILENAME': str(answer),
             '_ARGCOMPLETE_SUPPRESS_SPACE': '0'})
    assert {word.strip() for word in answer.read_text().split('|')} >= {w.strip() for w in wanted}
