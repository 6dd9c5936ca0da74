"""Connections from before `up`: with the killswitch, those opened here end at once, so that programs reconnect.

box ---- host: `proxyvpn up` ---- [tcpdump] mid: squid ---- world: peer.py
"""

from __future__ import annotations

import errno
import socket

import pytest

from tests.netns import clients, proxies
from tests.netns.internet import Internet
from tests.netns.namespaces import family_of
from tests.netns.peer import ECHO
from tests.netns.rig import HOST4, HOST6, MID4, RESOLVER4, WORLD4, WORLD6, Rig
from tests.netns.up import kill, proxyvpn, up

pytestmark = pytest.mark.privileged

BYPASSED = "203.0.113.9"


def options(squid: proxies.RunningProxy, killswitch: str = "--killswitch") -> tuple[str, ...]:
    """Give the options of every `up` here."""
    return ("--proxy", squid.url4, killswitch, "--dns", RESOLVER4, "--bypass", f"{BYPASSED}/32")


def why_it_ended(sock: socket.socket) -> int:
    """Give the errno of the next read, 0 for an end in order."""
    try:
        sock.settimeout(2)
        sock.recv(1)
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize("address", [WORLD4, WORLD6, f"::ffff:{WORLD4}"])
def test_program_sees_its_connection_aborted_and_reconnects_through_the_tunnel(
    bed: Rig, world: Internet, squid: proxies.RunningProxy, address: str
) -> None:
    older = bed.host.connect(address, ECHO)
    assert clients.echoes(older)
    with up(bed.host, *options(squid)) as running:
        assert why_it_ended(older) == errno.ECONNABORTED
        assert "[#] ss --kill" in running.said()
        start = squid.log_size()
        with bed.host.connect(address, ECHO) as again:
            assert clients.echoes(again)
        squid.logged("CONNECT", start)
    older.close()


def test_connection_that_is_bound_to_a_device_is_aborted_too(
    bed: Rig, world: Internet, squid: proxies.RunningProxy
) -> None:
    with bed.host.new_socket(family_of(WORLD4)) as older:
        older.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        older.connect((WORLD4, ECHO))
        with up(bed.host, *options(squid)):
            assert why_it_ended(older) == errno.ECONNABORTED


def test_what_may_go_on_goes_on(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    listeners = [bed.host.listen(address, 2023) for address in ("127.0.0.1", "::1", HOST4, HOST6)]
    kept = [bed.host.connect(address, 2023) for address in ("127.0.0.1", "::1", HOST4, HOST6)]
    accepted = [each.accept()[0] for each in listeners]
    for each in listeners:
        each.close()  # without a listener nothing but the pair itself says that it is within the machine
    kept.append(bed.host.connect(MID4, squid.port))
    bypassed = bed.host.connect(BYPASSED, ECHO)
    came_in = bed.host.listen(HOST4, 2024)
    visitor = bed.world.connect(HOST4, 2024)
    visited = came_in.accept()[0]
    with up(bed.host, *options(squid)):
        for one, other in zip(kept, accepted, strict=False):
            one.sendall(b"x")
            assert other.recv(1) == b"x"
        kept[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            kept[-1].recv(1)
        assert clients.echoes(bypassed)
        visitor.sendall(b"x")
        assert visited.recv(1) == b"x"
    for sock in (*kept, *accepted, bypassed, came_in, visitor, visited):
        sock.close()


def test_without_the_killswitch_nothing_is_aborted(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    with bed.host.connect(WORLD4, ECHO) as older, up(bed.host, *options(squid, "--no-killswitch")) as running:
        assert "ss --kill" not in running.said()
        older.settimeout(0.2)
        with pytest.raises(TimeoutError):
            older.recv(1)


def test_answer_to_a_containers_connection_does_not_let_it_past_the_next_tunnel(
    bed: Rig, world: Internet, squid: proxies.RunningProxy
) -> None:
    with up(bed.host, *options(squid, "--no-killswitch")) as running:
        kill(running.helper, running.worker, running.process.pid)
    with bed.box.connect(WORLD4, ECHO) as older:  # directly, and the rules of the dead tunnel see its SYN/ACK
        assert clients.echoes(older)
        with up(bed.host, *options(squid)):
            assert not clients.echoes(older)
    assert proxyvpn(bed.host, "teardown").returncode == 0
