"""Pure: what FindProxyForURL gave -> the ways to go, in order; and the proxies that a script's text names.

    PROXY a.example:3128; HTTPS b.example:443; DIRECT

SOCKS and other kinds that are known and cannot be used are left out and reported; everything else that is not exactly
of this form is an error: a guess would send a connection where nobody wanted it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from proxyvpn.errors import ProxyvpnError

MAX_SCRIPT: Final = 1024 * 1024
"""Bytes of a PAC file."""
DIRECT: Final = "DIRECT"
_SCHEMES: Final = {"PROXY": ("http", 80), "HTTP": ("http", 80), "HTTPS": ("https", 443)}
_LEFT_OUT: Final = ("SOCKS", "SOCKS4", "SOCKS4A", "SOCKS5", "QUIC")
_MOST: Final = 32
_MAX_LENGTH: Final = 4096

_PLACE: Final = r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})"
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_ENTRY: Final = re.compile(rf"([A-Za-z0-9]+)(?:[ \t]+({_PLACE})(?::([0-9]{{1,5}}))?)?")
_NAMED: Final = re.compile(rf"\b(PROXY|HTTP|HTTPS)[ \t]+({_PLACE}):([0-9]{{2,5}})\b", re.IGNORECASE)
_QUOTED: Final = re.compile(rf"""(["'])({_PLACE}):([0-9]{{2,5}})\1""")


class ScriptFailed(ProxyvpnError):
    """A PAC file that does not say where to go."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way to go: by a proxy, or DIRECT, when `scheme` is empty. `host` is a name or an address without brackets."""

    scheme: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_direct(self) -> bool:
        return not self.scheme

    @property
    def url(self) -> str:
        """Give the URL of the proxy."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __str__(self) -> str:
        return self.url if self.scheme else DIRECT


@dataclass(frozen=True, slots=True)
class Answer:
    """The ways to go, never none, and the kinds that were left out."""

    routes: tuple[Route, ...]
    left_out: tuple[str, ...] = ()


def parse(text: str) -> Answer:
    """Give what FindProxyForURL's answer means. Raises ScriptFailed."""
    if len(text) > _MAX_LENGTH:
        raise ScriptFailed("the PAC file's answer is too long", f"{len(text)} letters")
    routes: list[Route] = []
    left_out: list[str] = []
    for part in (part.strip(" \t\r\n") for part in text.split(";")):
        if not part:
            continue
        found = _ENTRY.fullmatch(part)
        if found is None:
            raise ScriptFailed("the PAC file's answer cannot be understood", _printable(part))
        kind = found[1].upper()
        if kind in _LEFT_OUT and found[2]:
            left_out.append(kind)
        else:
            routes.append(_route(kind, found[2], found[3], part))
    if not routes:
        why = f"it names only {' and '.join(dict.fromkeys(left_out))}" if left_out else "it is empty"
        raise ScriptFailed("the PAC file's answer names no proxy that can be used", why)
    return Answer(tuple(dict.fromkeys(routes))[:_MOST], tuple(dict.fromkeys(left_out)))


def named_in(script: str) -> tuple[Route, ...]:
    """Give the proxies that a script's text spells out: `PROXY host:port`, and any quoted `host:port`."""
    found: dict[Route, None] = {}
    for kind, host, port in _NAMED.findall(script):
        _keep(found, kind.upper(), host, port)
    for _, host, port in _QUOTED.findall(script):
        if not any((route.host, route.port) == (host.strip("[]"), int(port)) for route in found):
            _keep(found, "PROXY", host, port)
    return tuple(found)


def _keep(found: dict[Route, None], kind: str, host: str, port: str) -> None:
    try:
        found.setdefault(_route(kind, host, port, ""))
    except ScriptFailed:
        return  # what looks like one need not be one: a comment, a time of day


def _route(kind: str, host: str | None, port: str | None, part: str) -> Route:
    if kind == DIRECT and host is None:
        return Route()
    if kind not in _SCHEMES or host is None:
        raise ScriptFailed("the PAC file's answer cannot be understood", _printable(part))
    scheme, usual = _SCHEMES[kind]
    found = Route(scheme, _host(host), int(port or usual))
    if not found.host or not 0 < found.port < 65536:
        raise ScriptFailed("the PAC file's answer names no possible proxy", _printable(part))
    return found


def _host(text: str) -> str:
    """Give a name or an address in the form that it is compared in; empty when it is neither."""
    last = text.removesuffix(".").rpartition(".")[2]
    try:
        if text.startswith("[") or last.isdigit():
            return str(ip_address(text.strip("[]")))
    except ValueError:
        return ""
    return text.lower() if all(_LABEL.fullmatch(label) for label in text.removesuffix(".").split(".")) else ""


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80])
