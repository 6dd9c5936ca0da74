"""Pure: what resolv.conf(5) says, and what was typed -> the resolvers that DNS may reach directly.

Loopback resolvers are a stub on this machine: always reachable, so never in the list; where there is nothing else,
systemd-resolved's own file tells the real ones. Addresses with a scope (`fe80::1%eth0`) are skipped with a warning,
since a firewall set cannot hold one. What DHCP writes there is chosen by whoever answers on that network: what the
tunnel would refuse is skipped, and never a reason for it to end. Opens nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from proxyvpn.errors import UsageError
from proxyvpn.mark import POOL4, POOL6, TUN4, TUN6

IPAddress = IPv4Address | IPv6Address

RESOLV_CONF: Final = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF: Final = "/run/systemd/resolve/resolv.conf"
MOST: Final = 8


@dataclass(frozen=True, slots=True)
class Resolvers:
    """`addresses` to allow, in order, each once; `warnings` for the person."""

    addresses: tuple[IPAddress, ...]
    warnings: tuple[str, ...] = ()


def choose(
    resolv_conf: str, systemd: str, dns: tuple[IPAddress, ...], allow: tuple[IPAddress, ...], captured: bool = False
) -> Resolvers:
    """Give the resolvers to allow: `dns`, else those of the two files' texts (empty: no such file); `allow` besides.

    `captured`: they are for names of direct domains only, and there may be none.
    """
    found = Resolvers(dns) if dns else _from_files(resolv_conf, systemd)
    addresses = tuple(dict.fromkeys((*found.addresses, *allow)))
    warnings = found.warnings
    if not addresses and not captured:
        warnings = (
            *warnings,
            f"no DNS resolver is let through: {RESOLV_CONF} names none outside this machine (add one: --allow-dns IP)",
        )
    if captured and not dns and not re.search(r"^nameserver[ \t]", resolv_conf, re.MULTILINE):
        warnings = (
            *warnings,
            f"{RESOLV_CONF} names no resolver, so programs ask 127.0.0.1, where nobody may listen: write any address "
            "into it, which need not exist (nameserver 192.0.2.53)",
        )
    if len(addresses) > MOST and not dns and len(allow) <= MOST:
        warnings = (*warnings, f"only {MOST} of {len(addresses)} DNS resolvers are let through")
        addresses = (*allow, *(each for each in addresses if each not in allow))[:MOST]
    return Resolvers(addresses, warnings)


def parse(text: str, source: str = RESOLV_CONF) -> Resolvers:
    """Give every `nameserver` of resolv.conf text that is an address outside this machine."""
    addresses: list[IPAddress] = []
    warnings: list[str] = []
    for line in text.splitlines():
        found = re.match(r"nameserver[ \t]+(\S+)", line)
        if found is None:
            continue
        address, problem = _address(found[1])
        if problem:
            warnings.append(f"{source}: nameserver {_printable(found[1])} is skipped: {problem}")
        elif address is not None and not (address.is_loopback or address.is_unspecified):
            addresses.append(address)
    return Resolvers(tuple(dict.fromkeys(addresses)), tuple(warnings))


def parse_address(text: str, option: str) -> IPAddress:
    """Give the address that was typed for `option`. Raises UsageError."""
    address, problem = _address(text)
    if address is None:
        raise UsageError(f"{option} {_printable(text)} cannot be used", problem, f"write it like {option} 192.0.2.53")
    if address.is_unspecified:
        raise UsageError(f"{option} {address} is not the address of a resolver")
    if address.is_loopback:
        raise UsageError(
            f"{option} {address} is on this machine",
            "loopback is always open; what matters is whom that resolver asks",
            f"give the resolver behind it: {option} 192.0.2.53",
        )
    return address


def _from_files(resolv_conf: str, systemd: str) -> Resolvers:
    first = parse(resolv_conf)
    if first.addresses:
        return first
    second = parse(systemd, SYSTEMD_RESOLV_CONF)
    return Resolvers(second.addresses, first.warnings + second.warnings)


def _address(text: str) -> tuple[IPAddress | None, str]:
    """Give the address, or None and the reason."""
    if "%" in text:
        return None, "addresses with a scope (%…) are not possible"
    try:
        address = ip_address(text)
    except ValueError:
        return None, "not an IP address"
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_multicast or address == IPv4Address("255.255.255.255"):
        return None, "the address of no single host"
    if address in (TUN4, TUN6) or address in (POOL4 if address.version == 4 else POOL6):
        return None, "the tunnel's own address"
    if isinstance(address, IPv6Address) and address.is_link_local:
        return None, "a link-local address says nothing without its scope"
    return address, ""


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:60])
