"""Finds out where the proxies listen, and whether one can be reached: before anything in the kernel is changed.

Names are resolved in threads, since getaddrinfo(3) can neither be given a limit nor be interrupted. Every wait here
also watches the descriptor `stop`, so that Ctrl-C works while a proxy is silent.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
import time
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from proxyvpn.errors import ProxyUnreachable, ProxyvpnError
from proxyvpn.plan import Endpoint, IPAddress
from proxyvpn.proxy import Proxy, refuse_address
from proxyvpn.tunnel import MOST_PROXIES

LIMIT: Final = 10.0
"""Seconds for all names, and for all attempts to connect."""


class Interrupted(ProxyvpnError):
    """A signal asked to end while something was waited for."""


@dataclass(frozen=True, slots=True)
class Place:
    """One address of a proxy."""

    proxy: Proxy
    endpoint: Endpoint


def resolve(proxies: tuple[Proxy, ...], stop: int) -> tuple[Place, ...]:
    """Give all addresses of all proxies, in order. Raises ProxyUnreachable, UsageError, Interrupted."""
    lookups = [(proxy, _start_lookup(proxy)) for proxy in proxies]
    deadline = time.monotonic() + LIMIT
    places: list[Place] = []
    errors: list[ProxyvpnError] = []
    for proxy, lookup in lookups:
        try:
            addresses = lookup.wait(deadline, stop)
            for address in addresses:
                refuse_address(address, str(proxy))
            places.extend(Place(proxy, Endpoint(address, proxy.port)) for address in addresses)
        except ProxyUnreachable as error:
            errors.append(error)
    if not places:
        raise errors[0]
    once: dict[Endpoint, Place] = {}
    for place in places:
        once.setdefault(place.endpoint, place)
    return fairly(tuple(once.values()))


def fairly(places: tuple[Place, ...]) -> tuple[Place, ...]:
    """Give as many of `places` as a tunnel may have, in order: each proxy keeps one before another has two."""
    ranks: list[int] = []
    count: dict[Proxy, int] = {}
    for place in places:
        count[place.proxy] = count.get(place.proxy, 0) + 1
        ranks.append(count[place.proxy])
    kept = sorted(range(len(places)), key=lambda number: (ranks[number], number))[:MOST_PROXIES]
    return tuple(places[number] for number in sorted(kept))


class _Lookup:
    """A name that is being resolved in a thread."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.done = os.eventfd(0, os.EFD_CLOEXEC) if proxy.address is None else -1
        self.result: queue.SimpleQueue[tuple[IPAddress, ...] | str] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            found = socket.getaddrinfo(self.proxy.host, self.proxy.port, type=socket.SOCK_STREAM)
            self.result.put(tuple(dict.fromkeys(_plain(str(entry[4][0])) for entry in found)))
        except (OSError, UnicodeError) as error:
            self.result.put(getattr(error, "strerror", None) or str(error))
        os.eventfd_write(self.done, 1)

    def wait(self, deadline: float, stop: int) -> tuple[IPAddress, ...]:
        if self.proxy.address is not None:
            return (self.proxy.address,)
        if _wait({self.done: select.POLLIN}, deadline, stop):
            os.close(self.done)
            result = self.result.get()
        else:  # the thread may still write to its descriptor, which therefore stays
            result = f"no answer within {LIMIT:.0f} s"
        if isinstance(result, str):
            raise ProxyUnreachable(
                f"the proxy's name {self.proxy.host} does not resolve",
                result,
                "check the name and this machine's DNS, or give the proxy's address",
            )
        return result


def _start_lookup(proxy: Proxy) -> _Lookup:
    lookup = _Lookup(proxy)
    if proxy.address is None:
        threading.Thread(target=lookup.run, daemon=True).start()
    return lookup


def _plain(text: str) -> IPAddress:
    address = ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def attempt(places: tuple[Place, ...], stop: int, limit: float = LIMIT) -> Place:
    """Connect to the first place that answers, and hang up. Raises ProxyUnreachable, UsageError, Interrupted.

    All are tried at once, in order of preference: what answers first is enough to go on.
    """
    deadline = time.monotonic() + limit
    waiting: dict[int, tuple[Place, socket.socket]] = {}
    reasons: list[str] = []
    try:
        for place in places:
            sock, reason = _begin_connect(place.endpoint)
            if sock is not None:
                waiting[sock.fileno()] = place, sock
            else:
                reasons.append(f"{place.endpoint.address}: {reason}")
        while waiting:
            ready = _wait(dict.fromkeys(waiting, select.POLLOUT), deadline, stop)
            if not ready:
                reasons.extend(f"{place.endpoint.address}: no answer in {limit:.0f} s" for place, _ in waiting.values())
                break
            for fd in [fd for fd in waiting if fd in ready]:
                place, sock = waiting.pop(fd)
                problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                sock.close()
                if not problem:
                    return place
                reasons.append(f"{place.endpoint.address}: {os.strerror(problem)}")
    finally:
        for _, sock in waiting.values():
            sock.close()
    names = ", ".join(dict.fromkeys(str(place.proxy) for place in places))
    raise ProxyUnreachable(
        f"the proxy {names} cannot be reached",
        "; ".join(reasons[:4]),
        "check its address and port, and that it runs",
    )


def _begin_connect(endpoint: Endpoint) -> tuple[socket.socket | None, str]:
    family = socket.AF_INET6 if endpoint.address.version == 6 else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as error:
        return None, error.strerror or str(error)
    try:
        sock.connect((str(endpoint.address), endpoint.port))
    except BlockingIOError:
        pass
    except OSError as error:
        sock.close()
        return None, error.strerror or str(error)
    return sock, ""


def _wait(wanted: dict[int, int], deadline: float, stop: int) -> set[int]:
    """Give those of `wanted` that are ready; empty when the deadline passed. Raises Interrupted."""
    poll = select.poll()
    for fd, events in wanted.items():
        poll.register(fd, events)
    poll.register(stop, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
    if stop in ready:
        raise Interrupted("ended before it was ready")
    return ready
