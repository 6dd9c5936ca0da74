"""Finds out, while a tunnel runs, whether the proxy's name has moved, without ever waiting for it.

A look is made in a thread, since getaddrinfo(3) can neither be given a limit nor be interrupted: every EVERY seconds,
and soon after connects to the proxy have failed. It asks like any program: what the firewall lets through decides which
resolver can answer. What is not found changes nothing, and an address that is no longer named is kept for KEEP seconds,
and then until a named one was reached: no resolver, dead or lying, loses an address that works.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from proxyvpn.errors import ProxyvpnError
from proxyvpn.plan import Endpoint
from proxyvpn.proxy import Proxy
from proxyvpn.reach import Place, fairly

EVERY: Final = 60.0
SOON: Final = 2.0
"""Seconds between two looks when connects fail."""
KEEP: Final = 600.0
_UNREACHED: Final = ("refused_unreachable", "refused_timeout", "proxies_lost")
"""Counters of the worker that grow when a proxy cannot be reached."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a look found: every place that is named now (none: it failed), and whether one could be connected to."""

    places: tuple[Place, ...]
    reached: bool


class Renewal:
    """The looks, and when each address was last named."""

    def __init__(self, proxies: tuple[Proxy, ...], look: Callable[[], Found], every: float = EVERY) -> None:
        self._proxies = proxies
        self._look = look
        self._every = every
        self._named = any(proxy.address is None for proxy in proxies)
        self._seen: dict[Endpoint, float] = {}
        self._found: queue.SimpleQueue[Found] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._running = False
        self._last = float("-inf")
        self._unreached = 0

    def fileno(self) -> int:
        """Give the descriptor that is readable when take() has something."""
        return self._bell

    def begin(self, now: float, counters: Mapping[str, int]) -> None:
        """Begin a look when it is time for one, which is sooner when the worker's `counters` say that connects fail."""
        before, self._unreached = self._unreached, sum(counters.get(name, 0) for name in _UNREACHED)
        wait = min(SOON, self._every) if self._unreached > before else self._every
        if not self._named or self._running or now - self._last < wait:
            return
        self._running, self._last = True, now
        threading.Thread(target=self._run, daemon=True).start()

    def take(self, places: tuple[Place, ...], now: float) -> tuple[Place, ...]:
        """Give the places to use from now on: `places` themselves when nothing has changed."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self._running = False
        try:
            found = self._found.get_nowait()
        except queue.Empty:
            return places
        return in_order(merged(places, found, self._seen, now), self._proxies)

    def _run(self) -> None:
        try:
            found = self._look()
        except ProxyvpnError:
            found = Found((), False)
        self._found.put(found)
        with contextlib.suppress(OSError):  # nobody may wait for it any more
            os.eventfd_write(self._bell, 1)


def look(resolve: Callable[[], tuple[Place, ...]], attempt: Callable[[tuple[Place, ...]], Place]) -> Found:
    """Resolve the names, and see whether any of their addresses can be connected to. Raises ProxyvpnError."""
    places = resolve()
    try:
        attempt(places)
    except ProxyvpnError:
        return Found(places, False)
    return Found(places, True)


def merged(places: tuple[Place, ...], found: Found, seen: dict[Endpoint, float], now: float) -> tuple[Place, ...]:
    """Give `places` with those found; new ones first, old ones until they are forgotten. `seen` is kept up to date."""
    if not found.places:
        return places
    for place in places:
        seen.setdefault(place.endpoint, now)
    seen |= {place.endpoint: now for place in found.places}
    named = {place.endpoint for place in found.places}
    known = {place.endpoint for place in places}
    fresh = tuple(place for place in found.places if place.endpoint not in known)
    kept = tuple(
        place for place in places if place.endpoint in named or not found.reached or now - seen[place.endpoint] < KEEP
    )
    return fresh + kept


def in_order(places: tuple[Place, ...], proxies: tuple[Proxy, ...]) -> tuple[Place, ...]:
    """Give as many of `places` as a tunnel may have, those of the first of `proxies` first, whoever has moved."""
    order = {proxy: number for number, proxy in enumerate(proxies)}
    return fairly(tuple(sorted(places, key=lambda place: order.get(place.proxy, len(order)))))
