"""The kernel's list of TCP sockets, as raw sock_diag(7) packets.

It is read before a firewall is put back, so it must be quick. What costs is the kernel's walk through its hash table:
both families are asked for at once, which only the older request (inet_diag_req, TCPDIAG_GETSOCK) can.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from proxyvpn.tunnel import Connection, IPAddress

_NETLINK_SOCK_DIAG: Final = 4
_GET_TCP: Final = 18
_DUMP: Final = 0x301
_ERROR: Final = 2
_DONE: Final = 3
_LISTEN: Final = 10
_LIVING: Final = 0x1FFF & ~(1 << 6 | 1 << 7)
"""All states, as bits, but TIME-WAIT (6), of which there may be thousands that send nothing any more, and CLOSE (7)."""
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=4x48xII")
_FOUND: Final = struct.Struct("!BBxxHH16s16s")


@dataclass(frozen=True, slots=True)
class Socket:
    """One TCP socket; both addresses are of one family, four or sixteen bytes."""

    state: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


def came_in() -> tuple[Connection, ...]:
    """Give the connections whose local port has a listener: those that came in, as far as anyone can tell."""
    found = list(_tcp())
    listening = {each.local_port for each in found if each.state == _LISTEN}
    made = (_connection(each) for each in found if each.state != _LISTEN and each.local_port in listening)
    return tuple(each for each in made if not each.local.is_loopback)


def read(packet: bytes) -> tuple[tuple[Socket, ...], bool]:
    """Pure: give the sockets in a packet of the kernel's, and whether it was the last. Raises OSError."""
    found: list[Socket] = []
    while len(packet) >= _HEADER.size:
        length, kind = _HEADER.unpack_from(packet)[:2]
        if kind == _DONE or length < _HEADER.size:
            return tuple(found), True
        if kind == _ERROR:
            number = -int.from_bytes(packet[16:20], sys.byteorder, signed=True)
            raise OSError(number, os.strerror(number))
        family, state, local_port, remote_port, local, remote = _FOUND.unpack_from(packet, _HEADER.size)
        size = 4 if family == socket.AF_INET else 16
        found.append(Socket(state, local[:size], local_port, remote[:size], remote_port))
        packet = packet[length + 3 & ~3 :]
    return tuple(found), False


def _tcp() -> Iterator[Socket]:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as sock:
        body = _REQUEST.pack(_LIVING, 0)
        sock.send(_HEADER.pack(_HEADER.size + len(body), _GET_TCP, _DUMP, 1, 0) + body)
        last = False
        while not last:
            found, last = read(sock.recv(1 << 16))
            yield from found


def _connection(found: Socket) -> Connection:
    return Connection(_plain(found.local), found.local_port, _plain(found.remote), found.remote_port)


def _plain(packed: bytes) -> IPAddress:
    address = ip_address(packed)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
