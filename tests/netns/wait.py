"""Wait for something to become true, with a deadline and a sentence for when it does not. The only place that waits."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def until(probe: Callable[[], T], what: str, seconds: float = 10.0) -> T:
    """Call `probe` until it gives something true, and give that. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        select.select([], [], [], 0.005)
    return found


def for_line(path: Path, part: str, seconds: float = 10.0, start: int = 0) -> str:
    """Wait for a line with `part` in the file at `path`, from byte `start` on, and give it."""

    def probe() -> str:
        text = path.read_bytes()[start:].decode("utf-8", "replace") if path.exists() else ""
        return next((line for line in text.splitlines() if part in line), "")

    try:
        return until(probe, f"a line with {part!r} in {path}", seconds)
    except AssertionError as error:
        tail = path.read_text(errors="replace")[-2000:] if path.exists() else "(no such file)"
        raise AssertionError(f"{error}; it ends with:\n{tail}") from None
