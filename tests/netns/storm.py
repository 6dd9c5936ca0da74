"""Connects at a rate that does not wait for answers, as from a port scan, a flood or a burst of programs.

Plain non-blocking sockets of a namespace, of which at most `at_once` are open: for each one more, the oldest is given
up, which tells the far end nothing (a socket that has only sent its SYN just vanishes).
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.netns.load import Target
from tests.netns.namespaces import Namespace, family_of


@dataclass(slots=True)
class Answers:
    """What became of the connects; `given_up`: nobody had answered yet."""

    attempted: int = 0
    carried: int = 0
    refused: int = 0
    given_up: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.carried + self.refused + self.given_up + sum(self.failed.values())


class Storm:
    """See the head of this file."""

    def __init__(self, space: Namespace, at_once: int) -> None:
        self.space, self.at_once = space, at_once
        self.answers = Answers()
        self._epoll = select.epoll()
        self._open: dict[int, socket.socket] = {}

    def blow(self, targets: Iterable[Target], per_second: int) -> Answers:
        """Connect to each of `targets`, `per_second` of them or as many as this machine can, and close what is open."""
        begun = time.monotonic()
        with self.space.inside():
            for number, target in enumerate(targets):
                self._begin(target)
                ahead = number / per_second - (time.monotonic() - begun)
                if ahead > 0.001 or number % 64 == 0:
                    self._take_answers(max(ahead, 0))
        return self.answers

    def calm(self, seconds: float) -> Answers:
        """Wait so long for the answers that are missing; give the rest up."""
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            self._take_answers(0.1)
        while self._open:
            self._give_up()
        return self.answers

    def close(self) -> None:
        self.calm(0)
        self._epoll.close()

    def _begin(self, target: Target) -> None:
        self.answers.attempted += 1
        if len(self._open) >= self.at_once:
            self._give_up()
        sock = socket.socket(family_of(target[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        problem = sock.connect_ex(target)
        if problem not in (0, errno.EINPROGRESS):
            self._count(problem)
            sock.close()
            return
        self._open[sock.fileno()] = sock
        self._epoll.register(sock, select.EPOLLOUT)

    def _give_up(self) -> None:
        self._open.pop(next(iter(self._open))).close()
        self.answers.given_up += 1

    def _take_answers(self, seconds: float) -> None:
        for fd, _ in self._epoll.poll(seconds, 1024):
            sock = self._open.pop(fd)
            self._count(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            sock.close()

    def _count(self, problem: int) -> None:
        if problem == 0:
            self.answers.carried += 1
        elif problem == errno.ECONNREFUSED:
            self.answers.refused += 1
        else:
            name = errno.errorcode.get(problem, str(problem))
            self.answers.failed[name] = self.answers.failed.get(name, 0) + 1


@contextlib.contextmanager
def storm(space: Namespace, at_once: int) -> Iterator[Storm]:
    """Give a Storm, and close what it left open."""
    found = Storm(space, at_once)
    try:
        yield found
    finally:
        found.close()
