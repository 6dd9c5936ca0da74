"""The test bed: four namespaces, cables, addresses, and a detector of packets that should not be there.

      box ---------- host ------------------- mid ------------------- world
      172.31.97.2    b0   eth0                h0     w0               eth0
      fd97::2        .1   10.71.0.2           .1     198.51.100.1     198.51.100.10, .53
                     ::1  2001:db8:71::2      ::1    2001:db8:99::1   2001:db8:99::10, ::53
                                                                      203.0.113.0/24 (every address)

`host` is where `proxyvpn up` runs; it forwards for `box`, a container-like neighbour. `mid` routes both ways (so that a
leak would arrive, and be seen) and is where the proxies listen. `world` is the internet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.netns import wait
from tests.netns.namespaces import Namespace, end, wire

HOST4, HOST6 = "10.71.0.2", "2001:db8:71::2"
MID4, MID6 = "10.71.0.1", "2001:db8:71::1"
WORLD4, WORLD6 = "198.51.100.10", "2001:db8:99::10"
RESOLVER4, RESOLVER6 = "198.51.100.53", "2001:db8:99::53"
BOX4, BOX6 = "172.31.97.2", "fd97::2"
MANY = "203.0.113."
"""The first three numbers of a network whose every address is answered by `world`."""

_SYSCTLS = """
sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.tcp_tw_reuse=1
sysctl -q -w net.ipv4.ip_local_port_range='10000 65000' net.ipv4.icmp_ratelimit=0
"""
_HOST = f"""
ip addr add {HOST4}/24 dev eth0; ip addr add {HOST6}/64 dev eth0 nodad
ip addr add 172.31.97.1/24 dev b0; ip addr add fd97::1/64 dev b0 nodad
ip route add default via {MID4}; ip -6 route add default via {MID6}
nft 'table inet somebody {{ chain filter {{ type filter hook forward priority 10; ct state invalid accept; }}; }}'
"""
_MID = f"""
ip addr add {MID4}/24 dev h0; ip addr add {MID6}/64 dev h0 nodad
ip addr add 198.51.100.1/24 dev w0; ip addr add 2001:db8:99::1/64 dev w0 nodad
ip route add 172.31.97.0/24 via {HOST4}; ip -6 route add fd97::/64 via {HOST6}
ip route add 203.0.113.0/24 via {WORLD4}
"""
_WORLD = f"""
ip addr add {WORLD4}/24 dev eth0; ip addr add {WORLD6}/64 dev eth0 nodad
ip addr add {RESOLVER4}/24 dev eth0; ip addr add {RESOLVER6}/64 dev eth0 nodad
ip route add local 203.0.113.0/24 dev lo
ip route add default via 198.51.100.1; ip -6 route add default via 2001:db8:99::1
"""
_BOX = f"""
ip addr add {BOX4}/24 dev eth0; ip addr add {BOX6}/64 dev eth0 nodad
ip route add default via 172.31.97.1; ip -6 route add default via fd97::1
"""


@dataclass(frozen=True, slots=True)
class Rig:
    """The four namespaces, and a folder that every user may read."""

    host: Namespace
    mid: Namespace
    world: Namespace
    box: Namespace
    home: Path


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """Build the test bed, and take it away whatever happens."""
    home = Path(tempfile.mkdtemp(prefix="pvrig-"))
    home.chmod(0o755)
    made: list[Namespace] = []
    try:
        for name in ("host", "mid", "world", "box"):
            made.append(Namespace(name, home / name))
            made[-1].sh(_SYSCTLS)
        host, mid, world, box = made
        wire(host, "eth0", mid, "h0")
        wire(mid, "w0", world, "eth0")
        wire(host, "b0", box, "eth0")
        for space, script in ((host, _HOST), (mid, _MID), (world, _WORLD), (box, _BOX)):
            space.sh(script)
        yield Rig(host, mid, world, box, home)
    finally:
        for space in reversed(made):
            space.close()
        shutil.rmtree(home, ignore_errors=True)


_SENTINEL = b"\xff" * 6 + b"\x02pvrig" + b"\x88\xb5" + b"sentinel" * 8
"""An Ethernet frame of a type for experiments: when tcpdump has printed it, it has seen all that came before."""


class Detector:
    """tcpdump on `mid`'s side of the cable to `host`: what left the machine, exactly."""

    def __init__(self, mid: Namespace, expression: str, folder: Path, link: str = "h0") -> None:
        number = len(list(folder.glob("detector-*")))
        self._out, self._err = folder / f"detector-{number}.out", folder / f"detector-{number}.err"
        self._sent = 0
        with mid.inside():
            self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._wire.bind((link, 0x88B5))
        address = self._wire.getsockname()[4].hex(":")  # pcap's own word `inbound` also hides the sentinel
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._tcpdump = mid.start(
                *(
                    "tcpdump",
                    "-Z",
                    "root",
                    "-n",
                    "-l",
                    "-U",
                    "--immediate-mode",
                    "-s",
                    "160",
                    "-B",
                    "32768",
                    "-i",
                    link,
                ),
                f"(not ether src {address} and ({expression})) or ether proto 0x88b5",
                stdout=out,
                stderr=err,
            )
        wait.for_line(self._err, "listening on")

    def seen(self) -> list[str]:
        """Give one line for each packet seen so far."""
        self._sent += 1
        self._wire.send(_SENTINEL)

        def lines() -> list[str]:
            found = self._out.read_text(errors="replace").splitlines()
            return found if sum("0x88b5" in line for line in found) >= self._sent else []

        packets = wait.until(lines, "tcpdump sees the sentinel")
        return [line for line in packets if " > " in line and not line.startswith("\t") and "0x88b5" not in line]

    def close(self) -> None:
        self._wire.close()
        end(self._tcpdump)


@contextlib.contextmanager
def detector(mid: Namespace, expression: str, link: str = "h0") -> Iterator[Detector]:
    """Watch for packets that match a pcap-filter(7) expression and come in by `link`."""
    folder = mid.home / "detectors"
    folder.mkdir(exist_ok=True)
    found = Detector(mid, expression, folder, link)
    try:
        yield found
    finally:
        found.close()


def leak_filter(proxy_ports: tuple[int, ...] = (3128,)) -> str:
    """Give the expression for all that the killswitch must not let out: IP that is not to a proxy's port on `mid`.

    Answers on connections that come in, neighbour discovery and allowed DNS are for each test to add.
    """
    ports = [f"not ((dst host {MID4} or dst host {MID6}) and tcp dst port {port})" for port in proxy_ports]
    neighbours = "not (icmp6 and (ip6[40] == 133 or ip6[40] == 135 or ip6[40] == 136))"
    return " and ".join(["(ip or ip6)", *ports, neighbours])


def open_fds(pid: int) -> int:
    """Give the number of descriptors that a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> int:
    """Give the resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{pid} has no VmRSS")
