"""The state directory: a lock, and the record that `status` and `teardown` read.

The record is written before the kernel is touched and is a hint for people, never an order: what is removed from the
kernel is found there by our own tags. It holds no credentials. The directory must be ours, 0700 and no symlink, and
every file in it is opened relative to it without following links, so that nobody else can lead us elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from proxyvpn.errors import AlreadyUp, StateError

VERSION: Final = 1
MAX_BYTES: Final = 64 * 1024
RECORD: Final = "state.json"
LOCK: Final = "lock"
CONTROL: Final = "control"
LOG: Final = "log"
NAMES: Final = "names"
NAMES_BYTES: Final = 131072 * 272
"""Of the table of virtual addresses at most: as many records as there are addresses (rust/names_file.rs)."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a running `up` has set out to do. `phase` is opening, engaged or closing; `since` is Unix time."""

    version: int
    boot_id: str
    netns: int
    pid: int
    ifname: str
    proxies: tuple[str, ...]
    resolvers: tuple[str, ...]
    bypass: tuple[str, ...]
    killswitch: bool
    phase: str
    steps: tuple[str, ...]
    since: int


def default_path(uid: int, environ: Mapping[str, str]) -> Path:
    """Give the state directory of a user. Raises StateError when there is no run-time directory for one."""
    if uid == 0:
        return Path("/run/proxyvpn")
    base = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    with contextlib.suppress(OSError):
        if base.is_absolute() and base.stat().st_uid == uid:
            return base / "proxyvpn"
    raise StateError("there is no directory for the state", f"{base} does not exist or is not yours", "use --state-dir")


class StateDir:
    """An open state directory."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._lock: int | None = None

    @classmethod
    def open(cls, path: Path, create: bool = False) -> StateDir | None:
        """Open `path`; None when it does not exist and is not to be made. Raises StateError when it is not safe."""
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    path.mkdir(0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            if not create:
                return None
            raise _unusable(path, error) from error
        except OSError as error:
            raise _unusable(path, error) from error
        found = os.fstat(fd)
        if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return cls(path, fd)
        os.close(fd)
        if found.st_uid != os.geteuid():
            raise StateError(f"the state directory {path} belongs to user {found.st_uid}", "", "use --state-dir")
        raise StateError(
            f"the state directory {path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
            "",
            f"chmod 700 {path}, or use another --state-dir",
        )

    def __enter__(self) -> StateDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lock(self) -> None:
        """Hold the lock until close() or the end of this process. Raises AlreadyUp, StateError."""
        while self._lock is None:
            try:
                fd = self._openat(LOCK, os.O_RDWR | os.O_CREAT)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(fd)
                raise AlreadyUp(
                    f"proxyvpn is already up with the state directory {self.path}",
                    "",
                    "`proxyvpn status` shows it, `proxyvpn teardown` ends it",
                ) from error
            except OSError as error:
                raise _unusable(self.path, error) from error
            self._lock = fd if self._is_current(fd) else None
            if self._lock is None:  # its holder removed it between our open() and flock()
                os.close(fd)

    def write(self, record: Record) -> None:
        """Replace the record, durably and as a whole. Raises StateError."""
        text = json.dumps({**asdict(record)}, indent=1).encode() + b"\n"
        temporary = RECORD + ".new"
        try:
            fd = self._openat(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                _write_all(fd, text)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, RECORD, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as error:
            with contextlib.suppress(OSError):  # what kept it from being written is the better answer
                self._remove(temporary)
            raise _unusable(self.path, error) from error

    def read(self) -> Record | None:
        """Give the record; None when there is none. Raises StateError when it cannot be read as one."""
        try:
            fd = self._openat(RECORD, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._corrupt(error.strerror or "") from error
        try:
            found = os.fstat(fd)
            if found.st_size > MAX_BYTES:
                raise self._corrupt("it is too long")
            with open(fd, "rb", closefd=False) as file:
                return decode(file.read(MAX_BYTES))
        except (ValueError, RecursionError) as error:
            raise self._corrupt(str(error).splitlines()[0][:120]) from error
        finally:
            os.close(fd)

    def clear(self) -> None:
        """Remove the record and the socket; the log and the names stay for whoever reads them. Raises StateError."""
        try:
            for name in (RECORD, RECORD + ".new", CONTROL):
                self._remove(name)
        except OSError as error:
            raise _unusable(self.path, error) from error

    def log(self) -> int:
        """Give a new, empty log file. Raises StateError."""
        try:
            return self._openat(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        except OSError as error:
            raise _unusable(self.path, error) from error

    def names(self) -> int:
        """Give the table of virtual addresses, to be read and written; it outlives the tunnel. Raises StateError."""
        try:
            fd = self._openat(NAMES, os.O_RDWR | os.O_CREAT)
            if os.fstat(fd).st_size > NAMES_BYTES:
                os.ftruncate(fd, 0)  # no table of ours
        except OSError as error:
            raise _unusable(self.path, error) from error
        return fd

    def socket_path(self) -> str:
        """Give a name of the control socket that fits into sockaddr_un, however deep the directory is."""
        return f"/proc/self/fd/{self.fd}/{CONTROL}"

    def remove_control(self) -> None:
        """Remove a socket that an `up` left behind that is no more."""
        self._remove(CONTROL)

    def close(self) -> None:
        """Let go of the directory and the lock, which whoever holds it removes."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # a lock that nobody holds is in nobody's way
                self._remove(LOCK)
            os.close(self._lock)
            self._lock = None
        os.close(self.fd)

    def _openat(self, name: str, flags: int) -> int:
        """Open a file of ours; a FIFO or a file of others', put there while the directory was open to them, is none."""
        more = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags & ~os.O_TRUNC | more, 0o600, dir_fd=self.fd)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
            os.close(fd)
            raise OSError(errno.EEXIST, f"{name} in it is not a file of yours alone")
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
        return fd

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=self.fd)

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(LOCK, dir_fd=self.fd, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _corrupt(self, why: str) -> StateError:
        return StateError(
            f"the state file {self.path / RECORD} cannot be read",
            why,
            "`proxyvpn teardown` mends it: it cleans up by what the kernel holds",
        )


def decode(text: bytes) -> Record:
    """Read a record. Raises ValueError when it is not exactly one, of this version."""
    value = json.loads(text)
    wanted = {field.name: field.type for field in fields(Record)}
    if not isinstance(value, dict) or value.keys() != wanted.keys():
        raise ValueError("it does not have exactly the fields of a record")
    record = {name: _checked(name, str(wanted[name]), value[name]) for name in wanted}
    if record["version"] != VERSION:
        raise ValueError(f"it is of version {record['version']}, not {VERSION}")
    return Record(**record)


def _checked(name: str, wanted: str, value: Any) -> Any:
    if wanted == "tuple[str, ...]":
        if type(value) is not list or not all(_is_line(item) for item in value):
            raise ValueError(f"{name} is not a list of lines")
        return tuple(value)
    if wanted == "str":
        if not _is_line(value):
            raise ValueError(f"{name} is not a line")
        return value
    if type(value).__name__ != wanted or (wanted == "int" and value < 0):
        raise ValueError(f"{name} is not of type {wanted}")
    return value


def _is_line(value: Any) -> bool:
    """Say whether `value` is text that may be shown: a forged record must not write to the terminal's controls."""
    return type(value) is str and value.isprintable()


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _unusable(path: Path, error: OSError) -> StateError:
    reasons = {
        errno.ELOOP: "it is a symbolic link, or holds one where a file should be",
        errno.ENOTDIR: "it is not a directory, or a symbolic link",
        errno.ENOSPC: "the disk is full",
        errno.ENOENT: "it is not there any more",
    }
    why = reasons.get(error.errno or 0, error.strerror or str(error))
    return StateError(f"the state directory {path} cannot be used", why, "use another one by --state-dir")
