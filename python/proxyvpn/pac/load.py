"""What `--proxy pac:…` becomes when `up` begins: the script, and the proxies that it is known to name.

The firewall and the worker's sandbox must know every proxy before anything is captured, and a script's text does not
say what it will answer. So its text is searched, and it is asked about a few hosts; a proxy that comes up only later is
refused with a line that says how to make it known. A script that fails for all of these hosts is an error at once.
"""

from __future__ import annotations

import glob
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from proxyvpn import proxy
from proxyvpn.errors import ProxyvpnError, UsageError
from proxyvpn.options import Script, Typed
from proxyvpn.pac import fetch, wpad
from proxyvpn.pac.evaluator import Evaluator, Gone, Start, own_uid
from proxyvpn.pac.fetch import Fetched, Unfetched
from proxyvpn.pac.routes import Route, ScriptFailed, named_in, parse

PREFIX: Final = "pac:"
AUTO: Final = "auto"
PROBES: Final = (("www.example.com", 443), ("www.example.org", 80), ("example.net", 22), ("192.0.2.1", 443))
MOST: Final = 16
"""Proxies that a script may name."""


def is_meant(urls: tuple[str, ...]) -> bool:
    """Say whether one of these is a PAC file."""
    return any(url.lower().startswith(PREFIX) for url in urls)


def expanded(typed: Typed, start: Start, say: Callable[[str], None]) -> Typed:
    """Give `typed` with the script, and with the proxies that it names in its place. Raises ProxyvpnError."""
    plain = tuple(url for url in typed.proxy if not is_meant((url,)))
    files = [url[len(PREFIX) :] for url in typed.proxy if is_meant((url,))]
    if len(files) != 1:
        raise UsageError("more than one PAC file was given", "", "proxies may be given beside one; they are then known")
    if files[0] != AUTO:
        fetch.check(files[0])
    fetched = _found() if files[0] == AUTO else fetch.fetch(files[0])
    shown = fetched.url.partition("?")[0]  # what follows may be a key
    script = Script(fetched.text, shown, addresses(), fetched.url, fetched.address)
    urls = tuple(dict.fromkeys(plain + _usable(_routes(script, start, say), say)))
    if not urls:
        raise UsageError(
            f"the PAC file {shown} names no proxy that can be found in it",
            "it may put their names together as it runs",
            "give them by --proxy, too: --proxy pac:… --proxy http://proxy.example:3128",
        )
    if fetched.url.startswith("http:") and (typed.password is not None or ":" in (typed.proxy_user or "")):
        say("the PAC file comes by http://: whoever sits on the way to it can name a proxy that gets your password")
    return replace(typed, proxy=urls, script=script)


def addresses() -> tuple[str, ...]:
    """Give this machine's addresses, as seen from the world: those that a socket would get. Nothing is sent."""
    found: list[str] = []
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect((far, 9))
                found.append(str(sock.getsockname()[0]))
        except OSError:
            continue
    return tuple(found)


def _routes(script: Script, start: Start, say: Callable[[str], None]) -> tuple[Route, ...]:
    """Give the proxies that the script is known to name."""
    evaluator = Evaluator(script, start, own_uid())
    answered: list[Route] = []
    failures: list[ProxyvpnError] = []
    try:
        for host, port in PROBES:
            try:
                evaluator.ask(host, port)
                answered += parse(evaluator.wait()).routes
            except Gone:
                raise
            except ScriptFailed as error:
                failures.append(error)
    finally:
        evaluator.end()
    if len(failures) == len(PROBES):
        raise failures[0]
    if failures:
        say(f"the PAC file fails for some hosts: {failures[0].why or failures[0].what}")
    return tuple(dict.fromkeys(route for route in (*answered, *named_in(script.text)) if not route.is_direct))


def _usable(routes: tuple[Route, ...], say: Callable[[str], None]) -> tuple[str, ...]:
    """Give the URLs of those that can be used."""
    urls: list[str] = []
    for route in routes:
        try:
            proxy.parse(route.url)
        except UsageError as error:
            say(f"the PAC file names {route}, which cannot be used: {error.what}")
        else:
            urls.append(route.url)
    if len(urls) > MOST:
        say(f"the PAC file names {len(urls)} proxies; the first {MOST} are used")
    return tuple(urls[:MOST])


def _found() -> Fetched:
    """Find the PAC file that the network offers. Raises Unfetched."""
    leases = [_read(path) for pattern in wpad.LEASES for path in sorted(glob.glob(pattern))]
    urls = wpad.candidates(leases, socket.getfqdn(), _read("/etc/resolv.conf"))
    reasons: list[str] = []
    for url in urls:
        try:
            return fetch.fetch(url, limit=fetch.LIMIT / 2)
        except Unfetched as error:
            reasons.append(f"{url}: {error.why}")
    raise Unfetched(
        "this network offers no PAC file that can be had",
        "; ".join(reasons[:3]) or "no DHCP lease names one, and this machine has no domain to look for `wpad` in",
        "ask for its URL, and give it as --proxy pac:http://…",
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes()[: 256 * 1024].decode(errors="replace")
    except OSError:
        return ""
