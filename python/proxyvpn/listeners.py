"""Who on this machine listens where a proxy is said to be: users and cgroups, as the kernel tells anybody who asks.

What the kernel tells of a socket is who made it: systemd for a service, or root before it became somebody else. So the
processes that hold it are looked at, too, as far as they may be: root sees all, others their own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Final

from proxyvpn import cgroups, diag
from proxyvpn.diag import LISTEN, Entry
from proxyvpn.tunnel import Endpoint, IPAddress

_BY_FAMILY: Final = 20
_ASK: Final = struct.Struct("=BBBBI48x")
"""inet_diag_req_v2: of one family and one protocol, in these states."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens: a user in a cgroup, whose path is empty where it is the root of all."""

    user: int
    cgroup: str


def at(endpoint: Endpoint) -> tuple[Listener, ...]:
    """Give those who accept connections to this address and port. Raises KernelError."""
    found = chosen(_listening(), endpoint.address, endpoint.port)
    holding = {each.inode: tuple(_holders(each.inode)) for each in found}
    listeners = [each for entry in found for each in serving(_as_made(entry), holding[entry.inode])]
    return tuple(dict.fromkeys(listeners))


def is_here(address: IPAddress) -> bool:
    """Say whether `address` is of this machine: then the kernel would talk to it from that very address."""
    if address.is_loopback:
        return True
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect((str(address), 9))  # sends nothing
            return ip_address(sock.getsockname()[0]) == address
    except OSError:
        return False


def serving(maker: Listener, holders: tuple[Listener, ...]) -> tuple[Listener, ...]:
    """Pure: give those who accept connections: who holds the socket, or who made it where nobody is seen to hold it.

    A parent that stays root, and whose children serve, is not meant.
    """
    return tuple(each for each in holders if each.user) or holders or (maker,)


def chosen(entries: Iterable[Entry], address: IPAddress, port: int) -> tuple[Entry, ...]:
    """Pure: give those of `entries` that the kernel would choose among: the ones of the very address come first."""
    there = [each for each in entries if each.local_port == port]
    exact = [each for each in there if each.ends[0] == address]
    return tuple(exact or [each for each in there if _takes_all(each, address)])


def _takes_all(entry: Entry, address: IPAddress) -> bool:
    local = entry.ends[0]
    if not local.is_unspecified:
        return False
    return local.version == address.version or (address.version == 4 and not entry.only_ipv6)


def _as_made(entry: Entry) -> Listener:
    return Listener(entry.user, cgroups.path_of(entry.cgroup))


def _holders(inode: int) -> Iterator[Listener]:
    """Give the processes that have a socket open, but for those that cannot be seen."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if any(_is_socket(f"/proc/{name}/fd/{fd}", inode) for fd in os.listdir(f"/proc/{name}/fd")):
                yield Listener(_user(name), cgroups.of_process(name) or "")


def _user(process: str) -> int:
    """Give as whom a process acts (proc_pid_status(5)): its directory would be root's where it has changed its user."""
    with open(f"/proc/{process}/status", "rb") as file:
        return next((int(line.split()[4]) for line in file if line.startswith(b"Uid:")), 0)


def _is_socket(path: str, inode: int) -> bool:
    try:
        return os.readlink(path) == f"socket:[{inode}]"
    except OSError:
        return False


def _listening() -> list[Entry]:
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        ask = _ASK.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << LISTEN)
        for kind, body in diag.answers(_BY_FAMILY, diag.REQUEST | diag.DUMP, ask):
            if kind == diag.ERROR:
                raise diag.unreadable(-struct.unpack_from("=i", body)[0])
            found.append(diag.entry(body))
    return found
