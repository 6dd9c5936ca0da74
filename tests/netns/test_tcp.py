"""TCP as programs know it, end to end: who speaks first, who finishes first, who refuses, and what comes back.

host: sockets of the test, `proxyvpn up` ---- mid: squid, or a proxy whose answers are scripted ---- world: peer.py
"""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.netns import clients, proxies, wait
from tests.netns.internet import Internet
from tests.netns.peer import BANNER, ECHO, HALF, SINK
from tests.netns.rig import RESOLVER4, WORLD4, WORLD6, Rig
from tests.netns.up import Up, proxyvpn, up

pytestmark = pytest.mark.privileged

GIB = 1 << 30
EVERYWHERE = pytest.mark.parametrize("host", [WORLD4, WORLD6])


@pytest.fixture(scope="module")
def scripted(bed: Rig, world: Internet) -> Iterator[proxies.ScriptedProxy]:
    """A proxy that keeps half-closed connections half-open, which squid does not."""
    with proxies.scripted(bed.mid) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def tunnel(bed: Rig, scripted: proxies.ScriptedProxy) -> Iterator[Up]:
    """`up` through the scripted proxy."""
    with up(bed.host, "--proxy", scripted.url4, "--dns", RESOLVER4) as running:
        yield running


@pytest.fixture
def honest(scripted: proxies.ScriptedProxy) -> Iterator[proxies.ScriptedProxy]:
    """The scripted proxy, honest again afterwards."""
    yield scripted
    scripted.answer = proxies.honest


@EVERYWHERE
def test_banner_of_a_server_that_speaks_first_arrives(tunnel: Up, bed: Rig, host: str) -> None:
    with bed.host.connect(host, BANNER) as sock:
        assert sock.recv(100) == b"SSH-2.0-banner_first\r\n"
        assert clients.echoes(sock)


def test_bytes_that_come_with_the_200_are_kept(tunnel: Up, bed: Rig, honest: proxies.ScriptedProxy) -> None:
    honest.answer = lambda head: proxies.honest(head) + b"early "
    with bed.host.connect(WORLD4, BANNER) as sock:
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while piece := sock.recv(100):
            got += piece
    assert got == b"early SSH-2.0-banner_first\r\n"


@EVERYWHERE
def test_program_that_finishes_first_still_gets_its_answer(tunnel: Up, bed: Rig, host: str) -> None:
    with bed.host.connect(host, SINK) as sock:
        expected = clients.upload(sock, 1_000_000)
        sock.shutdown(socket.SHUT_WR)
        assert sock.makefile().readline() == expected


@EVERYWHERE
def test_server_that_finishes_first_still_gets_all(tunnel: Up, bed: Rig, world: Internet, host: str) -> None:
    start = world.printed.stat().st_size
    with bed.host.connect(host, HALF) as sock:
        assert sock.makefile().read() == "I have finished\n"
        sock.sendall(bytes(1_000_000))
    wait.for_line(world.printed, "after half-close: 1000000", start=start)


@pytest.mark.parametrize("status", ["403 Forbidden", "502 Bad Gateway", "503 Busy", "301 Elsewhere"])
def test_refusal_of_the_proxy_is_a_refused_connection(
    tunnel: Up, bed: Rig, honest: proxies.ScriptedProxy, status: str
) -> None:
    honest.answer = lambda _head: f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno".encode()
    assert clients.connect_error(bed.host, WORLD4, ECHO) == errno.ECONNREFUSED


def test_407_refuses_the_connection_and_is_logged(tunnel: Up, bed: Rig, honest: proxies.ScriptedProxy) -> None:
    honest.answer = lambda _head: b"HTTP/1.1 407 Password, please\r\nProxy-Authenticate: Basic\r\n\r\n"
    assert clients.connect_error(bed.host, WORLD4, ECHO) == errno.ECONNREFUSED
    wait.for_line(tunnel.err, "407")


def test_garbage_from_the_proxy_is_a_refused_connection(tunnel: Up, bed: Rig, honest: proxies.ScriptedProxy) -> None:
    honest.answer = lambda _head: b"SSH-2.0-what\r\n\r\n"
    assert clients.connect_error(bed.host, WORLD6, ECHO) == errno.ECONNREFUSED


def test_all_proxy_words_before_the_200_are_skipped(tunnel: Up, bed: Rig, honest: proxies.ScriptedProxy) -> None:
    honest.answer = lambda _head: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    with bed.host.connect(WORLD4, ECHO) as sock:
        assert clients.echoes(sock)


def test_connect_line_names_address_and_port(tunnel: Up, bed: Rig, honest: proxies.ScriptedProxy) -> None:
    for host, name in ((WORLD4, WORLD4), (WORLD6, f"[{WORLD6}]")):
        bed.host.connect(host, ECHO).close()
        line, rest = honest.requests[-1].split(b"\r\n", 1)
        assert line == f"CONNECT {name}:{ECHO} HTTP/1.1".encode()
        assert f"host: {name}:{ECHO}\r\n".encode() in rest.lower()


def test_connect_that_is_given_up_leaves_nothing(tunnel: Up, bed: Rig, honest: proxies.ScriptedProxy) -> None:
    begun, given_up = len(honest.requests), threading.Event()
    honest.answer = lambda head: proxies.honest(head) if given_up.wait(10) else b""
    with bed.host.new_socket() as sock:
        sock.setblocking(False)
        assert sock.connect_ex((WORLD4, ECHO)) == errno.EINPROGRESS
        wait.until(lambda: len(honest.requests) > begun, "the proxy is asked")
    given_up.set()
    wait.until(lambda: flows_now(bed) == 0, "no flow is left")
    assert f":{honest.port} " not in bed.mid.sh(f"ss -Htn state established sport = :{honest.port}")


def flows_now(bed: Rig) -> int:
    """Give the number of flows that `status` knows."""
    counters = json.loads(proxyvpn(bed.host, "status", "--json").stdout)["counters"]
    return int(counters["flows_connecting_now"]) + int(counters["flows_open_now"])


def test_port_is_used_again_right_after_a_reset(tunnel: Up, bed: Rig) -> None:
    for _ in range(50):
        with bed.host.new_socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", 9000))
            sock.connect((WORLD4, ECHO))
            assert clients.echoes(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_reset_of_the_program_closes_the_far_end(tunnel: Up, bed: Rig, world: Internet) -> None:
    with bed.host.connect(WORLD4, ECHO) as sock:
        assert clients.echoes(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait.until(lambda: f"{WORLD4}:7 " not in bed.world.sh("ss -Htn state established sport = :7"), "world lets go")
