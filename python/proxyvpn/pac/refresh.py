"""Fetches the PAC file again, once an hour; the last good one is kept.

What `up` connects to is captured like everything else, so that the connection is one that the helper makes past the
tunnel, to the address from which the file came at first. It is fetched in a thread of its own. Looks like a provider of
wishes (wishes.py), because it wants to be waited for in the same way; it grants none.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Final

from proxyvpn.errors import ProxyvpnError
from proxyvpn.options import Script
from proxyvpn.pac import fetch
from proxyvpn.pac.fetch import Connect
from proxyvpn.pac.source import Source
from proxyvpn.tunnel import IPAddress
from proxyvpn.wishes import Granted

EVERY: Final = 3600.0

Dial = Callable[[IPAddress, int], int]


class Refresh:
    """See the head of this file."""

    def __init__(
        self, script: Script, source: Source, dial: Dial, say: Callable[[str], None], every: float = EVERY
    ) -> None:
        self._script = script
        self._source = source
        self._dial = dial
        self._say = say
        self._every = every
        self._due = time.monotonic() + every
        self._failing = False
        self._found: queue.SimpleQueue[str | ProxyvpnError] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def begin(self, number: int, content: bytes) -> None:
        """Grant nothing: whoever wished has no answer."""

    def fileno(self) -> int:
        """Give the descriptor that is readable when a fetch has ended."""
        return self._bell

    def take(self) -> list[Granted]:
        """Begin when it is time, and use what has come."""
        now = time.monotonic()
        if now >= self._due and self._script.url and not self._script.url.startswith("data:"):
            self._due = now + self._every
            self._start()
        try:
            os.eventfd_read(self._bell)
            self._use(self._found.get_nowait())
        except (BlockingIOError, queue.Empty):
            pass
        return []

    def end(self) -> None:
        """Nothing: a thread may still write to the bell, which therefore stays."""

    def _start(self) -> None:
        try:
            connect = self._connection()
        except ProxyvpnError as error:
            self._use(error)
        else:
            threading.Thread(target=self._run, args=(connect,), daemon=True).start()

    def _connection(self) -> Connect:
        """Give what connects: once, by a socket that the helper has begun to connect."""
        if not self._script.address:
            return fetch.straight  # of a file
        address = ip_address(self._script.address)
        if address.is_loopback:
            return fetch.straight
        return partial(connected, self._dial(address, fetch.port_of(self._script.url)))

    def _run(self, connect: Connect) -> None:
        try:
            self._found.put(fetch.fetch(self._script.url, connect, redirections=0).text)
        except ProxyvpnError as error:
            self._found.put(error)
        os.eventfd_write(self._bell, 1)

    def _use(self, found: str | ProxyvpnError) -> None:
        if isinstance(found, ProxyvpnError):
            if not self._failing:
                self._say(f"{found.what}{f': {found.why}' if found.why else ''}; the one from before is used")
            self._failing = True
            return
        self._failing = False
        if found != self._script.text:
            self._script = replace(self._script, text=found)
            self._say("the PAC file has changed; the new one is used")
            self._source.renew(self._script)


def connected(fd: int, host: str, port: int, seconds: float) -> socket.socket:  # noqa: ARG001 - where `fd` leads
    """Give the socket `fd` when it is connected. Raises OSError."""
    sock = socket.socket(fileno=fd)
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if poll.poll(seconds * 1000) else -1
    if problem == 0:
        return sock
    sock.close()
    raise TimeoutError("it takes too long") if problem < 0 else OSError(problem, os.strerror(problem))
