"""https:// proxies, end to end.

host: programs, `proxyvpn up` ──TLS── mid: haproxy or stunnel ── a scripted proxy, or squid ── world
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.netns import clients, proxies, secured, wait
from tests.netns.internet import Internet
from tests.netns.peer import BANNER, ECHO, HALF, SINK
from tests.netns.rig import RESOLVER4, WORLD4, WORLD6, Rig
from tests.netns.secured import Authority, Front
from tests.netns.up import Up, counters, kill, up

pytestmark = pytest.mark.privileged

HAPROXY, STUNNEL = 3443, 3444
EARLY = b"early "


@pytest.fixture(scope="module")
def authority(bed: Rig) -> Authority:
    return Authority.found(bed.mid.home / "authority")


@pytest.fixture(scope="module")
def scripted(bed: Rig, world: Internet) -> Iterator[proxies.ScriptedProxy]:
    with proxies.scripted(bed.mid, early) as proxy:
        yield proxy


def early(head: bytes) -> bytes:
    """Let bytes of a server that speaks first come with the 200."""
    return proxies.honest(head) + (EARLY if f":{BANNER} ".encode() in head.split(b"\r\n")[0] else b"")


@pytest.fixture(scope="module", params=["haproxy", "stunnel"])
def front(
    request: pytest.FixtureRequest, bed: Rig, scripted: proxies.ScriptedProxy, authority: Authority
) -> Iterator[Front]:
    """haproxy with TLS 1.3, and stunnel with 1.2."""
    identity = authority.sign("proxy")
    make = secured.haproxy if request.param == "haproxy" else secured.stunnel
    with make(bed.mid, scripted.port, identity, HAPROXY if request.param == "haproxy" else STUNNEL) as found:
        yield found


@pytest.fixture(scope="module")
def tunnel(bed: Rig, front: Front, authority: Authority) -> Iterator[Up]:
    with up(bed.host, *options(front.url4, authority)) as running:
        yield running


def options(url: str, authority: Authority) -> tuple[str, ...]:
    return ("--proxy", url, "--proxy-ca", str(authority.certificate), "--dns", RESOLVER4)


def test_ready_line_names_the_https_proxy(tunnel: Up, front: Front) -> None:
    assert front.url4 in tunnel.ready_line()


@pytest.mark.parametrize("host", [WORLD4, WORLD6])
def test_curl_fetches_and_a_server_that_speaks_first_is_heard(tunnel: Up, bed: Rig, world: Internet, host: str) -> None:
    name = f"[{host}]" if ":" in host else host
    assert clients.curl(bed.host, f"https://{name}/", world=world).returncode == 0
    with bed.host.connect(host, BANNER) as sock:
        assert sock.makefile("rb", 0).readline() == EARLY + b"SSH-2.0-banner_first\r\n"
        assert clients.echoes(sock)


def test_program_that_finishes_first_still_gets_its_answer(tunnel: Up, bed: Rig) -> None:
    with bed.host.connect(WORLD4, SINK) as sock:
        expected = clients.upload(sock, 30_000_000)
        sock.shutdown(socket.SHUT_WR)
        assert sock.makefile().readline() == expected


def test_server_that_finishes_first_still_gets_all(tunnel: Up, bed: Rig, world: Internet, front: Front) -> None:
    start = world.printed.stat().st_size
    with bed.host.connect(WORLD4, HALF) as sock:
        assert sock.makefile().read() == "I have finished\n"
        sock.sendall(bytes(1_000_000))
    wait.for_line(world.printed, "after half-close: 1000000", start=start)


def test_bytes_that_come_with_the_200_are_kept(tunnel: Up, bed: Rig) -> None:
    with bed.host.connect(WORLD4, BANNER) as sock:
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while piece := sock.recv(100):
            got += piece
    assert got == EARLY + b"SSH-2.0-banner_first\r\n"


def test_reset_of_the_program_closes_the_far_end(tunnel: Up, bed: Rig) -> None:
    with bed.host.connect(WORLD4, ECHO) as sock:
        assert clients.echoes(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait.until(lambda: f"{WORLD4}:7 " not in bed.world.sh("ss -Htn state established sport = :7"), "world lets go")


def test_sessions_are_resumed(tunnel: Up, bed: Rig) -> None:
    for _ in range(30):
        with bed.host.connect(WORLD4, ECHO) as sock:
            assert clients.echoes(sock)
    found = counters(bed.host)
    assert found["tls_resumed"] >= 20, found


def test_new_worker_gets_its_certificates_again(tunnel: Up, bed: Rig) -> None:
    kill(tunnel.worker)
    wait.for_line(tunnel.err, "starting a new one")

    def works() -> bool:
        try:
            with bed.host.connect(WORLD4, ECHO, 2) as sock:
                return clients.echoes(sock)
        except OSError:
            return False

    wait.until(works, "connections work again")
