"""Pure: how often a dead worker is replaced before that is given up."""

from __future__ import annotations

import signal
from typing import Final

from proxyvpn.errors import ProxyvpnError

MOST: Final = 5
WINDOW: Final = 10.0
"""Seconds; more than MOST deaths in any such span, and the next one would not help either."""


class Restarts:
    """The deaths so far."""

    def __init__(self) -> None:
        self.count = 0
        self._recent: tuple[float, ...] = ()

    def died(self, now: float, ending: str) -> None:
        """Count one more. Raises ProxyvpnError when there is to be no new worker."""
        self._recent = (*(then for then in self._recent if now - then < WINDOW), now)
        if len(self._recent) > MOST:
            raise ProxyvpnError(
                f"the worker process ended {len(self._recent)} times within {WINDOW:.0f} s",
                f"the last time {ending}",
                "the lines above may say why",
            )
        self.count += 1


def ending(code: int | None) -> str:
    """Say how a process ended: `code` as subprocess gives it, negative for a signal."""
    if code is not None and code < 0:
        try:
            return f"by {signal.Signals(-code).name}"
        except ValueError:
            return f"by signal {-code}"
    return f"with code {code}"
