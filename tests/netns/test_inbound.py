"""Connections into the machine: an SSH login from before `up` must live, and new ones must come in.

host: echo server, `proxyvpn up` ---- mid: squid ---- world: the client
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.netns import clients, proxies
from tests.netns.namespaces import Namespace, family_of
from tests.netns.rig import BOX4, HOST4, HOST6, RESOLVER4, WORLD4, WORLD6, Detector, Rig, detector
from tests.netns.test_fallbacks import HIDDEN, hiding
from tests.netns.up import kill, proxyvpn, up

pytestmark = pytest.mark.privileged

PORT = 2022
UDP_PORT = 5182
BYPASS_BOX = ("--bypass", f"{BOX4}/32")
_PUBLISH = f"""
nft 'table ip publish {{ chain in {{ type nat hook prerouting priority dstnat; tcp dport 8080 dnat to {BOX4}; }}; }}'
"""
WAYS: dict[str, tuple[str, ...]] = {"nftables": (), "iptables": hiding(HIDDEN["iptables, legacy"])}


@pytest.fixture(scope="module", autouse=True)
def server(bed: Rig) -> Iterator[None]:
    """An echo server on host, IPv4 and IPv6."""
    listener = bed.host.listen("::", PORT)
    accepting = threading.Thread(target=_serve, args=(listener,), daemon=True)
    accepting.start()
    yield
    listener.shutdown(socket.SHUT_RDWR)
    accepting.join()
    listener.close()


@pytest.fixture
def watch(bed: Rig) -> Iterator[Detector]:
    """Our side's answers, on the wire."""
    with detector(bed.mid, f"tcp src port {PORT}") as found:
        yield found


@pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
@pytest.mark.parametrize("address", [HOST4, HOST6])
def test_login_from_before_up_lives_through_it(
    bed: Rig, squid: proxies.RunningProxy, killswitch: str, address: str
) -> None:
    with bed.world.connect(address, PORT) as sock:
        assert clients.echoes(sock)
        with up(bed.host, "--proxy", squid.url4, killswitch, "--dns", RESOLVER4):
            assert clients.echoes(sock, b"typed " * 10_000)
        assert clients.echoes(sock)


@pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
@pytest.mark.parametrize("address", [HOST4, HOST6])
def test_new_connection_comes_in_and_outlives_the_tunnel(
    bed: Rig, squid: proxies.RunningProxy, watch: Detector, killswitch: str, address: str
) -> None:
    with up(bed.host, "--proxy", squid.url4, killswitch, "--dns", RESOLVER4):
        sock = bed.world.connect(address, PORT)
        assert clients.echoes(sock, b"typed " * 10_000)
        assert f"{address}.{PORT}" in watch.seen()[0]
    assert clients.echoes(sock)
    sock.close()


@pytest.mark.parametrize(
    "more", [("--no-killswitch",), ("--no-killswitch", *BYPASS_BOX), ("--killswitch", *BYPASS_BOX)], ids=" ".join
)
@pytest.mark.parametrize("way", WAYS)
def test_published_port_of_a_container_is_reached(
    bed: Rig, squid: proxies.RunningProxy, way: str, more: tuple[str, ...]
) -> None:
    bed.host.sh(_PUBLISH)
    with (
        up(bed.host, "--proxy", squid.url4, "--dns", RESOLVER4, *more, before=WAYS[way]),
        bed.box.listen(BOX4, 8080) as listener,
        bed.world.connect(HOST4, 8080) as visitor,
        listener.accept()[0] as inside,
    ):
        inside.sendall(b"welcome")
        assert visitor.recv(7) == b"welcome"
    bed.host.sh("nft delete table ip publish")


@pytest.mark.parametrize(("there", "here"), [(WORLD4, HOST4), (WORLD6, HOST6)])
@pytest.mark.parametrize("way", WAYS)
def test_named_udp_server_answers_and_says_nothing_of_its_own(
    bed: Rig, squid: proxies.RunningProxy, way: str, there: str, here: str
) -> None:
    with (
        up(bed.host, *_closed(squid), "--inbound", f"udp/{UDP_PORT}", before=WAYS[way]) as running,
        _bound(bed.host, here, UDP_PORT) as server,
        _bound(bed.host, here, UDP_PORT + 1) as unnamed,
        _bound(bed.world, there, 4000) as asker,
        _bound(bed.world, there, 4001) as stranger,
    ):
        assert f"udp/{UDP_PORT} answers" in running.ready_line()
        for each in (server, unnamed):
            asker.sendto(b"question", each.getsockname()[:2])
            assert each.recvfrom(100)[1][:2] == (there, 4000)
            assert _heard(each, asker) is (each is server)
        assert not _heard(server, stranger), "nobody asked"
        stranger.sendto(b"question", unnamed.getsockname()[:2])
        assert not _heard(server, stranger), "another port was asked"


def test_named_port_is_no_way_out_for_a_container(bed: Rig, squid: proxies.RunningProxy) -> None:
    with _bound(bed.box, BOX4, UDP_PORT) as server, _bound(bed.world, WORLD4, 4003) as asker:
        with up(bed.host, "--proxy", squid.url4, "--no-killswitch", "--dns", RESOLVER4) as running:
            assert _heard(asker, server), "conntrack now knows who began"
            kill(running.helper, running.worker, running.process.pid)
        with up(bed.host, *_closed(squid), "--inbound", f"udp/{UDP_PORT}"):
            assert not _heard(server, asker)
    assert proxyvpn(bed.host, "teardown").returncode == 0


def test_flow_that_the_server_began_before_up_does_not_go_on(bed: Rig, squid: proxies.RunningProxy) -> None:
    with _bound(bed.host, HOST4, UDP_PORT) as server, _bound(bed.world, WORLD4, 4002) as there:
        with up(bed.host, "--proxy", squid.url4, "--no-killswitch", "--dns", RESOLVER4) as running:
            assert _heard(server, there), "conntrack now knows that this machine began"
            kill(running.helper, running.worker, running.process.pid)
        with up(bed.host, *_closed(squid), "--inbound", f"udp/{UDP_PORT}"):
            there.sendto(b"more", (HOST4, UDP_PORT))
            assert server.recv(100) == b"more"
            assert not _heard(server, there)
    assert proxyvpn(bed.host, "teardown").returncode == 0


def _closed(squid: proxies.RunningProxy) -> tuple[str, ...]:
    return ("--proxy", squid.url4, "--killswitch", "--dns", RESOLVER4)


def _bound(space: Namespace, address: str, port: int) -> socket.socket:
    sock = space.new_socket(family_of(address), socket.SOCK_DGRAM)
    sock.bind((address, port))
    return sock


def _heard(sender: socket.socket, receiver: socket.socket) -> bool:
    """Send one datagram; True when it arrives."""
    receiver.settimeout(0.3)
    try:
        sender.sendto(b"answer", receiver.getsockname()[:2])
        return receiver.recv(100) == b"answer"
    except OSError:
        return False


def _serve(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_echo, args=(client,), daemon=True).start()


def _echo(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        while piece := client.recv(65536):
            client.sendall(piece)
