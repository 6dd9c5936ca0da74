"""Grants the worker's wishes for tokens: passes them to the process that makes them, started when one is wanted.

    wish     NAME LF PORT LF SCHEME LF CONTEXT LF CHALLENGE      (rust/token.rs)
    grant    what tokens.py answers

Only for the proxies that the user gave, with the credentials that the user gave for each. Never waits: a token that
does not come in time is refused; who makes it may still be waiting for a KDC, and is left to it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from proxyvpn import way
from proxyvpn.channel import Channel, close_all
from proxyvpn.errors import ProtocolError
from proxyvpn.messages import Made, Make
from proxyvpn.proxy import Proxy
from proxyvpn.way import Process
from proxyvpn.wishes import Granted

LIMIT: Final = 12.0
"""Seconds for one token; a KDC that answers at all does so in less."""
REAP_LIMIT: Final = 1.0
KEPT: Final = (
    *("HOME", "KRB5CCNAME", "KRB5_CONFIG", "KRB5_CLIENT_KTNAME", "KRB5_KDC_PROFILE", "KRB5_TRACE"),
    *("KRB5RCACHETYPE", "KRB5RCACHENAME"),
)
"""What of the user's environment leads to a ticket."""
_WISH: Final = re.compile(r"([^\n]{1,253})\n([0-9]{1,5})\n(negotiate|ntlm)\n([0-9]{1,20})\n([A-Za-z0-9+/=]*)")


@dataclass(frozen=True, slots=True)
class _Pending:
    number: int
    """Of the wish."""
    deadline: float


class TokenSource:
    """See the head of this file."""

    def __init__(self, proxies: tuple[Proxy, ...], start: Callable[[], tuple[Channel, Process]]) -> None:
        self._proxies = {(proxy.host, proxy.port): proxy for proxy in reversed(proxies)}
        self._start = start
        self._child: tuple[Channel, Process] | None = None
        self._count = 0
        self._pending: dict[int, _Pending] = {}
        self._ready: list[Granted] = []

    @classmethod
    def of(cls, proxies: tuple[Proxy, ...], environ: Mapping[str, str]) -> TokenSource:
        """Give the one that starts a real process."""
        uid = user(environ, os.geteuid())
        argv = [sys.executable, "-I", "-m", "proxyvpn.tokens", str(uid)]
        return cls(proxies, lambda: way.spawn(argv, environ, KEPT))

    def begin(self, number: int, content: bytes) -> None:
        """Pass the wish on, or refuse it."""
        make = self._make(content)
        if make is None:
            self._ready.append(Granted(number, refusal="no token of that kind can be had"))
            return
        try:
            channel = self._channel()
            channel.settimeout(0.0)
            channel.send(make)
        except (OSError, ProtocolError) as error:
            self._ready.append(Granted(number, refusal=f"no process for tokens: {error}"))
        else:
            self._pending[make.number] = _Pending(number, time.monotonic() + LIMIT)

    def fileno(self) -> int:
        """Give the process's descriptor."""
        return -1 if self._child is None else self._child[0].fileno()

    def take(self) -> list[Granted]:
        """Give what has come, and refuse what is late."""
        while self._child is not None and _is_readable(self._child[0]):
            self._hear(self._child[0])
        now = time.monotonic()
        for number in [number for number, each in self._pending.items() if each.deadline <= now]:
            refusal = f"no token within {LIMIT:.0f} s: the KDC may not answer"
            self._ready.append(Granted(self._pending.pop(number).number, refusal=refusal))
        taken, self._ready = self._ready, []
        return taken

    def end(self) -> None:
        """End the process. Idempotent."""
        if self._child is None:
            return
        channel, process = self._child
        self._child = None
        channel.close()
        way.end(process, REAP_LIMIT)

    def _channel(self) -> Channel:
        if self._child is None:
            self._child = self._start()
        return self._child[0]

    def _hear(self, channel: Channel) -> None:
        received = None
        with contextlib.suppress(OSError, ProtocolError):
            received = channel.receive()
        close_all(received.fds if received else ())
        if received is None or not isinstance(received.message, Made):
            self.end()
            lost = [each.number for each in self._pending.values()]
            self._ready += [Granted(number, refusal="the process for tokens has ended") for number in lost]
            self._pending.clear()
            return
        pending = self._pending.pop(received.message.number, None)
        if pending is not None:
            self._ready.append(Granted(pending.number, received.message.answer.encode()))

    def _make(self, content: bytes) -> Make | None:
        """Give what is to be made; None for what no proxy of the user's could have led to."""
        found = _WISH.fullmatch(content.decode("ascii", "replace"))
        proxy = self._proxies.get((found[1], int(found[2]))) if found else None
        if found is None or proxy is None or (proxy.schemes and found[3] not in proxy.schemes):
            return None
        if found[3] == "ntlm" and proxy.user is None:
            return None
        user, password = (proxy.user or "", proxy.password) if found[3] == "ntlm" else ("", "")
        self._count += 1
        return Make(self._count, proxy.host, found[3], found[4], found[5], user, password)


def user(environ: Mapping[str, str], uid: int) -> int:
    """Pure: give the uid that makes tokens, 0: ours. Under sudo it is the user's, whose ticket it is, unless a keytab
    is named, which may be readable by root alone.
    """
    asked = environ.get("SUDO_UID", "")
    if uid != 0 or "KRB5_CLIENT_KTNAME" in environ or not re.fullmatch(r"[0-9]{1,10}", asked):
        return 0
    return int(asked)


def may_have_ticket(environ: Mapping[str, str], uid: int, configuration: str, exists: Callable[[str], bool]) -> bool:
    """Pure but for `exists`: say whether there may be a Kerberos ticket, or a keytab; `configuration` is krb5.conf."""
    if "KRB5CCNAME" in environ or "KRB5_CLIENT_KTNAME" in environ:
        return True
    named = re.search(r"^\s*default_ccache_name\s*=", configuration, re.MULTILINE)
    return named is not None or exists(f"/tmp/krb5cc_{user(environ, uid) or uid}")  # noqa: S108 - Kerberos' default


def _is_readable(channel: Channel) -> bool:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    return bool(poll.poll(0))
