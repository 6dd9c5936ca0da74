"""How `up` comes to a helper, in this order:

    we may configure the network     this Python, as a child, as always
    the installed launcher           a child; the file carries the capability (rust/launcher.rs)
    the installed systemd unit       a connection; systemd starts a helper for it, as a user of its own
    nothing of these                 PrivilegeMissing, and the one command to type

Which it is was decided by whoever ran `proxyvpn setup`; here is nothing to choose.
"""

from __future__ import annotations

import contextlib
import enum
import grp
import os
import pwd
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from proxyvpn import privilege, stamp
from proxyvpn.channel import Channel
from proxyvpn.errors import PrivilegeMissing
from proxyvpn.messages import VERSION
from proxyvpn.places import LAUNCHER, SOCKET, STAMP

_KEPT: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM")
_NEEDED: Final = "this needs the right to configure the network (CAP_NET_ADMIN)"


class Process(Protocol):
    """What is needed of a started process; subprocess.Popen is one."""

    @property
    def pid(self) -> int: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


class Way(enum.Enum):
    """How a helper comes to its capability."""

    OURS = "we have it already"
    LAUNCHER = "the installed launcher"
    SOCKET = "the installed systemd unit"


@dataclass(frozen=True, slots=True)
class Found:
    """What there is. `stamp` is the text of the installed one; `members` the group that may use it."""

    ours: bool
    launcher: bool
    """… is installed, whoever may run it."""
    socket: bool
    usable: bool
    """By us: the modes allow it."""
    stamp: str = ""
    group: str = ""
    member: bool = False
    """The list of users has us in that group, whether or not this login knows."""


def choose(found: Found, program: str) -> Way:
    """Pure: give the way to take. Raises PrivilegeMissing; `program` is how we are called."""
    if found.ours:
        return Way.OURS
    if not found.launcher and not found.socket:
        raise PrivilegeMissing(_NEEDED, "its helper is not installed", f"sudo {program} setup   (once)")
    if not found.usable and found.member:
        advice = f"log in anew, or try now: newgrp {found.group}"
        raise PrivilegeMissing(_NEEDED, f"this login does not know yet that you are in group {found.group}", advice)
    if not found.usable:
        advice = f"sudo usermod -aG {found.group or 'proxyvpn'} $USER, then log in anew"
        raise PrivilegeMissing(_NEEDED, f"you are not in group {found.group or 'proxyvpn'}", advice)
    installed = stamp.version(found.stamp)
    if installed is None or installed[1] != VERSION:
        which = f"of proxyvpn {installed[0]}" if installed else "of no version that can be read"
        advice = f"end its tunnel if it runs, then: sudo {program} setup"
        raise PrivilegeMissing(_NEEDED, f"the installed helper is {which} and speaks another protocol", advice)
    return Way.LAUNCHER if found.launcher else Way.SOCKET


def look() -> Found:
    """Find out what there is, without starting anything."""
    if os.geteuid() == 0 or privilege.has(privilege.CAP_NET_ADMIN):
        return Found(ours=True, launcher=False, socket=False, usable=True)
    launcher, listening = os.path.exists(LAUNCHER), os.path.exists(SOCKET)
    path, mode = (LAUNCHER, os.X_OK) if launcher else (SOCKET, os.W_OK)
    group, member = _group(path)
    return Found(False, launcher, listening, os.access(path, mode), _read(STAMP), group, member)


def there_is_one() -> bool:
    """Say whether a helper can be had."""
    try:
        choose(look(), "")
    except PrivilegeMissing:
        return False
    return True


def start(environ: Mapping[str, str]) -> tuple[Channel, Process]:
    """Start a helper and give our end of its socket. Raises PrivilegeMissing."""
    way = choose(look(), program())
    if way is Way.OURS:
        return spawn([sys.executable, "-I", "-m", "proxyvpn.helper"], environ)
    try:
        return spawn([LAUNCHER], {}) if way is Way.LAUNCHER else _connect()
    except OSError as error:
        advice = f"sudo {program()} setup --check says what is wrong"
        raise PrivilegeMissing("the installed helper cannot be started", error.strerror or "", advice) from error


def spawn(
    argv: Sequence[str], environ: Mapping[str, str], kept: Sequence[str] = ()
) -> tuple[Channel, subprocess.Popen[bytes]]:
    """Start a child with a socket as its fd 0, and an environment that has no proxy in it; `kept` is passed on, too."""
    ours, theirs = Channel.pair()
    with theirs:
        process = subprocess.Popen(
            argv,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            env={name: environ[name] for name in (*_KEPT, *kept) if name in environ},
            cwd="/",
        )
    return ours, process


def end(process: Process, limit: float) -> None:
    """Wait until a process has ended; kill it when it does not end by itself."""
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def program() -> str:
    """Give how to call us by sudo, whose PATH leads to no virtual environment."""
    name = sys.argv[0] if os.path.basename(sys.argv[0]) == "proxyvpn" else "proxyvpn"
    found = shutil.which(name)
    usual = shutil.which("proxyvpn", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
    return "proxyvpn" if found is None or found == usual else os.path.abspath(found)


class Remote:
    """A helper that systemd started for our connection, by which alone it is seen to end, and told to."""

    pid = 0

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def wait(self, timeout: float | None = None) -> int:
        """Let it see end of file, and wait until it has gone. Raises subprocess.TimeoutExpired."""
        if self._socket.fileno() < 0:
            return 0
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        while poll.poll(None if timeout is None else timeout * 1000):
            with contextlib.suppress(ConnectionError):
                if self._socket.recv(1):
                    continue  # an answer that nobody waits for
            self._socket.close()
            return 0
        raise subprocess.TimeoutExpired("helper", timeout or 0)

    def kill(self) -> None:
        """It is not ours to kill: the connection ends, and systemd sees to the rest."""
        self._socket.shutdown(socket.SHUT_RDWR)


def _connect() -> tuple[Channel, Remote]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(SOCKET)
        return Channel(sock), Remote(sock.dup())
    except OSError:
        sock.close()
        raise


def _group(path: str) -> tuple[str, bool]:
    """Give the name of the group of a file, and whether the list of users has us in it."""
    try:
        group = grp.getgrgid(os.stat(path).st_gid)
        return group.gr_name, pwd.getpwuid(os.getuid()).pw_name in group.gr_mem
    except (OSError, KeyError):
        return "", False


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(4096)
    except (OSError, UnicodeDecodeError):
        return ""
