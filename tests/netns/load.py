"""Many connections at once, and many one after another, made by one process in one thread with epoll.

Non-blocking sockets of the caller's namespace; every one sends a few bytes to an echo server and reads them back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.netns.namespaces import Namespace, family_of
from tests.netns.peer import BLOCK

SIZE = 4096
"""Bytes of a block of `exchange`: so few that the kernel always takes them whole."""
MESSAGE = b"0123456789abcdef"
Target = tuple[str, int]


@dataclass(slots=True)
class Outcome:
    """What became of the connections."""

    echoed: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    def fail(self, why: str) -> None:
        self.failed[why] = self.failed.get(why, 0) + 1


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """Allow this process, and what it starts, as many descriptors as the machine grants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass(slots=True)
class _Stream:
    """One connection of `exchange`: block after block, each compared byte by byte."""

    sock: socket.socket
    number: int
    left: int
    missing: bytes = b""

    def send(self) -> None:
        at = (self.number * 61 + self.left * 16_381) % (len(BLOCK) - SIZE)
        self.missing = BLOCK[at : at + SIZE]
        if self.sock.send(self.missing) != SIZE:
            raise ConnectionError("the kernel has no room for a block")

    def receive(self) -> bool:
        """Take what is there; True after the last block."""
        got = self.sock.recv(len(self.missing))
        if not got or not self.missing.startswith(got):
            raise ConnectionError("other bytes came" if got else "ended early")
        self.missing = self.missing[len(got) :]
        if not self.missing:
            self.left -= 1
            if self.left:
                self.send()
        return not self.left


class Crowd:
    """Connections of one namespace; at most `at_once` of them on the way at a time."""

    def __init__(self, space: Namespace, at_once: int) -> None:
        self.space, self.at_once = space, at_once
        self.selector = selectors.DefaultSelector()
        self.open: list[socket.socket] = []
        self.outcome = Outcome()

    def run(self, targets: Iterable[Target], keep: bool, seconds: float) -> Outcome:
        """Connect to each of `targets` and echo once; then close the connection, or keep it in `open`."""
        deadline = time.monotonic() + seconds
        waiting = iter(targets)
        with self.space.inside():
            more = True
            while more or self.selector.get_map():
                while more and len(self.selector.get_map()) < self.at_once:
                    target = next(waiting, None)
                    more = target is not None
                    if target:
                        self._begin(target)
                for key, _ in self.selector.select(1):
                    self._go_on(key, keep)
                if time.monotonic() > deadline:
                    self.outcome.fail(f"{len(self.selector.get_map())} not done in time")
                    break
        return self.outcome

    def again(self, seconds: float) -> Outcome:
        """Echo once more over every connection that is kept."""
        self.outcome = Outcome()
        for sock in self.open:
            self.selector.register(sock, selectors.EVENT_WRITE)
        self.open = []
        return self.run((), True, seconds)

    def exchange(self, blocks: int, seconds: float) -> Outcome:
        """Echo `blocks` blocks, each of its own bytes, over every connection that is kept.

        The first block is under way on all of them before any is read, and nobody waits for another after that.
        """
        self.outcome = Outcome()
        streams = [_Stream(sock, number, blocks) for number, sock in enumerate(self.open)]
        for stream in streams:
            stream.send()
            self.selector.register(stream.sock, selectors.EVENT_READ, stream)
        deadline = time.monotonic() + seconds
        while self.selector.get_map() and time.monotonic() < deadline:
            for key, _ in self.selector.select(1):
                self._receive(key.data)
        for key in list(self.selector.get_map().values()):
            self.outcome.fail("not done in time")
            self.selector.unregister(key.fileobj)
        return self.outcome

    def _receive(self, stream: _Stream) -> None:
        try:
            if stream.receive():
                self.outcome.echoed += 1
                self.selector.unregister(stream.sock)
        except OSError as error:
            self.outcome.fail(error.strerror or str(error))
            self.selector.unregister(stream.sock)

    def close(self) -> None:
        for sock in [*self.open, *(key.fileobj for key in list(self.selector.get_map().values()))]:
            if isinstance(sock, socket.socket):
                sock.close()
        self.selector.close()

    def _begin(self, target: Target) -> None:
        sock = socket.socket(family_of(target[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        problem = sock.connect_ex(target)
        if problem in (0, errno.EINPROGRESS):
            self.selector.register(sock, selectors.EVENT_WRITE)
        else:
            self.outcome.fail(os.strerror(problem))
            sock.close()

    def _go_on(self, key: selectors.SelectorKey, keep: bool) -> None:
        sock = key.fileobj
        assert isinstance(sock, socket.socket)
        try:
            if key.events == selectors.EVENT_WRITE:
                sock.send(MESSAGE)
                self.selector.modify(sock, selectors.EVENT_READ)
                return
            if sock.recv(64) != MESSAGE:
                raise ConnectionError("ended early")
            self.outcome.echoed += 1
        except OSError as error:
            self.outcome.fail(error.strerror or str(error))
            keep = False
        self.selector.unregister(sock)
        if keep:
            self.open.append(sock)
        else:
            sock.close()
