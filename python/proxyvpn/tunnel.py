"""Pure: the nouns of a tunnel, checked when they are made. An object that exists may be given to the kernel.

What is refused here is refused whoever asks: the helper builds every firewall text and every route from these objects
and from constants, and from nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from typing import Final

from proxyvpn.errors import UsageError
from proxyvpn.mark import POOL4, POOL6, TUN4, TUN6

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

MOST_PROXIES: Final = 16
"""So many have their counters in one message."""
MOST_RESOLVERS: Final = 8
MOST_BYPASS: Final = 64
MOST_INBOUND: Final = 15
"""As many as one rule of iptables' multiport takes."""
MOST_QUEUES: Final = 4
MOST_EXCLUDED: Final = 8
MOST_UID: Final = 2**32 - 2
MOST_PATH: Final = 400
_PART: Final = re.compile(r"[A-Za-z0-9_.:@\\-]{1,255}", re.ASCII)
"""One part of a cgroup's path: what systemd and container engines use, a backslash among it."""
NAMES: Final = ("direct", "virtual", "proxy")
"""Who answers DNS: the resolvers, past the tunnel; the worker, with virtual addresses; resolvers behind the proxy."""
DNS: Final = 53


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a proxy listens: one address, one TCP port (1 to 65535). It may be one of this machine."""

    address: IPAddress
    port: int

    def __post_init__(self) -> None:
        if not self.address.is_loopback:
            _check_host(self.address, "proxy")
        if isinstance(self.address, IPv4Address) and self.address.is_link_local:
            raise UsageError(f"{self.address} cannot be a proxy", "it is a link-local address")
        check_port(self.port, "TCP")

    def __str__(self) -> str:
        host = f"[{self.address}]" if isinstance(self.address, IPv6Address) else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What the helper is asked for: nouns only, checked when made."""

    proxies: tuple[Endpoint, ...]
    resolvers: tuple[IPAddress, ...]
    bypass: tuple[IPNetwork, ...]
    killswitch: bool
    queues: int
    inbound: tuple[int, ...] = ()
    """UDP ports of this machine that may answer, with the killswitch, whoever asks them."""
    names: str = "direct"
    """One of NAMES. In all but the first, DNS (port 53) is captured, and goes to `resolvers` by dial() only."""
    pac: bool = False
    """A script decides what goes past the proxies: the helper may be asked to dial() any host."""
    excluded_users: tuple[int, ...] = ()
    excluded_cgroups: tuple[str, ...] = ()
    """Whose programs are left alone, whatever they send. A cgroup is a path without a slash before it (cgroups.py)."""

    def __post_init__(self) -> None:
        if not self.proxies:
            raise UsageError("a tunnel needs a proxy")
        _check_number(self.proxies, MOST_PROXIES, "addresses of proxies")
        check_resolvers(self.resolvers)
        _check_number(self.bypass, MOST_BYPASS, "bypass networks")
        for network in self.bypass:
            if isinstance(network, IPv6Network) and network.network_address.scope_id:
                raise UsageError("a bypass network has a scope (%…)")  # any text may stand there: not for a ruleset
        for network in (*collapsed(self.bypass, 4), *collapsed(self.bypass, 6)):
            if network.prefixlen == 0:
                raise UsageError(f"a bypass of {network} would leave nothing to the tunnel")
        _check_number(self.inbound, MOST_INBOUND, "inbound ports")
        for port in self.inbound:
            check_port(port, "UDP")
        if not 1 <= self.queues <= MOST_QUEUES:
            raise UsageError(f"{self.queues} is not a number of queues", "", f"1 to {MOST_QUEUES} are possible")
        _check_excluded(self.excluded_users, self.excluded_cgroups)
        if self.names not in NAMES:
            raise UsageError("that is no way to answer names", "", f"the ways are {', '.join(NAMES)}")

    @property
    def captures_names(self) -> bool:
        """Say whether DNS goes into the TUN."""
        return self.names != "direct"

    @property
    def excludes(self) -> bool:
        """Say whether there are programs to be left alone."""
        return bool(self.excluded_users or self.excluded_cgroups)

    def may_dial(self, address: IPAddress, port: int) -> bool:
        """Say whether the helper may connect there past the tunnel, for the worker."""
        if self.pac:
            return 1 <= port <= 65535 and not problem_of_host(address)
        return self.captures_names and port == DNS and address in self.resolvers

    @property
    def dials(self) -> bool:
        """Say whether the helper connects past the tunnel at all."""
        return self.captures_names or self.pac


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection as this machine sees it; both addresses are of one family."""

    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int


@dataclass(frozen=True, slots=True)
class Host:
    """The facts of the machine that the steps depend on. `backend` is how the firewall is loaded: nft or iptables;
    `earlier` are the connections that came in, `opened_here` those that did not;
    `timeouts`: the kernel lets a ruleset set conntrack's time-outs (CONFIG_NF_CONNTRACK_TIMEOUT).
    """

    ifname: str
    ipv6: bool
    backend: str = "nft"
    earlier: tuple[Connection, ...] = ()
    opened_here: tuple[Connection, ...] = ()
    timeouts: bool = True
    cgroup_place: str = ""
    """Where below /sys/fs/cgroup the tree is: cgroups.place()."""
    cgroups_gone: tuple[str, ...] = ()
    """Excluded ones that are not there at the moment: a service that is stopped, say."""


def _check_excluded(users: tuple[int, ...], groups: tuple[str, ...]) -> None:
    """Raise UsageError for who cannot be excluded; a path becomes text of a ruleset, so it may hold little."""
    _check_number(users, MOST_EXCLUDED, "excluded users")
    _check_number(groups, MOST_EXCLUDED, "excluded cgroups")
    for user in users:
        if not 1 <= user <= MOST_UID:
            what = "root cannot be excluded" if user == 0 else f"{user} is no user"
            raise UsageError(what, "", "exclude the cgroup of the program that is meant: --exclude-cgroup")
    for group in groups:
        parts = group.split("/")
        if len(group) > MOST_PATH or not all(_PART.fullmatch(part) and set(part) != {"."} for part in parts):
            raise UsageError("an excluded cgroup is not a path without a slash before it, of ordinary letters")


def check_port(port: int, kind: str) -> None:
    """Raise UsageError for a number that is no port."""
    if not 1 <= port <= 65535:
        raise UsageError(f"{port} is not a {kind} port", "", "ports are 1 to 65535")


def check_resolvers(resolvers: tuple[IPAddress, ...]) -> None:
    """Raise UsageError for an address that cannot be a resolver outside this machine, and for too many.

    An IPv4 link-local address can: clouds put theirs at 169.254.169.253.
    """
    _check_number(resolvers, MOST_RESOLVERS, "resolvers")
    for address in resolvers:
        _check_host(address, "resolver")


def collapsed(networks: Iterable[IPNetwork], version: int) -> tuple[IPNetwork, ...]:
    """Give the networks of one IP version without overlaps, in order: an nft interval set refuses overlaps."""
    if version == 4:
        return tuple(collapse_addresses(each for each in networks if isinstance(each, IPv4Network)))
    return tuple(collapse_addresses(each for each in networks if isinstance(each, IPv6Network)))


def _check_number(values: tuple[object, ...], most: int, what: str) -> None:
    if len(values) > most:
        raise UsageError(f"{len(values)} {what} are too many", "", f"at most {most} are possible")


def _check_host(address: IPAddress, what: str) -> None:
    """Raise UsageError when `address` cannot be one host that is reached over a network."""
    if problem := problem_of_host(address):
        raise UsageError(f"{address} cannot be a {what}", problem)


def problem_of_host(address: IPAddress) -> str:
    """Say why `address` cannot be one host that is reached over a network; empty when it can."""
    if address in (TUN4, TUN6) or any(address in pool for pool in (POOL4, POOL6)):
        return "it is the tunnel's own address"
    if address.is_loopback:
        return "it is on this machine"
    if address.is_unspecified or address == IPv4Address("255.255.255.255"):
        return "it is the address of no host"
    if address.is_multicast:
        return "it is a multicast address"
    if isinstance(address, IPv6Address) and (address.is_link_local or address.scope_id):
        return "it is a link-local address"
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return "it is an IPv4 address in IPv6 clothes"
    return ""
