"""The real helper against the real kernel: what it adds, what then leaves, and that nothing of it stays.

host                                     outside
10.98.0.5/24  up0 ============== down0   10.98.0.1 (proxy) .7 (bypass) .9 (elsewhere) .53 (resolver)
fd98::5/64                               fd98::1, ::9, ::53 likewise
pvpn0: nobody carries packets; the tests read them from the queues
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from proxyvpn.channel import close_all
from proxyvpn.children import Helper
from proxyvpn.errors import AlreadyUp, MachineLocked, ProxyvpnError, RolledBack
from proxyvpn.messages import Engage, Status, Update
from proxyvpn.plan import Endpoint
from tests.netns import kernel_support as support
from tests.netns import wait
from tests.netns.dumps import difference
from tests.netns.kernel_support import Bed, Running, tunnel
from tests.netns.namespaces import family_of

pytestmark = pytest.mark.privileged

WAYS = ("libnftables", "nft", "iptables-legacy")
VNET_HEADER = 10
TCP, UDP = 6, 17


@pytest.fixture
def bed() -> Iterator[Bed]:
    with support.bed() as made:
        yield made


def engaged(bed: Bed, way: str, killswitch: bool) -> tuple[Running, tuple[int, ...]]:
    """Start a helper and let it engage; give it with its queues."""
    helper = bed.helper(way)
    _, queues = helper.open(tunnel(killswitch))
    helper.engage()
    return helper, queues


@pytest.mark.parametrize("killswitch", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_close_leaves_the_machine_byte_for_byte_as_it_was(bed: Bed, way: str, killswitch: bool) -> None:
    before = bed.dump()
    helper, queues = engaged(bed, way, killswitch)
    between = difference(before, bed.dump())
    assert "rules, IPv4: + 5200" in between and "rules, IPv6: + 5200" in between and "pvpn0" in between
    closed = helper.close()
    assert closed.left == ()
    assert difference(before, bed.dump()) == ""
    close_all(queues)
    assert helper.end() == 0


@pytest.mark.parametrize("way", WAYS)
def test_close_before_engage_leaves_the_machine_as_it_was(bed: Bed, way: str) -> None:
    before = bed.dump()
    helper = bed.helper(way)
    _, queues = helper.open(tunnel(killswitch=True))
    assert helper.close().left == ()
    assert difference(before, bed.dump()) == ""
    close_all(queues)


@pytest.mark.parametrize("way", WAYS)
def test_end_of_file_undoes_everything_without_the_killswitch(bed: Bed, way: str) -> None:
    before = bed.dump()
    helper, queues = engaged(bed, way, killswitch=False)
    assert helper.end() == 0
    assert difference(before, bed.dump()) == ""
    close_all(queues)


@pytest.mark.parametrize("way", WAYS)
def test_end_of_file_locks_the_machine_with_the_killswitch_and_reclaim_opens_it(bed: Bed, way: str) -> None:
    before = bed.dump()
    helper, queues = engaged(bed, way, killswitch=True)
    close_all(queues)
    assert helper.end() == 0
    assert "killswitch stays" in helper.said()
    with pytest.raises(OSError):
        bed.host.connect(support.ELSEWHERE, 80, seconds=1)

    after = bed.helper(way)
    state = after.status()
    assert state.phase == "fresh" and state.locked and len(state.left) > 8
    reclaimed = after.reclaim()
    assert len(reclaimed.removed) > 8 and reclaimed.left == ()
    assert difference(before, bed.dump()) == ""
    assert not after.status().locked


@pytest.mark.parametrize("killswitch", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_locked_machine_is_taken_over_and_closed_in_order(bed: Bed, way: str, killswitch: bool) -> None:
    before = bed.dump()
    crashed, queues = engaged(bed, way, killswitch=True)
    close_all(queues)
    crashed.end()
    helper, queues = engaged(bed, way, killswitch)
    assert helper.status().locked == killswitch
    assert bed.host.sh("ip -4 rule show").count("proto 118") == (10 if killswitch else 4)
    assert ("unreachable" in bed.host.sh("ip -6 route show table 28790")) == killswitch
    assert helper.close().left == ()
    assert difference(before, bed.dump()) == ""
    close_all(queues)


def test_take_over_never_deletes_the_guard(bed: Bed) -> None:
    crashed, queues = engaged(bed, "libnftables", killswitch=True)
    close_all(queues)
    crashed.end()

    def guard() -> str:
        return next(
            line for line in bed.host.sh("nft -a list table inet proxyvpn").splitlines() if "chain guard" in line
        )

    first = guard()
    engaged(bed, "libnftables", killswitch=True)
    assert guard() == first and "handle" in first


def test_killed_helper_without_killswitch_leaves_what_the_next_tunnel_takes_over(bed: Bed) -> None:
    before = bed.dump()
    first, queues = engaged(bed, "libnftables", killswitch=False)
    first._process.kill()
    close_all(queues)
    first.end()
    helper, queues = engaged(bed, "libnftables", killswitch=False)
    assert helper.close().left == ()
    assert difference(before, bed.dump()) == ""
    close_all(queues)


def test_reclaim_without_leftovers_does_nothing(bed: Bed) -> None:
    before = bed.dump()
    reclaimed = bed.helper().reclaim()
    assert (reclaimed.removed, reclaimed.left) == ((), ())
    assert difference(before, bed.dump()) == ""


def test_reclaim_leaves_alone_what_only_looks_like_ours(bed: Bed) -> None:
    bed.host.sh(
        "ip tuntap add dev pvpn0 mode tun; ip link add pvpn1 type veth; ip link set pvpn1 alias proxyvpn;"
        "ip rule add pref 5200 fwmark 0x70767076 lookup 28790; ip route add unreachable default table 28790;"
        "nft add table ip proxyvpn"
    )
    before = bed.dump()
    assert bed.helper().reclaim().removed == ()
    assert difference(before, bed.dump()) == ""


def test_planted_link_is_left_alone_and_the_next_name_taken(bed: Bed) -> None:
    bed.host.sh("ip tuntap add dev pvpn0 mode tun user 65534 multi_queue")
    before = bed.dump()
    helper = bed.helper()
    ifname, queues = helper.open(tunnel(killswitch=True))
    assert ifname == "pvpn1"
    helper.engage()
    assert helper.close().left == ()
    assert difference(before, bed.dump()) == ""
    close_all(queues)


def test_link_with_another_name_like_ours_is_left_alone(bed: Bed) -> None:
    bed.host.sh("ip link property add dev up0 altname pvpn0")
    before = bed.dump()
    helper = bed.helper()
    ifname, queues = helper.open(tunnel(killswitch=True))
    assert ifname == "pvpn1"
    assert helper.close().left == ()
    assert difference(before, bed.dump()) == ""
    close_all(queues)


@pytest.mark.parametrize("route", ["-4 route add default via 10.98.0.1", "-6 route add unreachable default metric 7"])
def test_routing_table_of_somebody_else_is_an_error_and_touches_nothing(bed: Bed, route: str) -> None:
    bed.host.sh(f"ip {route} table 28790")
    before = bed.dump()
    with pytest.raises(ProxyvpnError, match="routing table 28790 is somebody else's"):
        bed.helper().open(tunnel(killswitch=True))
    assert difference(before, bed.dump()) == ""


def test_dead_tunnel_whose_worker_lingers_is_taken_over(bed: Bed) -> None:
    before = bed.dump()
    crashed, lingering = engaged(bed, "libnftables", killswitch=True)
    crashed.end()
    helper = bed.helper()
    ifname, queues = helper.open(tunnel(killswitch=True))
    helper.engage()
    assert ifname == "pvpn1"
    for version in (4, 6):
        assert "default dev pvpn1" in bed.host.sh(f"ip -{version} route show table 28790")
    assert helper.close().left == ()
    close_all((*queues, *lingering))
    assert difference(before, bed.dump()) == ""


def test_user_who_locks_the_namespace_keeps_nobody_from_teardown(bed: Bed) -> None:
    crashed, queues = engaged(bed, "libnftables", killswitch=True)
    close_all(queues)
    crashed.end()
    locking = (
        "import fcntl; f = open('/proc/self/ns/net'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    user = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "/usr/bin/env", "-i", "/usr/bin/python3")
    squatter = subprocess.Popen(
        bed.host.command(*user, "-c", locking), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert squatter.stdout and squatter.stdout.readline() == "1\n"
    assert bed.helper().status().locked
    assert bed.helper().reclaim().left == ()
    helper, queues = engaged(bed, "libnftables", killswitch=False)
    with pytest.raises(AlreadyUp):
        bed.helper().status()
    helper.close()
    close_all(queues)
    squatter.communicate("")


def test_one_tunnel_in_a_namespace(bed: Bed) -> None:
    first, queues = engaged(bed, "libnftables", killswitch=False)
    between = bed.dump()
    for ask in (lambda helper: helper.open(tunnel(False)), Helper.reclaim, Helper.status):
        with pytest.raises(AlreadyUp):
            ask(bed.helper())
    assert difference(between, bed.dump()) == ""
    first.close()
    close_all(queues)


def test_a_caller_in_another_namespace_is_refused(bed: Bed) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ours:
        done = bed.host.run(sys.executable, "-I", "-m", "proxyvpn.helper", stdin=theirs, check=False)
    assert done.returncode == 1 and "another network namespace" in done.stderr


def test_helper_keeps_one_capability_and_is_nobody(bed: Bed) -> None:
    helper, queues = engaged(bed, "libnftables", killswitch=False)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{helper.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 1 << 12
    assert int(status["CapBnd"], 16) == int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1" and status["Groups"].strip() == ""
    assert {int(uid) for uid in status["Uid"].split()} <= set(range(61184, 65520))
    close_all(queues)


def test_helper_with_programs_stays_root_with_two_capabilities_and_says_so(bed: Bed) -> None:
    helper, queues = engaged(bed, "nft", killswitch=False)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{helper.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 12 | 1 << 13
    assert "stays root" in helper.said()
    close_all(queues)


def test_signals_do_not_end_the_helper(bed: Bed) -> None:
    helper, queues = engaged(bed, "libnftables", killswitch=True)
    for name in ("INT", "TERM", "HUP", "PIPE"):
        bed.host.run("kill", f"-{name}", str(helper.pid))
    assert helper.status().phase == "engaged"
    close_all(queues)


def test_descriptor_with_a_message_ends_the_helper_and_undoes(bed: Bed) -> None:
    before = bed.dump()
    helper, queues = engaged(bed, "libnftables", killswitch=False)
    helper.send(Status(), queues[:1])
    with pytest.raises(ProxyvpnError, match="brought a descriptor"):
        helper.take(Engage)
    assert helper.end() == 1
    assert difference(before, bed.dump()) == ""
    close_all(queues)


def test_no_free_name_is_an_error_and_touches_nothing(bed: Bed) -> None:
    bed.host.sh("for n in 0 1 2 3 4 5 6 7 8 9; do ip link add pvpn$n type veth; done")
    before = bed.dump()
    with pytest.raises(ProxyvpnError, match="every name from pvpn0 to pvpn9 is taken"):
        bed.helper().open(tunnel(killswitch=True))
    assert difference(before, bed.dump()) == ""


def test_missing_tun_node_is_an_error_and_touches_nothing(bed: Bed) -> None:
    bed.host.sh("mount -t tmpfs tmpfs /dev/net")
    before = bed.dump()
    with pytest.raises(ProxyvpnError, match="there is no /dev/net/tun"):
        bed.helper().open(tunnel(killswitch=True))
    assert difference(before, bed.dump()) == ""


def test_failure_half_way_is_rolled_back(bed: Bed) -> None:
    bed.host.sh("mount --bind /dev/null /dev/net/tun")
    before = bed.dump()
    helper = bed.helper()
    with pytest.raises(RolledBack, match="cannot be attached"):
        helper.open(tunnel(killswitch=True))
    assert "nft -f -" in helper.said(), "the guard had been there"
    assert difference(before, bed.dump()) == ""
    assert helper.end() == 0


def test_failed_take_over_leaves_the_machine_locked(bed: Bed) -> None:
    crashed, queues = engaged(bed, "libnftables", killswitch=True)
    close_all(queues)
    crashed.end()
    bed.host.sh("mount --bind /dev/null /dev/net/tun")
    helper = bed.helper()
    with pytest.raises(MachineLocked, match="cannot be attached"):
        helper.open(tunnel(killswitch=False))
    helper.end()
    assert bed.helper().status().locked


def test_hidden_nftables_leads_to_iptables(bed: Bed) -> None:
    library = bed.host.sh("ls /usr/lib/*/libnftables.so.1 /usr/lib/libnftables.so.1 2>/dev/null || true").split()
    for path in (*library, "/usr/sbin/nft"):
        bed.host.sh(f"mount --bind /dev/null {path}")
    helper = bed.helper()
    _, queues = helper.open(tunnel(killswitch=True))
    helper.engage()
    assert "iptables-legacy loads the firewall" in helper.said()
    assert "PROXYVPN_GUARD" in bed.host.sh("iptables-legacy-save -t mangle")
    close_all(queues)


@pytest.mark.parametrize("way", WAYS)
def test_tcp_goes_into_the_tun_and_udp_past_it_without_the_killswitch(bed: Bed, way: str) -> None:
    helper, queues = engaged(bed, way, killswitch=False)
    for address in (support.ELSEWHERE, support.ELSEWHERE6):
        begin(bed, address, 80)
        assert first_packet(queues) == (TCP, address, 80)
        receiver = bound_udp(bed, address, 4433)
        udp(bed, address).sendto(b"past", (address, 4433))
        assert receiver.recv(16) == b"past"
    helper.close()
    close_all(queues)


@pytest.mark.parametrize("way", WAYS)
def test_only_what_is_allowed_leaves_with_the_killswitch(bed: Bed, way: str) -> None:
    helper, queues = engaged(bed, way, killswitch=True)
    for address in (support.ELSEWHERE, support.ELSEWHERE6):
        begin(bed, address, 80)
        assert first_packet(queues) == (TCP, address, 80)
        bound_udp(bed, address, 4433)
        sender = udp(bed, address)
        with pytest.raises(PermissionError):
            sender.sendto(b"stopped", (address, 4433))
    assert helper.status().dropped >= 2

    for address in (support.RESOLVER, support.RESOLVER6):
        receiver = bound_udp(bed, address, 53)
        udp(bed, address).sendto(b"name?", (address, 53))
        assert receiver.recv(16) == b"name?"
    for address, port in ((support.PROXY, 3128), (support.PROXY6, 3128), (support.BYPASS, 80), (support.RESOLVER, 53)):
        with bed.outside.listen(address, port):
            bed.host.connect(address, port, seconds=3).close()
    begin(bed, support.PROXY, 80)
    assert first_packet(queues) == (TCP, support.PROXY, 80), "only the proxy's port is open"
    helper.close()
    close_all(queues)


@pytest.mark.parametrize("killswitch", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_connections_that_came_in_go_on(bed: Bed, way: str, killswitch: bool) -> None:
    for address in (support.HOST, support.HOST6):
        server = bed.own(bed.host.listen(address, 22))
        earlier = bed.own(bed.outside.connect(address, 22, seconds=3))
        login = bed.own(server.accept()[0])
        helper, queues = engaged(bed, way, killswitch)
        login.sendall(b"still here")
        assert earlier.recv(16) == b"still here"
        later = bed.own(bed.outside.connect(address, 22, seconds=3))
        second = bed.own(server.accept()[0])
        second.sendall(b"hello")
        assert later.recv(16) == b"hello"
        helper.close()
        helper.end()
        close_all(queues)


@pytest.mark.parametrize("way", WAYS)
def test_update_moves_the_way_to_the_proxy(bed: Bed, way: str) -> None:
    helper, queues = engaged(bed, way, killswitch=True)
    elsewhere = ip_address(support.ELSEWHERE)
    helper.update(Update((elsewhere,), (Endpoint(elsewhere, 8080),)))
    with bed.outside.listen(support.ELSEWHERE, 8080):
        bed.host.connect(support.ELSEWHERE, 8080, seconds=3).close()
    begin(bed, support.PROXY, 3128)
    assert first_packet(queues) == (TCP, support.PROXY, 3128)
    helper.close()
    close_all(queues)


def test_attach_gives_the_same_queues_again(bed: Bed) -> None:
    helper, queues = engaged(bed, "libnftables", killswitch=True)
    close_all(queues)
    again = helper.attach()
    assert len(again) == 2
    begin(bed, support.ELSEWHERE, 80)
    assert first_packet(again) == (TCP, support.ELSEWHERE, 80)
    close_all(again)


def begin(bed: Bed, address: str, port: int) -> None:
    """Send a SYN from `host`, without waiting for anything."""
    sock = bed.own(bed.host.new_socket(family_of(address)))
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.connect((address, port))


def udp(bed: Bed, address: str) -> socket.socket:
    """Give a UDP socket of `host` for the family of `address`."""
    return bed.own(bed.host.new_socket(family_of(address), socket.SOCK_DGRAM))


def bound_udp(bed: Bed, address: str, port: int) -> socket.socket:
    """Give a UDP socket of `outside`."""
    sock = bed.own(bed.outside.new_socket(family_of(address), socket.SOCK_DGRAM))
    sock.bind((address, port))
    sock.settimeout(3)
    return sock


def first_packet(queues: tuple[int, ...]) -> tuple[int, str, int]:
    """Give protocol, destination and port of the first SYN that comes out of the TUN."""
    found = wait.until(lambda: _read(queues), "a packet in the TUN", 3)
    assert found is not None
    return found


def _read(queues: tuple[int, ...]) -> tuple[int, str, int] | None:
    for fd in select.select(queues, [], [], 0.1)[0]:
        packet = os.read(fd, 65536)[VNET_HEADER:]
        if packet[0] >> 4 == 4:
            return packet[9], socket.inet_ntop(socket.AF_INET, packet[16:20]), struct.unpack("!H", packet[22:24])[0]
        return packet[6], socket.inet_ntop(socket.AF_INET6, packet[24:40]), struct.unpack("!H", packet[42:44])[0]
    return None
