"""DNS where the worker answers it: what the kernel brings into the TUN and back, and that nothing of it leaves.

host (the helper, `answering` in the worker's place) ---- outside: resolver, elsewhere    (kernel_support.py)
box: a container behind `host`
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from proxyvpn.channel import close_all
from proxyvpn.errors import ProxyvpnError
from proxyvpn.plan import Tunnel
from tests.netns import kernel_support as support
from tests.netns import wait
from tests.netns.answering import ANSWER, ICMP, ICMPV6, TCP, UDP, Answering, answering
from tests.netns.dumps import difference
from tests.netns.kernel_support import Bed, Running, tunnel
from tests.netns.namespaces import Namespace, family_of, wire
from tests.netns.rig import Detector, detector

pytestmark = pytest.mark.privileged

WAYS = ("libnftables", "iptables-legacy")
RESOLVERS = (support.RESOLVER, support.RESOLVER6)
POOL = ("198.18.7.7", "fd70:7670:6e:1::7")
QUESTION = b"question"
_BOX = """
ip addr add 172.31.98.2/24 dev eth0; ip addr add fd97::2/64 dev eth0 nodad
ip route add default via 172.31.98.1; ip -6 route add default via fd97::1
"""
_FORWARDING = """
ip addr add 172.31.98.1/24 dev b0; ip addr add fd97::1/64 dev b0 nodad
sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0
sysctl -q -w net.ipv6.icmp.ratelimit=0
"""
_WITHOUT_INVALID = """
table inet somebody { chain a { type filter hook prerouting priority filter; ct state invalid drop; }; }
"""
_STRICT = f"""{_WITHOUT_INVALID}
table inet somebody {{ chain b {{ type filter hook prerouting priority mangle + 10; meta nfproto != ipv6 return
    iifname b0 return
    fib saddr . mark . iif oif missing drop
}}; }}
"""
"""What firewalld loads (IPv6_rpfilter), but for the packets of the container: see docs/security.md."""


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with support.bed() as made:
        made.outside.sh("sysctl -q -w net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
        yield made


@pytest.fixture(scope="module")
def box(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    space = Namespace("box", tmp_path_factory.mktemp("names") / "box")
    try:
        wire(bed.host, "b0", space, "eth0")
        bed.host.sh(_FORWARDING)
        space.sh(_BOX)
        yield space
    finally:
        space.close()


@pytest.fixture
def watch(bed: Bed) -> Iterator[Detector]:
    """All DNS, and all to the pool, that leaves `host`."""
    with detector(bed.outside, "port 53 or net 198.18.0.0/15 or net fd70:7670:6e:1::/64", "down0") as found:
        yield found


@contextlib.contextmanager
def capturing(bed: Bed, way: str = "libnftables", killswitch: bool = True, **more: object) -> Iterator[Answering]:
    """Run a tunnel that answers names; nothing of it stays."""
    before = bed.dump()
    wanted = replace(tunnel(killswitch), **{"names": "virtual", **more})  # type: ignore[arg-type]
    with engaged(bed, wanted, way) as (helper, queues):
        with answering(queues) as found:
            yield found
        assert helper.close().left == ()
    assert difference(before, bed.dump()) == ""


@contextlib.contextmanager
def engaged(bed: Bed, wanted: Tunnel, way: str = "libnftables") -> Iterator[tuple[Running, tuple[int, ...]]]:
    """Run a helper; what a failed test leaves is removed, for the next one."""
    helper = bed.helper(way)
    try:
        _, queues = helper.open(wanted)
        helper.engage()
        yield helper, queues
        close_all(queues)
        helper.end()
    except BaseException:
        helper.end()
        bed.helper(way).reclaim()
        raise


def udp(space: Namespace, host: str) -> socket.socket:
    sock = space.new_socket(family_of(host), socket.SOCK_DGRAM)
    sock.settimeout(2)
    return sock


def is_answered(sock: socket.socket, host: str, port: int = 53) -> bool:
    """Ask, and say whether the answer comes from where it was asked."""
    try:
        sock.sendto(QUESTION, (host, port))
        answer, (whence, *_) = sock.recvfrom(100)
    except OSError:
        return False
    return (answer, whence) == (ANSWER + QUESTION, host)


BOTH = pytest.mark.parametrize("killswitch", [True, False], ids=["closed", "open"])
EACH_WAY = pytest.mark.parametrize("way", WAYS)


@BOTH
@EACH_WAY
def test_detector_sees_dns_where_it_goes_directly(bed: Bed, watch: Detector, way: str, killswitch: bool) -> None:
    with capturing(bed, way, killswitch, names="direct") as found:
        for host in RESOLVERS:
            with udp(bed.host, host) as sock:
                sock.settimeout(0.1)
                assert not is_answered(sock, host)
    assert not found.has(UDP, support.RESOLVER, 53)
    assert {host for host in RESOLVERS if any(f"> {host}.53" in line for line in watch.seen())} == set(RESOLVERS)


@BOTH
@EACH_WAY
def test_every_question_is_answered_from_whom_it_was_asked(
    bed: Bed, box: Namespace, watch: Detector, way: str, killswitch: bool
) -> None:
    with contextlib.ExitStack() as stack:
        before = {host: stack.enter_context(udp(bed.host, host)) for host in RESOLVERS}
        for host in RESOLVERS:
            stack.enter_context(udp(bed.outside, host)).bind((host, 53))  # who says nothing
        for host, sock in before.items():
            sock.connect((host, 53))
            sock.send(b"conntrack knows me")
        watch.seen()
        asked = watch.seen()
        with capturing(bed, way, killswitch) as found:
            for host in (*RESOLVERS, support.ELSEWHERE, support.ELSEWHERE6, support.BYPASS, support.PROXY):
                with udp(bed.host, host) as sock:
                    assert is_answered(sock, host), host
            for host, source in zip(RESOLVERS, (support.HOST, support.HOST6), strict=True):
                with udp(bed.host, host) as sock:
                    sock.bind((source, 0))
                    assert is_answered(sock, host), f"bound to {source}"
                before[host].send(QUESTION)
                assert before[host].recv(100) == ANSWER + QUESTION, "of a socket from before"
                with udp(box, host) as sock:
                    assert is_answered(sock, host), "of a container"
                with contextlib.suppress(OSError):
                    bed.host.connect(host, 53, seconds=0.3)
                assert found.has(TCP, host, 53)
        assert watch.seen() == asked


@BOTH
@EACH_WAY
def test_pool_addresses_refuse_what_is_not_tcp_at_once_and_nothing_leaves(
    bed: Bed, box: Namespace, watch: Detector, way: str, killswitch: bool
) -> None:
    with capturing(bed, way, killswitch) as found:
        for host in POOL:
            with udp(bed.host, host) as sock:
                sock.connect((host, 443))
                with pytest.raises((ConnectionRefusedError, PermissionError)):
                    sock.send(b"quic")
                    sock.recv(1)
            with udp(bed.host, host) as sock, contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"up0")
                sock.sendto(b"quic", (host, 443))
            echo = (ICMP, b"\x08\0\xf7\xff\0\0\0\0") if "." in host else (ICMPV6, b"\x80" + bytes(7))
            with bed.host.new_socket(family_of(host), socket.SOCK_RAW, echo[0]) as sock, pytest.raises(PermissionError):
                sock.sendto(echo[1], (host, 0))
            with contextlib.suppress(OSError):
                bed.host.connect(host, 443, seconds=0.3)
            assert found.has(TCP, host, 443)
            with udp(box, host) as sock:
                sock.sendto(b"quic", (host, 443))
                wait.until(lambda host=host: found.has(UDP, host, 443), "the container's datagram in the TUN", 3)  # type: ignore[misc]
        assert not [each for each in found.seen if each.protocol in (ICMP, ICMPV6)]
    assert watch.seen() == []


@BOTH
@EACH_WAY
def test_other_udp_is_what_it_was(bed: Bed, way: str, killswitch: bool) -> None:
    with capturing(bed, way, killswitch) as found, udp(bed.outside, support.ELSEWHERE) as there:
        there.bind((support.ELSEWHERE, 853))
        with udp(bed.host, support.ELSEWHERE) as sock, contextlib.suppress(PermissionError):
            sock.sendto(b"past", (support.ELSEWHERE, 853))
        there.settimeout(1 if not killswitch else 0.2)
        if killswitch:
            with pytest.raises(TimeoutError):
                there.recv(10)
        else:
            assert there.recv(10) == b"past"
    assert not found.has(UDP, support.ELSEWHERE, 853)


@EACH_WAY
@pytest.mark.parametrize("rp_filter", ["1", "2"])
def test_answers_pass_rp_filter_and_somebody_who_drops_the_invalid(
    bed: Bed, box: Namespace, way: str, rp_filter: str
) -> None:
    bed.host.sh(f"sysctl -q -w net.ipv4.conf.all.rp_filter={rp_filter} net.ipv4.conf.up0.rp_filter={rp_filter}")
    bed.host.run("nft", "-f", "-", input=_STRICT if way == "libnftables" else _WITHOUT_INVALID)
    try:
        with capturing(bed, way):
            for host in RESOLVERS:
                for space in (bed.host, box):
                    with udp(space, host) as sock:
                        assert is_answered(sock, host), (space.name, host)
    finally:
        bed.host.sh("nft delete table inet somebody")
        bed.host.sh("sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.up0.rp_filter=0")


@EACH_WAY
def test_machine_without_a_default_route_has_its_names_answered(bed: Bed, way: str) -> None:
    bed.host.sh("ip route del default; ip -6 route del default")
    try:
        for killswitch in (True, False):
            with capturing(bed, way, killswitch):
                for host in ("192.0.2.53", "2001:db8::53"):
                    with udp(bed.host, host) as sock:
                        assert is_answered(sock, host), (killswitch, host)
    finally:
        bed.host.sh(f"ip route add default via {support.PROXY}; ip -6 route add default via {support.PROXY6}")


@EACH_WAY
@pytest.mark.parametrize(("first", "then"), [("direct", "virtual"), ("virtual", "direct"), ("proxy", "virtual")])
def test_locked_machine_is_taken_over_in_another_mode(bed: Bed, way: str, first: str, then: str) -> None:
    before = bed.dump()
    with engaged(bed, replace(tunnel(killswitch=True), names=first), way):
        pass
    with engaged(bed, replace(tunnel(killswitch=True), names=then), way) as (helper, queues):
        fresh = bed.host.sh("ip -4 rule show; ip -6 rule show")
        assert ("ipproto udp dport 53" in fresh) == ("5202:" in fresh) == (then == "virtual")
        assert fresh.count("ipproto tcp lookup 28790") == 2
        with answering(queues) as found, udp(bed.host, support.RESOLVER) as sock:
            sock.settimeout(1)
            assert is_answered(sock, support.RESOLVER) == (then == "virtual")
        assert found.has(UDP, support.RESOLVER, 53) == (then == "virtual")
        assert helper.close().left == ()
    assert difference(before, bed.dump()) == ""


@BOTH
@EACH_WAY
def test_helper_dials_a_resolver_past_the_tunnel_and_nobody_else(
    bed: Bed, watch: Detector, way: str, killswitch: bool
) -> None:
    with engaged(bed, replace(tunnel(killswitch), names="virtual"), way) as (helper, queues):
        held = _descriptors(helper.pid)
        for host, address in zip(RESOLVERS, tunnel(killswitch).resolvers, strict=True):
            with (
                bed.outside.listen(host, 53) as listener,
                answering(queues) as found,
                socket.socket(fileno=helper.dial(address, 53)) as sock,
                listener.accept()[0] as there,
            ):
                assert not os.get_blocking(sock.fileno()) and not sock.get_inheritable()
                sock.settimeout(2)
                sock.sendall(b"over tcp")
                assert there.recv(20) == b"over tcp"
            assert not found.has(TCP, host, 53)
            for wrong in ((address, 80), (tunnel(killswitch).proxies[0].address, 53)):
                with pytest.raises(ProxyvpnError, match="permits no connection"):
                    helper.dial(*wrong)
        assert _descriptors(helper.pid) == held, "the helper keeps none"
        helper.close()
    assert watch.seen()


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@EACH_WAY
def test_script_lets_the_helper_dial_anybody_but_this_machine(bed: Bed, way: str) -> None:
    address = tunnel(True).proxies[0].address
    with (
        engaged(bed, replace(tunnel(killswitch=True), pac=True), way) as (helper, _),
        bed.outside.listen(str(address), 8443) as listener,
    ):
        with socket.socket(fileno=helper.dial(address, 8443)), listener.accept()[0]:
            pass
        for wrong in ("127.0.0.1", "::1", "198.18.0.1", "224.0.0.1"):
            with pytest.raises(ProxyvpnError, match="permits no connection"):
                helper.dial(ip_address(wrong), 8443)
        helper.close()


def test_raw_datagram_to_port_53_is_captured_too(bed: Bed, watch: Detector) -> None:
    with capturing(bed) as found:
        for host in RESOLVERS:
            with bed.host.new_socket(family_of(host), socket.SOCK_RAW, socket.IPPROTO_UDP) as sock:
                sock.sendto(struct.pack("!HHHH", 4000, 53, 8, 0), (host, 0))
            wait.until(lambda host=host: found.has(UDP, host, 53), "it is in the TUN", 3)  # type: ignore[misc]
    assert watch.seen() == []
