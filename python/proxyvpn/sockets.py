"""The kernel's list of TCP sockets: which connections came in, which were opened here, and the end of the latter.

A connection came in, as far as anyone can tell, when its local port has a listener. What was opened here before the
tunnel cannot go on through it: the proxy's side knows nothing of it. So with the killswitch such sockets are closed by
the kernel, and their programs see ECONNABORTED at once instead of a silence of minutes.

The list is read before a firewall is put back, so it must be quick. What costs is the kernel's walk through its table:
both families are asked for at once, which only the older request (inet_diag_req, TCPDIAG_GETSOCK) can. See diag.py.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from proxyvpn import diag
from proxyvpn.diag import LISTEN, Entry
from proxyvpn.plan import Connection, NotPossible

_GET_TCP, _DESTROY = 18, 21
_ASK: Final = struct.Struct("=BBBBI48s")
"""inet_diag_req_v2; its last field, inet_diag_sockid, says which socket."""
_ASK_ALL: Final = struct.Struct("=4x48xII")
"""inet_diag_req: of any family, in these states."""
_ESTABLISHED, _SYN_SENT, _TIME_WAIT, _CLOSE = 1, 2, 6, 7
_LIVING: Final = 0x1FFF & ~(1 << _TIME_WAIT | 1 << _CLOSE)
"""As bits. Of TIME-WAIT there may be thousands, which send nothing any more."""
_UNDER_WAY: Final = (_SYN_SENT, 3, 12)
"""SYN-SENT: it will be repeated, and taken by the tunnel. SYN-RECEIVED, twice: it is coming in."""


def came_in() -> tuple[Connection, ...]:
    """Give the connections whose local port has a listener, but those within this machine."""
    entries = _listed()
    listening = {each.local_port for each in entries if each.state == LISTEN}
    found = (_connection(each) for each in entries if each.state != LISTEN and each.local_port in listening)
    return tuple(each for each in found if not each.local.is_loopback)


def opened_here(stays: Callable[[Entry], bool] = lambda _: False) -> tuple[Connection, ...]:
    """Give the connections that this machine has opened to others, and that are established or beyond.

    But not those of whom `stays` says so.
    """
    entries = _listed()
    listening = {each.local_port for each in entries if each.state == LISTEN}
    within = {_turned(_connection(each)) for each in entries}
    begun = (each for each in entries if each.state not in (LISTEN, *_UNDER_WAY))
    found = [_connection(each) for each in begun if not stays(each)]
    return tuple(each for each in found if each.local_port not in listening and each not in within and not _stays(each))


def end(connections: Collection[Connection]) -> None:
    """Let the kernel close these; what has ended meanwhile is fine. Raises NotPossible."""
    wanted = set(connections)
    for entry in _listed():
        if _connection(entry) in wanted and entry.state not in (LISTEN, *_UNDER_WAY):
            _destroy(entry)


def _stays(each: Connection) -> bool:
    return each.remote.is_loopback or each.remote == each.local


def _turned(each: Connection) -> Connection:
    return Connection(each.remote, each.remote_port, each.local, each.local_port)


def _listed() -> list[Entry]:
    return list(read(diag.answers(_GET_TCP, diag.REQUEST | diag.DUMP, _ASK_ALL.pack(_LIVING, 0))))


def read(answers: Iterable[tuple[int, bytes]]) -> Iterator[Entry]:
    """Pure: give the sockets that the kernel's answers tell of. Raises KernelError."""
    for kind, body in answers:
        if kind == diag.ERROR:
            raise diag.unreadable(-struct.unpack_from("=i", body)[0])
        yield diag.entry(body)


def _connection(entry: Entry) -> Connection:
    return Connection(*entry.ends)


def _destroy(entry: Entry) -> None:
    ask = _ASK.pack(entry.family, socket.IPPROTO_TCP, 0, 0, 1 << entry.state, entry.key)
    for kind, body in diag.answers(_DESTROY, diag.REQUEST | diag.ACK, ask):
        code = -struct.unpack_from("=i", body)[0] if kind == diag.ERROR else 0
        if code not in (0, errno.ENOENT, errno.ESTALE):
            why = "this kernel is without CONFIG_INET_DIAG_DESTROY" if code == errno.EOPNOTSUPP else os.strerror(code)
            raise NotPossible("connections from before cannot be closed", why, "they are reset when they send")
