"""Run the real program so that it stops before every line that it writes, and so before every step in the kernel.

The helper says each step on standard error and then does it. Here the kernel asks the test before each such write
(listener.py), and until it is answered, whoever wants to say a line waits in write(2). So the test stands between two
steps for as long as it likes, without a hook in the program and without a clock. Standard error is a file, which always
has room, so that no line is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.netns import listener, wait
from tests.netns.listener import Listener, Question
from tests.netns.namespaces import Namespace, end
from tests.netns.up import PROGRAM, environment, gone


class Stepwise:
    """A running proxyvpn command that waits before each line, as do its children."""

    def __init__(self, host: Namespace, *words: str) -> None:
        self._out, self._err = os.memfd_create("out"), os.memfd_create("err")
        self._goes_down, self._met = False, set[int]()
        self._halting, self._waiting, self._lock = True, list[Question](), threading.Lock()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self.process = host.start(
                    *(sys.executable, "-IS", listener.PROGRAM, str(theirs.fileno()), PROGRAM, *words),
                    stdout=self._out,
                    stderr=self._err,
                    env=environment(),
                    pass_fds=(theirs.fileno(),),
                )
            self._listener = Listener(ours)
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    @property
    def family(self) -> dict[str, int]:
        """Give the living processes: the command itself as `app`, and its children by their modules' names."""
        found = {"app": self.process.pid} if self.process.poll() is None else {}
        return found | children(self.process.pid)

    @property
    def said(self) -> str:
        """Give what came on standard error."""
        return _text(self._err)

    def printed(self) -> str:
        """Give what came on standard output."""
        return _text(self._out)

    def halts(self) -> bool:
        """Wait until somebody waits to say a line; False when all have ended, or when `up` is ready."""
        return wait.until(self._state, "a step, or the end", 20) == "halted"

    def begin_again(self) -> None:
        """`up` is ready: from now on each line waits again, of the way down."""
        with self._lock:
            self._halting = self._goes_down = True

    def step(self) -> None:
        """Let whoever waits say its line, and go on to the next."""
        with self._lock:
            self._listener.allow(self._waiting.pop(0))

    def kill(self, *names: str) -> None:
        """Send SIGKILL to those of the family, and wait until they have gone."""
        family = self.family
        self._met.update(family.values())
        pids = [pid for name, pid in family.items() if name in names]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            wait.until(lambda pid=pid: gone(pid), f"{pid} is gone")  # type: ignore[misc]

    def run_on(self, until: Callable[[], bool] = lambda: False) -> None:
        """Let every line pass from here on; return at `until`, or when nobody is left who could say one."""
        with self._lock:
            self._halting = False
            while self._waiting:
                self._listener.allow(self._waiting.pop())
        try:
            wait.until(lambda: until() or self._has_ended(), "the end", 30)
        except AssertionError as error:
            raise AssertionError(f"{error} after {self.said[-500:]}") from None

    def close(self) -> None:
        """End what still runs as Ctrl-C does, the hard way if need be."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.run_on()
        finally:
            end(self.process, signal.SIGKILL)
            self._listening.join(5)
            for fd in (self._out, self._err):
                os.close(fd)
            if not self._listening.is_alive():
                self._listener.close()

    def _listen(self) -> None:
        """Take each question; answer it, or keep it until the test does."""
        while question := self._listener.next():
            with self._lock:
                if self._halting and self._is_for_people(question):
                    self._waiting.append(question)
                else:
                    self._listener.allow(question)

    def _is_for_people(self, question: Question) -> bool:
        """Say whether it is our standard error: a program that the helper starts may have one of its own."""
        try:
            return os.path.samestat(os.stat(f"/proc/{question.pid}/fd/2"), os.fstat(self._err))
        except FileNotFoundError:
            return False

    def _has_ended(self) -> bool:
        """Say whether all have; the kernel says that nobody can ask any more a little before it closes their files."""
        self._met.update(self.family.values())
        asks_no_more = not self._listening.is_alive() and self.process.poll() is not None
        return asks_no_more and all(gone(pid) for pid in self._met)

    def _state(self) -> str:
        if not self._goes_down and "ready:" in self.printed():
            return "ready"
        if self._has_ended():
            return "ended"
        with self._lock:
            self._waiting = [each for each in self._waiting if self._listener.is_valid(each)]
            return "halted" if self._waiting else ""


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


def _text(file: int) -> str:
    """Give all of a file, without moving the place at which others write."""
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")
