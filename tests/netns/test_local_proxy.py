"""A proxy on this machine, or in a container of it: what it sends itself goes past the tunnel, and nothing else does.

box (a container, or its proxy) ---- host: tinyproxy, `proxyvpn up` ---- mid ---- world: pages
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from tests.netns import clients, wait
from tests.netns.internet import PAGE, Internet
from tests.netns.namespaces import Namespace, end
from tests.netns.rig import BOX4, HOST4, RESOLVER4, WORLD4, WORLD6, Rig, detector
from tests.netns.test_fallbacks import HIDDEN, hiding
from tests.netns.up import proxyvpn, up

pytestmark = pytest.mark.privileged

PORT = 8888
USER = 13
GROUP = f"proxyvpn-local-{os.getpid()}.service"
WAYS: dict[str, tuple[str, ...]] = {"nftables": (), "iptables": hiding(HIDDEN["iptables, legacy"])}
SWITCHES = pytest.mark.parametrize("switch", ["--killswitch", "--no-killswitch"])


@pytest.fixture(autouse=True)
def cgroup(bed: Rig) -> Iterator[None]:
    bed.host.sh(
        f"test -e /sys/fs/cgroup/cgroup.procs || mount -t cgroup2 none /sys/fs/cgroup; mkdir /sys/fs/cgroup/{GROUP}"
    )
    yield
    wait.until(lambda: bed.host.run("rmdir", f"/sys/fs/cgroup/{GROUP}", check=False).returncode == 0, "it is empty")


@contextlib.contextmanager
def tinyproxy(space: Namespace, cgroup: str = "", user: int = 0, begins_as_root: bool = False) -> Iterator[None]:
    """Run one that listens at every address; `begins_as_root`: it makes its socket before it becomes that user."""
    home = space.home / f"tinyproxy-{len(list(space.home.iterdir()))}"
    home.mkdir()
    named = f"User {user}\nGroup {user}\n" if user and begins_as_root else ""
    (home / "conf").write_text(f"Port {PORT}\nListen 0.0.0.0\nListen ::\nLogLevel Critical\nMaxClients 99\n{named}")
    join = f"echo $$ > /sys/fs/cgroup/{cgroup}/cgroup.procs;" if cgroup else ""
    become = f"setpriv --reuid={user} --regid={user} --clear-groups" if user and not begins_as_root else ""
    process = space.start("sh", "-c", f'{join} exec {become} tinyproxy -d -c "$0"', str(home / "conf"))
    try:
        space.wait_for_port("127.0.0.1", PORT)
        yield
    finally:
        end(process)


def assert_carried(bed: Rig, world: Internet, hosts: tuple[str, ...] = (WORLD4, WORLD6)) -> None:
    """Get pages: through the tunnel, the proxy here, and past the tunnel."""
    for host in hosts:
        url = f"http://[{host}]/" if ":" in host else f"http://{host}/"
        found = clients.curl(bed.host, url, world=world)
        assert found.stdout == PAGE, found


@SWITCHES
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("begins_as_root", [False, True])
def test_proxy_of_another_user_is_found_and_left_alone(
    bed: Rig, world: Internet, way: str, switch: str, begins_as_root: bool
) -> None:
    with (
        tinyproxy(bed.host, user=USER, begins_as_root=begins_as_root),
        up(bed.host, "--proxy", f"http://127.0.0.1:{PORT}", "--dns", RESOLVER4, switch, before=WAYS[way]) as running,
    ):
        assert f"its own traffic goes past the tunnel (user {USER})" in running.said()
        assert_carried(bed, world)
        with detector(bed.mid, f"udp and dst host {WORLD4}") as watch:
            clients.offer_datagrams(bed.host, 3, (WORLD4,))
            assert bool(watch.seen()) == (switch == "--no-killswitch")


@SWITCHES
@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]", HOST4])
def test_service_is_found_by_its_cgroup(bed: Rig, world: Internet, switch: str, address: str) -> None:
    with (
        tinyproxy(bed.host, cgroup=GROUP),
        up(bed.host, "--proxy", f"http://{address}:{PORT}", "--dns", RESOLVER4, switch) as running,
    ):
        assert f"its own traffic goes past the tunnel (cgroup {GROUP})" in running.said()
        assert_carried(bed, world)
        assert clients.connect_error(bed.host, WORLD4, 1), "who is refused is refused by the proxy"


def test_service_that_is_restarted_carries_again(bed: Rig, world: Internet) -> None:
    with contextlib.ExitStack() as stack:
        first = contextlib.ExitStack()
        first.enter_context(tinyproxy(bed.host, cgroup=GROUP))
        options = ("--proxy", f"http://127.0.0.1:{PORT}", "--dns", RESOLVER4, "--killswitch")
        running = stack.enter_context(up(bed.host, *options))
        assert_carried(bed, world)
        first.close()
        wait.until(lambda: bed.host.run("rmdir", f"/sys/fs/cgroup/{GROUP}", check=False).returncode == 0, "it is empty")
        bed.host.sh(f"mkdir /sys/fs/cgroup/{GROUP}")
        stack.enter_context(tinyproxy(bed.host, cgroup=GROUP))
        wait.until(lambda: f"left alone are now: {GROUP}" in running.said(), "the helper notices it")
        assert_carried(bed, world)


def test_proxy_that_cannot_be_told_apart_is_refused_in_words_and_named_by_hand(bed: Rig, world: Internet) -> None:
    options = ("up", "--proxy", f"http://127.0.0.1:{PORT}", "--dns", RESOLVER4)
    with tinyproxy(bed.host):
        done = proxyvpn(bed.host, *options)
        assert done.returncode == 2 and "cannot be told from" in done.stderr and "--exclude-cgroup" in done.stderr
        assert not bed.host.run("ip", "link", "show", "pvpn0", check=False).stdout
        for wrong in (("--exclude-user", "root"), ("--exclude-cgroup", "no-such.service")):
            done = proxyvpn(bed.host, *options, *wrong)
            assert done.returncode == 2 and len(done.stderr.splitlines()) <= 3, done.stderr
    with (
        tinyproxy(bed.host, cgroup=GROUP),
        up(bed.host, *options[1:], "--killswitch", "--exclude-cgroup", GROUP),
    ):
        assert_carried(bed, world)


@SWITCHES
@pytest.mark.parametrize("way", WAYS)
def test_proxy_in_a_container_is_known_by_its_address(bed: Rig, world: Internet, way: str, switch: str) -> None:
    with (
        tinyproxy(bed.box),
        up(bed.host, "--proxy", f"http://{BOX4}:{PORT}", "--dns", RESOLVER4, switch, before=WAYS[way]),
    ):
        assert_carried(bed, world, (WORLD4,))


def test_container_beside_the_proxys_is_not_taken_for_it(bed: Rig, world: Internet) -> None:
    bed.box.sh("ip addr add 172.31.97.3/24 dev eth0")
    with (
        tinyproxy(bed.box),
        up(bed.host, "--proxy", f"http://{BOX4}:{PORT}", "--dns", RESOLVER4, "--killswitch"),
        detector(bed.mid, "src host 172.31.97.3") as watch,
        bed.box.new_socket(kind=socket.SOCK_DGRAM) as other,
    ):
        other.bind(("172.31.97.3", 0))
        for _ in range(3):
            other.sendto(b"x", (WORLD4, 9999))
        assert watch.seen() == []
    bed.box.sh("ip addr del 172.31.97.3/24 dev eth0")
