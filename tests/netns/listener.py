"""The kernel's questions whether a system call may go on: the other end of notified.py. seccomp_unotify(2).

A question has a number. It is void when its process has been killed, and when a signal has interrupted it: then the
same process asks anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

PROGRAM: Final = str(Path(__file__).with_name("notified.py"))
_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
_CONTINUE: Final = 1
_NOTIFICATION: Final = struct.Struct("QII64x")
_RESPONSE: Final = struct.Struct("QqiI")


class Question(NamedTuple):
    """A thread that waits."""

    number: int
    pid: int


class Listener:
    """Takes the questions of a filter, and answers them."""

    def __init__(self, theirs: socket.socket) -> None:
        """Take the descriptor that notified.py sends."""
        theirs.settimeout(20)
        fds = socket.recv_fds(theirs, 1, 1)[1]
        assert fds, "notified.py has ended: is this root?"
        self._fd = fds[0]
        os.set_inheritable(self._fd, False)

    def close(self) -> None:
        os.close(self._fd)

    def next(self) -> Question | None:
        """Wait for a question; None when nobody is left who could ask."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while poll.poll()[0][1] & select.POLLIN:
            notification = bytearray(_NOTIFICATION.size)  # the kernel wants it zeroed
            if self._call(_RECEIVE, notification):
                return Question(*_NOTIFICATION.unpack(notification)[:2])
        return None

    def is_valid(self, question: Question) -> bool:
        """Say whether it still waits for an answer."""
        return self._call(_IS_VALID, bytearray(struct.pack("Q", question.number)))

    def allow(self, question: Question) -> None:
        """Let the system call be made, if it still waits."""
        self._call(_SEND, bytearray(_RESPONSE.pack(question.number, 0, 0, _CONTINUE)))

    def _call(self, request: int, argument: bytearray) -> bool:
        """Make an ioctl; False when the question is void."""
        try:
            fcntl.ioctl(self._fd, request, argument)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True
