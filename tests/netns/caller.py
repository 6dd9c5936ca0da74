"""Runs in a namespace of a test: starts the real helper there and hands the other end of its socket to the test.

    python caller.py FD [WAY…]

FD is a UNIX socket to the test; over it go one byte with the helper's socket, and the helper's pid. The helper only
answers a caller of its own network namespace, and the kernel says who that is: who made the socket pair. So this
process makes it, and stays until the test ends it.
"""

from __future__ import annotations

import array
import socket
import subprocess
import sys


def main() -> None:
    test = socket.socket(fileno=int(sys.argv[1]))
    ways = tuple(sys.argv[2:])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = f"import sys; from proxyvpn.helper import main; sys.exit(main({ways!r}))"
    program = ["-c", code] if ways else ["-m", "proxyvpn.helper"]
    helper = subprocess.Popen([sys.executable, "-I", *program], stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
    theirs.close()
    test.sendmsg(
        [str(helper.pid).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ours.fileno()]))]
    )
    ours.close()
    test.sendall(str(helper.wait()).encode())
    test.recv(1)


main()
