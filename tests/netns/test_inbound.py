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
from tests.netns.rig import HOST4, HOST6, RESOLVER4, Detector, Rig, detector
from tests.netns.up import up

pytestmark = pytest.mark.privileged

PORT = 2022


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


def _serve(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_echo, args=(client,), daemon=True).start()


def _echo(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        while piece := client.recv(65536):
            client.sendall(piece)
