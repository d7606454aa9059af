# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's view of what happens: a block that redraws itself, or plain lines where it cannot."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO

_QUIET_S = 5.0  # between two plain lines


class LiveView:
    """Shows a few lines in place on a terminal; elsewhere the first of them now and then."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        """Draw on `stream`."""
        self._stream = stream
        self._terminal = stream.isatty()
        self._drawn = 0
        self._last = 0.0

    def show(self, lines: Sequence[str]) -> None:
        """Replace what is shown."""
        now = time.monotonic()
        if not self._terminal:
            if now - self._last >= _QUIET_S:
                self._last = now
                self._write(' | '.join(line.strip() for line in lines if line.strip()) + '\n')
            return
        if now - self._last < 0.2:
            return
        self._last = now
        up = f'\x1b[{self._drawn}A' if self._drawn else ''
        columns = shutil.get_terminal_size().columns - 1  # a wrapped line would count twice
        self._write(up + ''.join(f'\x1b[2K{line[:columns]}\n' for line in lines))
        self._drawn = len(lines)

    def say(self, text: str) -> None:
        """Write a line that stays, above what is shown."""
        up = f'\x1b[{self._drawn}A\x1b[J' if self._terminal and self._drawn else ''
        self._drawn = 0
        self._write(f'{up}{text}\n')

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
