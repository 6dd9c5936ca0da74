"""Trying a proxy: over real sockets on loopback, which stands for the network here."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from proxyvpn import reach
from proxyvpn.errors import ProxyUnreachable
from proxyvpn.proxy import Proxy
from proxyvpn.reach import Interrupted, Place
from proxyvpn.tunnel import MOST_PROXIES

PROXY = Proxy("proxy.example", 3128, "ann", "hunter2")


class Address:
    """An endpoint on loopback, with a port that may be 0."""

    address = ip_address("127.0.0.1")

    def __init__(self, port: int) -> None:
        self.port = port


def place(port: int) -> Place:
    return Place(PROXY, Address(port))  # type: ignore[arg-type]


@pytest.fixture
def stop() -> Iterator[int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    yield reading
    os.close(reading)
    os.close(writing)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_refused_connection_is_an_unreachable_proxy(closed_port: int, stop: int) -> None:
    with pytest.raises(ProxyUnreachable, match="Connection refused"):
        reach.attempt((place(closed_port),), stop)


def test_silence_ends_at_the_limit(stop: int) -> None:
    with socket.socket() as sock:  # a queue of one that is full: the next SYN is not answered
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), pytest.raises(ProxyUnreachable, match="no answer"):
            reach.attempt((place(port),), stop, limit=0.05)


def test_proxy_on_an_address_of_this_machine_is_reached(stop: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = place(server.getsockname()[1])
        assert reach.attempt((found,), stop) is found


def test_signal_interrupts_the_wait() -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.write(writing, b"\x02")
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(Interrupted):
        reach.attempt((place(server.getsockname()[1]),), reading)
    os.close(reading)
    os.close(writing)


def test_name_gives_its_addresses_once(stop: int) -> None:
    found = [each.endpoint.address for each in reach.resolve((Proxy("localhost", 3128),), stop)]
    assert ip_address("127.0.0.1") in found and len(found) == len(set(found))


def test_address_needs_no_resolver_and_keeps_the_order(stop: int) -> None:
    threads = threading.active_count()
    proxies = (Proxy("192.0.2.7", 1), Proxy("2001:db8::7", 2), Proxy("192.0.2.7", 1, "ann"))
    found = reach.resolve(proxies, stop)
    assert [str(each.endpoint) for each in found] == ["192.0.2.7:1", "[2001:db8::7]:2"]
    assert found[0].proxy.user is None
    assert threading.active_count() == threads


def test_proxy_of_many_addresses_leaves_room_for_the_others() -> None:
    many = tuple(place(port) for port in range(1, MOST_PROXIES + 3))
    other = Proxy("other.example", 3128)
    others = tuple(Place(other, Address(port)) for port in (1001, 1002))  # type: ignore[arg-type]
    assert reach.fairly(many + others) == many[: MOST_PROXIES - 2] + others
    assert reach.fairly(others + many) == others + many[: MOST_PROXIES - 2]
