"""One line on standard error, from a process that must not wait for whoever reads it.

A pipe that nobody empties, or a terminal stopped by Ctrl-S, would otherwise keep the helper from undoing and the worker
from ending. What does not fit soon is lost. Lines may hold words of others, which must not reach a terminal's controls.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import Final

_PATIENCE: Final = 100
"""Milliseconds to wait for room, for each line."""
_LONGEST: Final = 4000
"""Bytes; what poll(2) calls writable has room for PIPE_BUF (pipe(7)), which is 4096."""


def say(line: str) -> None:
    """Write one line, if there is room for it or soon will be."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in line)
    text = shown.encode("utf-8", "backslashreplace")[:_LONGEST] + b"\n"
    room = select.poll()
    room.register(2, select.POLLOUT)
    if room.poll(_PATIENCE):
        with contextlib.suppress(OSError):  # closed, perhaps
            os.write(2, text)
