"""The programs that `proxyvpn setup` runs, as root, with fixed arguments: groupadd, groupdel, systemctl, Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

from proxyvpn.errors import ProxyvpnError
from proxyvpn.places import LIBRARY, PYTHON, UNIT

_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_LIMIT: Final = 60.0
_ISOLATED: Final = ("-I", "-S", "-B")
_VERSION: Final = "import sys; print(*sys.version_info[:2])"


def add_group(name: str) -> None:
    """Make a system group. Raises ProxyvpnError."""
    _run("groupadd", "--system", name)


def delete_group(name: str) -> None:
    """Remove a group. Raises ProxyvpnError."""
    _run("groupdel", name)


def python_version() -> tuple[int, int]:
    """Give the version of the system's Python. Raises ProxyvpnError when it does not run."""
    major, minor = _run(PYTHON, *_ISOLATED, "-c", _VERSION).split()
    return int(major), int(minor)


def compile_library(folder: str) -> None:
    """Let the system's Python write its bytecode of the library, for its final place. Raises ProxyvpnError."""
    _run(PYTHON, *_ISOLATED, "-m", "compileall", "-q", "-s", folder, "-p", LIBRARY, folder)


def start_socket() -> bool:
    """Let systemd listen, now and after each boot; False where it does not run. Raises ProxyvpnError."""
    if not systemd_runs():
        return False
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", "--quiet", f"{UNIT}.socket")
    _run("systemctl", "restart", f"{UNIT}.socket")
    return True


def stop_socket() -> None:
    """Let systemd no longer listen. Raises ProxyvpnError."""
    if systemd_runs():
        _run("systemctl", "disable", "--quiet", "--now", f"{UNIT}.socket")


def reload_units() -> None:
    """Let systemd forget units that are gone. Raises ProxyvpnError."""
    if systemd_runs():
        _run("systemctl", "daemon-reload")


def systemd_runs() -> bool:
    """Say whether systemd is what this machine was booted with; sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def _run(name: str, *arguments: str) -> str:
    """Run a program and give what it prints. Raises ProxyvpnError."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise ProxyvpnError(f"there is no {name}")
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            cwd="/",
            umask=0o022,
            timeout=_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProxyvpnError(f"{name} does not run", str(error)) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ProxyvpnError(f"{name} {' '.join(arguments[:2])} failed", said[-1] if said else "it did not say why")
    return done.stdout
