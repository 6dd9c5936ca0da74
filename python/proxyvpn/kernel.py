"""What the helper can do to the kernel, and nothing more: the TUN, netlink and the firewall under one small roof.

All of it is in one network namespace, which one tunnel at a time may hold, by flock(2), so that it ends with the
process. The lock is on a file of the namespace that only CAP_NET_ADMIN may open; on the namespace itself any user could
take it, and so keep root from `teardown`. That one is taken as well, since a container may have a /proc of its own.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from proxyvpn import cgroups, dial, firewall, netlink, privilege, sockets, tun
from proxyvpn.diag import Entry
from proxyvpn.errors import AlreadyUp, KernelError, PrivilegeMissing, ProxyvpnError, UsageError
from proxyvpn.mark import LINK_NUMBERS, LINK_PREFIX
from proxyvpn.peer import Peer
from proxyvpn.plan import Address, Connection, Firewall, Host, IPAddress, Link, OpenedHere, Route, Rule, Step, Tunnel
from proxyvpn.tunnel import MOST_QUEUES
from proxyvpn.watch import News, Watch

_NAMESPACE: Final = "/proc/self/ns/net"
_LOCK: Final = "/proc/sys/net/ipv4/tcp_fastopen_key"
"""Mode 0600, one for each namespace; read by nobody here."""
_PATIENCE: Final = 0.5
"""Seconds to wait for another helper that only looks."""


class Kernel(Protocol):
    """What the helper needs; RealKernel below, and an honest fake in the tests."""

    def claim(self, alone: bool = True) -> None:
        """Hold this network namespace while the process lives; not `alone`: beside others that only look.

        Raises AlreadyUp.
        """

    def release(self) -> None:
        """Let another tunnel have this network namespace."""

    def host(self, skip: int = 0) -> Host:
        """Give the facts that the steps depend on. `skip`: so many free names of links are passed over.

        Raises PrivilegeMissing or KernelError when no tunnel is possible here at all.
        """
        ...

    def earlier(self) -> tuple[Connection, ...]:
        """Give the connections that came in, and go on."""
        ...

    def opened_here(self, tunnel: Tunnel) -> tuple[Connection, ...]:
        """Give the connections that this machine has opened to others, but for excluded programs."""
        ...

    def check(self, tunnel: Tunnel) -> None:
        """Raise UsageError when somebody is to be excluded who is not there, or is the asker."""

    def cgroups(self, tunnel: Tunnel) -> tuple[int, ...]:
        """Give the numbers of the excluded cgroups; another one when a service was restarted, 0 when it is gone."""
        ...

    def add(self, step: Step) -> None:
        """Let the kernel hold `step`. Raises NameTaken for a link whose name somebody else has.

        Raises NotPossible for a step that a tunnel can do without.
        """

    def remove(self, step: Step) -> None:
        """Let the kernel no longer hold `step`; success when it does not."""

    def update(self, tunnel: Tunnel, host: Host) -> None:
        """Replace proxies and resolvers in the firewall."""

    def queues(self) -> tuple[int, ...]:
        """Give the TUN queues; they stay ours."""
        ...

    def dial(self, address: IPAddress, port: int) -> int:
        """Give a socket that connects past the tunnel. Raises KernelError."""
        ...

    def left(self) -> tuple[str, ...]:
        """Give everything in this namespace that carries our tag."""
        ...

    def locked(self) -> bool:
        """Say whether a closed guard is loaded."""
        ...

    def dropped(self) -> int:
        """Give the number of packets that the firewall stopped."""
        ...

    def filenos(self) -> tuple[int, ...]:
        """Give the descriptors that are readable when the kernel has news."""
        ...

    def news(self) -> News:
        """Read the kernel's news: what may have changed."""
        ...

    def is_watched(self) -> bool:
        """Say whether there is news of the firewall; where not, it has to be looked at."""
        ...

    def loaded(self) -> str:
        """Give the firewall as it is loaded, to be compared; empty when it is not there as a whole."""
        ...

    def missing(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Give those of the links, addresses, routes and rules in `steps` that the kernel does not hold any more."""
        ...

    def restore(self, step: Step) -> None:
        """Let the kernel hold `step` again: a link on the same queues."""

    def defaults(self) -> tuple[str, ...]:
        """Give the machine's default routes, for the log."""
        ...

    def reclaim(self, keep: tuple[str, ...], say: Callable[[str], None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Remove everything that carries our tag but `keep`; give what was removed, and what could not be.

        With something to keep, the firewall is kept as well.
        """
        ...


class RealKernel:
    """The kernel. Made while still privileged; afterwards give_up() leaves what the verbs need."""

    def __init__(self, ways: tuple[str, ...] = tuple(firewall.WAYS), asker: Peer | None = None) -> None:
        self._asker = asker
        self._problem: ProxyvpnError | None = None
        self._namespace = os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        self._lock = _opened(_LOCK)
        self._nodes: tuple[int, ...] = ()
        self._queues: tuple[int, ...] = ()
        self._backend: firewall.Backend | None = None
        self._netlink = netlink.Netlink()
        self._watch = Watch()
        try:
            if not privilege.has(privilege.CAP_NET_ADMIN):
                raise PrivilegeMissing(
                    "this needs the right to configure the network (CAP_NET_ADMIN)",
                    "",
                    "run it as root, or once: sudo proxyvpn setup",
                )
            self._backend = firewall.choose(os.geteuid() == 0, ways)
            self._nodes = tun.open_nodes(MOST_QUEUES)
        except ProxyvpnError as error:
            self._problem = error

    def give_up(self) -> str:
        """Keep CAP_NET_ADMIN and what the firewall's programs need, nothing else; say how that is."""
        if self._backend is not None and self._backend.needs_root:
            privilege.keep_only((privilege.CAP_NET_ADMIN, privilege.CAP_NET_RAW), programs=True)
            return f"{self._backend.way} loads the firewall, so the helper stays root (CAP_NET_ADMIN, CAP_NET_RAW only)"
        privilege.keep_only((privilege.CAP_NET_ADMIN,), privilege.helper_uid())
        return ""

    def claim(self, alone: bool = True) -> None:
        if isinstance(self._problem, PrivilegeMissing) and self._backend is None:
            raise self._problem
        ours = self._lock is None or _hold(self._lock, alone)
        if ours and (_hold(self._namespace, alone) or self._held_by_a_stranger()):
            return
        self.release()
        raise AlreadyUp(
            "a tunnel is up in this network namespace already",
            "another proxyvpn helper holds it",
            "end that one first: proxyvpn teardown",
        )

    def release(self) -> None:
        for fd in (self._lock, self._namespace):
            if fd is not None:
                fcntl.flock(fd, fcntl.LOCK_UN)

    def _held_by_a_stranger(self) -> bool:
        """Say whether the lock that anyone can take is not a tunnel's: a living tunnel has its link."""
        return self._lock is not None and not any(each.kind == "link" for each in self._netlink.tagged())

    def host(self, skip: int = 0) -> Host:
        if self._problem is not None:
            raise self._problem
        self._netlink.check_table()
        self._firewall().check()
        names = (f"{LINK_PREFIX}{number}" for number in LINK_NUMBERS)
        free = [name for name in names if not netlink.is_taken(name)]
        if len(free) <= skip:
            raise KernelError(
                f"every name from {LINK_PREFIX}0 to {LINK_PREFIX}{LINK_NUMBERS[-1]} is taken", "", "ip link"
            )
        return Host(free[skip], netlink.has_ipv6(), self._firewall().kind, cgroup_place=cgroups.place() or "")

    def earlier(self) -> tuple[Connection, ...]:
        return sockets.came_in()

    def opened_here(self, tunnel: Tunnel) -> tuple[Connection, ...]:
        inside = frozenset().union(*map(cgroups.numbers, tunnel.excluded_cgroups))

        def stays(entry: Entry) -> bool:
            return entry.user in tunnel.excluded_users or (bool(inside) and entry.cgroup in inside)

        return sockets.opened_here(stays)

    def check(self, tunnel: Tunnel) -> None:
        if self._asker is not None and self._asker.uid in tunnel.excluded_users:
            raise UsageError("who asks for a tunnel cannot be excluded from it", "it would carry nothing of yours")
        for path in tunnel.excluded_cgroups:
            if not cgroups.number(path):
                raise UsageError(f"there is no cgroup {path}", "is the service running?", "systemd-cgls shows them")
            for pid in ("self", self._asker.pid if self._asker else "self"):
                if f"{cgroups.of_process(pid) or ''}/".startswith(f"{path}/"):
                    raise UsageError(f"cgroup {path} cannot be excluded", "what asks for the tunnel is in it itself")
        if tunnel.excluded_cgroups and tunnel.killswitch and self._firewall().kind != "nft":
            advice = "exclude its user (--exclude-user), or install nftables"
            raise UsageError("a cgroup cannot be excluded under the killswitch by iptables", "", advice)

    def cgroups(self, tunnel: Tunnel) -> tuple[int, ...]:
        return tuple(map(cgroups.number, tunnel.excluded_cgroups))

    def add(self, step: Step) -> None:
        if isinstance(step, Firewall):
            self._firewall().add(step.tunnel, self._of_now(step.tunnel, step.host))
            known = set(step.host.earlier)
            self._firewall().admit([each for each in self.earlier() if each not in known])
            return
        if isinstance(step, OpenedHere):
            sockets.end(step.connections)
            return
        if isinstance(step, Link):
            tun.attach(self._nodes[: step.queues], step.ifname)
            self._queues, spare = self._nodes[: step.queues], self._nodes[step.queues :]
            self._nodes = ()
            _close(spare)
        self._netlink.add(step)

    def remove(self, step: Step) -> None:
        if isinstance(step, Firewall):
            self._firewall().remove()
            return
        if isinstance(step, OpenedHere):
            return
        self._netlink.remove(step)
        if isinstance(step, Link):
            _close(self._queues + self._nodes)  # the nodes, too: some may be queues where attaching stopped half-way
            self._queues = self._nodes = ()

    def update(self, tunnel: Tunnel, host: Host) -> None:
        self._firewall().update(tunnel, self._of_now(tunnel, host))

    def queues(self) -> tuple[int, ...]:
        return self._queues

    def dial(self, address: IPAddress, port: int) -> int:
        return dial.dial(address, port)

    def left(self) -> tuple[str, ...]:
        lines = tuple(each.line for each in self._netlink.tagged())
        return lines + (self._backend.present() if self._backend else ())

    def locked(self) -> bool:
        return self._backend is not None and self._backend.locked()

    def dropped(self) -> int:
        return self._backend.dropped() if self._backend else 0

    def filenos(self) -> tuple[int, ...]:
        return self._watch.filenos()

    def news(self) -> News:
        return self._watch.news()

    def is_watched(self) -> bool:
        return self._firewall().kind == "nft" and self._watch.sees_firewall

    def loaded(self) -> str:
        return self._firewall().loaded()

    def missing(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return self._netlink.missing(tuple(each for each in steps if isinstance(each, Link | Address | Route | Rule)))

    def restore(self, step: Step) -> None:
        if not isinstance(step, Link):
            self.add(step)
            return
        if not self._netlink.has_link(step.ifname):
            tun.attach(self._queues, step.ifname)
        self._netlink.add(step)

    def defaults(self) -> tuple[str, ...]:
        return self._netlink.defaults()

    def reclaim(self, keep: tuple[str, ...], say: Callable[[str], None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        removed: list[str] = []
        stuck: list[str] = []

        def one(line: str, remove: Callable[[], None]) -> None:
            say(_undone(line))
            try:
                remove()
                removed.append(_undone(line))
            except ProxyvpnError as error:
                stuck.append(f"{line} ({error.why or error.what})")

        for each in self._netlink.tagged():
            if each.line not in keep:
                one(each.line, lambda each=each: self._netlink.remove_tagged(each))  # type: ignore[misc]
        present = self._backend.present() if self._backend and not keep else ()
        for line in present:
            one(line, self._firewall().remove)
        stuck += [line for line in self.left() if line not in keep and not keep]
        return tuple(removed), tuple(dict.fromkeys(stuck))

    def _of_now(self, tunnel: Tunnel, host: Host) -> Host:
        """Give the facts with those of the excluded cgroups, of which a firewall can only name what is there."""
        gone = tuple(
            path for path, number in zip(tunnel.excluded_cgroups, self.cgroups(tunnel), strict=True) if not number
        )
        return replace(host, cgroups_gone=gone)

    def _firewall(self) -> firewall.Backend:
        if self._backend is None:
            raise self._problem or KernelError("there is no firewall here")
        return self._backend


def _undone(line: str) -> str:
    for done, undone in ((" add table ", " delete table "), (" add ", " del "), (" -N ", " -X ")):
        if done in line:
            return line.replace(done, undone, 1)
    return line


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # without the privilege, which is said elsewhere, or without /proc/sys
        return None


def _hold(fd: int, alone: bool) -> bool:
    """Lock `fd`; False when somebody else goes on holding it. An alarm is the only way to end flock(2)."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    except TimeoutError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True


def _too_long(*_: object) -> None:
    raise TimeoutError


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
