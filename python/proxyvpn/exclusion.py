"""Who stays outside the tunnel: whom the user names, and a proxy that runs on this machine.

Such a proxy's own connections to the world must not be captured: they would come back to it, for ever. It is known by
its cgroup where it has one of its own (a service, a container), else by its user where that is not who runs `up`,
nor root; never by more. Where neither tells it from other programs, `up` ends and says what to do. Needs no privilege:
whom the helper is told of, it looks at itself.

A container's proxy is known by its address: what this machine forwards from a proxy's address is that proxy's own
(ruleset.py). Docker puts a program of its own before it, whose command line tells where the container is.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from proxyvpn import cgroups, listeners
from proxyvpn.errors import UsageError
from proxyvpn.listeners import Listener
from proxyvpn.plan import Endpoint

_CONTAINER: Final = re.compile(r"(docker|libpod|crio|cri-containerd|lxc|machine)[-.].*|[0-9a-f]{64}")
_NO_LOGIN: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Excluded:
    """Whom the tunnel leaves alone; `behind` are containers' addresses of proxies that are published here."""

    users: tuple[int, ...] = ()
    cgroups: tuple[str, ...] = ()
    behind: tuple[Endpoint, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asker:
    """Who runs `up`: all users that may stand for this person, and the cgroup."""

    users: frozenset[int]
    cgroup: str


NOBODY: Final = Excluded()


def find(users: tuple[str, ...], groups: tuple[str, ...], proxies: Iterable[tuple[str, Endpoint]]) -> Excluded:
    """Give who is excluded: whom the user names, and each of `proxies` (printed form, place) that runs here.

    Raises UsageError.
    """
    found = Excluded(tuple(map(_user, users)), tuple(map(_cgroup, groups)))
    published = tuple(_published())
    for name, endpoint in proxies:
        if not listeners.is_here(endpoint.address):
            continue
        behind = [there for port, there in published if port == endpoint.port]
        if behind:
            note = f"the proxy {name} is a container's, at {behind[0]}"
            found = _with(found, Excluded(behind=tuple(behind), notes=(note,)))
            continue
        for listener in listeners.at(endpoint):
            found = _with(found, decide(name, listener, found, _asker()))
    return found


def decide(name: str, listener: Listener, given: Excluded, asker: Asker) -> Excluded:
    """Pure: give what must be excluded besides `given`, so that the proxy `name` is left alone. Raises UsageError."""
    if listener.user in given.users or any(is_in(listener.cgroup, each) for each in given.cgroups):
        return NOBODY
    if is_own(listener.cgroup) and not is_in(asker.cgroup, listener.cgroup):
        words = f"the proxy {name} runs here: its own traffic goes past the tunnel (cgroup {listener.cgroup})"
        return Excluded(cgroups=(listener.cgroup,), notes=(words,))
    if listener.user and listener.user not in asker.users:
        words = f"the proxy {name} runs here: its own traffic goes past the tunnel (user {listener.user})"
        return Excluded(users=(listener.user,), notes=(words,))
    whose = "root's" if listener.user == 0 else f"user {listener.user}'s"
    raise UsageError(
        f"the proxy {name} runs on this machine, and what it sends cannot be told from what others send",
        f"it is {whose} like other programs here, in {f'cgroup {listener.cgroup}' if listener.cgroup else 'no cgroup'}",
        "run it as a service or as a user of its own; or name that: --exclude-cgroup NAME.service, --exclude-user NAME",
    )


def warned(found: Excluded, captured: bool, strict: bool) -> Excluded:
    """Pure: add what a person must know: DNS is `captured`; some interface is `strict` about sources (rp_filter 1)."""
    more: tuple[str, ...] = ()
    if found.notes and captured:
        more = ("should that proxy look up names by a resolver on this machine, name its domain: --direct-domain",)
    if found.cgroups and strict:
        more += (
            "with rp_filter 1 and the killswitch, answers to what is known by its cgroup are dropped: "
            "sysctl -w net.ipv4.conf.INTERFACE.rp_filter=2, or --exclude-user",
        )
    return replace(found, notes=(*found.notes, *more))


def is_own(cgroup: str) -> bool:
    """Pure: say whether a cgroup is of one service or container, by the names that systemd and others give them.

    A login's session and what a desktop starts (`….scope`) hold anything that is begun there.
    """
    last = cgroup.rpartition("/")[2]
    return (last.endswith(".service") and not last.startswith("user@")) or bool(_CONTAINER.fullmatch(last))


def is_in(cgroup: str, outer: str) -> bool:
    """Pure: say whether a cgroup is `outer` or below it."""
    return bool(outer) and f"{cgroup}/".startswith(f"{outer}/")


def published(command: bytes) -> tuple[int, Endpoint] | None:
    """Pure: give port and container of one that Docker publishes, from docker-proxy's command line."""
    words = command.decode(errors="replace").split("\0")
    if os.path.basename(words[0]) != "docker-proxy":
        return None
    told = dict(zip(words[1::2], words[2::2], strict=False))
    try:
        there = Endpoint(ip_address(told["-container-ip"]), int(told["-container-port"]))
        return int(told["-host-port"]), there
    except (KeyError, ValueError, UsageError):
        return None


def _published() -> Iterable[tuple[int, Endpoint]]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                found = published((process / "cmdline").read_bytes())
            except OSError:
                continue  # it has ended
            if found is not None:
                yield found


def _with(one: Excluded, other: Excluded) -> Excluded:
    return Excluded(
        tuple(dict.fromkeys((*one.users, *other.users))),
        tuple(dict.fromkeys((*one.cgroups, *other.cgroups))),
        tuple(dict.fromkeys((*one.behind, *other.behind))),
        tuple(dict.fromkeys((*one.notes, *other.notes))),
    )


def _asker() -> Asker:
    """The user's own programs are those of who logged in, too, where `up` is run by sudo."""
    users = {os.getuid(), os.geteuid()}
    for text in (os.environ.get("SUDO_UID", ""), _read("/proc/self/loginuid")):
        if text.strip().isdigit() and int(text) != _NO_LOGIN:
            users.add(int(text))
    return Asker(frozenset(users), cgroups.of_process() or "")


def _user(text: str) -> int:
    advice = "write it like --exclude-user squid or --exclude-user 13"
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError) as error:
        shown = "".join(letter if letter.isprintable() else "?" for letter in text[:60])
        raise UsageError(f"--exclude-user {shown}: there is no such user", advice=advice) from error


def _cgroup(text: str) -> str:
    """Give the path of what was typed: a path of /proc/PID/cgroup, one below /sys/fs/cgroup, or a unit's name."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:100])
    place = cgroups.place()
    if place is None:
        raise UsageError(f"--exclude-cgroup {shown}: this machine has no cgroups of version 2 below {cgroups.BASE}")
    path = text.removeprefix(f"{cgroups.BASE}/{place}").strip("/") if text.startswith(cgroups.BASE) else text.strip("/")
    if "/" in text or cgroups.number(path):
        return path
    found = cgroups.named(text)
    if len(found) == 1:
        return found[0]
    why = f"it could be {found[0]} or {found[1]}" if found else "is the service running?"
    raise UsageError(
        f"--exclude-cgroup {shown}: {'that is not one cgroup' if found else 'there is no such cgroup'}",
        why,
        "give its path, as `systemctl show -p ControlGroup NAME` or /proc/PID/cgroup tell it",
    )


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(64)
    except (OSError, UnicodeDecodeError):
        return ""
