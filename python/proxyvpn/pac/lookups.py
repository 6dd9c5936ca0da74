"""Names that a PAC file asks for, within a time: a resolver that does not answer must not make the script a slow one.

getaddrinfo(3) can neither be given a limit nor be interrupted, so that each name is looked up in a thread of its own,
and what comes too late for one question is there for the next. Virtual addresses are left out: they stand for a name
and say nothing about where it is.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from proxyvpn.mark import POOL4, POOL6

BUDGET: Final = 0.7
"""Seconds for all names of one question."""
KEEP: Final = 60.0
MOST_KEPT: Final = 1024
MOST_AT_ONCE: Final = 16


@dataclass(slots=True)
class _Lookup:
    since: float
    done: threading.Event = field(default_factory=threading.Event)
    addresses: tuple[str, ...] = ()


class Lookups:
    """What has been looked up, and what is being."""

    def __init__(self, look: Callable[[str], tuple[str, ...]] | None = None, budget: float = BUDGET) -> None:
        self._look = look or resolve
        self._budget = budget
        self._deadline = 0.0
        self._known: dict[str, _Lookup] = {}

    def begin(self) -> None:
        """A question begins: it has all its time for names."""
        self._deadline = time.monotonic() + self._budget

    def addresses(self, host: str) -> tuple[str, ...]:
        """Give a name's addresses; none where there are none in time."""
        now = time.monotonic()
        lookup = self._known.get(host)
        if lookup is None or (lookup.done.is_set() and now - lookup.since > KEEP):
            if sum(not each.done.is_set() for each in self._known.values()) >= MOST_AT_ONCE:
                return ()
            if len(self._known) >= MOST_KEPT:
                self._known = {name: each for name, each in self._known.items() if not each.done.is_set()}
            lookup = self._known[host] = _Lookup(now)
            threading.Thread(target=self._run, args=(host, lookup), daemon=True).start()
        lookup.done.wait(max(0.0, self._deadline - now))
        return lookup.addresses

    def _run(self, host: str, lookup: _Lookup) -> None:
        lookup.addresses = self._look(host)
        lookup.since = time.monotonic()
        lookup.done.set()


def resolve(host: str) -> tuple[str, ...]:
    """Ask the system's resolver."""
    try:
        found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return real(str(entry[4][0]) for entry in found)


def real(texts: Iterable[str]) -> tuple[str, ...]:
    """Pure: give addresses in order, each once, without zones and without virtual ones."""
    addresses = dict.fromkeys(ip_address(text.partition("%")[0]) for text in texts)
    return tuple(str(address) for address in addresses if address not in POOL4 and address not in POOL6)
