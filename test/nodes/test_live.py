# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's view: in place on a terminal of any width, plain lines elsewhere."""

import io

from pruned_controller.live import LiveView


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_is_redrawn_in_place_and_never_wraps(monkeypatch):
    monkeypatch.setenv('COLUMNS', '20')
    terminal = Terminal()
    view = LiveView(terminal)
    view.show(['x' * 50, 'second'])
    view._last = 0.0
    view.show(['third', 'fourth'])
    first, again = terminal.getvalue().split('\x1b[2A')
    assert first == '\x1b[2K' + 'x' * 19 + '\n\x1b[2Ksecond\n'
    assert again == '\x1b[2Kthird\n\x1b[2Kfourth\n'


def test_what_is_said_stays_above_what_is_shown():
    terminal = Terminal()
    view = LiveView(terminal)
    view.show(['shown'])
    view.say('said')
    assert terminal.getvalue().endswith('\x1b[1A\x1b[Jsaid\n')


def test_elsewhere_there_are_no_escapes_and_few_lines():
    stream = io.StringIO()
    view = LiveView(stream)
    for i in range(100):
        view.show([f'line {i}', 'more'])
    assert stream.getvalue() == 'line 0 | more\n'
