"""Who on this machine listens where a proxy is said to be: users and cgroups, as the kernel tells anybody who asks.

A socket has the cgroup of who made it: that of a listener which systemd made for a service is systemd's own.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
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
    """A listening socket; `cgroup` is the path of its cgroup, empty where it has none of its own."""

    user: int
    cgroup: str


def at(endpoint: Endpoint) -> tuple[Listener, ...]:
    """Give those who accept connections to this address and port. Raises KernelError."""
    found = chosen(_listening(), endpoint.address, endpoint.port)
    return tuple(dict.fromkeys(Listener(each.user, cgroups.path_of(each.cgroup)) for each in found))


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


def _listening() -> list[Entry]:
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        ask = _ASK.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << LISTEN)
        for kind, body in diag.answers(_BY_FAMILY, diag.REQUEST | diag.DUMP, ask):
            if kind == diag.ERROR:
                raise diag.unreadable(-struct.unpack_from("=i", body)[0])
            found.append(diag.entry(body))
    return found
