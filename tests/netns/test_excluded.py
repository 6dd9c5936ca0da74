"""Programs that stay outside the tunnel, by their user or their cgroup: only they pass, with all that they send.

host: the helper; asking.py as several users, in several cgroups ---- outside: answers    (kernel_support.py)
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxyvpn.channel import close_all
from proxyvpn.errors import ProxyvpnError
from proxyvpn.messages import Update
from tests.netns import asking, wait
from tests.netns import kernel_support as support
from tests.netns.answering import TCP, UDP, Answering, answering
from tests.netns.dumps import difference
from tests.netns.kernel_support import Bed, Running, tunnel

pytestmark = pytest.mark.privileged

HOSTS = (support.ELSEWHERE, support.ELSEWHERE6)
USER, OTHER = 13, 14
BASE = f"proxyvpn-test-{os.getpid()}"
GROUP, SIBLING = f"{BASE}/cntlm.service", f"{BASE}/other.service"
ALL = ["tcp", "udp", "dns"]
WAYS = ("libnftables", "iptables-legacy")
EACH_WAY = pytest.mark.parametrize("way", WAYS)
BOTH = pytest.mark.parametrize("killswitch", [True, False], ids=["closed", "open"])
NAMES = pytest.mark.parametrize("names", ["direct", "virtual"])
_MOUNT = f"""
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/{GROUP}/below /sys/fs/cgroup/{SIBLING}
"""
_GONE = f"cd /sys/fs/cgroup; for each in {GROUP}/below {GROUP} {SIBLING} {BASE}; do rmdir $each || true; done"


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with support.bed() as made:
        made.host.sh(_MOUNT)
        made.outside.sh("sysctl -q -w net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
        try:
            with _answers(made):
                yield made
        finally:
            made.host.sh(_GONE)


@contextlib.contextmanager
def excluding(
    bed: Bed, way: str = "libnftables", killswitch: bool = True, **fields: object
) -> Iterator[tuple[Running, Answering]]:
    """Run a tunnel; what a failed test leaves is removed, for the next one."""
    before = bed.dump()
    helper = bed.helper(way)
    try:
        _, queues = helper.open(replace(tunnel(killswitch), **fields))  # type: ignore[arg-type]
        helper.engage()
        with answering(queues) as found:
            yield helper, found
        close_all(queues)
        assert helper.close().left == ()
        helper.end()
    except BaseException:
        helper.end()
        bed.helper(way).reclaim()
        raise
    assert difference(before, bed.dump()) == ""


def as_whom(user: int, cgroup: str) -> str:
    """Give the shell's words that become a Python of that user in that cgroup."""
    join = f"echo $$ > /sys/fs/cgroup/{cgroup}/cgroup.procs;" if cgroup else ""
    return f"{join} exec setpriv --reuid={user} --regid={user} --clear-groups /usr/bin/env -i /usr/bin/python3"


def answered(bed: Bed, user: int = 0, cgroup: str = "", hosts: tuple[str, ...] = HOSTS) -> dict[str, list[str]]:
    """Let a program of that user in that cgroup ask, and give what was answered, by host."""
    script = f"{as_whom(user, cgroup)} -I"
    program = bed.home / "asking.py"  # a copy that any user may read
    program.write_text(Path(asking.__file__).read_text())
    bed.home.chmod(0o755)
    done = bed.host.sh(f'{script} "$@"', str(program), *hosts)
    return {line.split()[0]: line.split()[1:] for line in done.splitlines()}


def ways(found: dict[str, list[str]]) -> set[str]:
    """Give what was answered by any host."""
    return {way for each in found.values() for way in each}


def everything(hosts: tuple[str, ...] = HOSTS) -> dict[str, list[str]]:
    return dict.fromkeys(hosts, ALL)


def test_without_a_tunnel_everybody_is_answered(bed: Bed) -> None:
    for user, group in ((0, ""), (USER, ""), (OTHER, SIBLING), (0, GROUP)):
        assert answered(bed, user, group) == everything()


@EACH_WAY
@BOTH
@NAMES
def test_excluded_user_is_left_alone_and_nobody_else(bed: Bed, way: str, killswitch: bool, names: str) -> None:
    with excluding(bed, way, killswitch, names=names, excluded_users=(USER,)) as (_, found):
        assert answered(bed, USER) == everything()
        assert not [each for each in found.seen if each.protocol in (TCP, UDP)]
        for user in (0, OTHER):
            assert ways(answered(bed, user)) <= _others(killswitch, names)
        assert found.has(TCP, support.ELSEWHERE, asking.TCP_PORT)


@pytest.mark.parametrize(
    ("way", "killswitch"), [("libnftables", True), ("libnftables", False), ("iptables-legacy", False)]
)
@NAMES
def test_excluded_cgroup_is_left_alone_and_nobody_else(bed: Bed, way: str, killswitch: bool, names: str) -> None:
    with excluding(bed, way, killswitch, names=names, excluded_cgroups=(GROUP,)) as (_, found):
        for user, group in ((0, GROUP), (USER, GROUP), (USER, f"{GROUP}/below")):
            assert answered(bed, user, group) == everything(), (user, group)
        assert not [each for each in found.seen if each.protocol in (TCP, UDP)]
        for user, group in ((0, ""), (USER, SIBLING)):
            assert ways(answered(bed, user, group)) <= _others(killswitch, names)


def _others(killswitch: bool, names: str) -> set[str]:
    """Give what is answered past the tunnel for somebody who is not excluded."""
    return set() if killswitch else {"udp"} if names == "virtual" else {"udp", "dns"}


def test_service_that_is_made_anew_is_left_alone_again(bed: Bed) -> None:
    with excluding(bed, excluded_cgroups=(GROUP,)) as (helper, _):
        bed.host.sh(f"cd /sys/fs/cgroup && rmdir {GROUP}/below {GROUP}")
        wait.until(lambda: "left alone are now: none" in helper.said(), "the helper notices its end", 3)
        bed.host.sh(f"mkdir -p /sys/fs/cgroup/{GROUP}/below")
        wait.until(lambda: f"left alone are now: {GROUP}" in helper.said(), "the helper notices it", 3)
        assert answered(bed, 0, GROUP) == everything()
        assert not ways(answered(bed, 0))


def test_update_and_flush_leave_the_excluded_alone(bed: Bed) -> None:
    with excluding(bed, excluded_cgroups=(GROUP,), excluded_users=(USER,)) as (helper, _):
        wanted = tunnel(killswitch=True)
        helper.update(Update((), wanted.proxies))
        assert answered(bed, OTHER, GROUP) == answered(bed, USER) == everything()
        bed.host.sh("nft flush ruleset")
        wait.until(lambda: "is put back" in helper.said(), "the ruleset is put back", 3)
        assert answered(bed, OTHER, GROUP) == answered(bed, USER) == everything()


@pytest.mark.parametrize(("user", "cgroup"), [(USER, ""), (OTHER, GROUP)], ids=["user", "cgroup"])
def test_connection_of_an_excluded_program_from_before_up_goes_on(bed: Bed, user: int, cgroup: str) -> None:
    hold = (
        "import socket, sys\n"
        f"s = socket.create_connection(('{support.ELSEWHERE}', {asking.TCP_PORT}), 5)\n"
        "print('open', flush=True); input(); s.sendall(b'question'); print(s.recv(100).decode(), flush=True)\n"
    )
    program = subprocess.Popen(
        bed.host.command("sh", "-euc", f'{as_whom(user, cgroup)} -c "$1"', "sh", hold),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout and program.stdout.readline() == "open\n"
    with excluding(bed, excluded_users=(USER,), excluded_cgroups=(GROUP,)):
        assert program.communicate("\n", timeout=5)[0] == "answer\n"


@pytest.mark.parametrize("pool", ["198.18.7.7", "fd70:7670:6e:1::7"])
@BOTH
@EACH_WAY
def test_virtual_address_leads_an_excluded_program_nowhere(bed: Bed, way: str, killswitch: bool, pool: str) -> None:
    with excluding(bed, way, killswitch, names="virtual", excluded_users=(USER,)) as (_, found):
        assert answered(bed, USER, hosts=(pool,)) == {pool: []}
        assert not [each for each in found.seen if each.host == pool]


@pytest.mark.parametrize("group", [f"{BASE}/nobody.service", "..", "no-such"], ids=["beside", "above", "no-such"])
def test_helper_refuses_a_cgroup_that_is_not_there(bed: Bed, group: str) -> None:
    before = bed.dump()
    helper = bed.helper()
    with pytest.raises(ProxyvpnError, match="cgroup"):
        helper.open(replace(tunnel(killswitch=True), excluded_cgroups=(group,)))
    helper.end()
    assert difference(before, bed.dump()) == ""


@contextlib.contextmanager
def _answers(bed: Bed) -> Iterator[None]:
    """Answer, outside, whatever asking.py asks."""
    chosen = selectors.DefaultSelector()
    stop = os.eventfd(0, os.EFD_CLOEXEC)
    chosen.register(stop, selectors.EVENT_READ)
    for kind, port in ((socket.SOCK_DGRAM, 53), (socket.SOCK_DGRAM, 9999), (socket.SOCK_STREAM, 8080)):
        sock = bed.own(bed.outside.new_socket(socket.AF_INET6, kind))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            sock.listen(64)
        chosen.register(sock, selectors.EVENT_READ, kind)
    thread = threading.Thread(target=_serve, args=(chosen, stop))
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(stop, 1)
        thread.join()
        os.close(stop)


def _serve(chosen: selectors.BaseSelector, stop: int) -> None:
    while True:
        for key, _ in chosen.select():
            if key.fileobj == stop:
                return
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if key.data == socket.SOCK_DGRAM:
                _, whom = sock.recvfrom(100)
                sock.sendto(b"answer", whom)
            elif key.data == socket.SOCK_STREAM:
                chosen.register(sock.accept()[0], selectors.EVENT_READ, "client")
            elif _talk(sock):
                chosen.unregister(sock)
                sock.close()


def _talk(client: socket.socket) -> bool:
    """Answer once; True at the end."""
    try:
        if not client.recv(100):
            return True
        client.sendall(b"answer")
    except OSError:
        return True
    return False
