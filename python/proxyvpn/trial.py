"""Lets the worker try the proxies, by the code that will carry connections, before anything in the kernel is changed.

Only where there is more to find out than that somebody listens: credentials, or TLS; or where there may be a Kerberos
ticket, so that the one for the proxy is had while the KDC can still be reached directly. What counts is whether a proxy
can be spoken to; whether it likes the target does not. A proxy that takes its time is not waited for: it is then found
out by the first connection.
"""

from __future__ import annotations

import select
import time
from typing import Final

from proxyvpn.children import Worker
from proxyvpn.errors import CredentialsRefused, ProxyUnreachable, ProxyvpnError
from proxyvpn.messages import Outcome, Try
from proxyvpn.reach import Interrupted, Place
from proxyvpn.wishes import Wishes

LIMIT: Final = 3.0
"""Seconds in all; what is wrong with a password or a certificate is known at once."""


def is_needed(places: tuple[Place, ...]) -> bool:
    """Say whether a proxy has credentials to try, is to be shown a ticket, or speaks TLS."""
    proxies = [place.proxy for place in places]
    return any(proxy.user is not None or "negotiate" in proxy.schemes or proxy.tls for proxy in proxies)


def run(worker: Worker, wishes: Wishes, places: tuple[Place, ...], stop: int, limit: float = LIMIT) -> None:
    """Try them. Raises CredentialsRefused, ProxyUnreachable, Interrupted, ChildGone."""
    worker.begin_trial(Try())
    deadline = time.monotonic() + limit
    while (seconds := deadline - time.monotonic()) > 0:
        poll = select.poll()
        for fd in (worker.fileno(), stop, *wishes.filenos()):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(seconds * 1000)}
        if stop in ready:
            raise Interrupted("ended before it was ready")
        wished, tried = worker.hear(worker.fileno() in ready)
        for wish in wished:
            wishes.begin(wish)
        for grant, fds in wishes.take():
            worker.grant(grant, fds)
        if tried is not None:
            judge(tried.outcomes, places)
            return


def judge(outcomes: tuple[Outcome, ...], places: tuple[Place, ...]) -> None:
    """Raise what all proxies together fail for; nothing where one can be spoken to."""
    if not outcomes or any(outcome.kind == "ok" for outcome in outcomes):
        return
    errors = [_error(outcome, places[outcome.proxy]) for outcome in outcomes if outcome.proxy < len(places)]
    refused = [error for error in errors if isinstance(error, CredentialsRefused)]
    raise (refused or errors or [ProxyUnreachable("no proxy can be spoken to")])[0]


def _error(outcome: Outcome, place: Place) -> ProxyvpnError:
    if outcome.kind == "wrong":
        return CredentialsRefused(
            f"the proxy {place.proxy} refuses the user or the password",
            outcome.text,
            "check --proxy-user and --proxy-password-file, or the user and password in the URL",
        )
    if outcome.kind == "credentials":
        return CredentialsRefused(f"the proxy {place.proxy} {outcome.text}")
    if outcome.kind == "tls":
        return ProxyUnreachable(f"there is no TLS with the proxy {place.proxy}", *outcome.text.split("; ", 1))
    return ProxyUnreachable(f"the proxy {place.proxy} cannot be used", outcome.text, "check its URL, and that it runs")
