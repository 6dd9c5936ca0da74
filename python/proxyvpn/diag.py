"""Asks the kernel for its sockets: the conversation of sock_diag(7), for those who know what to ask.

Spoken by hand, since pyroute2 has no word for SOCK_DESTROY, and is slow where the list is read in a hurry. Needs no
privilege but for ending sockets. See linux/inet_diag.h.
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

from proxyvpn.errors import KernelError
from proxyvpn.tunnel import IPAddress

ERROR: Final = 2
"""The kind of a message that brings an error number, or 0."""
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
LISTEN: Final = 10
_NETLINK_SOCK_DIAG: Final = 4
_DONE: Final = 3
_HEAD: Final = struct.Struct("=IHHII")
_TOLD: Final = struct.Struct("=BBBB48s12xII")
"""inet_diag_msg: family, state, timer, retransmissions, inet_diag_sockid, …, user, inode."""
_ID: Final = struct.Struct("!HH16s16s")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ONLY_IPV6, _CGROUP = 11, 21
_ROOM: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One socket of the list; `key` is the kernel's own name of it, `told` are attributes, read when wanted."""

    family: int
    state: int
    key: bytes
    user: int = 0
    inode: int = 0
    told: bytes = b""

    @property
    def cgroup(self) -> int:
        """The number of its cgroup (cgroups.py); 0: the kernel does not say."""
        return int.from_bytes(dict(_attributes(self.told)).get(_CGROUP, b""), sys.byteorder)

    @property
    def only_ipv6(self) -> bool:
        """Whether a socket of every IPv6 address is not one of every IPv4 address, too."""
        return any(dict(_attributes(self.told)).get(_ONLY_IPV6, b""))

    @property
    def local_port(self) -> int:
        """The port at this end."""
        return int.from_bytes(self.key[:2], "big")

    @property
    def ends(self) -> tuple[IPAddress, int, IPAddress, int]:
        """Both ends: address and port here, address and port there; IPv4 in an IPv6 socket is IPv4."""
        local_port, remote_port, local, remote = _ID.unpack_from(self.key)
        return _address(self.family, local), local_port, _address(self.family, remote), remote_port


def entry(body: bytes) -> Entry:
    """Pure: give the socket that one answer tells of."""
    family, state, _, _, key, user, inode = _TOLD.unpack_from(body)
    return Entry(family, state, key, user, inode, body[_TOLD.size :])


def answers(kind: int, flags: int, ask: bytes) -> Iterator[tuple[int, bytes]]:
    """Ask, and give each message that comes back, up to the last."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    except OSError as error:
        raise unreadable(error.errno or 0) from error
    with opened as sock:
        sock.sendto(_HEAD.pack(_HEAD.size + len(ask), kind, flags, 1, 0) + ask, (0, 0))
        while True:
            packet = sock.recv(_ROOM)
            while packet:
                length, told, _, _, _ = _HEAD.unpack_from(packet)
                if told == _DONE:
                    return
                yield told, packet[_HEAD.size : length]
                if told == ERROR:
                    return
                packet = packet[(length + 3) & ~3 :]


def unreadable(code: int) -> KernelError:
    """Give the error for a list that cannot be had."""
    advice = "is CONFIG_INET_DIAG built for this kernel, or loaded?"
    return KernelError("the kernel's list of TCP sockets cannot be read", os.strerror(code), advice)


def _attributes(rest: bytes) -> Iterator[tuple[int, bytes]]:
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        if length < _ATTRIBUTE.size:
            return
        yield kind, rest[_ATTRIBUTE.size : length]
        rest = rest[(length + 3) & ~3 :]


def _address(family: int, raw: bytes) -> IPAddress:
    address = ip_address(raw[:4] if family == socket.AF_INET else raw)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
