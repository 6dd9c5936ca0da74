"""Wishes find the provider of their kind, and grants the worker that wished."""

from __future__ import annotations

import os

import pytest

from proxyvpn.messages import Grant, Wish
from proxyvpn.wishes import MOST, Granted, Wishes


class Later:
    """Grants when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bytes]] = []
        self.granted: list[Granted] = []
        self.ended = False

    def begin(self, number: int, content: bytes) -> None:
        self.asked.append((number, content))

    def fileno(self) -> int:
        return 7

    def take(self) -> list[Granted]:
        taken, self.granted = self.granted, []
        return taken

    def end(self) -> None:
        self.ended = True


def test_grant_goes_back_under_the_number_of_the_wish() -> None:
    provider = Later()
    wishes = Wishes({"token": provider})
    wishes.begin(Wish(1 << 48, "token", b"x"))
    assert (wishes.take(), wishes.filenos()) == ([], (7,))
    provider.granted.append(Granted(provider.asked[0][0], b"y", fd=5))
    assert wishes.take() == [(Grant(1 << 48, b"y"), (5,))]
    assert wishes.take() == []


def test_what_nobody_can_grant_is_refused() -> None:
    wishes = Wishes({})
    wishes.begin(Wish(3, "moon", b""))
    ((grant, fds),) = wishes.take()
    assert (grant.number, grant.refusal != "", fds) == (3, True, ())


def test_grant_for_a_worker_that_is_gone_is_dropped_and_its_descriptor_closed() -> None:
    provider = Later()
    wishes = Wishes({"direct": provider})
    wishes.begin(Wish(1, "direct", b""))
    wishes.forget()
    wishes.begin(Wish(1, "direct", b""))  # of the new worker, which counts from the start
    fd = os.open("/dev/null", os.O_RDONLY)
    provider.granted.append(Granted(provider.asked[0][0], fd=fd))
    assert wishes.take() == []
    with pytest.raises(OSError):
        os.fstat(fd)


def test_flood_of_wishes_is_refused() -> None:
    provider = Later()
    wishes = Wishes({"token": provider})
    for number in range(MOST + 5):
        wishes.begin(Wish(number, "token", b""))
    assert len(provider.asked) == MOST
    assert [grant.number for grant, _ in wishes.take()] == list(range(MOST, MOST + 5))


def test_end_ends_the_providers() -> None:
    provider = Later()
    Wishes({"token": provider}).end()
    assert provider.ended
