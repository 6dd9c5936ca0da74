"""The configuration files: where they are, whether they may be believed, and what TOML they hold.

Whoever can write to such a file decides through which proxy a machine speaks, and may name a command that is run: so
nobody may be able to but root and the user who reads it, and when that is root, root alone. It is the open file that is
judged, not its name; its directory is judged because who can write there can put another file in its place.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from proxyvpn.errors import UsageError

MACHINE: Final = "/etc/proxyvpn/config.toml"
MAX_BYTES: Final = 64 * 1024
_FOLLOWED: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class File:
    """What one of them holds; `is_private` when nobody else can read it."""

    path: str
    values: Mapping[str, object] = field(repr=False)
    is_private: bool
    _text: str = field(repr=False)

    def where(self, key: str) -> str:
        """Give file and line of a key, as far as can be told."""
        found = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
        tables = re.compile(rf"""\s*\[+\s*["']?{re.escape(key)}["']?\s*[\].]""")
        for number, line in enumerate(self._text.splitlines(), 1):
            if found.match(line) or tables.match(line):
                return f"{self.path}, line {number}"
        return self.path


def paths(environ: Mapping[str, str], machine: str = MACHINE) -> tuple[Path, Path]:
    """Give the user's file and the machine's; the first one has more weight."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # such a value is to be ignored, says the XDG Base Directory Specification
        base = f"{home(environ)}/.config"
    return Path(base) / "proxyvpn" / "config.toml", Path(machine)


def home(environ: Mapping[str, str]) -> str:
    """Give the user's home directory, for a service without HOME too."""
    named = environ.get("HOME", "")
    if os.path.isabs(named):
        return named
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def read(path: Path) -> File | None:
    """Give what `path` holds; None when there is no such file. Raises UsageError."""
    try:
        fd = os.open(path, _FOLLOWED)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        found = os.fstat(fd)
        _check_kind(path, found)
        _check_writers(path, found)
        for directory in {path.parent, Path(os.path.realpath(path)).parent}:
            _check_writers(directory, os.stat(directory))
        return _parsed(str(path), os.read(fd, MAX_BYTES), found)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(fd)


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a file")
    if found.st_size > MAX_BYTES:
        raise UsageError(f"{path} is longer than {MAX_BYTES // 1024} KiB")


def _check_writers(path: Path, found: os.stat_result) -> None:
    """Raise UsageError when somebody else could write there."""
    us = os.geteuid()
    if found.st_uid not in (0, us):
        what = f"{path} is not believed: it belongs to {_user(found.st_uid)}"
        advice = f"make it yours, or root's: chown root {path}"
        raise UsageError(what, f"and {_user(us)} would do what it says", advice)
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & 0o022 and not sticky:
        whose = "others" if found.st_mode & 0o002 else "its group"
        raise UsageError(f"{path} is not believed: {whose} can write to it", "", f"chmod go-w {path}")


def _parsed(path: str, data: bytes, found: os.stat_result) -> File:
    try:
        text = data.decode()
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML", _place(str(error))) from error
    except RecursionError as error:
        raise UsageError(f"{path} is not TOML", "it nests too deep") from error
    return File(path, values, is_private(found.st_uid, found.st_mode), text)


def is_private(owner: int, mode: int) -> bool:
    """Pure: say whether nobody can read a file whom its owner did not mean to: root may let in a group."""
    return not mode & (0o004 if owner == 0 else 0o044)


def _place(error: str) -> str:
    """Give where it went wrong; what stands there may be half a password, and some messages quote it."""
    found = re.search(r"at line (\d+), column (\d+)|at end of document", error)
    if found is None:
        return ""
    return f"line {found[1]}, column {found[2]}" if found[1] else "at its end"


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read", error.strerror or "")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
