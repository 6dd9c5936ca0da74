"""Long streams through the proxy that most people have, and ports that refuse.

host: sockets of the test, `proxyvpn up` ---- mid: squid ---- world: peer.py
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.netns import clients, proxies
from tests.netns.internet import Internet
from tests.netns.peer import COUNTED, ECHO, SOURCE
from tests.netns.rig import RESOLVER4, WORLD4, WORLD6, Rig
from tests.netns.up import Up, up

pytestmark = pytest.mark.privileged

GIB = 1 << 30
EVERYWHERE = pytest.mark.parametrize("host", [WORLD4, WORLD6])


@pytest.fixture(scope="module")
def carried(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> Iterator[Up]:
    bed.host.resolv_conf.write_text(f"nameserver {RESOLVER4}\n")
    with up(bed.host, "--proxy", squid.url4) as running:
        yield running


@EVERYWHERE
def test_refused_port_is_refused(carried: Up, bed: Rig, host: str) -> None:
    assert clients.connect_error(bed.host, host, 4) == errno.ECONNREFUSED


@pytest.mark.timeout(120)
def test_a_gibibyte_up_arrives_whole(carried: Up, bed: Rig) -> None:
    with bed.host.connect(WORLD4, COUNTED) as sock:
        sock.sendall(b"%d\n" % GIB)
        expected = clients.upload(sock, GIB)
        assert sock.makefile().readline() == expected


@pytest.mark.timeout(120)
def test_a_gibibyte_down_arrives_whole(carried: Up, bed: Rig) -> None:
    with bed.host.connect(WORLD6, SOURCE) as sock:
        assert clients.download(sock, GIB) == (GIB, clients.digest_of(GIB))


def test_both_ways_at_once(carried: Up, bed: Rig) -> None:
    message = bytes(range(256)) * 4096
    with bed.host.connect(WORLD4, ECHO) as sock:
        sock.setblocking(False)
        sent = got = 0
        while got < len(message):
            with clients.suppressed():
                sent += sock.send(message[sent : sent + 65536]) if sent < len(message) else 0
            with clients.suppressed():
                piece = sock.recv(65536)
                assert piece == message[got : got + len(piece)] and piece
                got += len(piece)
