"""One end of a SOCK_SEQPACKET socket: one message a packet, file descriptors beside it (unix(7), SCM_RIGHTS).

End of file is a value, not an error: it is how each of our processes is told to stop. A packet that was cut, or that
carries more descriptors than MAX_FDS, raises ProtocolError; descriptors that came with a bad packet are closed.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Final

from proxyvpn.errors import ProtocolError
from proxyvpn.messages import MAX_BYTES, Message, decode, encode

MAX_FDS: Final = 8
PATIENCE: Final = 5.0
"""Seconds for which anybody waits for a process that is stopped (SIGSTOP, a debugger)."""
_SCM_PIDFD: Final = 4
"""A descriptor that the kernel attaches to every packet once the other end has asked for it by SO_PASSPIDFD."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message and the descriptors that came with it; the receiver owns them (close-on-exec is set)."""

    message: Message
    fds: tuple[int, ...]


class Channel:
    """A connected SEQPACKET socket that speaks messages."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Take over `fd`. Raises ProtocolError when it is not a SEQPACKET socket."""
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise ProtocolError(f"file descriptor {fd} is not a socket") from error
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
            sock.detach()
            raise ProtocolError(f"file descriptor {fd} is not a UNIX SEQPACKET socket")
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.detach()
            raise ProtocolError(f"file descriptor {fd} is a socket that listens")
        return cls(sock)

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """Give our end, and the other one to hand to a child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        return cls(ours), theirs

    def fileno(self) -> int:
        return self._socket.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """Let send() and receive() raise TimeoutError after `seconds`."""
        self._socket.settimeout(seconds)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send one packet. Raises BrokenPipeError when the other end is gone."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._socket.sendmsg([encode(message)], rights, socket.MSG_NOSIGNAL)

    def receive(self) -> Received | None:
        """Wait for one packet; None at end of file. Raises ProtocolError, TimeoutError."""
        room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        try:
            packet, ancillary, flags, _ = self._socket.recvmsg(MAX_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        fds = _descriptors(ancillary)
        if not packet and not fds:
            return None
        try:
            return Received(_decode(packet, flags), fds)
        except ProtocolError:
            close_all(fds)
            raise

    def receive_from(self, pid: int, limit: float, patience: float = PATIENCE) -> Received | None:
        """Wait for one packet of process `pid`, `limit` seconds at most; `patience` is enough when it is stopped.

        Raises ProtocolError, and TimeoutError with words for a person.
        """
        waited = min(limit, patience)
        try:
            self.settimeout(waited)
            return self.receive()
        except TimeoutError as error:
            if is_stopped(pid):
                raise TimeoutError(f"it is stopped by a signal or a debugger; waited {waited:.0f} s") from error
            if limit <= waited:
                raise TimeoutError(f"waited {limit:.0f} s") from error
        try:
            self.settimeout(limit - waited)
            return self.receive()
        except TimeoutError as error:
            raise TimeoutError(f"waited {limit:.0f} s") from error

    def hang_up(self) -> None:
        """Let both ends see end of file; the descriptor stays, for whoever waits on it."""
        with contextlib.suppress(OSError):  # the other end may have gone already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


def close_all(fds: tuple[int, ...]) -> None:
    """Close every descriptor of `fds`."""
    for fd in fds:
        os.close(fd)


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped: it then cannot answer, nor end by itself (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def _decode(packet: bytes, flags: int) -> Message:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ProtocolError("a message was cut")
    return decode(packet)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return tuple(found)
