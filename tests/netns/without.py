"""Run a program as if the kernel did not have some system calls: they fail with ENOSYS, for it and all its children.

    python without.py NUMBER… -- PROGRAM [ARGUMENT…]

A seccomp filter does it, and a second filter may be added to it by the program. Needs root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Final

LANDLOCK: Final = "444"
SECCOMP: Final = {"x86_64": "317", "aarch64": "277"}[platform.machine()]
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_LOAD_NUMBER, _IF_EQUAL, _RETURN = (0x20, 0, 0, 0), 0x15, 0x06


def main() -> None:
    split = sys.argv.index("--")
    numbers = [int(each) for each in sys.argv[1:split]]
    rows = [_LOAD_NUMBER]
    for number in numbers:
        rows += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _RET_ERRNO | errno.ENOSYS)]
    rows.append((_RETURN, 0, 0, _RET_ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    program = struct.pack("HP", len(rows), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execvp(sys.argv[split + 1], sys.argv[split + 1 :])


if __name__ == "__main__":
    main()
