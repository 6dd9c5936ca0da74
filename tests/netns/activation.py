"""What systemd does for proxyvpn-helper.socket and its service, as far as a test can without systemd.

    activation.py SOCKET GROUP COMMAND…

Listens as the socket unit says, and for each connection runs the service's command with it as descriptor 0, as a user
of nobody, with the capability, the bounding set, no_new_privs, and no memory that becomes executable. Prints the pid of
each; SIGTERM ends it and them.
"""

from __future__ import annotations

import ctypes
import grp
import os
import signal
import socket
import subprocess
import sys

PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
UID = 61999


def main(path: str, group: str, command: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    gid = grp.getgrnam(group).gr_gid
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    os.chown(path, 0, gid)
    os.chmod(path, 0o660)
    listener.listen()
    become = (
        *("setpriv", f"--reuid={UID}", f"--regid={UID}", f"--groups={gid}", "--no-new-privs"),
        *("--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin"),
    )
    ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)  # for all children; since Linux 6.3
    children: list[subprocess.Popen[bytes]] = []
    print("listening", flush=True)
    try:
        while True:
            connection, _ = listener.accept()
            with connection:
                children.append(
                    subprocess.Popen(
                        [*become, *command],
                        stdin=connection.fileno(),
                        stdout=subprocess.DEVNULL,
                        env={"LC_ALL": "C"},
                        cwd="/",
                    )
                )
            print("helper", children[-1].pid, flush=True)
    finally:
        os.unlink(path)
        for child in children:
            child.kill()
            child.wait()


main(sys.argv[1], sys.argv[2], sys.argv[3:])
