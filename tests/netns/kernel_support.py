"""What test_kernel.py needs: two namespaces with a cable between them, and the real helper in one of them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

from proxyvpn.channel import Channel
from proxyvpn.children import Helper
from proxyvpn.plan import Endpoint, Tunnel
from tests.netns import wait
from tests.netns.dumps import dump
from tests.netns.namespaces import Namespace, end, wire

PROXY, RESOLVER, BYPASS, ELSEWHERE = "10.98.0.1", "10.98.0.53", "10.98.0.7", "10.98.0.9"
PROXY6, RESOLVER6, ELSEWHERE6 = "fd98::1", "fd98::53", "fd98::9"
HOST, HOST6 = "10.98.0.5", "fd98::5"
_CALLER = Path(__file__).with_name("caller.py")
_LEGACY = """
for program in iptables ip6tables; do for table in mangle filter; do
    $program-legacy-save -t $table | sed '/^#/d; s/\\[[0-9]*:[0-9]*\\]//'
done; done
"""


def tunnel(killswitch: bool, queues: int = 2) -> Tunnel:
    """Give a tunnel by the proxies, with a resolver and a bypass network of this test bed."""
    return Tunnel(
        proxies=(Endpoint(ip_address(PROXY), 3128), Endpoint(ip_address(PROXY6), 3128)),
        resolvers=(ip_address(RESOLVER), ip_address(RESOLVER6)),
        bypass=(ip_network(BYPASS),),
        killswitch=killswitch,
        queues=queues,
    )


class Process:
    """The helper's process as children.Helper wants it; the caller waits for it and tells."""

    def __init__(self, pid: int, told: socket.socket, caller: subprocess.Popen[bytes]) -> None:
        self.pid = pid
        self._told = told
        self._caller = caller
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            self._told.settimeout(timeout)
            try:
                self._code = int(self._told.recv(16))
            except TimeoutError as error:
                raise subprocess.TimeoutExpired("helper", timeout or 0) from error
            self._told.close()
            end(self._caller)
        return self._code

    def kill(self) -> None:
        subprocess.run(["kill", "-KILL", str(self.pid)], check=True)


class Running(Helper):
    """A helper in a namespace, and what it said."""

    log: Path

    def said(self) -> str:
        return self.log.read_text()


class Bed:
    """`host`, where the helper runs, and `outside`, which has every other address."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.host = Namespace("host", home / "host")
        self.outside = Namespace("outside", home / "outside")
        for ns in (self.host, self.outside):  # addresses at once, and nothing that comes by itself
            ns.sh("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.router_solicitations=0")
        wire(self.host, "up0", self.outside, "down0")
        self.host.sh(f"ip address add {HOST}/24 dev up0; ip address add {HOST6}/64 dev up0 nodad")
        self.host.sh(f"ip route add default via {PROXY}; ip -6 route add default via {PROXY6}")
        for address in (PROXY, RESOLVER, BYPASS, ELSEWHERE):
            self.outside.sh(f"ip address add {address}/24 dev down0")
        for address in (PROXY6, RESOLVER6, ELSEWHERE6):
            self.outside.sh(f"ip address add {address}/64 dev down0 nodad")
        wait.until(lambda: "fe80" in self.host.sh("ip -6 address show dev up0 -tentative"), "the link-local address")
        self.host.sh(_LEGACY)  # asking makes the kernel set up its empty tables
        self._helpers: list[Running] = []
        self._sockets: list[socket.socket] = []

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        for helper in self._helpers:
            helper.end()
        self.host.close()
        self.outside.close()

    def own(self, sock: socket.socket) -> socket.socket:
        """Give `sock`, which will be closed with the test."""
        self._sockets.append(sock)
        return sock

    def helper(self, *ways: str) -> Running:
        """Start a helper in `host`; with `ways`, one that may only use those firewalls."""
        self._helpers.append(helper_in(self.host, self.home / f"helper{len(self._helpers)}.log", *ways))
        return self._helpers[-1]

    def dump(self) -> dict[str, str]:
        """Give all that the kernel of `host` holds; with the older firewall's tables, but for their counters."""
        found = {name: text for name, text in dump(self.host).items() if "legacy" not in name}
        return {**found, "older firewall": self.host.sh(_LEGACY)}


def helper_in(space: Namespace, log: Path, *ways: str) -> Running:
    """Start a helper in a namespace; with `ways`, one that may only use those firewalls."""
    ours, theirs = socket.socketpair()
    with theirs, log.open("wb") as stderr:
        caller = subprocess.Popen(
            space.command(sys.executable, str(_CALLER), str(theirs.fileno()), *ways),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
    ours.settimeout(20)
    pid, fds, _, _ = socket.recv_fds(ours, 16, 1)
    helper = Running(Channel.from_fd(fds[0]), Process(int(pid), ours, caller))
    helper.log = log
    return helper


@contextlib.contextmanager
def bed() -> Iterator[Bed]:
    """Make the two namespaces."""
    with tempfile.TemporaryDirectory() as home:
        made = Bed(Path(home))
        try:
            yield made
        finally:
            made.close()
