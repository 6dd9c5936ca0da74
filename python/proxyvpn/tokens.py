"""The process that makes tokens for proxies: Negotiate (Kerberos) and NTLM. Started by `up` when one is first wanted.

It runs as the user, with the user's KRB5* environment, and without any capability: it reads the ticket cache or the
keytab and speaks with the KDC, which the sandboxed worker cannot. It never speaks with a proxy. A password comes over
its socket for the one token that needs it, and is in no argument, log or core of this process.

    up ──Make{host, scheme, context, challenge}──> here ──Made{token …}──> up ──> worker ──> proxy

RFC 4559 and RFC 4178 (Negotiate), MS-NLMP (NTLM). The library is pyspnego, with gssapi for Kerberos: an optional extra,
`pip install proxyvpn[kerberos]`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import resource
import signal
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from proxyvpn import privilege
from proxyvpn.channel import Channel, close_all
from proxyvpn.errors import Exit, ProtocolError, ProxyvpnError
from proxyvpn.messages import Made, Make

AT_ONCE: Final = 4
"""A KDC that does not answer keeps one of these busy for some seconds."""
MOST_CONTEXTS: Final = 512
CONTEXT_AGE: Final = 120.0
"""Seconds; a proxy that takes longer over a handshake has given it up."""
MOST_BYTES: Final = 12 * 1024
"""Of a token; it must fit into a message, and with the rest into a proxy's limit for a header."""
PROOF_AGE: Final = 60.0
"""Seconds for which a ticket that was there is not looked for again before it is used."""


class Missing(Exception):
    """No token can be made; the text says why and what to do."""


class Wrong(Exception):
    """The proxy's token is not that of the service that it should be."""


@dataclass(frozen=True, slots=True)
class _Kept:
    context: Any
    since: float


class Tokens:
    """The contexts of handshakes that go on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], _Kept] = OrderedDict()
        self._proven: dict[str, float] = {}

    def answer(self, make: Make) -> str:
        """Give what becomes of `make`, in the form of Made.answer."""
        try:
            token = self._step(make)
        except Missing as error:
            return f"missing {_line(str(error))}"
        except Wrong as error:
            return f"wrong {_line(str(error))}"
        if token is None:
            return "done"
        if len(token) > MOST_BYTES:
            return f"missing the token has {len(token)} bytes, more than can be sent"
        return f"token {base64.b64encode(token).decode()}"

    def _step(self, make: Make) -> bytes | None:
        key = (make.scheme, make.host, make.context)
        if not make.challenge:
            if make.scheme == "negotiate":
                self._look_for_ticket(make.host)
            context = _begin(make)
            token: bytes | None = _first(context, make)
        else:
            with self._lock:
                kept = self._kept.pop(key, None)
            if kept is None:
                raise Missing("the handshake has been forgotten")
            context = kept.context
            token = _next(context, make)
        self._keep(key, context)
        return token

    def _keep(self, key: tuple[str, str, str], context: Any) -> None:
        now = time.monotonic()
        with self._lock:
            self._kept[key] = _Kept(context, now)
            for old, kept in list(self._kept.items()):
                if len(self._kept) <= MOST_CONTEXTS and now - kept.since < CONTEXT_AGE:
                    break
                del self._kept[old]

    def _look_for_ticket(self, host: str) -> None:
        """Raise what keeps Kerberos from working: of Negotiate the library would say that no mechanism is left."""
        now = time.monotonic()
        if now - self._proven.get(host, -PROOF_AGE) < PROOF_AGE:
            return
        kerberos = Make(0, host, "kerberos", "", "", "", "")
        _first(_begin(kerberos), kerberos)
        self._proven[host] = now


def _begin(make: Make) -> Any:
    """Give a new context of the library. Raises Missing."""
    try:
        import spnego  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise Missing("it needs the Python package pyspnego: pip install 'proxyvpn[kerberos]'") from error
    options = {
        "ntlm": spnego.NegotiateOptions.use_ntlm,
        "negotiate": spnego.NegotiateOptions.use_negotiate,
        "kerberos": spnego.NegotiateOptions.none,
    }
    try:
        return spnego.client(
            make.user if make.scheme == "ntlm" else None,
            make.password if make.scheme == "ntlm" else None,
            hostname=make.host,
            service="HTTP",
            context_req=spnego.ContextReq.mutual_auth | spnego.ContextReq.replay_detect,
            protocol=make.scheme,
            options=options[make.scheme],
        )
    except ImportError as error:
        raise Missing("it needs the Python package gssapi: pip install 'proxyvpn[kerberos]'") from error
    except Exception as error:
        raise Missing(_reason(error, make.host)) from error


def _first(context: Any, make: Make) -> bytes:
    try:
        token: bytes | None = context.step()
    except Exception as error:
        raise Missing(_reason(error, make.host)) from error
    if not token:
        raise Missing("the library gave none")
    return token


def _next(context: Any, make: Make) -> bytes | None:
    """Take the proxy's token. None when there is no more to say."""
    try:
        token: bytes | None = context.step(base64.b64decode(make.challenge, validate=True))
    except Exception as error:
        if make.scheme == "negotiate":
            raise Wrong(_reason(error, make.host)) from error
        raise Missing(_reason(error, make.host)) from error
    if not token and not context.complete:
        raise Wrong("its token does not end the handshake")
    return token or None


def _reason(error: BaseException, host: str) -> str:
    """Say why there is no token, and what to do, where the library's words are not for a person."""
    text = " ".join(str(part) for part in (error, getattr(error, "base_error", ""), error.__cause__) if part)
    known = (
        (("no kerberos credentials", "no credentials cache", "unavailable", "no credentials were"), _no_ticket()),
        (("expired",), "the Kerberos ticket has run out: run kinit"),
        (("not found in kerberos database",), f"the KDC knows no service HTTP/{host}: give the proxy by its full name"),
        (
            ("cannot find kdc", "cannot contact any kdc"),
            "no KDC can be reached: see --bypass, or run kinit before `up`",
        ),
        (("clock skew", "skew too great"), "the clocks of this machine and of the KDC differ too much"),
    )
    for signs, reason in known:
        if any(sign in text.lower() for sign in signs):
            return reason
    minor = re.search(r"Minor \(\d+\): (.*?)(?:, Context|$)", text)
    return minor[1] if minor else text or type(error).__name__


def _no_ticket() -> str:
    keytab = os.environ.get("KRB5_CLIENT_KTNAME", "")
    return f"no Kerberos ticket could be had by the keytab {keytab}" if keytab else "no Kerberos ticket: run kinit"


def _line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:250]


def main() -> None:
    """Run as a child of `up`, with the channel as fd 0; the argument is the uid to become, 0: none."""
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        channel = Channel.from_fd(0)
        uid = int(sys.argv[1])
    except (ProtocolError, IndexError, ValueError):
        sys.exit(Exit.USAGE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ImportError):  # said when a token is wanted; later, its files may not be ours to read
        import spnego  # noqa: F401, PLC0415
    with contextlib.suppress(ProxyvpnError):  # then the cache may not be found, which will be said
        privilege.drop_all(uid)
    serve(channel)
    os._exit(Exit.OK)  # threads that wait for a KDC are not waited for


def serve(channel: Channel) -> None:
    """Answer until end of file."""
    tokens = Tokens()
    pool = ThreadPoolExecutor(AT_ONCE)

    def work(make: Make) -> None:
        answer = tokens.answer(make)
        with contextlib.suppress(OSError, ProtocolError):  # nobody waits any more
            channel.send(Made(make.number, answer))

    try:
        while received := channel.receive():
            if received.fds or not isinstance(received.message, Make):
                close_all(received.fds)
                return
            pool.submit(work, received.message)
    except (OSError, ProtocolError):
        pass
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    main()
