"""Gives privilege up, for good: capabilities(7), prctl(2), credentials(7). Nothing here ever gains any.

Steps, in this order, since each needs what a later one takes away:

    1. supplementary groups            needs CAP_SETGID
    2. bounding set                    needs CAP_SETPCAP; a process that lacks it keeps its bounding set, which
                                       step 6 makes useless
    3. uid and gid, keeping capabilities over the change (PR_SET_KEEPCAPS)
    4. permitted = effective = the few that stay; inheritable empty
    5. ambient set empty
    6. no_new_privs                    no exec can gain anything from here on
    7. not dumpable                    no ptrace, no /proc/PID/mem, no core file

capset(2) speaks for one thread only, so this must run while the process has one. Files that are readable for root only
cannot be opened afterwards: import everything before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from proxyvpn.errors import PrivilegeMissing

CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13

HELPER_UIDS: Final = range(61184, 65520)
"""systemd's range for uids that belong to nobody; ours is one that has no name and no service."""

_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_VERSION_3: Final = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_Data = ctypes.c_uint32 * 6
_libc = ctypes.CDLL(None, use_errno=True)


def keep_only(capabilities: Collection[int], uid: int = 0, programs: bool = False) -> None:
    """Keep `capabilities` (those of them that we have) and become `uid`; 0 means: stay who we are.

    With `programs`, the bounding set keeps them too, so that a program started as root has them and no more. Without
    the right to change the uid, or in a user namespace that does not map `uid`, we stay who we are, with the
    capabilities gone all the same.
    """
    _check_single_threaded()
    kept = [each for each in capabilities if has(each)]
    if uid:
        with contextlib.suppress(PermissionError):  # not root, or a user namespace that forbids setgroups(2)
            os.setgroups([])
    _drop_bounding(kept if programs else ())
    if uid:
        _become(uid)
    _capset(kept)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, needed=False)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)


def drop_all(uid: int = 0) -> None:
    """Keep no capability at all, and become `uid`; 0 means: stay who we are."""
    keep_only((), uid)


def has(capability: int) -> bool:
    """Say whether the capability is in our permitted set."""
    data = _Data()
    if _libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), data) != 0:
        raise _failed("capget")
    return bool(data[1 + 3 * (capability // 32)] >> capability % 32 & 1)


def free_uid(passwd: str, taken: Collection[int], uids: range = HELPER_UIDS) -> int:
    """Pure: the first of `uids` that no line of passwd(5) text and no running service has; 0 when there is none."""
    fields = (line.split(":") for line in passwd.splitlines())
    named = {int(each[2]) for each in fields if len(each) > 2 and each[2].isdecimal()}
    return next((uid for uid in uids if uid not in named and uid not in taken), 0)


def helper_uid() -> int:
    """Give an unprivileged uid that is nobody else's; 0 when we are not root, or there is none."""
    if os.geteuid() != 0:
        return 0
    return free_uid(_read(Path("/etc/passwd")), _dynamic(Path("/run/systemd/dynamic-uid")))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _dynamic(folder: Path) -> set[int]:
    """Give the uids that systemd has lent to services: it keeps a file for each."""
    try:
        return {int(name) for name in os.listdir(folder) if name.isdecimal()}
    except OSError:
        return set()


def _become(uid: int) -> None:
    if not (has(CAP_SETUID) and has(CAP_SETGID)):
        return  # who may not become another is a plain user, or root in a container without these two
    _prctl(_PR_SET_KEEPCAPS, 1)
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:
        if uid in _mapped():
            raise
    finally:
        _prctl(_PR_SET_KEEPCAPS, 0)


def _mapped() -> range:
    """Give the uids that our user namespace maps: the largest of its ranges."""
    rows = [[int(part) for part in line.split()] for line in _read(Path("/proc/self/uid_map")).splitlines()]
    first, _, count = max(rows, key=lambda row: row[2], default=[0, 0, 0])
    return range(first, first + count)


def _drop_bounding(kept: Collection[int]) -> None:
    capability = 0
    while _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        if capability not in kept:
            _prctl(_PR_CAPBSET_DROP, capability, needed=False)
        capability += 1


def _capset(kept: Collection[int]) -> None:
    data = _Data()
    for capability in kept:
        word, bit = divmod(capability, 32)
        data[3 * word] |= 1 << bit  # effective
        data[3 * word + 1] |= 1 << bit  # permitted
    if _libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), data) != 0:
        raise _failed("capset")


def _check_single_threaded() -> None:
    try:
        threads = len(os.listdir("/proc/self/task"))
    except OSError:
        return
    if threads != 1:
        raise PrivilegeMissing("privilege cannot be given up", f"{threads} threads run already, and only one would")


def _prctl(option: int, value: int, needed: bool = True) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0 and needed:
        raise _failed(f"prctl({option}, {value})")


def _failed(what: str) -> PrivilegeMissing:
    return PrivilegeMissing("privilege cannot be given up", f"{what}: {os.strerror(ctypes.get_errno())}")
