"""Pure: what was typed about names -> how they are resolved: by whom, and which of them are this network's own.

    direct    by the resolvers that the machine has, past the tunnel
    virtual   by nobody: an address that stands for the name, by which the proxy is asked for it
    proxy     by a resolver behind the proxy

In the last two all DNS goes to the worker (rust/names.rs), and names of direct domains to the machine's resolvers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import urlsplit

from proxyvpn import resolvers
from proxyvpn.errors import UsageError
from proxyvpn.resolvers import IPAddress
from proxyvpn.tunnel import NAMES

DIRECT, VIRTUAL, PROXY = NAMES
MOST_DOMAINS: Final = 64
MOST_RESOLVERS: Final = 4
PORT: Final = 53
HTTPS: Final = 443
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
_NAME_MOST: Final = 253
_PATH: Final = re.compile(r"/[!-~]{0,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Resolver:
    """A resolver behind the proxy; `path` is that of DNS over HTTPS, empty for DNS over TCP."""

    host: str
    port: int = PORT
    path: str = ""

    def __str__(self) -> str:
        if not self.path:
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}{'' if self.port == HTTPS else f':{self.port}'}{self.path}"


@dataclass(frozen=True, slots=True)
class Names:
    """How names are resolved. `mode` is one of NAMES; `domains` are those whose names are this network's."""

    mode: str = DIRECT
    domains: tuple[str, ...] = ()
    resolvers: tuple[Resolver, ...] = ()

    @property
    def are_captured(self) -> bool:
        """Say whether the worker answers."""
        return self.mode != DIRECT


DIRECTLY: Final = Names()
"""As it is where nothing is said."""


def read(mode: str, domains: tuple[str, ...], dns: tuple[str, ...]) -> tuple[Names, tuple[IPAddress, ...]]:
    """Give how names are resolved, and the resolvers that `dns` names for `direct`. Raises UsageError."""
    if mode == DIRECT:
        for text in dns:
            if "://" in text:
                advice = "add --names proxy, or give an address"
                raise UsageError(f"--dns {_shown(text)} is asked through the proxy only", "", advice)
        if domains:
            raise UsageError("--direct-domain is for --names virtual and proxy", "with `direct` every name is direct")
        return DIRECTLY, tuple(resolvers.parse_address(text, "--dns") for text in dns)
    if mode == PROXY and not dns:
        raise UsageError(
            "--names proxy needs a resolver that the proxy can reach",
            "",
            "add --dns IP, or --dns https://HOST/dns-query; --names virtual needs none",
        )
    if len(dns) > MOST_RESOLVERS:
        raise UsageError(f"more than {MOST_RESOLVERS} resolvers were given by --dns")
    if len(domains) > MOST_DOMAINS:
        raise UsageError(f"more than {MOST_DOMAINS} domains were given by --direct-domain")
    found = tuple(dict.fromkeys(parse_resolver(text) for text in dns))
    return Names(mode, tuple(dict.fromkeys(parse_domain(text) for text in domains)), found), ()


def parse_resolver(text: str) -> Resolver:
    """Give the resolver behind the proxy that was typed for --dns. Raises UsageError."""
    if "://" not in text:
        return Resolver(str(resolvers.parse_address(text, "--dns")))
    advice = "write it like --dns https://dns.example/dns-query"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--dns {_shown(text)} is not a URL", advice=advice) from error
    if parts.scheme != "https" or parts.username is not None or parts.fragment or not parts.hostname:
        raise UsageError(f"--dns {_shown(text)} is not a URL of DNS over HTTPS", advice=advice)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _PATH.fullmatch(path) or port == 0:
        raise UsageError(f"--dns {_shown(text)} has a path or a port that cannot be asked for", advice=advice)
    return Resolver(_host(parts.hostname, text, advice), port or HTTPS, path)


def _host(host: str, text: str, advice: str) -> str:
    if ":" in host:
        try:
            return str(IPv6Address(host))
        except ValueError as error:
            raise UsageError(f"--dns {_shown(text)} has a host that is no address", advice=advice) from error
    try:
        return _name(host)
    except ValueError as error:
        raise UsageError(f"--dns {_shown(text)} has a host that is no name", str(error), advice) from error


def parse_domain(text: str) -> str:
    """Give a domain in the form in which it stands in DNS. Raises UsageError."""
    try:
        domain = _name(text.removeprefix("*.").removeprefix("."))
    except ValueError as error:
        advice = "write it like --direct-domain corp.example"
        raise UsageError(f"--direct-domain {_shown(text)} is not a domain", str(error), advice) from error
    if domain.rpartition(".")[2].isdigit():
        raise UsageError(f"--direct-domain {_shown(text)} is not a domain", "addresses are let past by --bypass")
    return domain


def _name(text: str) -> str:
    """Give a name in ASCII and lower case. Raises ValueError, with a reason for a person."""
    name = text.removesuffix(".")
    try:
        name = name.lower() if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError("it cannot be written in DNS") from error
    if not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("its parts are letters, digits and hyphens, at most 63 of them")
    if len(name) > _NAME_MOST:
        raise ValueError("it is too long")
    return name


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:60])
