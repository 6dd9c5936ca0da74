"""Real helpers, one after another, for tests that attack them: what each said, how it ended, its largest memory."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack

from tests.netns.hostile import OPEN, Row, packed
from tests.netns.kernel_support import Bed
from tests.netns.namespaces import end

_FORKER = Path(__file__).with_name("forker.py")
PATIENCE = 10.0
"""Seconds that a helper may take for anything."""


class Victim:
    """A helper and its asker's end of the socket. `theirs`: a copy of the helper's end, if there is one."""

    def __init__(self, forker: Forker, pid: int, ends: list[int], log: Path) -> None:
        self.pid, self.log = pid, log
        self._forker = forker
        self._sock: socket.socket | None = None
        self.theirs: socket.socket | None = None
        if ends:
            self._sock, self.theirs = (socket.socket(fileno=fd) for fd in ends)
        if self._sock is not None:
            self._sock.settimeout(PATIENCE)
        self._end: tuple[int, int] | None = None

    @property
    def sock(self) -> socket.socket:
        assert self._sock is not None, "this helper's socket is not ours"
        return self._sock

    def said(self) -> str:
        return self.log.read_text()

    def send(self, packet: bytes, fds: int = 0) -> None:
        """Send one packet with so many descriptors; a helper that has ended already is fine."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1] * fds))] if fds else []
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendmsg([packet], rights)

    def receive(self) -> dict[str, Any] | None:
        """Give the next answer as a map; None at end of file. Descriptors that come along are closed."""
        try:
            packet, fds, _, _ = socket.recv_fds(self.sock, 32 * 1024, 8)
        except ConnectionResetError:
            return None
        for fd in fds:
            os.close(fd)
        found: dict[str, Any] | None = msgpack.unpackb(packet) if packet else None
        return found

    def ask(self, name: str, **fields: Any) -> dict[str, Any]:
        """Send a good message and give the answer."""
        self.send(packed({"is": name, **fields}))
        answer = self.receive()
        assert answer is not None, f"no answer to {name}: {self.said()}"
        return answer

    def lead_to(self, phase: str, killswitch: bool = False) -> None:
        """Bring a fresh helper into `phase` as `up` would."""
        if phase == "fresh":
            return
        tunnel = {**OPEN["tunnel"], "killswitch": killswitch}
        answers = [self.ask("Open", version=1, tunnel=tunnel)]
        if phase != "open":
            answers.append(self.ask("Engage"))
        if phase == "closed":
            answers.append(self.ask("Close"))
        assert [each["is"] for each in answers] == ["Opened", "Engaged", "Closed"][: len(answers)], self.said()

    def end(self) -> tuple[int, int]:
        """Hang up, and give the exit code and the largest memory in KiB; a helper that hangs is killed: -9."""
        if self._sock is not None:
            self._sock.close()
        return self.ended()

    def ended(self) -> tuple[int, int]:
        """Wait for the end, without hanging up."""
        if self._end is None:
            self._end = self._forker.wait(self.pid)
        return self._end


class Forker:
    """Makes helpers in `host` of a test bed."""

    def __init__(self, bed: Bed) -> None:
        self._home, self._number = bed.home, 0
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                bed.host.command(sys.executable, "-I", str(_FORKER), str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._ours.settimeout(PATIENCE)

    def helper(
        self, standard_input: int | None = None, stderr: int | None = None, keep: bool = False, uid: int = 0
    ) -> Victim:
        """Start a helper; `standard_input` is its fd 0 where that is not to be a socket of the namespace.

        With `keep`, a copy of the helper's end stays with us, as it does with an asker who wants that.
        """
        self._number += 1
        log = self._home / f"victim-{self._number}.log"
        with log.open("wb") as file:
            more = [] if standard_input is None else [standard_input]
            socket.send_fds(
                self._ours, [f"start {uid}".encode()], [stderr if stderr is not None else file.fileno(), *more]
            )
        pid, fds, _, _ = socket.recv_fds(self._ours, 64, 2)
        victim = Victim(self, int(pid), fds, log)
        if victim.theirs is not None and not keep:
            victim.theirs.close()
        return victim

    def wait(self, pid: int) -> tuple[int, int]:
        self._ours.send(f"wait {pid}".encode())
        try:
            words = self._ours.recv(64)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            words = self._ours.recv(64)
        code, memory = words.split()
        return int(code), int(memory)

    def close(self) -> None:
        self._ours.close()
        end(self._process)


@contextlib.contextmanager
def forker(bed: Bed) -> Iterator[Forker]:
    """Start the maker of helpers in `bed.host`."""
    found = Forker(bed)
    try:
        yield found
    finally:
        found.close()


def offer(victim: Victim, row: Row) -> str:
    """Send a hostile row and say what was wrong with what the helper did; empty when it refused it and ended."""
    victim.send(row.packet, row.fds)
    answer = victim.receive()
    code, _ = victim.end()
    said = victim.said()
    stops = [line for line in said.splitlines() if "the helper stops:" in line]
    if answer is None or answer.get("is") != "Refused":
        return f"it was answered with {answer}"
    if code != 1 or len(stops) != 1 or "Traceback" in said:
        return f"exit {code}: {said[-500:]}"
    return ""
