"""Runs in a namespace of a test: makes one real helper process after another, by fork(2), so that each takes 20 ms.

    python forker.py FD

FD is a SEQPACKET socket to the test. A packet `start` comes with a descriptor for the helper's stderr, and may bring
another to be its fd 0; the answer is the helper's pid, and both ends of its socket where that was made here.
A packet `wait PID` is answered with the exit code (negative: a signal) and the helper's largest memory in KiB.

What differs from a helper that was executed: the interpreter and its modules are there already.
"""

from __future__ import annotations

import os
import socket
import sys

import proxyvpn.kernel  # noqa: F401  (here, once for all helpers)
from proxyvpn import helper


def main() -> None:
    test = socket.socket(fileno=int(sys.argv[1]))
    while True:
        words, fds, _, _ = socket.recv_fds(test, 64, 2)
        match words.split():
            case [b"start"]:
                _start(test, *fds)
            case [b"wait", pid]:
                _, status, usage = os.wait4(int(pid), 0)
                test.send(f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}".encode())
            case _:
                return


def _start(test: socket.socket, stderr: int, standard_input: int | None = None) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        given = theirs.fileno() if standard_input is None else standard_input
        pid = os.fork()
        if pid == 0:
            os.dup2(stderr, 2)
            os.dup2(given, 0)
            os.closerange(3, 64)
            os._exit(_run())
        socket.send_fds(test, [str(pid).encode()], [] if standard_input is not None else [ours.fileno(), given])
    for fd in (stderr, standard_input):
        if fd is not None:
            os.close(fd)


def _run() -> int:
    try:
        return helper.main()
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())  # what an executed helper would show
        return 1


if __name__ == "__main__":
    main()
