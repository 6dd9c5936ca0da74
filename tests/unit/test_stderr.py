"""stderr.py: what is said never keeps anyone waiting, and never reaches a terminal's controls."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from proxyvpn import stderr


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Put a pipe in the place of standard error."""
    kept = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    try:
        yield reading, writing
    finally:
        os.dup2(kept, 2)
    for fd in (kept, reading, writing):
        with contextlib.suppress(OSError):
            os.close(fd)


def fill(writing: int) -> None:
    """Leave no room in a pipe."""
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    os.set_blocking(writing, True)


def test_words_of_others_cannot_write_to_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    stderr.say("fd00::1%x\n[#] all is well\x1b]0;evil\x07")
    assert capfd.readouterr().err == "fd00::1%x?[#] all is well?]0;evil?\n"


@pytest.mark.timeout(10)
def test_full_pipe_loses_lines_and_takes_later_ones() -> None:
    with pipe() as (reading, writing):
        fill(writing)
        stderr.say("lost")
        assert b"lost" not in os.read(reading, 1 << 20)
        stderr.say("taken")
        assert os.read(reading, 100) == b"taken\n"


@pytest.mark.timeout(10)
def test_long_line_is_cut_to_what_never_blocks() -> None:
    with pipe() as (reading, _):
        stderr.say("x" * 100_000)
        assert len(os.read(reading, 1 << 20)) < 4097


def test_nobody_at_the_other_end_is_fine() -> None:
    with pipe() as (reading, _):
        os.close(reading)
        stderr.say("to nobody")
        os.close(2)
        stderr.say("to nothing")
