"""The socket in the state directory on which a running `up` answers `status` and ends for `teardown`.

SOCK_SEQPACKET, one question and one answer a connection. Only root and the user that runs `up` are heard
(SO_PEERCRED, unix(7)), whatever the modes of the file say.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from typing import Final

from proxyvpn import peer
from proxyvpn.channel import Channel, close_all
from proxyvpn.errors import ProtocolError, StateError
from proxyvpn.messages import Ask, Confirm, Down, Message
from proxyvpn.peer import Peer
from proxyvpn.state import StateDir

ANSWER_LIMIT: Final = 1.0
MOST_CLIENTS: Final = 16
Question = Ask | Confirm | Down


class Control:
    """The listening end, in a running `up`, and the clients that have not asked yet."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._clients: dict[int, Channel] = {}

    @classmethod
    def listen(cls, state: StateDir) -> Control:
        """Make the socket; the lock must be held, so that a socket that lies there is a dead one."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            state.remove_control()
            listener.bind(state.socket_path())
            os.chmod(state.socket_path(), 0o600)
            listener.listen(8)
        except OSError as error:
            listener.close()
            raise StateError(f"no socket can be made in {state.path}", error.strerror or "") from error
        listener.setblocking(False)
        return cls(listener)

    def filenos(self) -> tuple[int, ...]:
        """Give the descriptors to wait for."""
        return (self._listener.fileno(), *self._clients)

    def questions(self, ready: set[int]) -> Iterator[tuple[Channel, Question]]:
        """Give each readable client that asks something, which is then the caller's to answer and close."""
        for fd in ready & self._clients.keys():
            client = self._clients.pop(fd)
            question = _read_question(client)
            if question is None:
                client.close()
            else:
                yield client, question
        if self._listener.fileno() in ready:
            self._accept()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._listener.close()

    def _accept(self) -> None:
        """Take the next client in, unless it may not ask."""
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        if peer.of(client).uid not in (0, os.geteuid()) or len(self._clients) >= MOST_CLIENTS:
            client.close()
            return
        channel = Channel(client)
        channel.settimeout(ANSWER_LIMIT)
        self._clients[channel.fileno()] = channel


def _read_question(client: Channel) -> Question | None:
    """Give what a readable client asks; None when it is to be dropped."""
    try:
        received = client.receive()
    except (ProtocolError, OSError):
        return None
    if received is None:
        return None
    close_all(received.fds)
    return received.message if isinstance(received.message, Ask | Confirm | Down) and not received.fds else None


def answer(client: Channel, message: Message) -> None:
    """Answer and hang up; a client that has gone meanwhile is no error."""
    try:
        client.send(message)
    except OSError:
        pass
    finally:
        client.close()


def connect(state: StateDir) -> tuple[Channel, Peer] | None:
    """Give a connection to the `up` that runs with this state directory; None when none does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(state.socket_path())
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise StateError(f"the running proxyvpn cannot be asked ({state.path})", error.strerror or "") from error
    return Channel(sock), peer.of(sock)


class Watched:
    """A process of which only its end is of interest (pidfd_open(2))."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def wait(self, limit: float) -> None:
        """Wait until it has ended, `limit` seconds at most."""
        if self._fd is not None:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.poll(limit * 1000)


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Watched]:
    """Watch process `pid`, unless it is ourselves or cannot be seen from here."""
    try:
        fd = os.pidfd_open(pid) if pid not in (0, os.getpid()) else None
    except OSError:
        fd = None
    try:
        yield Watched(fd)
    finally:
        if fd is not None:
            os.close(fd)
