"""Runs in a namespace of a test: makes one real helper process after another, by fork(2), so that each takes 20 ms.

    python forker.py FD

FD is a SEQPACKET socket to the test. A packet `start UID` comes with a descriptor for the helper's stderr, and may
bring another to be its fd 0; the answer is the helper's pid, and both ends of its socket where that was made here.
A packet `wait PID` is answered with the exit code (negative: a signal) and the helper's largest memory in KiB.

What differs from a helper that was executed: the interpreter and its modules are there already.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys

import proxyvpn.kernel  # noqa: F401  (here, once for all helpers)
from proxyvpn import helper, privilege

_PR_SET_DUMPABLE = 4


def main() -> None:
    test = socket.socket(fileno=int(sys.argv[1]))
    while True:
        words, fds, _, _ = socket.recv_fds(test, 64, 2)
        match words.split():
            case [b"start", uid]:
                _start(test, int(uid), *fds)
            case [b"wait", pid]:
                _, status, usage = os.wait4(int(pid), 0)
                test.send(f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}".encode())
            case _:
                return


def _start(test: socket.socket, uid: int, stderr: int, standard_input: int | None = None) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(_run(test, uid, stderr, standard_input))
    for fd in (stderr, standard_input):
        if fd is not None:
            os.close(fd)


def _run(test: socket.socket, uid: int, stderr: int, standard_input: int | None) -> int:
    """Become a helper; the socket is made here, since whoever makes it is the asker that the helper looks at."""
    try:
        if uid:  # as the launcher leaves it: a plain user with one capability, whom anyone of that user may look into
            privilege.keep_only((privilege.CAP_NET_ADMIN,), uid)
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        ends = []
        if standard_input is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ends = [ours.detach(), theirs.detach()]
        os.dup2(ends[1] if standard_input is None else standard_input, 0)
        os.dup2(stderr, 2)
        socket.send_fds(test, [str(os.getpid()).encode()], ends)
        os.closerange(3, 64)
        return helper.main()
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())  # what an executed helper would show
        return 1


if __name__ == "__main__":
    main()
