"""The helper and an asker that breaks the rules of the conversation rather than those of a packet.

host                                     outside
10.98.0.5/24  up0 ============== down0   the proxies, the resolvers
attacker ==SEQPACKET== helper (CAP_NET_ADMIN)
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.netns import hostile
from tests.netns import kernel_support as support
from tests.netns.attack import PATIENCE, Forker, forker, offer
from tests.netns.dumps import difference
from tests.netns.hostile import OPEN, STATUS, TUNNEL, Row, packed
from tests.netns.kernel_support import PROXY, RESOLVER, RESOLVER6, Bed
from tests.netns.rig import open_fds
from tests.netns.up import gone

pytestmark = pytest.mark.privileged

SO_PASSPIDFD = 76
BAD = Row("nonsense", b"\xc1")
KILLSWITCH = pytest.mark.parametrize("killswitch", [True, False])


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with support.bed() as made:
        yield made


@pytest.fixture(scope="module")
def helpers(bed: Bed) -> Iterator[Forker]:
    with forker(bed) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_stays(bed: Bed, request: pytest.FixtureRequest) -> Iterator[None]:
    """Check after each test that the kernel holds what it held before it."""
    before = bed.dump()
    yield
    assert difference(before, bed.dump()) == ""


def open_the_machine(helpers: Forker) -> None:
    """Check that the machine is locked, and let a fresh helper open it."""
    victim = helpers.helper()
    assert victim.ask("Status")["locked"] is True
    assert victim.ask("Reclaim")["left"] == []
    assert victim.end()[0] == 0


@pytest.mark.parametrize("phase", ["open", "engaged"])
@pytest.mark.parametrize(
    "row", [BAD, Row("out of phase", packed(OPEN)), Row("a descriptor", STATUS, 1)], ids=lambda row: row.name
)
def test_bad_message_under_the_killswitch_leaves_the_machine_locked(
    bed: Bed, helpers: Forker, phase: str, row: Row
) -> None:
    victim = helpers.helper()
    victim.lead_to(phase, killswitch=True)
    assert offer(victim, row) == ""
    assert "killswitch stays" in victim.said()
    with pytest.raises(OSError):
        bed.host.connect(support.ELSEWHERE, 80, seconds=1)
    open_the_machine(helpers)


def test_bad_message_to_a_fresh_helper_leaves_a_locked_machine_locked(bed: Bed, helpers: Forker) -> None:
    first = helpers.helper()
    first.lead_to("engaged", killswitch=True)
    first.end()
    locked = bed.dump()
    for row in (BAD, Row("Engage", packed({"is": "Engage"})), Row("Status", STATUS, 3)):
        assert offer(helpers.helper(), row) == ""
    assert difference(locked, bed.dump()) == ""
    open_the_machine(helpers)


@pytest.mark.parametrize("resolver", hostile.DECLINED)
def test_resolver_that_cannot_be_is_declined_and_the_tunnel_stays(bed: Bed, helpers: Forker, resolver: str) -> None:
    victim = helpers.helper()
    victim.lead_to("engaged")
    during = bed.dump()
    assert victim.ask("Update", resolvers=[resolver], proxies=TUNNEL["proxies"])["is"] == "Refused"
    assert victim.ask("Update", resolvers=[], proxies=[])["is"] == "Refused"
    assert difference(during, bed.dump()) == ""
    assert victim.ask("Close")["left"] == []
    assert victim.end()[0] == 0


DIALS = (
    *(
        (PROXY, 3128),
        (RESOLVER, 53),
        (RESOLVER, 853),
        (RESOLVER, 0),
        (RESOLVER, -1),
        (RESOLVER, 65536),
        (RESOLVER, 2**63),
    ),
    *(("127.0.0.1", 53), ("::1", 53), (f"{RESOLVER6}%up0", 53), ("0.0.0.0", 53), ("198.18.0.1", 53), ("224.0.0.1", 53)),
)


@pytest.mark.parametrize("names", ["direct", "virtual"])
def test_connection_past_the_tunnel_is_declined_and_the_tunnel_stays(bed: Bed, helpers: Forker, names: str) -> None:
    victim = helpers.helper()
    assert victim.ask("Open", version=1, tunnel={**TUNNEL, "names": names})["is"] == "Opened"
    assert victim.ask("Engage")["is"] == "Engaged"
    during = bed.dump()
    for address, port in DIALS:
        good = names == "virtual" and (address, port) == (RESOLVER, 53)
        assert victim.ask("Dial", address=address, port=port)["is"] == ("Dialled" if good else "Refused")
    assert difference(during, bed.dump()) == ""
    assert victim.ask("Close")["left"] == []
    assert victim.end()[0] == 0


def test_second_helper_may_look_and_no_more_while_a_tunnel_is_up(bed: Bed, helpers: Forker) -> None:
    first = helpers.helper()
    first.lead_to("engaged", killswitch=True)
    during = bed.dump()
    for killswitch in (True, False):
        second = helpers.helper()
        answer = second.ask("Open", version=1, tunnel={**TUNNEL, "killswitch": killswitch})
        assert (answer["is"], answer["code"]) == ("Refused", 7)
        assert second.ask("Reclaim")["code"] == 7
        second.end()
    assert offer(helpers.helper(), BAD) == ""
    assert difference(during, bed.dump()) == ""
    assert first.ask("Status")["phase"] == "engaged"
    assert first.ask("Close")["left"] == []
    assert first.end()[0] == 0


def test_silent_asker_keeps_nobody_else_waiting(helpers: Forker) -> None:
    silent = helpers.helper()
    silent.ask("Status")
    other = helpers.helper()
    other.lead_to("closed")
    assert (other.end()[0], silent.end()[0]) == (0, 0)


def test_two_askers_on_one_socket_are_one_asker(helpers: Forker) -> None:
    victim = helpers.helper()
    with victim.sock.dup() as other:
        other.settimeout(PATIENCE)
        victim.lead_to("open")
        other.send(packed({"is": "Status"}))
        assert b"open" in other.recv(1000)
        other.send(packed(OPEN))
        assert b"Refused" in other.recv(1000)
        assert victim.end()[0] == 1


@KILLSWITCH
@pytest.mark.parametrize("last", ["Open", "Engage"])
def test_asker_that_leaves_in_the_middle_of_a_request(helpers: Forker, last: str, killswitch: bool) -> None:
    victim = helpers.helper()
    if last == "Engage":
        victim.lead_to("open", killswitch)
    fields = {"version": 1, "tunnel": {**TUNNEL, "killswitch": killswitch}} if last == "Open" else {}
    victim.send(packed({"is": last, **fields}))
    assert victim.end()[0] == 0, victim.said()
    assert "Traceback" not in victim.said()
    if killswitch:
        open_the_machine(helpers)


def test_empty_packet_is_an_end_of_file(helpers: Forker) -> None:
    victim = helpers.helper()
    victim.lead_to("engaged")
    victim.send(b"")
    assert victim.receive() is None
    assert victim.end()[0] == 0
    assert "undoing everything" in victim.said()


@KILLSWITCH
def test_asker_that_never_reads_does_not_keep_the_helper_for_ever(helpers: Forker, killswitch: bool) -> None:
    idle = helpers.helper()
    idle.lead_to("engaged")
    most = idle.end()[1] + 4 * 1024
    victim = helpers.helper()
    victim.lead_to("engaged", killswitch)
    victim.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        while True:
            select.select([], [victim.sock], [], 1)
            victim.sock.send(STATUS)
    code, memory = victim.ended()  # while our end is still open
    victim.end()
    assert code == 1 and memory < most, victim.said()
    assert "Traceback" not in victim.said()
    if killswitch:
        open_the_machine(helpers)


def test_log_that_nobody_reads_does_not_keep_the_helper_for_ever(helpers: Forker) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    victim = helpers.helper(stderr=writing)
    victim.lead_to("closed")
    assert victim.end()[0] == 0
    os.close(writing)
    os.close(reading)


def no_wait(sock: socket.socket) -> None:
    sock.setblocking(False)


def short_wait(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 1000))


def no_more_reading(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_RD)


def no_more_writing(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    "meddle", [no_wait, short_wait, no_more_reading, no_more_writing], ids=lambda each: each.__name__
)
def test_asker_that_meddles_with_the_helpers_end_ends_its_tunnel_at_most(
    helpers: Forker, meddle: Callable[[socket.socket], None]
) -> None:
    victim = helpers.helper(keep=True)
    assert victim.theirs is not None
    with victim.theirs as theirs:
        victim.lead_to("engaged")
        meddle(theirs)
        victim.send(STATUS)
        code, _ = victim.end()
    assert code in (0, 1) and "undoing everything" in victim.said()
    assert "Traceback" not in victim.said(), victim.said()


@pytest.mark.parametrize("option", [socket.SO_PASSCRED, socket.SO_PASSSEC, SO_PASSPIDFD])
def test_asker_that_makes_the_kernel_attach_more_gives_the_helper_nothing(helpers: Forker, option: int) -> None:
    victim = helpers.helper(keep=True)
    assert victim.theirs is not None
    with victim.theirs as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, option, 1)
    most = 0
    for _ in range(5):
        victim.send(STATUS)
        victim.receive()
        found = 0 if gone(victim.pid) else open_fds(victim.pid)
        most = most or found
        assert found <= most
    assert victim.end()[0] == (1 if option == SO_PASSPIDFD else 0), victim.said()
    assert "Traceback" not in victim.said()


def test_forged_credentials_give_nothing(helpers: Forker) -> None:
    victim = helpers.helper()
    forged = struct.pack("3i", os.getpid(), 0, 0)
    victim.sock.sendmsg([STATUS], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, forged)])
    answer = victim.receive()
    assert answer is not None and answer["is"] == "State"
    assert victim.end()[0] == 0


def refused_at_start(helpers: Forker, fd: int) -> str:
    """Start a helper with `fd` as its fd 0; give what it says before it ends by itself."""
    victim = helpers.helper(fd)
    code, _ = victim.ended()
    assert code == 1 and "Traceback" not in victim.said(), victim.said()
    return victim.said()


def test_asker_of_another_network_namespace_is_refused(helpers: Forker) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert "another network namespace" in refused_at_start(helpers, theirs.fileno())


def test_socket_is_judged_by_where_it_was_made_though_its_maker_is_gone(bed: Bed, helpers: Forker) -> None:
    kept, given = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = (
        "import socket, sys; a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b'x'], [a.fileno(), b.fileno()])"
    )
    with kept, given:
        subprocess.run(
            bed.host.command(sys.executable, "-c", code, str(given.fileno())), pass_fds=(given.fileno(),), check=True
        )
        _, fds, _, _ = socket.recv_fds(kept, 1, 2)
        victim = helpers.helper(fds[1])
        for fd in fds:
            os.close(fd)
        assert victim.ended()[0] == 0, "it waited for requests until the other end was closed"


@pytest.mark.parametrize(
    ("family", "kind", "listens"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, False),
        (socket.AF_UNIX, socket.SOCK_DGRAM, False),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, False),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, True),
        (socket.AF_INET, socket.SOCK_STREAM, False),
        (socket.AF_NETLINK, socket.SOCK_RAW, False),
    ],
)
def test_socket_of_another_kind_is_refused(bed: Bed, helpers: Forker, family: int, kind: int, listens: bool) -> None:
    with bed.host.new_socket(family, kind) as sock:
        if listens:
            sock.bind(str(bed.home / "listening"))
            sock.listen()
        refused_at_start(helpers, sock.fileno())


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/"])
def test_file_in_place_of_a_socket_is_refused(helpers: Forker, path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    refused_at_start(helpers, fd)
    os.close(fd)
