"""Small honest fakes: a helper and a worker that speak the real messages over real sockets, each in a thread.

They are asked by the real client classes and end by end of file, like the real ones; only the kernel is missing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from proxyvpn.channel import Channel, close_all
from proxyvpn.children import Helper, Worker
from proxyvpn.errors import Exit
from proxyvpn.messages import (
    Attach,
    Attached,
    Carry,
    Carrying,
    Close,
    Closed,
    Count,
    Counters,
    Engage,
    Engaged,
    Message,
    Open,
    Opened,
    Outcome,
    Reclaim,
    Reclaimed,
    Refused,
    Replace,
    Replaced,
    Start,
    Started,
    State,
    Status,
    Tried,
    Try,
    Update,
    Updated,
)
from proxyvpn.options import Options
from proxyvpn.plan import Endpoint, Host
from proxyvpn.proxy import Proxy
from proxyvpn.reach import Place
from proxyvpn.world import Identity, World


class Ended(Exception):
    """A fake process ends by itself."""


class FakeProcess:
    """A thread in place of a process: `speak` gives an answer and descriptors for each message."""

    pid = 4242

    def __init__(self, sock: socket.socket, speak: Callable[[Message], tuple[Message, tuple[int, ...]]]) -> None:
        self.clean = False
        self._channel = Channel(sock)
        self._speak = speak
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                close_all(received.fds)
                answer, fds = self._speak(received.message)
                self._channel.send(answer, fds)
                close_all(fds)
            self.clean = True
        except (Ended, OSError):
            pass
        finally:
            self._channel.close()

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise subprocess.TimeoutExpired("fake", timeout or 0)
        return 0 if self.clean else -9

    def kill(self) -> None:
        raise AssertionError("a fake does not need to be killed")


def refused(code: Exit, what: str) -> tuple[Message, tuple[int, ...]]:
    return Refused(code, what, "why", "advice"), ()


@dataclass
class Kernel:
    """What the fake helpers did, all of them together, and how they are to fail: message type -> what happens."""

    asked: list[str] = field(default_factory=list)
    opened: list[Open] = field(default_factory=list)
    started: list[Start] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    replaced: list[Replace] = field(default_factory=list)
    has_replaced: threading.Event = field(default_factory=threading.Event)
    updated: threading.Event = field(default_factory=threading.Event)
    fail: dict[type, Exception | tuple[Message, tuple[int, ...]]] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] = (Outcome(0, "ok", ""),)
    locked: bool = False
    left: tuple[str, ...] = ()
    helpers: list[FakeProcess] = field(default_factory=list)
    workers: list[FakeProcess] = field(default_factory=list)

    def helper(self) -> Helper:
        ours, theirs = Channel.pair()
        self.helpers.append(FakeProcess(theirs, self._helper))
        return Helper(ours, self.helpers[-1])

    def worker(self) -> Worker:
        ours, theirs = Channel.pair()
        self.workers.append(FakeProcess(theirs, self._worker))
        return Worker(ours, self.workers[-1])

    def _helper(self, message: Message) -> tuple[Message, tuple[int, ...]]:
        self.asked.append(type(message).__name__)
        self._maybe_fail(message)
        if (failure := self.fail.get(type(message))) is not None:
            assert isinstance(failure, tuple)
            return failure
        match message:
            case Open():
                self.opened.append(message)
                return Opened("pvpn0"), (os.open("/dev/null", os.O_RDONLY),)
            case Engage():
                return Engaged(("step one", "step two")), ()
            case Attach():
                return Attached(), (os.open("/dev/null", os.O_RDONLY),)
            case Status():
                return State("engaged", 17, self.left, self.locked, ()), ()
            case Update():
                self.updates.append(message)
                self.updated.set()
                return Updated(), ()
            case Close():
                return Closed(("step two", "step one"), ()), ()
            case Reclaim():
                return Reclaimed(self.left, ()), ()
            case _:
                raise Ended

    def _worker(self, message: Message) -> tuple[Message, tuple[int, ...]]:
        self._maybe_fail(message)
        match message:
            case Start():
                self.started.append(message)
                return Started(()), ()
            case Try():
                return Tried(self.outcomes), ()
            case Carry():
                return Carrying(), ()
            case Replace():
                self.replaced.append(message)
                self.has_replaced.set()
                return Replaced(), ()
            case Count():
                return Counters({"flows_open_now": 2, "flows_opened": 5, "bytes_up": 2048, "refused_timeout": 1}), ()
            case _:
                raise Ended

    def _maybe_fail(self, message: Message) -> None:
        failure = self.fail.get(type(message))
        if isinstance(failure, Exception):
            raise failure


@dataclass
class Stage:
    """A World, what was said in it, and the wire by which a test lets Ctrl-C happen."""

    kernel: Kernel = field(default_factory=Kernel)
    said: list[str] = field(default_factory=list)
    ready: list[str] = field(default_factory=list)
    when_ready: Callable[[], None] = lambda: None
    files: dict[str, str] = field(default_factory=lambda: {"/etc/resolv.conf": "nameserver 192.0.2.53\n"})
    unreachable: Exception | None = None
    look_every: float = 60.0
    address: str = "192.0.2.7"
    """What every proxy's name means."""

    def __post_init__(self) -> None:
        self.stop, self._signal = os.pipe2(os.O_CLOEXEC)

    def interrupt(self) -> None:
        os.write(self._signal, b"\x02")

    def world(self) -> World:
        return World(
            helper=self.kernel.helper,
            worker=self.kernel.worker,
            resolve=lambda options, _: tuple(place(proxy, self.address) for proxy in options.proxies),
            attempt=self._attempt,
            providers=lambda _: {},
            host=lambda: Host("pvpn0", ipv6=True),
            read=lambda path: self.files.get(path, ""),
            say=self.said.append,
            ready=self._ready,
            identity=Identity(boot_id="boot", netns=7, pid=os.getpid(), worker_uid=0, queues=1),
            stop=self.stop,
            look_every=self.look_every,
            renew_every=self.look_every,
        )

    def _attempt(self, places: tuple[Place, ...], _: int) -> Place:
        if self.unreachable is not None:
            raise self.unreachable
        return places[0]

    def _ready(self, line: str) -> None:
        self.ready.append(line)
        self.when_ready()


def place(proxy: Proxy, address: str) -> Place:
    return Place(proxy, Endpoint(ip_address(address), proxy.port))


PROXY = Proxy("proxy.example", 3128, "ann", "hunter2")
OPTIONS = Options(proxies=(PROXY,))
KILLSWITCH = Options(proxies=(PROXY,), killswitch=True)
