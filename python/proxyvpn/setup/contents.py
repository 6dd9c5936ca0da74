"""What is installed, pure: names, bytes and modes, and which modules the helper needs.

/usr/local/libexec/proxyvpn/           root:root   0755
    proxyvpn-helper                    root:GROUP  0750   cap_net_admin+p; not with --systemd
    start.py                           root:root   0644
    lib/{proxyvpn,pyroute2,msgpack}/   root:root   0644   Python sources, and the system's Python's bytecode of them
    stamp  made                        root:root   0644
    lock                               root:GROUP  0640
"""

from __future__ import annotations

import ast
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from proxyvpn import stamp
from proxyvpn.errors import UsageError
from proxyvpn.places import LAUNCHER, LIBRARY, LOCK, MADE, PARENT, STAMP, START, TREE

CAPABILITY: Final = struct.pack("<5I", 0x02000000, 1 << 12, 0, 0, 0)
"""security.capability for cap_net_admin+p: version 2, not effective; permitted, inheritable, and their high words."""

_GROUP_NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class File:
    """One file: its bytes, its mode, and whether it is the group's rather than group root's."""

    data: bytes
    mode: int = 0o644
    group: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """What was made outside the tree, so that it can be taken away: nothing that was there before."""

    groups: tuple[str, ...] = ()
    parent: bool = False

    def text(self) -> str:
        """Give it as the lines of the file `made`."""
        return "".join(f"group {group}\n" for group in self.groups) + (f"directory {PARENT}\n" if self.parent else "")


def made(text: str) -> Made:
    """Read the file `made`; lines of other versions mean nothing here."""
    groups = (line.removeprefix("group ") for line in text.splitlines() if line.startswith("group "))
    return Made(tuple(filter(_GROUP_NAME.fullmatch, groups)), f"directory {PARENT}" in text.splitlines())


def checked_group(name: str) -> str:
    """Give `name`. Raises UsageError when it cannot be a group's."""
    if not _GROUP_NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a group", "", "letters a to z, digits, - and _, 32 at most")
    return name


def tree(library: Mapping[str, bytes], start: bytes, launcher: bytes | None, head: tuple[str, int]) -> dict[str, File]:
    """Give all files but `made`, by their names relative to the tree. `library` is what goes into lib/."""
    code = {f"{relative(LIBRARY)}/{name}": File(data) for name, data in library.items()}
    code[relative(START)] = File(start)
    if launcher is not None:
        code[relative(LAUNCHER)] = File(launcher, 0o750, group=True)
    text = stamp.of({name: file.data for name, file in code.items()}, *head)
    return {**code, relative(STAMP): File(text.encode()), relative(LOCK): File(b"", 0o640, group=True)}


def relative(path: str) -> str:
    """Give an installed path relative to the tree."""
    return path.removeprefix(f"{TREE}/")


def known(name: str, installed: Iterable[str]) -> bool:
    """Say whether the file `name` of the tree is one that was installed, or bytecode of one."""
    names = frozenset(installed) | {relative(path) for path in (STAMP, MADE, LOCK)}
    source = re.sub(r"__pycache__/([^/.]+)\.cpython-\d+\.pyc$", r"\1.py", name)
    return source in names


def closure(sources: Mapping[str, str], first: str) -> frozenset[str]:
    """Give the modules that `first` needs out of `sources` (dotted name -> text), and itself, and their packages."""
    found: set[str] = set()
    todo = [first]
    while todo:
        name = todo.pop()
        if name not in sources or name in found:
            continue
        found.add(name)
        todo += [name.rpartition(".")[0], *_imports(sources[name])]
    return frozenset(found)


def _imports(text: str) -> Iterable[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
