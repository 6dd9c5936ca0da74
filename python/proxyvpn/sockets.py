"""The kernel's list of TCP sockets: which connections came in, which were opened here, and the end of the latter.

A connection came in, as far as anyone can tell, when its local port has a listener. What was opened here before the
tunnel cannot go on through it: the proxy's side knows nothing of it. So with the killswitch such sockets are closed by
the kernel, and their programs see ECONNABORTED at once instead of a silence of minutes.

Spoken by hand: pyroute2 has no word for SOCK_DESTROY, and the list is read before a firewall is put back, so it must be
quick. What costs is the kernel's walk through its table: both families are asked for at once, which only the older
request (inet_diag_req, TCPDIAG_GETSOCK) can. See sock_diag(7) and linux/inet_diag.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from proxyvpn.errors import KernelError
from proxyvpn.plan import Connection, IPAddress, NotPossible

_NETLINK_SOCK_DIAG: Final = 4
_GET_TCP, _DESTROY = 18, 21
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_HEAD: Final = struct.Struct("=IHHII")
_ASK: Final = struct.Struct("=BBBBI48s")
"""inet_diag_req_v2; its last field, inet_diag_sockid, says which socket."""
_ASK_ALL: Final = struct.Struct("=4x48xII")
"""inet_diag_req: of any family, in these states."""
_TOLD: Final = struct.Struct("=BBBB48s")
"""The beginning of inet_diag_msg."""
_ID: Final = struct.Struct("!HH16s16s")
_ESTABLISHED, _SYN_SENT, _TIME_WAIT, _CLOSE, _LISTEN = 1, 2, 6, 7, 10
_LIVING: Final = 0x1FFF & ~(1 << _TIME_WAIT | 1 << _CLOSE)
"""As bits. Of TIME-WAIT there may be thousands, which send nothing any more."""
_UNDER_WAY: Final = (_SYN_SENT, 3, 12)
"""SYN-SENT: it will be repeated, and taken by the tunnel. SYN-RECEIVED, twice: it is coming in."""
_ROOM: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One socket of the list; `key` is the kernel's own name of it."""

    family: int
    state: int
    key: bytes

    @property
    def local_port(self) -> int:
        """The port at this end."""
        return int.from_bytes(self.key[:2], "big")

    @property
    def connection(self) -> Connection:
        """Both ends."""
        local_port, remote_port, local, remote = _ID.unpack_from(self.key)
        return Connection(_address(self.family, local), local_port, _address(self.family, remote), remote_port)


def came_in() -> tuple[Connection, ...]:
    """Give the connections whose local port has a listener, but those within this machine."""
    entries = _listed()
    listening = {each.local_port for each in entries if each.state == _LISTEN}
    found = (each.connection for each in entries if each.state != _LISTEN and each.local_port in listening)
    return tuple(each for each in found if not each.local.is_loopback)


def opened_here() -> tuple[Connection, ...]:
    """Give the connections that this machine has opened to others, and that are established or beyond."""
    entries = _listed()
    listening = {each.local_port for each in entries if each.state == _LISTEN}
    within = {_turned(each.connection) for each in entries}
    found = [each.connection for each in entries if each.state not in (_LISTEN, *_UNDER_WAY)]
    return tuple(each for each in found if each.local_port not in listening and each not in within and not _stays(each))


def end(connections: Collection[Connection]) -> None:
    """Let the kernel close these; what has ended meanwhile is fine. Raises NotPossible."""
    wanted = set(connections)
    for entry in _listed():
        if entry.connection in wanted and entry.state not in (_LISTEN, *_UNDER_WAY):
            _destroy(entry)


def _stays(each: Connection) -> bool:
    return each.remote.is_loopback or each.remote == each.local


def _turned(each: Connection) -> Connection:
    return Connection(each.remote, each.remote_port, each.local, each.local_port)


def _listed() -> list[Entry]:
    return list(read(_answers(_GET_TCP, _REQUEST | _DUMP, _ASK_ALL.pack(_LIVING, 0))))


def read(answers: Iterable[tuple[int, bytes]]) -> Iterator[Entry]:
    """Pure: give the sockets that the kernel's answers tell of. Raises KernelError."""
    for kind, body in answers:
        if kind == _ERROR:
            raise _unreadable(-struct.unpack_from("=i", body)[0])
        family, state, _, _, key = _TOLD.unpack_from(body)
        yield Entry(family, state, key)


def _destroy(entry: Entry) -> None:
    ask = _ASK.pack(entry.family, socket.IPPROTO_TCP, 0, 0, 1 << entry.state, entry.key)
    for kind, body in _answers(_DESTROY, _REQUEST | _ACK, ask):
        code = -struct.unpack_from("=i", body)[0] if kind == _ERROR else 0
        if code not in (0, errno.ENOENT, errno.ESTALE):
            why = "this kernel is without CONFIG_INET_DIAG_DESTROY" if code == errno.EOPNOTSUPP else os.strerror(code)
            raise NotPossible("connections from before cannot be closed", why, "they are reset when they send")


def _answers(kind: int, flags: int, ask: bytes) -> Iterator[tuple[int, bytes]]:
    """Ask, and give each message that comes back, up to the last."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    except OSError as error:
        raise _unreadable(error.errno or 0) from error
    with opened as sock:
        sock.sendto(_HEAD.pack(_HEAD.size + len(ask), kind, flags, 1, 0) + ask, (0, 0))
        while True:
            packet = sock.recv(_ROOM)
            while packet:
                length, told, _, _, _ = _HEAD.unpack_from(packet)
                if told == _DONE:
                    return
                yield told, packet[_HEAD.size : length]
                if told == _ERROR:
                    return
                packet = packet[(length + 3) & ~3 :]


def _unreadable(code: int) -> KernelError:
    advice = "is CONFIG_INET_DIAG built for this kernel, or loaded?"
    return KernelError("the kernel's list of TCP sockets cannot be read", os.strerror(code), advice)


def _address(family: int, raw: bytes) -> IPAddress:
    """IPv4 in an IPv6 socket is IPv4."""
    address = ip_address(raw[:4] if family == socket.AF_INET else raw)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
