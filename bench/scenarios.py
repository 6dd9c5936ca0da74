"""What is measured: each scenario is one load on one machine, and gives figures by name.

Processor time is that of the program's processes over the whole load, its warming up included, and is divided by all
that the load moved meanwhile.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from bench import processes, stage
from bench.contestants import Contestant
from bench.stage import FAR, ORIGIN, PORT, PORTS, PROXY_PORT, Machine

Figures = dict[str, float]
IDLE = 5000
FEW, BULK_GBIT_S = 4, "10"
"""Connections with requests beside a bulk one, and how fast that one goes."""
DESCRIPTORS_EACH = {"redsocks": 9}
"""redsocks takes an eighth of its descriptors for connections; beyond that it stops accepting, for up to minutes."""
NEAR = ("--ports", str(PORTS))


@dataclass(frozen=True)
class Subject:
    """A program that is up on its machine, or none, and how long a load lasts."""

    at: Machine
    pid: int
    seconds: float

    def load(
        self, wish: str, clients: int, port: int = PORT, *, forwarded: bool = False, more: tuple[str, ...] = ()
    ) -> tuple[Figures, float]:
        """Give what the load measured, and the processor seconds of the program."""
        space = self.at.guest if forwarded else self.at.machine
        options = ("--clients", str(clients), "--seconds", str(self.seconds), *self.options(port), *more)
        before = processes.processor_seconds(self.pid) if self.pid else 0.0
        with self.at.apart() if (wish, clients) == ("r", 1) else contextlib.nullcontext(()) as prefix:
            result = stage.load(space, wish, f"{ORIGIN}:{port}", *options, prefix=prefix)
        return result, (processes.processor_seconds(self.pid) if self.pid else 0.0) - before

    @property
    def most_open(self) -> int:
        """Give how many connections fit into the descriptors of the program, with a margin."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return descriptors // DESCRIPTORS_EACH.get(self.at.name, 1)

    def options(self, port: int = PORT) -> tuple[str, ...]:
        """Give the options of every load: the proxy for the limit, several ports where the origin has them."""
        via = ("--via", f"{self.at.proxy}:{PROXY_PORT}") if self.at.name == "limit" else ()
        return (*via, *(NEAR if port == PORT else ()))


Scenario = Callable[[Subject], Figures]


def stream(name: str, wish: str, clients: int, port: int = PORT, *, forwarded: bool = False) -> tuple[str, Scenario]:
    """Bytes in one direction."""

    def measure(subject: Subject) -> Figures:
        result, used = subject.load(wish, clients, port, forwarded=forwarded)
        figures = {f"{name}_gbit_s": result["gbit_s"]}
        if subject.pid and result["all_bytes"]:
            figures[f"{name}_cpu_s_per_gb"] = used / (result["all_bytes"] / 1e9)
        return figures

    return name, measure


def exchange(name: str, clients: int) -> tuple[str, Scenario]:
    """Requests of 64 bytes and their answers, one at a time per connection."""

    def measure(subject: Subject) -> Figures:
        result, _ = subject.load("r", clients)
        return {f"{name}_p50_us": result["p50_us"], f"{name}_p99_us": result["p99_us"], **failures(name, result)}

    return name, measure


def beside(name: str, wish: str) -> tuple[str, Scenario]:
    """Requests over a few connections, while another one moves 10 Gbit/s, or as much as it can."""

    def measure(subject: Subject) -> Figures:
        longer = replace(subject, seconds=subject.seconds * 1.5)
        with ThreadPoolExecutor(1) as other:
            bulk = other.submit(longer.load, wish, 1, more=("--gbit-s", BULK_GBIT_S))
            result, _ = subject.load("r", FEW)
            moved, _ = bulk.result()
        figures = {f"{name}_p50_ms": result["p50_us"] / 1e3, f"{name}_p99_ms": result["p99_us"] / 1e3}
        return figures | {f"{name}_gbit_s": moved["gbit_s"]} | failures(name, result)

    return name, measure


def connect(name: str, clients: int, port: int = PORT) -> tuple[str, Scenario]:
    """Connect, get one byte, close."""

    def measure(subject: Subject) -> Figures:
        result, used = subject.load("c", clients, port)
        figures = {f"{name}_per_s": result["per_second"], f"{name}_p50_us": result["p50_us"]}
        if subject.pid and result["all_done"]:
            figures[f"{name}_cpu_us"] = used * 1e6 / result["all_done"]
        return figures | failures(name, result)

    return name, measure


def many_idle(subject: Subject) -> Figures:
    """Memory of 5,000 idle connections; requests beside 10,000 of them, and just before without them.

    Fewer where the program cannot hold so many with the descriptors that it may have.
    """
    target, options = f"{ORIGIN}:{PORT}", (*subject.options(), "--seconds", "8")
    count = min(IDLE, subject.most_open // 2)
    alone, _ = subject.load("r", 1)
    before = processes.memory_kib(subject.pid) if subject.pid else 0
    with stage.idle(subject.at.machine, target, count, *options) as first:
        after = processes.memory_kib(subject.pid) if subject.pid else 0
        with stage.idle(subject.at.machine, target, count, *options) as second:
            beside, _ = subject.load("r", 1)
    lost = 2.0 * count - first["done"] - second["done"]
    figures = {"idle_rr_p50_us": beside["p50_us"], "idle_slowdown": beside["p50_us"] / (alone["p50_us"] or 1)}
    if subject.pid and first["done"]:
        figures["idle_kib"] = (after - before) / first["done"]
    figures["idle_open"] = first["done"] + second["done"]
    return figures | ({"idle_failed": lost} if lost else {})


def failures(name: str, result: Figures) -> Figures:
    """Give a figure for connections that failed, where any did."""
    return {f"{name}_failed": result["failed"]} if result["failed"] else {}


SCENARIOS: dict[str, Scenario] = dict(
    (
        ("idle", many_idle),  # first: what other loads leave in an allocator would hide the memory
        stream("up1", "u", 1),
        stream("down1", "d", 1),
        stream("up8", "u", 8),
        stream("down8", "d", 8),
        stream("up64", "u", 64),
        stream("down64", "d", 64),
        connect("connect", 8),
        exchange("rr1", 1),
        exchange("rr64", 64),
        beside("beside_up", "u"),
        beside("beside_down", "d"),
        stream("far_up1", "u", 1, FAR),
        stream("far_down1", "d", 1, FAR),
        connect("far_connect", 1, FAR),
        stream("forwarded_up1", "u", 1, forwarded=True),
        stream("forwarded_down1", "d", 1, forwarded=True),
    )
)


@contextlib.contextmanager
def ready(contestant: Contestant, at: Machine, seconds: float) -> Iterator[tuple[Subject, Figures]]:
    """Start a program and wait until a connection through it gets its byte; give how long that took."""
    begin = time.monotonic()
    with contestant(at) as pid:
        if pid:
            wait_for_byte(at, begin + 20)
        yield Subject(at, pid, seconds), {"ready_s": time.monotonic() - begin} if pid else {}


def wait_for_byte(at: Machine, deadline: float) -> None:
    """Try until the origin answers. Raises RuntimeError after the deadline."""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), at.machine.connect(ORIGIN, PORT, 0.02) as connection:
            connection.settimeout(0.5)
            connection.sendall(b"c")
            if connection.recv(1) == b"k":
                return
    said = (at.folder / "log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{at.name} does not carry a connection: {said}")
