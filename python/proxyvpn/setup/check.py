"""What is wrong with an installation, and how to mend it, from facts; pure.

The launcher judges owners and modes by the same rule: what runs with the capability, and every directory on the way to
it, is root's, and nobody else can write to it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from proxyvpn import stamp
from proxyvpn.places import LAUNCHER, LOCK, PARENT, PYTHON, SOCKET, TREE, UNIT
from proxyvpn.setup import contents


@dataclass(frozen=True, slots=True)
class Seen:
    """One name in the file system: lstat(2), and for an installed file that could be read its SHA-256."""

    path: str
    uid: int
    gid: int
    mode: int
    """With the type."""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and how to mend it, in a line."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the judgement depends on."""

    wanted: str
    """The stamp that this proxyvpn would install; without the line of the launcher for the systemd way."""
    installed: str
    """The stamp that is there; empty when there is none."""
    ways: tuple[Seen, ...] = ()
    """Every step of the ways to the tree and to the system's Python."""
    files: tuple[Seen, ...] = ()
    """Everything in the tree."""
    capability: bytes = b""
    nosuid: bool = False
    units: Mapping[str, str] = field(default_factory=dict)
    """Those that are installed."""
    wanted_units: Mapping[str, str] = field(default_factory=dict)
    listening: bool = False
    python: tuple[int, int] | None = None
    no_new_privs: bool = False
    bounded: bool = False
    """CAP_NET_ADMIN is not in the bounding set of this process."""
    tun: int | None = None
    """The mode of /dev/net/tun; None where there is none."""
    user: str = ""
    """Who is asked about; empty for root, who needs none of it."""
    group: int = -1
    group_name: str = ""
    member: bool = False
    in_session: bool = False


def findings(facts: Facts) -> tuple[Finding, ...]:
    """Give all that is wrong, what matters most first."""
    if not facts.installed:
        return (Finding(f"nothing is installed at {TREE}", "sudo proxyvpn setup"),)
    own = _by_systemd(facts) if facts.units else _by_launcher(facts)
    return (*_trust(facts), *_version(facts), *own, *_user(facts))


def _trust(facts: Facts) -> Iterator[Finding]:
    for seen in facts.ways:
        if (why := problem(seen)) is not None:
            inside = seen.path == TREE
            mend = "sudo proxyvpn setup" if inside else f"sudo chown root {seen.path}; sudo chmod go-w {seen.path}"
            yield Finding(f"{seen.path} {why}", mend)
    if facts.python is None:
        yield Finding(f"{PYTHON} does not run", "install the system's own python3, 3.11 or newer")
    elif facts.python < (3, 11):
        yield Finding(f"{PYTHON} is {'.'.join(map(str, facts.python))}", "proxyvpn's helper needs 3.11 or newer there")


def _version(facts: Facts) -> Iterator[Finding]:
    installed, wanted = stamp.version(facts.installed), stamp.version(facts.wanted)
    sums = stamp.sums(facts.installed)
    wrong = [*wrong_files(facts, sums)]
    if wrong:
        yield Finding(f"{wrong[0]}{f' (and {len(wrong) - 1} more)' if wrong[1:] else ''}", "sudo proxyvpn setup")
    if installed != wanted:
        versions = [f"{each[0]} (protocol {each[1]})" if each else "unknown" for each in (installed, wanted)]
        yield Finding(f"the installed helper is of version {versions[0]}, this proxyvpn {versions[1]}", _again())
    elif sums != stamp.sums(facts.wanted):
        yield Finding("the installed helper is not the one of this proxyvpn, though of the same version", _again())


def wrong_files(facts: Facts, sums: Mapping[str, str]) -> Iterator[str]:
    """Give a line for each file of the tree that is not as it was installed."""
    there = {contents.relative(seen.path): seen for seen in facts.files}
    for name in sums:
        if name not in there:
            yield f"{TREE}/{name} is missing"
        elif there[name].digest not in ("", sums[name]):
            yield f"{TREE}/{name} was changed"
    for name, seen in there.items():
        if (why := problem(seen)) is not None:
            yield f"{seen.path} {why}"
        elif stat.S_ISLNK(seen.mode) or not (stat.S_ISDIR(seen.mode) or contents.known(name, sums)):
            yield f"{seen.path} was not installed by `proxyvpn setup`"
    if contents.relative(LOCK) not in there:
        yield f"{LOCK} is missing"


def _by_launcher(facts: Facts) -> Iterator[Finding]:
    launcher = next((seen for seen in facts.files if seen.path == LAUNCHER), None)
    if launcher is None:
        return  # that it is missing was said
    if stat.S_IMODE(launcher.mode) != 0o750 or launcher.gid != facts.group:
        yield Finding(f"{LAUNCHER} has not the mode 0750 and the group of {LOCK}", "sudo proxyvpn setup")
    if facts.capability != contents.CAPABILITY:
        lost = "has lost its capability" if not facts.capability else "has another capability than cap_net_admin+p"
        yield Finding(f"{LAUNCHER} {lost}", "sudo proxyvpn setup")
    if facts.nosuid:
        mend = f"mount it without nosuid, or use systemd: sudo proxyvpn setup --systemd   ({PARENT})"
        yield Finding(f"{TREE} lies on a file system that is mounted nosuid, where no capability counts", mend)
    if facts.no_new_privs:
        mend = "start proxyvpn from outside of the container, service or sandbox, or: sudo proxyvpn setup --systemd"
        yield Finding("no_new_privs is set for this process, so that no capability of a file counts", mend)
    if facts.bounded:
        yield Finding("CAP_NET_ADMIN is not in the bounding set of this process", "docker: --cap-add NET_ADMIN")
    yield from _tun(facts, usable=facts.tun is not None and facts.tun & 0o006 == 0o006)


def _by_systemd(facts: Facts) -> Iterator[Finding]:
    for path, text in facts.wanted_units.items():
        if facts.units.get(path) != text:
            state = "is missing" if path not in facts.units else "is not the one of this proxyvpn"
            yield Finding(f"{path} {state}", "sudo proxyvpn setup --systemd")
    if not facts.listening:
        yield Finding(f"nothing listens at {SOCKET}", f"sudo systemctl enable --now {UNIT}.socket")
    yield from _tun(facts, usable=facts.tun is not None and facts.tun & 0o006 == 0o006)


def _tun(facts: Facts, usable: bool) -> Iterator[Finding]:
    if facts.tun is None:
        yield Finding("there is no /dev/net/tun", "sudo modprobe tun   (docker: --device /dev/net/tun)")
    elif not usable:
        mode = f"{stat.S_IMODE(facts.tun):04o}"
        yield Finding(
            f"/dev/net/tun has the mode {mode}, so that only root can open it", "sudo chmod 0666 /dev/net/tun"
        )


def _user(facts: Facts) -> Iterator[Finding]:
    if not facts.user:
        return
    group = facts.group_name or "proxyvpn"
    if not facts.member and not facts.in_session:
        yield Finding(f"user {facts.user} is not in group {group}", f"sudo usermod -aG {group} {facts.user}")
    elif not facts.in_session:
        yield Finding(f"this login does not know yet that {facts.user} is in group {group}", "log in anew")


def problem(seen: Seen) -> str | None:
    """Say why what is there cannot be trusted; None when it can. A link has no mode of its own."""
    if seen.uid != 0:
        return "does not belong to root"
    if seen.mode & 0o022 and not stat.S_ISLNK(seen.mode):
        return "can be written by others than root"
    return None


def first_problem(ways: Iterable[Seen]) -> str:
    """Give a line about the first step of `ways` that cannot be trusted; empty when all can."""
    return next((f"{seen.path} {why}" for seen in ways if (why := problem(seen)) is not None), "")


def _again() -> str:
    return "end the tunnel if it runs, then: sudo proxyvpn setup"
