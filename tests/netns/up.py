"""Run the real program in `host`, and find its processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxyvpn.places import START
from tests.netns import wait
from tests.netns.namespaces import Namespace, end

PROGRAM = str(Path(sys.executable).with_name("proxyvpn"))
LONG = os.environ.get("PROXYVPN_LONG_TESTS") == "1"
"""Whether to try every combination, which takes minutes, instead of each case once."""
READY_AFTER: list[tuple[float, str]] = []
"""How long each `up` of this test run took to say so, and in which test; conftest.py prints it."""


@dataclass(frozen=True, slots=True)
class Up:
    """A running `proxyvpn up`."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def helper(self) -> int:
        return _child(self.process.pid, "proxyvpn.helper", START)

    @property
    def worker(self) -> int:
        return _child(self.process.pid, "proxyvpn.worker")

    def ready_line(self) -> str:
        return next(line for line in self.out.read_text().splitlines() if line.startswith("ready:"))

    def said(self) -> str:
        """Give all that it has written to standard error."""
        return self.err.read_text(errors="replace")

    def stop(self, sig: int = signal.SIGINT) -> int:
        """Send a signal, and give the exit code."""
        self.process.send_signal(sig)
        return self.wait()

    def wait(self, seconds: float = 15) -> int:
        """Wait for its end, and give the exit code."""
        return self.process.wait(seconds)


@contextlib.contextmanager
def up(
    host: Namespace,
    *options: str,
    env: dict[str, str] | None = None,
    before: tuple[str, ...] = (),
    program: str = PROGRAM,
) -> Iterator[Up]:
    """Run `proxyvpn up` until it is ready, and end it with Ctrl-C if it still runs afterwards."""
    number = len(list(host.home.glob("up-*.out")))
    out, err = host.home / f"up-{number}.out", host.home / f"up-{number}.err"
    begun = time.monotonic()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = host.start(*before, program, "up", *options, stdout=stdout, stderr=stderr, env=environment(env))
    running = Up(process, out, err)
    try:
        wait.until(lambda: b"ready:" in out.read_bytes() or process.poll() is not None, "up says ready or ends", 20)
        assert process.poll() is None, f"up ended with {process.returncode}:\n{running.said()}"
        READY_AFTER.append((time.monotonic() - begun, os.environ.get("PYTEST_CURRENT_TEST", "")))
        yield running
    finally:
        if process.poll() is None:
            code = end(process, signal.SIGINT, 15)
            assert code != -signal.SIGKILL, f"up did not end by Ctrl-C within 15 s:\n{running.said()}"


def proxyvpn(
    host: Namespace,
    *words: str,
    env: dict[str, str] | None = None,
    before: tuple[str, ...] = (),
    seconds: float = 30,
    program: str = PROGRAM,
) -> subprocess.CompletedProcess[str]:
    """Run a proxyvpn command to its end; `before` is what to run it with, as setpriv or unshare."""
    return host.run(*before, program, *words, check=False, env=environment(env), seconds=seconds)


def counters(host: Namespace) -> dict[str, int]:
    """Give the worker's counters, as `status --json` tells them."""
    found: dict[str, int] = json.loads(proxyvpn(host, "status", "--json").stdout)["counters"]
    return found


def at_rest(host: Namespace, seconds: float) -> dict[str, int]:
    """Wait until no flow is left, see that each is counted by one end of its life, and give the counters."""

    def probe() -> dict[str, int]:
        found = counters(host)
        return {} if found["flows_open_now"] or found["flows_connecting_now"] else found

    count = wait.until(probe, "no flow is left", seconds)
    assert count["flows_begun"] == count["flows_opened"] + count["flows_abandoned"] + refused(count), count
    ended = count["flows_finished"] + count["flows_reset_by_client"] + count["flows_reset_by_proxy"]
    assert count["flows_opened"] == ended, count
    return count


def refused(count: dict[str, int]) -> int:
    """Give the number of connects that were refused, for any reason."""
    return sum(number for name, number in count.items() if name.startswith("refused_"))


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """Give our environment without any that names a proxy or a runtime directory, and `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy")
        and name not in ("PROXYVPN_PROXY", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "CREDENTIALS_DIRECTORY")
    }
    return {**kept, **(more or {})}


def kill(*pids: int) -> None:
    """Send SIGKILL to processes that a test started, and wait until they are gone."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait.until(lambda pid=pid: gone(pid), f"process {pid} is gone")  # type: ignore[misc]


def gone(pid: int) -> bool:
    """Say whether a process has ended; its parent may not have noticed yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def _child(parent: int, *modules: str) -> int:
    def probe() -> int:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _is_child(entry, parent, modules):
                return int(entry.name)
        return 0

    return wait.until(probe, f"a child {modules[0]} of {parent}")


def _is_child(entry: Path, parent: int, modules: tuple[str, ...]) -> bool:
    try:
        owner = entry.joinpath("stat").read_text().rpartition(")")[2].split()
        return (
            int(owner[1]) == parent
            and owner[0] not in "ZX"
            and any(module.encode() in _words(entry) for module in modules)
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def _words(entry: Path) -> list[bytes]:
    return entry.joinpath("cmdline").read_bytes().split(b"\0")
