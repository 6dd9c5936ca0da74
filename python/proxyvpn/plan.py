"""Pure: what the kernel must hold for a tunnel, as an ordered tuple of steps that can be printed, added and removed.

Opens nothing. The helper is asked for a `Tunnel`, nouns only, and computes the steps here; a caller that could send
steps would be a caller with CAP_NET_ADMIN.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from proxyvpn.errors import UsageError

type_checking_placeholder = UsageError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a proxy listens: one address, one TCP port (1 to 65535)."""

    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What the helper is asked for: nouns only, checked when made."""

    proxies: tuple[Endpoint, ...]
    resolvers: tuple[IPAddress, ...]
    bypass: tuple[IPNetwork, ...]
    killswitch: bool
    queues: int
