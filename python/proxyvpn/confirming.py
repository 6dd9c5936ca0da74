"""Whether a tunnel is still to be confirmed, and until when: so that a machine far away does not lock its owner out.

Enter counts only while this process is in the foreground of its terminal: a background process that reads is stopped.
"""

from __future__ import annotations

import os


class Confirming:
    """Pure but for the terminal: `seconds` 0 needs no confirmation."""

    def __init__(self, seconds: int, now: float, terminal: int = -1) -> None:
        self._deadline = now + seconds if seconds else None
        self._terminal = terminal

    @property
    def is_waiting(self) -> bool:
        return self._deadline is not None

    def fileno(self) -> int:
        """Give the terminal while Enter is waited for, else -1."""
        return self._terminal if self.is_waiting and _in_foreground(self._terminal) else -1

    def left(self, now: float) -> float:
        """Give the seconds that are left; endless when nothing is waited for."""
        return float("inf") if self._deadline is None else max(0.0, self._deadline - now)

    def confirm(self) -> bool:
        """Need nothing more; say whether that was waited for."""
        waited, self._deadline = self.is_waiting, None
        return waited

    def read(self) -> bool:
        """Take what was typed; say whether it confirms. A terminal that has gone is not asked again."""
        try:
            typed = os.read(self._terminal, 4096)
        except OSError:
            typed = b""
        if not typed:
            self._terminal = -1
        return b"\n" in typed and self.confirm()


def _in_foreground(terminal: int) -> bool:
    try:
        return terminal >= 0 and os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
