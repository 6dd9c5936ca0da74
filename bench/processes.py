"""What the processes of a program cost: processor time and memory of a whole tree, read from /proc (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """Give `root` and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(parents.get(pid, []))
    return found


def processor_seconds(root: int) -> float:
    """Give user and system time of the tree, with that of its children that have ended."""
    stats = [fields for pid in tree(root) if (fields := _stat(pid))]
    return sum(int(fields[at]) for fields in stats for at in (11, 12, 13, 14)) * TICK


def memory_kib(root: int) -> int:
    """Give the proportional set size of the tree."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def _stat(pid: int) -> list[str]:
    """Give the fields of /proc/PID/stat behind the name: state, parent and on; nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
