"""Links, addresses, routes, rules and neighbours, over rtnetlink; the only user of pyroute2.

Each add stands beside its remove. Adding what is there is success, and so is removing what is not. Only what carries
our tag is ever removed: rules and routes by protocol number, a link by name and alias. See rtnetlink(7).
A family is always named: without one pyroute2 means IPv4.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from proxyvpn.errors import KernelError, PrivilegeMissing
from proxyvpn.mark import (
    DIRECT,
    EXCLUDED,
    LINK_ALIAS,
    LINK_MTU,
    LINK_NUMBERS,
    LINK_PREFIX,
    LINK_QUEUE,
    MARK,
    MASK,
    PREFERENCE_ALLOWED,
    PREFERENCE_ANSWER,
    PREFERENCE_ATTACHED,
    PREFERENCE_DHCP,
    PREFERENCE_DIRECT,
    PREFERENCE_EXCLUDED,
    PREFERENCE_MARK,
    PREFERENCE_NO_ROUTE,
    PREFERENCE_POOL,
    PREFERENCE_STRAY,
    PREFERENCE_UNBOUND,
    PREFERENCE_USER,
    PROTOCOL,
    TABLE,
    UNREACHABLE_METRIC,
)
from proxyvpn.plan import Address, IPNetwork, Link, Neighbours, Route, Rule, device_line

_MAIN: Final = 254
_NODAD: Final = 0x02
_INCOMPLETE: Final = 0x01
_RTN_UNREACHABLE: Final = 7
_IFF_UP: Final = 1
_FIND_SOURCE: Final = 0x10000
"""FIB_RULE_FIND_SADDR of linux/fib_rules.h."""
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_NARROWING: Final = ("ip_proto", "sport_range", "dport_range", "uid_range")
"""What tells rules of one preference apart, beside their networks."""
_ABSENT: Final = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

Owned = Link | Address | Neighbours | Route | Rule


@dataclass(frozen=True, slots=True)
class Tagged:
    """Something in the kernel that carries our tag: how a person would add it, and the kernel's own words for it."""

    line: str
    kind: str
    message: dict[str, Any]


class Netlink:
    """One rtnetlink socket."""

    def __init__(self) -> None:
        self._route = IPRoute()

    def add(self, step: Owned) -> None:
        """Let the kernel hold `step`. Raises KernelError, PrivilegeMissing."""
        with _explained(step.line, errno.EEXIST):
            if isinstance(step, Link):
                self._add_link(step)
            elif isinstance(step, Address):
                self._route.addr("add", **_address(step))
            elif isinstance(step, Neighbours):
                self._forget(_FAMILIES[step.version])
            elif isinstance(step, Route):
                self._forget_stale(step)
                self._route.route("add", **_route(step))
            else:
                self._route.rule("add", **_rule(step))

    def remove(self, step: Owned) -> None:
        """Let the kernel no longer hold `step`. Raises KernelError, PrivilegeMissing."""
        with _explained(step.line, *_ABSENT):
            if isinstance(step, Link):
                for name, each in self._links():  # not by its name alone: that may be somebody else's
                    if name == step.ifname:
                        self._route.link("del", index=each["index"])
            elif isinstance(step, Address):
                self._route.addr("del", **_address(step))
            elif isinstance(step, Route):
                self._route.route("del", **_route(step))
            elif isinstance(step, Rule):
                self._route.rule("del", **_rule(step))

    def tagged(self) -> tuple[Tagged, ...]:
        """Give everything that carries our tag, in the order in which it is to be removed."""
        found: list[Tagged] = []
        for version, family in _families():
            found += [
                Tagged(_rule_line(version, each), "rule", each)
                for each in self._route.rule("dump", family=family)
                if each.get("protocol") == PROTOCOL
            ]
            found += [
                Tagged(_route_line(version, each), "route", each)
                for each in self._route.route("dump", family=family)
                if each["proto"] == PROTOCOL and each["family"] == family
            ]
        found += [Tagged(device_line(name), "link", each) for name, each in self._links()]
        return tuple(sorted(found, key=lambda each: ("rule", "route", "link").index(each.kind)))

    def missing(self, steps: tuple[Owned, ...]) -> tuple[Owned, ...]:
        """Give those of `steps` that the kernel does not hold (any more), in their order; a link must be up, too."""
        lines = {each.line for each in self.tagged()}
        links = {name: each for name, each in self._links() if each["flags"] & _IFF_UP}
        held = {
            (each["index"], each.get("local") or each.get("address"))
            for _, family in _families()
            for each in (self._route.addr("dump", family=family) if links else ())
        }
        return tuple(each for each in steps if not _is_held(each, lines, links, held))

    def has_link(self, ifname: str) -> bool:
        """Say whether there is a link of ours of this name, up or down."""
        return any(name == ifname for name, _ in self._links())

    def defaults(self) -> tuple[str, ...]:
        """Give the default routes of the main table, as a person would name them."""
        found = [
            f"IPv{version} by {_name(_get(each, 'oif') or 0)}"
            + (f" ({_get(each, 'gateway')})" if _get(each, "gateway") else "")
            for version, family in _families()
            for each in self._route.route("dump", family=family, table=_MAIN)
            if each["family"] == family and not each["dst_len"] and _get(each, "oif")
        ]
        return tuple(sorted(set(found)))

    def remove_tagged(self, found: Tagged) -> None:
        """Remove what tagged() gave. Raises KernelError, PrivilegeMissing."""
        with _explained(found.line, *_ABSENT):
            if found.kind == "link":
                self._route.link("del", index=found.message["index"])
            elif found.kind == "rule":
                self._route.rule("del", **_rule_found(found.message))
            else:
                self._route.route("del", **_route_found(found.message))

    def check_table(self) -> None:
        """Raise KernelError when our routing table has somebody else's route: what is captured would follow it."""
        for version, family in _families():
            for each in self._route.route("dump", family=family):
                ours = each["proto"] == PROTOCOL or _get(each, "table") != TABLE
                if each["family"] == family and not ours:
                    raise KernelError(
                        f"the routing table {TABLE} is somebody else's: it has a route without our tag",
                        "",
                        f"see `ip -{version} route show table {TABLE}`",
                    )

    def _add_link(self, step: Link) -> None:
        """The device is there already, made by its first queue; it is set up, and its sysctls before it is up."""
        index = _index(step.ifname)
        self._route.link("set", index=index, mtu=LINK_MTU, txqlen=LINK_QUEUE, ifalias=LINK_ALIAS)
        for name, value in step.sysctls:
            _write_sysctl(name, value)
        self._route.link("set", index=index, state="up")

    def _forget_stale(self, step: Route) -> None:
        """Remove our default route through an earlier TUN, which a dying worker may still hold: it is in the way."""
        routes = [each for each in self.tagged() if each.kind == "route" and each.line != step.line]
        for each in routes if step.ifname else ():
            if each.message["family"] == _FAMILIES[step.version] and each.message["type"] != _RTN_UNREACHABLE:
                self.remove_tagged(each)

    def _forget(self, family: int) -> None:
        for each in tuple(self._route.neigh("dump", family=family)):
            if each["state"] & _INCOMPLETE:
                with _explained("ip neigh flush all nud incomplete", *_ABSENT):
                    self._route.neigh("del", family=family, ifindex=each["ifindex"], dst=each.get("dst"))

    def _links(self) -> Iterator[tuple[str, dict[str, Any]]]:
        names = {f"{LINK_PREFIX}{number}" for number in LINK_NUMBERS}
        for each in self._route.link("dump"):
            if each.get("ifname") in names and each.get("ifalias") == LINK_ALIAS and _kind(each) == "tun":
                yield each.get("ifname"), each


def is_taken(name: str) -> bool:
    """Say whether a link has this name, or has it as another one (IFLA_ALT_IFNAME), which no list of names shows."""
    try:
        return socket.if_nametoindex(name) != 0
    except OSError:
        return False


def has_ipv6() -> bool:
    """Say whether this kernel has IPv6 at all (it may still be switched off on every link)."""
    return os.path.exists("/proc/sys/net/ipv6")


def _families() -> tuple[tuple[int, int], ...]:
    return tuple(pair for pair in _FAMILIES.items() if pair[0] == 4 or has_ipv6())


def _is_held(step: Owned, lines: set[str], links: dict[str, dict[str, Any]], held: set[tuple[int, str]]) -> bool:
    if isinstance(step, Link):
        return step.ifname in links
    if isinstance(step, Address):
        return step.ifname in links and (links[step.ifname]["index"], str(step.address)) in held
    return step.line in lines


def _address(step: Address) -> dict[str, Any]:
    more = {"flags": _NODAD} if isinstance(step.address, IPv6Address) else {}
    return {
        "family": _FAMILIES[step.address.version],
        "index": _index(step.ifname),
        "address": str(step.address),
        "prefixlen": step.address.max_prefixlen,
        **more,
    }


def _route(step: Route) -> dict[str, Any]:
    wanted: dict[str, Any] = {"family": _FAMILIES[step.version], "dst": "default", "table": TABLE, "proto": PROTOCOL}
    if step.ifname:
        return {**wanted, "oif": _index(step.ifname)}
    return {**wanted, "type": "unreachable", "priority": UNREACHABLE_METRIC}


def _rule(step: Rule) -> dict[str, Any]:
    what: dict[int, dict[str, Any]] = {
        PREFERENCE_ATTACHED: {"iifname": step.ifname, "table": _MAIN, "FRA_SUPPRESS_PREFIXLEN": 0},
        PREFERENCE_STRAY: {"iifname": step.ifname, "action": "blackhole"},
        PREFERENCE_MARK: {"fwmark": MARK, "fwmask": MASK, "table": TABLE},
        PREFERENCE_DIRECT: {"fwmark": DIRECT, "fwmask": MASK, "table": _MAIN},
        PREFERENCE_POOL: {**_network(step, "dst"), "table": TABLE},
        PREFERENCE_ALLOWED: {**_network(step, "dst"), "table": _MAIN},
        PREFERENCE_DHCP: {
            "ip_proto": socket.IPPROTO_UDP,
            "sport_range": "68:68",
            "dport_range": "67:67",
            "table": _MAIN,
        },
        PREFERENCE_ANSWER: {
            "ip_proto": socket.IPPROTO_UDP,
            "sport_range": f"{step.port}:{step.port}",
            "table": _MAIN,
        },
        PREFERENCE_EXCLUDED: {"fwmark": EXCLUDED, "fwmask": MASK, "table": _MAIN},
        PREFERENCE_USER: {"FRA_UID_RANGE": f"{step.user}:{step.user}", "table": _MAIN},
        PREFERENCE_UNBOUND: {**_network(step, "src"), "table": TABLE, **_find_source(step)},
        PREFERENCE_NO_ROUTE: {**_what_for(step), "table": TABLE},
    }
    return {
        "family": _FAMILIES[step.version],
        "priority": step.preference,
        "FRA_PROTOCOL": PROTOCOL,
        **what[step.preference],
    }


def _what_for(step: Rule) -> dict[str, Any]:
    if not step.port:
        return {"ip_proto": socket.IPPROTO_TCP}
    return {"ip_proto": socket.IPPROTO_UDP, "dport_range": f"{step.port}:{step.port}"}


def _network(step: Rule, end: str) -> dict[str, Any]:
    if step.network is None:
        return {}
    return {end: str(step.network.network_address), f"{end}_len": step.network.prefixlen}


def _find_source(step: Rule) -> dict[str, Any]:
    return {"flags": _FIND_SOURCE} if step.version == 6 else {}


def _network_found(message: Any, end: str) -> IPNetwork | None:
    length = message[f"{end}_len"]
    nowhere = IPv4Address(0) if message["family"] == socket.AF_INET else IPv6Address(0)
    return ip_network(f"{_get(message, end) or nowhere}/{length}") if length else None


def _rule_line(version: int, message: dict[str, Any]) -> str:
    preference = _get(message, "priority") or 0
    try:
        network = _network_found(message, "src" if preference == PREFERENCE_UNBOUND else "dst")
        ports = {PREFERENCE_ANSWER: "sport_range", PREFERENCE_NO_ROUTE: "dport_range"}.get(preference)
        port = int(((_get(message, ports) if ports else None) or "0:0").partition(":")[0])
        user = int((_get(message, "uid_range") or "0:0").partition(":")[0])
        return Rule(version, preference, _get(message, "iifname") or "", network, port, user).line
    except KeyError:  # of another version of ours
        return f"ip -{version} rule add pref {preference} protocol {PROTOCOL}"


def _route_line(version: int, message: dict[str, Any]) -> str:
    if message["type"] == _RTN_UNREACHABLE:
        return Route(version, "").line
    return Route(version, _name(_get(message, "oif") or 0)).line


def _rule_found(message: Any) -> dict[str, Any]:
    """Give the words that make the kernel remove a rule with this preference and our tag, whatever else it says."""
    which = {"family": message["family"], "priority": _get(message, "priority") or 0, "FRA_PROTOCOL": PROTOCOL}
    for end in ("src", "dst"):
        if (network := _network_found(message, end)) is not None:
            which |= {end: str(network.network_address), f"{end}_len": network.prefixlen}
    return which | {name: value for name in _NARROWING if (value := _get(message, name)) is not None}


def _route_found(message: Any) -> dict[str, Any]:
    destination = _get(message, "dst")
    return {
        "family": message["family"],
        "dst": f"{destination}/{message['dst_len']}" if destination else "default",
        "table": _get(message, "table"),
        "proto": PROTOCOL,
        "type": message["type"],
        **({"priority": priority} if (priority := _get(message, "priority")) else {}),
    }


def _get(message: Any, name: str) -> Any:
    return message.get(name)


def _index(ifname: str) -> int:
    try:
        return socket.if_nametoindex(ifname)
    except OSError as error:  # Python gives it no number
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"if{index}"


def _kind(message: Any) -> str | None:
    kind: str | None = message.get(("linkinfo", "kind"))
    return kind


def _write_sysctl(name: str, value: str) -> None:
    """Write /proc/sys/…; a kernel that does not know the setting does not need it.

    In bytes: a text file would import its codec, which may be out of reach once the uid is given up.
    """
    path = f"/proc/sys/{name.replace('.', '/')}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelError(f"sysctl -w {name}={value} failed", error.strerror or "") from error


@contextlib.contextmanager
def _explained(line: str, *harmless: int) -> Iterator[None]:
    """Turn the kernel's refusal of `line` into words; error numbers in `harmless` are success."""
    try:
        yield
    except NetlinkError as error:
        if error.code in harmless:
            return
        if error.code in (errno.EPERM, errno.EACCES):
            raise PrivilegeMissing(f"the kernel refused: {line}", os.strerror(error.code)) from error
        raise KernelError(f"the kernel refused: {line}", str(error)) from error
    except OSError as error:
        if error.errno in harmless:
            return
        raise KernelError(f"the kernel refused: {line}", error.strerror or str(error)) from error
