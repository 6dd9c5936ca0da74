"""Run a program so that it, and all its children, wait before each write to standard error until somebody allows it.

    python notified.py DESCRIPTOR PROGRAM [ARGUMENT…]

A seccomp filter asks whoever holds its listener (listener.py), which is sent to the UNIX socket DESCRIPTOR first.
seccomp(2), seccomp_unotify(2). Needs root.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys
from typing import Final

_SECCOMP, _WRITE = {"x86_64": (317, 1), "aarch64": (277, 64)}[platform.machine()]
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RET_ALLOW, _RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16
"""Where they are in struct seccomp_data; of the argument, its lower half on a little-endian machine."""
_FILTER: Final = (
    (_LOAD, 0, 0, _NUMBER),
    (_IF_EQUAL, 0, 3, _WRITE),
    (_LOAD, 0, 0, _FIRST_ARGUMENT),
    (_IF_EQUAL, 0, 1, 2),
    (_RETURN, 0, 0, _RET_USER_NOTIF),
    (_RETURN, 0, 0, _RET_ALLOW),
)


def main() -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in _FILTER))
    program = struct.pack("HP", len(_FILTER), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    listener = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, program)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    with socket.socket(fileno=int(sys.argv[1])) as theirs:
        socket.send_fds(theirs, [b"\n"], [listener])
    os.execvp(sys.argv[2], sys.argv[2:])  # the kernel closes the listener here


if __name__ == "__main__":
    main()
