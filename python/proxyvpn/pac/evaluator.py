"""A child process with a PAC file in it (child.py), as the one who asks it sees it: one question at a time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from proxyvpn import privilege, way
from proxyvpn.channel import Channel, close_all
from proxyvpn.errors import ProtocolError, ProxyvpnError
from proxyvpn.messages import Evaluate, Evaluated, Load, Loaded, Message, Refused
from proxyvpn.options import Script
from proxyvpn.pac.routes import ScriptFailed
from proxyvpn.way import Process

PATIENCE: Final = 10.0
"""Seconds after which a child that has neither answered nor ended is given up: it is stopped, or the machine is."""
_REAP_LIMIT: Final = 0.5
_UIDS: Final = privilege.HELPER_UIDS[::-1]

Start = Callable[[], tuple[Channel, Process]]


class Gone(ScriptFailed):
    """The child has ended, or does not answer: the next question needs another one."""


class Evaluator:
    """See the head of this file."""

    def __init__(self, script: Script, start: Start, uid: int = 0) -> None:
        self._channel, self._process = start()
        self._deadline = 0.0
        file = os.memfd_create("pac", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(file), "wb") as writing:
                writing.write(script.text.encode(errors="replace"))
            self._send(Load(script.mine, uid), (file,))
        finally:
            os.close(file)

    def fileno(self) -> int:
        """Give the descriptor that becomes readable when take() has something."""
        return self._channel.fileno()

    def ask(self, host: str, port: int) -> None:
        """Ask for the way to `host`, as a browser would that wants something there."""
        self._deadline = time.monotonic() + PATIENCE
        self._send(Evaluate(url(host, port), host))

    def is_readable(self) -> bool:
        """Say whether there is something to read; from one that was not asked, that is its end."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def take(self) -> str | None:
        """Give the answer; None when there is none yet. Raises ScriptFailed, Gone."""
        while self.is_readable():
            message = self._receive()
            if isinstance(message, Evaluated):
                if message.error:
                    raise ScriptFailed(message.error)
                return message.answer
        if time.monotonic() >= self._deadline:
            raise Gone("the PAC file's process does not answer", f"within {PATIENCE:.0f} s")
        return None

    def wait(self) -> str:
        """Wait for the answer. Raises as take() does."""
        while (answer := self.take()) is None:
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLIN)
            poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000)
        return answer

    def end(self) -> None:
        """End the process; what it is doing is of no use to anybody any more. Idempotent."""
        self._channel.close()
        way.end(self._process, 0.0)

    def _send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send without waiting: there is room for one question. That the other end is gone shows when it is read."""
        with contextlib.suppress(OSError):
            self._channel.settimeout(0.0)
            self._channel.send(message, fds)

    def _receive(self) -> Loaded | Evaluated:
        try:
            received = self._channel.receive()
        except (OSError, ProtocolError) as error:
            raise Gone("the PAC file's process makes no sense", str(error)) from error
        if received is None:
            raise self._gone()
        close_all(received.fds)
        match received.message:
            case Loaded() | Evaluated() as message:
                return message
            case Refused() as refused:
                raise Gone(refused.what, refused.why, refused.advice)
            case other:
                raise Gone(f"the PAC file's process said {type(other).__name__}")

    def _gone(self) -> Gone:
        way.end(self._process, _REAP_LIMIT)
        code = self._process.wait()
        if code == -signal.SIGALRM:
            return Gone("the PAC file takes too long", "a second is enough for any that ends")
        return Gone("the PAC file's process has ended", f"by signal {-code}" if code < 0 else f"with code {code}")


def starter(environ: Mapping[str, str]) -> Start:
    """Give what starts a real child."""
    return lambda: way.spawn([sys.executable, "-I", "-m", "proxyvpn.pac.child"], environ)


def own_uid() -> int:
    """Give the uid that a child becomes where root starts it; the worker has the last free one. 0: stay who we are."""
    if os.geteuid() != 0:
        return 0
    passwd = Path("/etc/passwd").read_text(encoding="utf-8", errors="replace")
    return privilege.free_uid(passwd, (privilege.free_uid(passwd, (), _UIDS),), _UIDS)


def url(host: str, port: int) -> str:
    """Pure: give what a browser would want from there, without path, as it is told of https (it shows no more)."""
    shown = f"[{host}]" if ":" in host else host
    if port == 80:
        return f"http://{shown}/"
    return f"https://{shown}/" if port == 443 else f"https://{shown}:{port}/"


def words(error: ProxyvpnError) -> str:
    """Pure: give an error in one line."""
    return f"{error.what}{f': {error.why}' if error.why else ''}"
