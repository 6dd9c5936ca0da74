"""Pure: what was typed, the environment and a password file's text -> Options, whole and valid.

Knows where a proxy may be named and in which order of precedence. Opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final

from proxyvpn import balancing, names, proxy, resolvers, schemes
from proxyvpn.balancing import PLAIN, Balancing
from proxyvpn.errors import UsageError
from proxyvpn.names import DIRECTLY, Names
from proxyvpn.plan import IPAddress, IPNetwork
from proxyvpn.proxy import Proxy
from proxyvpn.tunnel import check_port

VARIABLES: Final = (
    "PROXYVPN_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "http_proxy",
)
"""Where a proxy is looked for, first one first. HTTP_PROXY is not among them: a CGI program's caller can set it."""

MOST_PROXIES: Final = 4


@dataclass(frozen=True, slots=True)
class Script:
    """A PAC file: its text, where it is from (for a person), and this machine's addresses when it was fetched. It can
    be fetched again from `url`, at `address`."""

    text: str = field(repr=False)
    origin: str = ""
    mine: tuple[str, ...] = ()
    url: str = field(default="", repr=False)
    address: str = ""


@dataclass(frozen=True, slots=True)
class Typed:
    """The arguments of `up` as they were typed; None and () mean: not given."""

    proxy: tuple[str, ...] = ()
    proxy_user: str | None = None
    password: str | None = None
    """What the file, the credential or the command said, not its name."""
    names: str = "direct"
    direct_domain: tuple[str, ...] = ()
    proxy_auth: str | None = None
    proxy_ca: str | None = None
    proxy_cert: str | None = None
    proxy_key: str | None = None
    dns: tuple[str, ...] = ()
    allow_dns: tuple[str, ...] = ()
    bypass: tuple[str, ...] = ()
    inbound: tuple[str, ...] = ()
    exclude_user: tuple[str, ...] = ()
    exclude_cgroup: tuple[str, ...] = ()
    killswitch: bool = False
    confirm: int | None = None
    script: Script | None = None
    """What `--proxy pac:…` led to; the proxies that it names are then among `proxy`."""
    balance: str | None = None
    health_check: str | None = None
    failover_on_refusal: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where those options that were not typed are from, in words; and `password`."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files for https:// proxies, empty: none. `ca` takes the place of the system's trust store; the `key` may be
    in the file of the certificate.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What `up` is to do. `source` is the variable or file that named the proxy, empty when it was typed."""

    proxies: tuple[Proxy, ...]
    source: str = ""
    names: Names = DIRECTLY
    tls: TlsFiles = TlsFiles()
    dns: tuple[IPAddress, ...] = ()
    """Those that are asked past the tunnel."""
    allow_dns: tuple[IPAddress, ...] = ()
    bypass: tuple[IPNetwork, ...] = ()
    inbound: tuple[int, ...] = ()
    """UDP ports."""
    exclude_users: tuple[str, ...] = ()
    exclude_cgroups: tuple[str, ...] = ()
    """As they were typed: what they mean is looked up when it is needed (exclusion.py)."""
    killswitch: bool = False
    confirm: int = 0
    """Seconds after which all is undone unless it is confirmed; 0: never."""
    script: Script | None = None
    """A PAC file, which chooses among `proxies` for each connection."""
    balancing: Balancing = PLAIN
    warnings: tuple[str, ...] = ()


def read(typed: Typed, environ: Mapping[str, str]) -> Options:
    """Give the Options. Raises UsageError, which says where the proxy is from when it was not typed."""
    urls, source = _urls(typed, environ)
    user, password, warnings = _credentials(typed)
    try:
        proxies = tuple(dict.fromkeys(proxy.parse(url, user, password) for url in urls))
    except UsageError as error:
        if not source:
            raise
        raise UsageError(f"{error.what} (from {source})", error.why, error.advice) from error
    if typed.proxy_auth is not None:
        wanted = schemes.parse(typed.proxy_auth)
        proxies = tuple(schemes.apply(wanted, each) for each in proxies)
    if len(proxies) > MOST_PROXIES and typed.script is None:
        raise UsageError(f"more than {MOST_PROXIES} proxies were given")
    if not source and password is None and any(each.password for each in proxies):
        warnings = (_visible("--proxy"),)
    tls, more = _tls(typed, proxies)
    warnings = (*warnings, *more)
    inbound = tuple(dict.fromkeys(_udp_port(text) for text in typed.inbound))
    if inbound and not typed.killswitch:
        warnings = (*warnings, "--inbound changes nothing without --killswitch: UDP is left alone")
    how, dns = names.read(typed.names, typed.direct_domain, typed.dns)
    return Options(
        proxies=proxies,
        source=source,
        names=how,
        dns=dns,
        tls=tls,
        allow_dns=tuple(resolvers.parse_address(text, "--allow-dns") for text in typed.allow_dns),
        bypass=tuple(dict.fromkeys(_network(text) for text in typed.bypass)),
        inbound=inbound,
        exclude_users=tuple(dict.fromkeys(typed.exclude_user)),
        exclude_cgroups=tuple(dict.fromkeys(typed.exclude_cgroup)),
        killswitch=typed.killswitch,
        confirm=typed.confirm or 0,
        script=typed.script,
        balancing=balancing.read(typed.balance, typed.health_check, typed.failover_on_refusal),
        warnings=warnings,
    )


def _urls(typed: Typed, environ: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    if typed.proxy:
        return typed.proxy, typed.origins.get("proxy", "")
    for name in VARIABLES:
        if environ.get(name):
            return (environ[name],), name
    raise UsageError(
        "no proxy was given",
        "neither --proxy nor PROXYVPN_PROXY, https_proxy, all_proxy or http_proxy names one",
        "proxyvpn up --proxy http://proxy.example:3128",
    )


def _credentials(typed: Typed) -> tuple[str | None, str | None, tuple[str, ...]]:
    user, password = None, None
    warnings: tuple[str, ...] = ()
    if typed.proxy_user is not None:
        user, password = proxy.split_user(typed.proxy_user)
        warnings = (_visible("--proxy-user"),) if password and "proxy-user" not in typed.origins else ()
    if typed.password is not None:
        given = typed.origins.get("password", "--proxy-password-file")
        if password is not None:
            raise UsageError("the proxy's password was given twice", f"by --proxy-user and by {given}")
        password = typed.password
        if not password:
            raise UsageError(f"the password that {given} gives is empty")
    return user, password, warnings


def _tls(typed: Typed, proxies: tuple[Proxy, ...]) -> tuple[TlsFiles, tuple[str, ...]]:
    files = TlsFiles(typed.proxy_ca or "", typed.proxy_cert or "", typed.proxy_key or "")
    if files.key and not files.cert:
        raise UsageError("--proxy-key is given without its certificate", "", "add --proxy-cert FILE")
    if files != TlsFiles() and not any(each.tls for each in proxies):
        return files, ("--proxy-ca, --proxy-cert and --proxy-key change nothing: no proxy is an https:// one",)
    return files, ()


def _visible(option: str) -> str:
    return f"the password in {option} is visible to every user of this machine in `ps`; use --proxy-password-file"


def _udp_port(text: str) -> int:
    advice = "write it like --inbound udp/51820"
    kind, _, port = text.partition("/")
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:60])
    if kind == "tcp":
        raise UsageError(f"--inbound {shown} is not needed", "TCP servers stay reachable in any case", advice)
    if kind != "udp" or not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise UsageError(f"--inbound {shown} is not a protocol and a port", advice=advice)
    check_port(int(port), "UDP")
    return int(port)


def _network(text: str) -> IPNetwork:
    advice = "write it like --bypass 10.0.0.0/8 or --bypass 192.0.2.7"
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:60])
    if "%" in text:
        raise UsageError(f"--bypass {shown} has a scope (%…)", "scopes are not possible", advice)
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(f"--bypass {shown} is not a network", advice=advice) from error
    if network.prefixlen == 0:
        raise UsageError(f"--bypass {network} would let everything past the proxy", advice=advice)
    return network
