"""Looks at an installation, and at who asks; changes nothing, and needs no privilege."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxyvpn.errors import ProxyvpnError
from proxyvpn.places import LAUNCHER, LOCK, PYTHON, SOCKET, STAMP, TREE
from proxyvpn.setup import programs, sources, units
from proxyvpn.setup.check import Facts, Seen

_CAP_NET_ADMIN: Final = 12
_MOST_LINKS: Final = 8


def gather(user: str) -> Facts:
    """Give the facts about `user`, empty for root. Raises ProxyvpnError when there is nothing to compare with."""
    installed = read(STAMP)
    unit_texts = {path: text for path in units.texts("") if (text := read(path))}
    group, group_name = _group()
    status = _status()
    return Facts(
        wanted=sources.tree(with_launcher=not unit_texts)["stamp"].data.decode(),
        installed=installed,
        ways=(*way_to(TREE), *way_to(PYTHON)),
        files=tuple(_walk(TREE)),
        capability=_capability(),
        nosuid=_nosuid(),
        units=unit_texts,
        wanted_units=units.texts(group_name),
        listening=os.path.exists(SOCKET),
        python=_python(),
        no_new_privs=status.get("NoNewPrivs") == "1",
        bounded=not int(status.get("CapBnd", "ffffffff"), 16) >> _CAP_NET_ADMIN & 1,
        tun=_mode("/dev/net/tun"),
        user=user,
        group=group,
        group_name=group_name,
        member=user in _members(group),
        in_session=_in_session(user, group),
    )


def way_to(path: str, links: int = _MOST_LINKS) -> Iterator[Seen]:
    """Give every step of the way to `path`, through links; it ends where nothing is there."""
    here = "/"
    parts = [part for part in path.split("/") if part]
    yield from _seen(here)
    while parts:
        here = os.path.join(here, parts.pop(0))
        seen = next(_seen(here), None)
        if seen is None:
            return
        yield seen
        if stat.S_ISLNK(seen.mode):
            if links:
                target = os.path.join(os.path.dirname(here), os.readlink(here), *parts)
                yield from way_to(os.path.normpath(target), links - 1)
            return


def read(path: str) -> str:
    """Give a small file's text; empty when it cannot be read."""
    try:
        return Path(path).read_bytes()[: 1 << 20].decode("utf-8", "replace")
    except OSError:
        return ""


def invoker() -> str:
    """Give the user who typed the command, by sudo or not; empty for root."""
    uid = os.getuid() or int(os.environ.get("SUDO_UID", "0"), 10)
    try:
        return pwd.getpwuid(uid).pw_name if uid else ""
    except KeyError:
        return str(uid)


def _walk(folder: str) -> Iterator[Seen]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        for seen in _seen(f"{folder}/{name}"):
            yield seen
            if stat.S_ISDIR(seen.mode):
                yield from _walk(seen.path)


def _seen(path: str) -> Iterator[Seen]:
    try:
        found = os.lstat(path)
    except OSError:
        return
    digest = ""
    if stat.S_ISREG(found.st_mode) and path.startswith(f"{TREE}/"):
        try:
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except OSError:  # the launcher, for whoever may not run it
            digest = ""
    yield Seen(path, found.st_uid, found.st_gid, found.st_mode, digest)


def _capability() -> bytes:
    try:
        return os.getxattr(LAUNCHER, "security.capability")
    except OSError:
        return b""


def _nosuid() -> bool:
    try:
        return bool(os.statvfs(TREE).f_flag & os.ST_NOSUID)
    except OSError:
        return False


def _python() -> tuple[int, int] | None:
    try:
        return programs.python_version()
    except (ProxyvpnError, ValueError):
        return None


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except OSError:
        return None


def _group() -> tuple[int, str]:
    try:
        gid = os.lstat(LOCK).st_gid
        return gid, grp.getgrgid(gid).gr_name
    except (OSError, KeyError):
        return -1, ""


def _members(gid: int) -> frozenset[str]:
    try:
        return frozenset(grp.getgrgid(gid).gr_mem) if gid >= 0 else frozenset()
    except KeyError:
        return frozenset()


def _in_session(user: str, gid: int) -> bool:
    """Say whether this process has the group; behind sudo nothing is known of the login but the list of users."""
    if os.getuid() != 0:
        return gid in (os.getegid(), *os.getgroups())
    return user in _members(gid)


def _status() -> dict[str, str]:
    lines = (line.split(":", 1) for line in read("/proc/self/status").splitlines() if ":" in line)
    return {name: value.strip() for name, value in lines}
