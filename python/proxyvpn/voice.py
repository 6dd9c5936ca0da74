"""Where lines for people go: stderr and stdout; and with --detach to the log, and until `ready:` to the terminal too.

--detach forks once: the parent waits for the child's `ready:` and then ends with 0, or ends with the child's exit code.
Nothing of the terminal stays open in the child or in what it starts.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final, NoReturn

from proxyvpn.errors import ProxyvpnError

_STDOUT: Final = 1
_STDERR: Final = 2
_RED: Final = "\x1b[1;31m"
_PLAIN: Final = "\x1b[0m"


class Voice:
    """Says lines; whoever listens may have gone, which is no error."""

    def __init__(self) -> None:
        self._err = [_STDERR]
        self._out = [_STDOUT]
        self._waiting: int | None = None

    def say(self, line: str) -> None:
        """Say `line` on stderr."""
        for fd in self._err:
            _write(fd, f"proxyvpn: {line}\n")

    def print(self, line: str) -> None:
        """Print `line` on stdout."""
        for fd in self._out:
            _write(fd, f"{line}\n")

    def error(self, error: ProxyvpnError) -> None:
        """Say what failed, why and what to do, a line each."""
        lines = [" ".join(line.split()) for line in (error.what, error.why, error.advice) if line]
        for fd in self._err:
            red = os.isatty(fd) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
            head = f"{_RED}proxyvpn:{_PLAIN}" if red else "proxyvpn:"
            _write(fd, "\n  ".join([f"{head} {lines[0]}", *lines[1:]]) + "\n")

    def ready(self, line: str) -> None:
        """Print the line that says that traffic flows; when detached, let go of the terminal."""
        self.print(line)
        if self._waiting is not None:
            _write(self._waiting, "ready")
            for fd in (self._waiting, self._out.pop(), self._err.pop()):
                os.close(fd)
            self._waiting = None

    def detach(self, log: int) -> None:
        """Go on in a child whose stdout and stderr are `log`; the caller's process ends here, when that is ready."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it is None where its descriptor was closed
                stream.flush()
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child:
            os.close(ours)
            _wait_and_exit(child, theirs)
        os.close(theirs)
        os.setsid()
        os.chdir("/")
        self._waiting = ours
        self._out = [_STDOUT, os.dup(_STDOUT)]
        self._err = [_STDERR, os.dup(_STDERR)]
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(log, _STDOUT)
        os.dup2(log, _STDERR)
        os.close(log)


def _wait_and_exit(child: int, pipe: int) -> NoReturn:
    code = 0
    try:
        if os.read(pipe, 16) != b"ready":
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except KeyboardInterrupt:  # the child heard it too only if it had not left the terminal's session yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 15)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 1)


def _write(fd: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, text.encode(errors="replace"))
