"""The tree of control groups, version 2, as far as it is needed to name one: read, and never changed. See cgroups(7).

A cgroup is named by its path from the root of the tree, without a slash before it, as /proc/PID/cgroup has it, and
known to the kernel by a number, which is that of its directory. It is another one when a service has been restarted.
"""

from __future__ import annotations

import os
from typing import Final

MOUNTS: Final = "/proc/self/mountinfo"
BASE: Final = "/sys/fs/cgroup"
"""Below it nft looks for what a rule names."""
_MOST: Final = 20_000
"""Directories that are looked at to find one."""


def place(mounts: str = MOUNTS) -> str | None:
    """Give where below BASE the tree is: empty on most machines, `unified` beside version 1. None: nowhere.

    A mount that is listed may be hidden by another one above it.
    """
    for line in _read(mounts).splitlines():
        before, _, after = line.partition(" - ")
        words = before.split()
        if after.startswith("cgroup2 ") and f"{words[4]}/".startswith(f"{BASE}/") and _is_seen(words[4], words[2]):
            return words[4][len(BASE) + 1 :]
    return None


def _is_seen(point: str, device: str) -> bool:
    try:
        found = os.stat(point).st_dev
    except OSError:
        return False
    return f"{os.major(found)}:{os.minor(found)}" == device


def number(path: str) -> int:
    """Give the number of a cgroup; 0 when there is none."""
    directory = _directory(path)
    try:
        return os.stat(directory).st_ino if directory else 0
    except OSError:
        return 0


def numbers(path: str) -> frozenset[int]:
    """Give the numbers of a cgroup and of all below it."""
    directory = _directory(path)
    return frozenset(os.stat(each).st_ino for each in _walked(directory)) if directory else frozenset()


def path_of(wanted: int) -> str:
    """Give the path of the cgroup with this number; empty when there is none, or it is the root."""
    root = _directory("")
    if root is None or not wanted:
        return ""
    for each in _walked(root):
        try:
            if os.stat(each).st_ino == wanted:
                return each[len(root) :].strip("/")
        except OSError:
            continue  # it has just ended
    return ""


def named(name: str) -> tuple[str, ...]:
    """Give the paths of all cgroups whose last part is `name`: of a unit of systemd, say."""
    root = _directory("")
    if root is None:
        return ()
    return tuple(each[len(root) :].strip("/") for each in _walked(root) if os.path.basename(each) == name)


def of_process(pid: int | str = "self") -> str | None:
    """Give the path of a process's cgroup; empty for the root, None when it cannot be seen."""
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        if line.startswith("0::"):
            return line[3:].strip("/")
    return None


def processes(path: str) -> tuple[int, ...]:
    """Give the processes in a cgroup and below."""
    directory = _directory(path)
    listed = (_read(f"{each}/cgroup.procs") for each in _walked(directory)) if directory else ()
    return tuple(int(word) for text in listed for word in text.split())


def _directory(path: str) -> str | None:
    found = place()
    return None if found is None else os.path.join(BASE, found, path).rstrip("/")


def _walked(root: str) -> list[str]:
    found = []
    for directory, names, _ in os.walk(root):
        found.append(directory)
        names.sort()
        if len(found) >= _MOST:
            break
    return found


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20).decode(errors="replace")
    except OSError:
        return ""
