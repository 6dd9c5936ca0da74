"""An honest fake of the kernel: it holds what was added, and gives up only what it holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from proxyvpn.errors import AlreadyUp, KernelError, UsageError
from proxyvpn.plan import (
    Address,
    Connection,
    Firewall,
    Host,
    IPAddress,
    Link,
    NameTaken,
    Neighbours,
    NotPossible,
    OpenedHere,
    Route,
    Rule,
    Step,
    Tunnel,
)
from proxyvpn.watch import News


class FakeKernel:
    """`held` is what a dump would show, in order. `refuse` is the number of the add() that fails, from 0."""

    def __init__(self, refuse: int = -1) -> None:
        self.held: list[Step] = []
        self.foreign_links: set[str] = set()
        self.claimed_by_another = False
        self.claimed = False
        self.connections: tuple[Connection, ...] = ()
        self.opened: tuple[Connection, ...] = ()
        self.can_end_connections = True
        self.updates: list[Tunnel] = []
        self.unknown_cgroups: set[str] = set()
        self.numbers: dict[str, int] = {}
        self.dialled: list[tuple[str, int]] = []
        self.was_locked_always = True
        self.watched = True
        self.restored: list[Step] = []
        self.default_routes: tuple[str, ...] = ("IPv4 by eth0",)
        self._news: list[News] = []
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._adds_until_refusal = refuse
        self._queues: tuple[int, ...] = ()

    def claim(self, alone: bool = True) -> None:  # noqa: ARG002
        if self.claimed_by_another:
            raise AlreadyUp("a tunnel is up in this network namespace already")
        self.claimed = True

    def release(self) -> None:
        assert self.claimed, "released without a claim"
        self.claimed = False

    def host(self, skip: int = 0) -> Host:
        return Host(f"pvpn{skip}", True)

    def earlier(self) -> tuple[Connection, ...]:
        return self.connections

    def opened_here(self, tunnel: Tunnel) -> tuple[Connection, ...]:  # noqa: ARG002
        return self.opened

    def check(self, tunnel: Tunnel) -> None:
        if self.unknown_cgroups & set(tunnel.excluded_cgroups):
            raise UsageError("there is no such cgroup")

    def cgroups(self, tunnel: Tunnel) -> tuple[int, ...]:
        return tuple(self.numbers.get(each, 0) for each in tunnel.excluded_cgroups)

    def add(self, step: Step) -> None:
        assert self.claimed, "the kernel is touched without a claim"
        if isinstance(step, Link) and step.ifname in self.foreign_links:
            raise NameTaken(f"the name {step.ifname} is taken")
        if self._adds_until_refusal == 0:
            self._adds_until_refusal = -1
            raise KernelError(f"the kernel refused: {step.line}", "No such device")
        self._adds_until_refusal -= 1
        if isinstance(step, Neighbours):
            return
        if isinstance(step, OpenedHere):
            if not self.can_end_connections:
                raise NotPossible("connections from before cannot be closed", "of old age", "never mind")
            self.opened = tuple(each for each in self.opened if each not in step.connections)
            return
        if isinstance(step, Firewall):  # loading over an older one replaces it
            self.held = [each for each in self.held if not isinstance(each, Firewall)]
        if isinstance(step, Link):
            self._queues = tuple(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) for _ in range(step.queues))
        if step not in self.held:
            self.held.append(step)

    def remove(self, step: Step) -> None:
        if isinstance(step, Firewall):
            self.held = [each for each in self.held if not isinstance(each, Firewall)]
        elif isinstance(step, Link):
            for fd in self._queues:
                os.close(fd)
            self._queues = ()
            self.held = [each for each in self.held if getattr(each, "ifname", None) != step.ifname]
        elif step in self.held:
            self.held.remove(step)
        self._note_lock()

    def update(self, tunnel: Tunnel, host: Host) -> None:  # noqa: ARG002
        self.updates.append(tunnel)
        self.held = [replace(each, tunnel=tunnel) if isinstance(each, Firewall) else each for each in self.held]

    def dial(self, address: IPAddress, port: int) -> int:
        self.dialled.append((str(address), port))
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def queues(self) -> tuple[int, ...]:
        return self._queues

    def left(self) -> tuple[str, ...]:
        return tuple(step.line for step in self.held)

    def locked(self) -> bool:
        return any(isinstance(step, Firewall) and step.tunnel.killswitch for step in self.held)

    def dropped(self) -> int:
        return 7 if self.held else 0

    def filenos(self) -> tuple[int, ...]:
        return (self._bell,)

    def refuse_next(self) -> None:
        """Let the next add() fail."""
        self._adds_until_refusal = 0

    def tell(self, news: News) -> None:
        """Let the helper be told this."""
        self._news.append(news)
        os.eventfd_write(self._bell, 1)

    def news(self) -> News:
        if not self._news:
            return News()
        os.eventfd_read(self._bell)
        return self._news.pop(0)

    def is_watched(self) -> bool:
        return self.watched

    def loaded(self) -> str:
        return next((str(step.tunnel) for step in self.held if isinstance(step, Firewall)), "")

    def missing(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(
            each for each in steps if isinstance(each, Link | Address | Route | Rule) and each not in self.held
        )

    def restore(self, step: Step) -> None:
        self.restored.append(step)
        self.add(step)

    def defaults(self) -> tuple[str, ...]:
        return self.default_routes

    def reclaim(self, keep: tuple[str, ...], say: Callable[[str], None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        stale = [step for step in self.held if step.line not in keep and not isinstance(step, Link)]
        if keep:
            stale = [step for step in stale if not isinstance(step, Firewall)]
        for step in stale:
            say(step.undo)
            self.held.remove(step)
        return tuple(step.line for step in stale), ()

    def close(self) -> None:
        """Let go of descriptors, as the end of a process does; the link goes with its last queue."""
        for fd in self._queues:
            os.close(fd)
        self._queues = ()

    def _note_lock(self) -> None:
        self.was_locked_always = self.was_locked_always and self.locked()
