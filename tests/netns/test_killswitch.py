"""What leaves the machine, counted on the wire; each detector first shows that it sees what is offered.

box ---- host: `proxyvpn up` ---- [tcpdump] mid: squid ---- world: peer.py, two resolvers
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.netns import clients, proxies
from tests.netns.internet import Internet, ask
from tests.netns.namespaces import Namespace
from tests.netns.peer import ECHO
from tests.netns.rig import BOX4, RESOLVER4, RESOLVER6, WORLD4, WORLD6, Detector, Rig, detector, leak_filter
from tests.netns.up import proxyvpn, up

pytestmark = pytest.mark.privileged

ROUNDS = 50


@pytest.fixture
def watch(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> Iterator[Detector]:
    """A detector of everything that does not go to squid."""
    with detector(bed.mid, leak_filter()) as found:
        yield found


def offer(bed: Rig, rounds: int = ROUNDS) -> None:
    """Try everything that could leave, from host and from the container behind it."""
    for space, device in ((bed.host, "eth0"), (bed.box, "eth0")):
        clients.offer_datagrams(space, rounds)
        clients.offer_datagrams(space, rounds, port=53)
        clients.offer_pings(space, rounds)
        if space is bed.host:
            clients.offer_bound_connections(space, rounds, device)


def test_detector_sees_all_that_is_offered(bed: Rig, watch: Detector) -> None:
    offer(bed)
    seen = watch.seen()
    assert sum(BOX4 in line for line in seen) >= 3 * ROUNDS
    assert sum("Flags [S]" in line for line in seen) >= 2 * ROUNDS
    assert sum("UDP" in line or "domain" in line or ".53:" in line for line in seen) >= 8 * ROUNDS
    assert sum("ICMP" in line for line in seen) >= 4 * ROUNDS


def test_killswitch_lets_nothing_out(bed: Rig, watch: Detector, squid: proxies.RunningProxy) -> None:
    offer(bed, 5)
    before = len(watch.seen())
    assert before > 0
    with up(bed.host, "--proxy", squid.url4, "--killswitch", "--dns", RESOLVER4):
        begun = len(watch.seen())
        offer(bed)
        assert clients.curl(bed.host, f"http://{WORLD4}/").returncode == 0
        assert clients.curl(bed.box, f"http://[{WORLD6}]/").returncode == 0
        assert watch.seen()[begun:] == []


def test_older_connection_does_not_go_on_past_the_tunnel(
    bed: Rig, watch: Detector, squid: proxies.RunningProxy
) -> None:
    older = [bed.host.connect(WORLD4, ECHO), bed.host.connect(WORLD6, ECHO), bed.box.connect(WORLD4, ECHO)]
    assert all(clients.echoes(sock) for sock in older)
    with up(bed.host, "--proxy", squid.url4, "--killswitch", "--dns", RESOLVER4):
        begun = len(watch.seen())
        assert not any(clients.echoes(sock, b"x" * 5000) for sock in older)
        assert watch.seen()[begun:] == []
    for sock in older:
        sock.close()


def test_killswitch_off_leaves_udp_alone(bed: Rig, watch: Detector, squid: proxies.RunningProxy) -> None:
    with up(bed.host, "--proxy", squid.url4, "--dns", RESOLVER4) as running:
        assert "killswitch off" in running.ready_line()
        begun = len(watch.seen())
        for space in (bed.host, bed.box):
            for host in (WORLD4, WORLD6):
                assert datagram_answered(space, host)
        with bed.host.connect(WORLD4, ECHO) as sock:
            assert clients.echoes(sock)
        seen = watch.seen()[begun:]
    assert len(seen) >= 4
    assert not any("Flags" in line for line in seen), "TCP went past the tunnel"


def test_killswitch_fails_datagrams_at_once(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    killswitch = up(bed.host, "--proxy", squid.url4, "--killswitch", "--dns", RESOLVER4)
    with killswitch, bed.host.new_socket(kind=socket.SOCK_DGRAM) as sock:
        sock.connect((WORLD4, ECHO))
        with pytest.raises((PermissionError, ConnectionRefusedError)):
            for _ in range(2):
                sock.send(b"quic")
                sock.recv(10)


@pytest.mark.parametrize("options", [("--dns", RESOLVER4), ("--allow-dns", RESOLVER4), ()])
def test_only_allowed_resolvers_are_asked_directly(
    bed: Rig, watch: Detector, squid: proxies.RunningProxy, options: tuple[str, ...]
) -> None:
    bed.host.resolv_conf.write_text("" if options else f"nameserver {RESOLVER4}\n")
    with up(bed.host, "--proxy", squid.url4, "--killswitch", *options):
        begun, logged = len(watch.seen()), squid.log_size()
        assert ask(bed.host, RESOLVER4) and ask(bed.host, RESOLVER4, tcp=True)
        assert not ask(bed.host, RESOLVER6, seconds=0.5)
        assert ask(bed.host, RESOLVER6, tcp=True), "TCP to another resolver goes through the proxy"
        squid.logged(f"CONNECT [{RESOLVER6}]:53", logged)
        assert f"{RESOLVER4}:53" not in squid.log.read_text()[logged:]
        direct = watch.seen()[begun:]
    bed.host.resolv_conf.write_text("")
    assert direct and all(f"{RESOLVER4}.53" in line for line in direct)


def test_dns_replaces_what_resolv_conf_says(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    bed.host.resolv_conf.write_text(f"nameserver {RESOLVER4}\n")
    with up(bed.host, "--proxy", squid.url4, "--killswitch", "--dns", RESOLVER6):
        assert ask(bed.host, RESOLVER6)
        assert not ask(bed.host, RESOLVER4, seconds=0.5)
    bed.host.resolv_conf.write_text("")


def test_no_resolver_is_a_warning(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    with up(bed.host, "--proxy", squid.url4, "--killswitch") as running:
        assert "resolver" in running.said().lower()


def test_bypassed_network_is_reached_directly(bed: Rig, watch: Detector, squid: proxies.RunningProxy) -> None:
    with up(bed.host, "--proxy", squid.url4, "--killswitch", "--dns", RESOLVER4, "--bypass", f"{WORLD4}/32"):
        begun, logged = len(watch.seen()), squid.log_size()
        assert clients.curl(bed.host, f"http://{WORLD4}/").returncode == 0
        assert datagram_answered(bed.host, WORLD4) and not datagram_answered(bed.host, WORLD6, 0.5)
        direct = watch.seen()[begun:]
        assert WORLD4 not in squid.log.read_text()[logged:]
    assert direct and all(f"> {WORLD4}." in line for line in direct)


def test_status_counts_what_was_dropped(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    with up(bed.host, "--proxy", squid.url4, "--killswitch", "--dns", RESOLVER4):
        clients.offer_datagrams(bed.box, 10)
        assert json.loads(proxyvpn(bed.host, "status", "--json").stdout)["dropped"] > 0


def datagram_answered(space: Namespace, host: str, seconds: float = 2) -> bool:
    """Send one datagram to the echo server; True when it came back."""
    with space.new_socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        try:
            sock.sendto(b"ping", (host, ECHO))
            return sock.recv(10) == b"ping"
        except OSError:
            return False
