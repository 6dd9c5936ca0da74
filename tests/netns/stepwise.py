"""Run the real program so that it stops before every line that it writes, and so before every step in the kernel.

The helper says each step on standard error and then does it. Here that is a pipe that holds exactly one packet
(pipe(7), O_DIRECT), and the first lies in it from the beginning: whoever wants to say a line waits in write(2) until
the test takes the one before. So the test stands between two steps for as long as it likes, without a hook in the
program and without a clock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.netns import wait
from tests.netns.namespaces import Namespace, end
from tests.netns.up import PROGRAM, environment, gone

PIPE_BYTES = 4096
WRITING = f"{1 if os.uname().machine == 'x86_64' else 64} 0x2 "
"""How /proc/PID/syscall begins for a process that waits in write(2, …)."""


class Stepwise:
    """A running proxyvpn command that waits before each line; its children share the pipe."""

    def __init__(self, host: Namespace, *words: str) -> None:
        self.said = ""
        self._goes_down = False
        self._reading, writing = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
        try:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            os.write(writing, b"\n")
            self._out, out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            with open(out, "wb") as stdout:
                self.process = host.start(PROGRAM, *words, stdout=stdout, stderr=writing, env=environment())
        finally:
            os.close(writing)
        self._printed = b""

    @property
    def family(self) -> dict[str, int]:
        """Give the living processes: the command itself as `app`, and its children by their modules' names."""
        found = {"app": self.process.pid} if self.process.poll() is None else {}
        return found | children(self.process.pid)

    def printed(self) -> str:
        """Give what came on standard output."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._out, 65536):
                self._printed += piece
        return self._printed.decode(errors="replace")

    def halts(self) -> bool:
        """Wait until somebody waits to say a line; False when all have ended, or when `up` is ready."""
        return wait.until(self._state, "a step, or the end", 20) == "halted"

    def begin_again(self) -> None:
        """`up` is ready: put a packet into the empty pipe again, so that the next line waits, of the way down."""
        writing = os.open(f"/proc/self/fd/{self._reading}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:  # open(2) refuses O_DIRECT here, fcntl(2) does not
            fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)
            os.write(writing, b"\n")
        finally:
            os.close(writing)
        self._goes_down = True

    def step(self) -> None:
        """Take one line: whoever waited says it and goes on to the next."""
        self.said += os.read(self._reading, PIPE_BYTES).decode(errors="replace")

    def kill(self, *names: str) -> None:
        """Send SIGKILL to those of the family, and wait until they have gone."""
        pids = [pid for name, pid in self.family.items() if name in names]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            wait.until(lambda pid=pid: gone(pid), f"{pid} is gone")  # type: ignore[misc]

    def run_on(self, until: Callable[[], bool] = lambda: False) -> None:
        """Take every line from here on, until `until` or until nobody is left who could say one."""
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)

        def done() -> bool:
            if poll.poll(1):
                line = os.read(self._reading, PIPE_BYTES)
                self.said += line.decode(errors="replace")
                return not line
            return until()

        wait.until(done, f"the end after {self.said[-500:]}", 30)

    def close(self) -> None:
        """End what still runs as Ctrl-C does, the hard way if need be."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.run_on()
        finally:
            end(self.process, signal.SIGKILL)
            os.close(self._reading)
            os.close(self._out)

    def _state(self) -> str:
        if not self._goes_down and "ready:" in self.printed():
            return "ready"
        family = self.family
        if any(_syscall(pid).startswith(WRITING) for pid in family.values()):
            return "halted"
        return "" if family else "ended"


@contextlib.contextmanager
def stepwise(host: Namespace, *words: str) -> Iterator[Stepwise]:
    """Start a proxyvpn command that waits before each line."""
    found = Stepwise(host, *words)
    try:
        yield found
    finally:
        found.close()


def children(parent: int) -> dict[str, int]:
    """Give the living children of a process by the names of their modules."""
    try:
        pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(pid) for pid in pids if not gone(int(pid)) and (name := _name(pid))}


def _name(pid: str) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((word.decode().rpartition(".")[2] for word in words if word.startswith(b"proxyvpn.")), "")


def _syscall(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/syscall").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
