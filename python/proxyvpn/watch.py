"""The kernel's own news of changes: nftables' and rtnetlink's multicast groups, read as raw netlink packets.

Says only that something of ours may have changed; what has is for the reader to look up, so that a packet misread or
lost (ENOBUFS) costs a look and nothing else. Opened while privileged: nfnetlink wants CAP_NET_ADMIN for its groups. A
kernel without nf_tables has no news of the firewall. See netlink(7), linux/netfilter/nf_tables.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from proxyvpn.mark import LINK_PREFIX, NFT_TABLE, PROTOCOL, TABLE

_NETLINK_NETFILTER: Final = 12
_NFTABLES_GROUP: Final = 1 << 6
_ROUTE_GROUPS: Final = 1 << 0 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18
"""Links; addresses, routes and rules of IPv4; the same of IPv6."""
_SO_RCVBUFFORCE: Final = 33
_ROOM: Final = 1 << 22
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")

_NFTABLES: Final = 10 << 8
_NEW_GENERATION: Final = _NFTABLES | 15
_PROCESS_NAME: Final = 3
_OURS: Final = NFT_TABLE.encode() + b"\0"

_LINKS: Final = (16, 17)
_ADDRESSES: Final = (20, 21)
_ROUTES: Final = (24, 25)
_RULES: Final = (32, 33)
_RTA_TABLE: Final = 15
_FRA_PROTOCOL: Final = 21
_MAIN: Final = 254


@dataclass(frozen=True, slots=True)
class News:
    """What may have changed. `by`: the program that changed the firewall, as the kernel names it; may be empty."""

    firewall: bool = False
    routes: bool = False
    uplink: bool = False
    by: str = ""


class Watch:
    """Both sockets, never waited for."""

    def __init__(self) -> None:
        self._firewall = _opened(_NETLINK_NETFILTER, _NFTABLES_GROUP)
        self._routes = _opened(socket.NETLINK_ROUTE, _ROUTE_GROUPS)
        self._touched = False

    @property
    def sees_firewall(self) -> bool:
        """Whether there is news of nftables at all."""
        return self._firewall is not None

    def filenos(self) -> tuple[int, ...]:
        """Give the descriptors that are readable when there is news."""
        return tuple(each.fileno() for each in (self._firewall, self._routes) if each is not None)

    def news(self) -> News:
        """Read all that has come; a change of the firewall counts when its transaction is complete."""
        firewall, by = self._read_firewall()
        kinds = set()
        for packet in _packets(self._routes):
            kinds |= {"routes", "uplink"} if packet is None else of_routes(packet)
        return News(firewall, "routes" in kinds, "uplink" in kinds, by)

    def close(self) -> None:
        for each in (self._firewall, self._routes):
            if each is not None:
                each.close()

    def _read_firewall(self) -> tuple[bool, str]:
        changed, by = False, ""
        for packet in _packets(self._firewall):
            if packet is None:
                changed, self._touched = True, False
                continue
            for kind, body in messages(packet):
                if kind != _NEW_GENERATION:
                    self._touched = self._touched or _OURS in body
                elif self._touched:
                    changed, by, self._touched = True, process_name(body), False
        return changed, by


def messages(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """Pure: give type and body of each netlink message in `packet`; what is cut is left out."""
    while len(packet) >= _HEADER.size:
        length, kind = _HEADER.unpack_from(packet)[:2]
        if not _HEADER.size <= length <= len(packet):
            return
        yield kind, packet[_HEADER.size : length]
        packet = packet[_aligned(length) :]


def process_name(body: bytes) -> str:
    """Pure: give who made this generation of the ruleset (NFTA_GEN_PROC_NAME), printable; empty when it is not said."""
    name = _attributes(body[4:]).get(_PROCESS_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def of_routes(packet: bytes) -> set[str]:
    """Pure: say whether an rtnetlink packet is about something of ours (`routes`) or a default route (`uplink`)."""
    found: set[str] = set()
    for kind, body in messages(packet):
        if kind in _LINKS:
            found.add("routes" if LINK_PREFIX.encode() in body else "uplink")
        elif kind in _ADDRESSES:
            found.add("routes")
        elif kind in _RULES and len(body) >= 12:
            found |= {"routes"} if _attributes(body[12:]).get(_FRA_PROTOCOL, b"")[:1] == bytes([PROTOCOL]) else set()
        elif kind in _ROUTES and len(body) >= 12:
            table = int.from_bytes(_attributes(body[12:]).get(_RTA_TABLE, bytes(4)), sys.byteorder)
            found |= {"routes"} if table == TABLE else set()
            found |= {"uplink"} if table == _MAIN and body[1] == 0 else set()
    return found


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return length + 3 & ~3


def _opened(protocol: int, groups: int) -> socket.socket | None:
    """Give a socket that hears `groups`; None where the kernel has no such news, or not for us."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
    try:
        sock.bind((0, groups))
    except OSError:
        sock.close()
        return None
    return sock


def _packets(sock: socket.socket | None) -> Iterator[bytes | None]:
    """Give what waits to be read; None stands for packets that were lost."""
    while sock is not None:
        try:
            packet, (sender, _) = sock.recvfrom(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: some were lost
            yield None
            return
        if sender == 0:  # the kernel's, and not another process's
            yield packet
