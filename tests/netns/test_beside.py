"""A flow of each kind beside one at full speed: none starves, none loses a byte (bench/ measures how long they take).

host: sockets of the test, `proxyvpn up` ---- mid: squid ---- world: peer.py
"""

from __future__ import annotations

import socket
import threading

import pytest

from tests.netns import clients, proxies
from tests.netns.internet import Internet
from tests.netns.peer import COUNTED, ECHO, SOURCE
from tests.netns.rig import RESOLVER4, WORLD4, WORLD6, Rig
from tests.netns.up import up

pytestmark = pytest.mark.privileged

SMALL, ROUNDS = 1 << 20, 300


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", ["up", "down"])
def test_small_flows_beside_a_bulk_one(bed: Rig, world: Internet, squid: proxies.RunningProxy, way: str) -> None:
    carry, port = (send_for_ever, COUNTED) if way == "up" else (receive_for_ever, SOURCE)
    with (
        up(bed.host, "--proxy", squid.url4, "--dns", RESOLVER4),
        bed.host.connect(WORLD4, ECHO) as opened_before,
        bed.host.connect(WORLD4, port) as bulk,
    ):
        carrier = threading.Thread(target=carry, args=(bulk,))
        carrier.start()
        try:
            talk(opened_before)
            connect_and_transfer(bed)
            drip(opened_before)
            assert carrier.is_alive()
        finally:
            with clients.ended():
                bulk.shutdown(socket.SHUT_RDWR)
            carrier.join()


def send_for_ever(sock: socket.socket) -> None:
    with clients.ended():
        sock.sendall(b"%d\n" % (1 << 50))
        while True:
            sock.sendall(bytes(1 << 20))


def receive_for_ever(sock: socket.socket) -> None:
    with clients.ended():
        sock.sendall(b"%d\n" % (1 << 50))
        while sock.recv(1 << 20):
            pass


def talk(sock: socket.socket) -> None:
    """Requests and answers, one after the other."""
    for number in range(ROUNDS):
        assert clients.echoes(sock, b"request %d" % number)


def connect_and_transfer(bed: Rig) -> None:
    """New connections: some for a word only, one for a megabyte."""
    for number in range(ROUNDS // 3):
        with bed.host.connect(WORLD6 if number % 2 else WORLD4, ECHO) as sock:
            assert clients.echoes(sock)
    with bed.host.connect(WORLD4, SOURCE) as sock:
        assert clients.download(sock, SMALL) == (SMALL, clients.digest_of(SMALL))


def drip(sock: socket.socket) -> None:
    """Byte after byte, each answered before the next."""
    for byte in range(256):
        assert clients.echoes(sock, bytes([byte]))
