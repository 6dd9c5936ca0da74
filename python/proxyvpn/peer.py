"""Who is at the other end of a UNIX socket, as the kernel knows it: unix(7), SO_PEERCRED, SO_PEERGROUPS, SIOCGSKNS.

All of it is of the moment at which the pair was made or connected, so that nothing is asked of a process that may have
ended, and whose number may be another's by now.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from proxyvpn.errors import ProtocolError

_UCRED: Final = struct.Struct("3i")
_SO_PEERGROUPS: Final = 59
_SIOCGSKNS: Final = 0x894C
_MOST_BYTES: Final = 1024
"""What Python lets getsockopt() return: 256 groups."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a socket."""

    pid: int
    uid: int
    gid: int


def of(sock: socket.socket) -> Peer:
    """Give who made the other end."""
    return Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def groups(sock: socket.socket) -> frozenset[int]:
    """Give the groups of who made the other end. Raises ProtocolError when there are more than 256."""
    found = array.array("I")
    try:
        found.frombytes(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES))
    except OSError as error:
        raise ProtocolError("the asker's groups cannot be seen", error.strerror or "") from error
    return frozenset((of(sock).gid, *found))


def network(sock: socket.socket) -> tuple[int, int]:
    """Give the network namespace that the socket is of, which is that of who connected it or made the pair.

    It needs CAP_NET_ADMIN there, so raises PermissionError for one that is not ours to configure.
    """
    fd = fcntl.ioctl(sock.fileno(), _SIOCGSKNS)
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    return found.st_dev, found.st_ino


def may_ask(peer: Peer, theirs: frozenset[int], ours: int, group: int | None) -> bool:
    """Pure: root may ask a helper, and our own uid; where a `group` was set up for it, its members instead of that."""
    return peer.uid == 0 or (peer.uid == ours if group is None else group in theirs)
