"""Where the benchmark happens: one world, and a machine of its own for each program, all at once.

    guest 10.98.N.2 ── 10.98.N.1 machine 10.99.N.2 ── 10.99.N.1 world: proxy :3128, origin 198.51.100.1:9000 and on

Every link is a veth pair. Every route says cubic (the sysctl cannot be set in a namespace); netload sets it itself.
The world refuses what comes to the origin from a machine, unless by the proxy: nothing can get past it unmeasured. The
origin's port FAR is 10 ms away in each direction, and the proxy answers CONNECT to it after 20 ms.

Each namespace ends with the process that holds it (tests/netns/namespaces.py); the machine's own is not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.netns.namespaces import Namespace, wire

from bench import processes

ROOT = Path(__file__).resolve().parent.parent
NETLOAD = str(ROOT / "bench/target/release/netload")
ORIGIN, PORT, PORTS, FAR = "198.51.100.1", 9000, 16, 9500
PROXY_PORT = 3128
LONG_WAY_MS = 20

_BOTH = """
echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range
echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse
"""
_WORLD = f"""{_BOTH}
ip address add {ORIGIN}/32 dev lo
ip rule add pref 100 lookup local
ip rule del pref 0
"""
_MACHINE_END = """
ip address add 10.99.$1.2/24 dev eth0
ip route replace 10.99.$1.0/24 dev eth0 src 10.99.$1.2 congctl cubic
ip route add default via 10.99.$1.1 congctl cubic
ip route replace local 10.99.$1.2 dev eth0 table local src 10.99.$1.2 congctl cubic
ip route replace local 127.0.0.0/8 dev lo table local src 127.0.0.1 congctl cubic
ip address add 10.98.$1.1/24 dev guest0
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
_WORLD_END = """
ip address add 10.99.$1.1/24 dev m$1
ip route replace 10.99.$1.0/24 dev m$1 src 10.99.$1.1 congctl cubic
ip route add 10.98.$1.0/24 via 10.99.$1.2 congctl cubic
"""
# A router says that it refuses; what does not forward would drop in silence.
_NO_SHORT_CUT = """
echo 1 > /proc/sys/net/ipv4/conf/m$1/forwarding
ip rule add pref 10 iif m$1 to $2 prohibit
"""
_GUEST_END = """
ip address add 10.98.$1.2/24 dev eth0
ip route replace 10.98.$1.0/24 dev eth0 src 10.98.$1.2 congctl cubic
ip route add default via 10.98.$1.1 congctl cubic
"""


@dataclass(frozen=True)
class Machine:
    """A program's own machine, and the guest whose traffic it forwards."""

    name: str
    number: int
    world: Namespace
    machine: Namespace
    guest: Namespace
    folder: Path
    servers: tuple[int, ...]

    @contextlib.contextmanager
    def apart(self) -> Iterator[tuple[str, ...]]:
        """Keep the servers on one processor meanwhile, and give what keeps a load on another, as on another machine.

        Where they meet on one by chance, waking the other end costs a fifth, and latency is no figure to compare.
        """
        usable = sorted(os.sched_getaffinity(0))
        pids = [pid for server in self.servers for pid in processes.tree(server)]
        for pid in pids:
            os.sched_setaffinity(pid, usable[-1:])
        try:
            yield ("taskset", "--cpu-list", str(usable[0]))
        finally:
            for pid in pids:
                os.sched_setaffinity(pid, usable)

    @property
    def proxy(self) -> str:
        """The address of the proxy as this machine sees it."""
        return f"10.99.{self.number}.1"


class Stage:
    """The world with its servers, and the machines in it."""

    def __init__(self, folder: Path, close: contextlib.ExitStack) -> None:
        self.folder, self._close, self._count = folder, close, 0
        self._servers: tuple[int, ...] = ()
        self.world = self._space("world", _WORLD)
        self._serve("origin", f"{ORIGIN}:{PORT}", "--ports", str(PORTS))
        self._serve("far", f"{ORIGIN}:{FAR}", f"{ORIGIN}:{PORT}", "--delay-ms", str(LONG_WAY_MS / 2))
        delay = ("--delay-ms", str(LONG_WAY_MS), "--delay-from", str(FAR))
        self._serve("proxy", f"0.0.0.0:{PROXY_PORT}", "--processes", "2", *delay)

    def machine(self, name: str, *, direct: bool = False) -> Machine:
        """Add a machine; only a `direct` one reaches the origin without the proxy."""
        self._count += 1
        number = str(self._count)
        machine, guest = self._space(f"machine-{number}", _BOTH), self._space(f"guest-{number}", _BOTH)
        wire(machine, "eth0", self.world, f"m{number}")
        wire(machine, "guest0", guest, "eth0")
        self.world.sh(_WORLD_END, number)
        guest.sh(_GUEST_END, number)
        machine.sh(_MACHINE_END, number)
        if not direct:
            self.world.sh(_NO_SHORT_CUT, number, ORIGIN)
        return Machine(name, self._count, self.world, machine, guest, machine.home, self._servers)

    def _space(self, name: str, script: str) -> Namespace:
        space = Namespace(name, self.folder / name)
        self._close.callback(space.close)
        space.sh(script)
        return space

    def _serve(self, *words: str) -> None:
        server = self.world.start(NETLOAD, *words, stdout=subprocess.PIPE)
        if not server.stdout or server.stdout.readline() != b"ready\n":
            raise RuntimeError(f"netload {' '.join(words)} does not start")
        self._servers += (server.pid,)


def load(space: Namespace, wish: str, target: str, *options: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run a load to its end and give what it measured."""
    command = space.command(*prefix, NETLOAD, "load", wish, target, *options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"netload load {wish} {target} {' '.join(options)}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextlib.contextmanager
def idle(space: Namespace, target: str, clients: int, *options: str) -> Iterator[dict[str, Any]]:
    """Hold connections open meanwhile; give how many were opened (`done`) and how many were not (`failed`)."""
    command = space.command(NETLOAD, "load", "i", target, "--clients", str(clients), "--hold", *options)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            yield json.loads(holder.stdout.readline() if holder.stdout else "")
        finally:
            holder.communicate(timeout=60)


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Set the world up, and end all that was started in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as close:
        yield Stage(folder, close)
