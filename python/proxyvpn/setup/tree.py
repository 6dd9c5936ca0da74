"""The installed tree on disk: made beside the old one, where only root can reach it, and put into place at once.

Every helper that runs from a tree holds its lock, so that none is replaced or removed under a running tunnel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from proxyvpn.errors import AlreadyUp, ProxyvpnError
from proxyvpn.places import LAUNCHER, LIBRARY, LOCK, PARENT, TREE
from proxyvpn.setup import programs
from proxyvpn.setup.contents import CAPABILITY, File, known, relative

_NEW: Final = f"{PARENT}/.proxyvpn.new"
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep helpers from starting, if none runs. Raises AlreadyUp."""
    with _locked(LOCK, "a tunnel is up that uses the installed helper", "end it first: proxyvpn teardown"):
        yield


@contextlib.contextmanager
def new() -> Iterator[bool]:
    """Make the new tree's directory; whatever is left of it at the end is removed. Raises AlreadyUp beside another.

    Gives whether the directory around it had to be made as well; that one goes, too, when nothing came to lie in it.
    """
    parent = not os.path.lexists(PARENT)
    if parent:
        os.mkdir(PARENT)
        os.chmod(PARENT, 0o755)  # noqa: S103  (whatever the umask is)
    remove_leftover()
    os.mkdir(_NEW, 0o700)
    lock = os.open(f"{_NEW}/{relative(LOCK)}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield parent
    finally:
        os.close(lock)
        shutil.rmtree(_NEW, ignore_errors=True)
        if parent:
            with contextlib.suppress(OSError):  # the usual end: the tree is in it
                os.rmdir(PARENT)


def remove_leftover() -> None:
    """Remove what an interrupted `setup` left. Raises AlreadyUp when it goes on."""
    with _locked(f"{_NEW}/{relative(LOCK)}", "another `proxyvpn setup` is at work", "try again in a moment"):
        shutil.rmtree(_NEW, ignore_errors=True)


def note(name: str, text: str) -> None:
    """Write one of the new tree's own files, durably: the record before the deed."""
    _put(name, File(text.encode()), 0)


def fill(files: Mapping[str, File], gid: int) -> None:
    """Write `files` into the new tree, and bytecode beside the library. Raises ProxyvpnError."""
    try:
        for name, file in files.items():
            _put(name, file, gid)
        programs.compile_library(f"{_NEW}/{relative(LIBRARY)}")
        _open_to_all(_NEW)
    except OSError as error:
        raise ProxyvpnError(f"the helper cannot be written to {PARENT}", error.strerror or "") from error
    if relative(LAUNCHER) in files:
        _give_capability(f"{_NEW}/{relative(LAUNCHER)}")


def put_into_place() -> None:
    """Let the new tree take the place of the old one. Raises ProxyvpnError."""
    try:
        if os.path.lexists(TREE):
            _exchange(_NEW, TREE)
        else:
            os.rename(_NEW, TREE)
        _sync(PARENT)
    except OSError as error:
        raise ProxyvpnError(f"the helper cannot be put into {PARENT}", error.strerror or "") from error


def remove(installed: Collection[str]) -> tuple[str, ...]:
    """Remove the tree, the launcher first; give what is in it that was not `installed`, which stays."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(LAUNCHER)
    left: list[str] = []
    for folder, folders, names in os.walk(TREE, topdown=False):
        for name in names:
            path = f"{folder}/{name}"
            if known(relative(path), installed):
                os.unlink(path)
            else:
                left.append(path)
        left += [path for each in folders if os.path.islink(path := f"{folder}/{each}")]
        if folder != TREE:
            with contextlib.suppress(OSError):  # what is left is in it
                os.rmdir(folder)
    if not left:
        os.rmdir(TREE)
    return tuple(left)


@contextlib.contextmanager
def _locked(path: str, what: str, advice: str) -> Iterator[None]:
    """Hold a lock, if its file is there. Raises AlreadyUp."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyUp(what, f"it holds {path}", advice) from error
        yield
    finally:
        os.close(lock)


def _put(name: str, file: File, gid: int) -> None:
    """Write one file, whose mode is right before anything is in it."""
    path = f"{_NEW}/{name}"
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as out:
        os.fchown(fd, 0, gid if file.group else 0)
        os.fchmod(fd, file.mode)
        out.write(file.data)
        out.flush()
        os.fsync(fd)


def _open_to_all(top: str) -> None:
    """Give every directory, and the bytecode, the modes that all may read."""
    for folder, _, names in os.walk(top):
        os.chown(folder, 0, 0)
        os.chmod(folder, 0o755)  # noqa: S103  (everybody may read it)
        if os.path.basename(folder) == "__pycache__":
            for name in names:
                os.chown(f"{folder}/{name}", 0, 0)
                os.chmod(f"{folder}/{name}", 0o644)


def _give_capability(path: str) -> None:
    """Write what setcap(8) would write; after owner and mode, since a change of those takes it away."""
    try:
        os.setxattr(path, "security.capability", CAPABILITY)
    except OSError as error:
        why = "this root may not (CAP_SETFCAP)" if error.errno == errno.EPERM else error.strerror or ""
        advice = "with systemd it goes without: proxyvpn setup --systemd"
        raise ProxyvpnError(f"no file in {PARENT} can be given a capability", why, advice) from error


def _exchange(one: str, other: str) -> None:
    """Exchange two names at once; where the file system cannot, one after the other."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 and renameat2(_AT_FDCWD, one.encode(), _AT_FDCWD, other.encode(), _RENAME_EXCHANGE) == 0:
        return
    aside = f"{one}.old"
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
