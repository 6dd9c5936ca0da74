"""Pure: what the kernel must hold for a tunnel, as an ordered tuple of steps that can be printed, added and removed.

Opens nothing. The helper is asked for a `Tunnel`, nouns only, and computes the steps here; a caller that could send
steps would be a caller with CAP_NET_ADMIN. The order is the theory:

    killswitch on:   firewall, link, addresses | routes, rules, older ends   (nothing leaves from the first step on)
    killswitch off:            link, addresses | routes, rules, firewall     (nothing is marked before the way exists)

What stands before the bar is done at Open, the rest at Engage; undone in reverse. In the routes the unreachable default
comes first, so that there is no moment without one. In the rules the two for what comes out of the TUN come first:
a container's answer must never go out by a default route.

With the killswitch there is a second layer below the firewall, for when somebody flushes that (`unbound`): a connection
that is not bound to an address finds the TUN by its routing alone, and gets the TUN's address, by which it stays there.
Answers on connections that came in have an address of the machine's and are not touched, whatever rp_filter is. What
may leave directly is excepted first. What a program binds to an address or a device is the firewall's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network

from proxyvpn import chains, ruleset
from proxyvpn.errors import KernelError
from proxyvpn.mark import (
    DIRECT,
    EXCLUDED,
    LINK_MTU,
    LINK_QUEUE,
    MARK,
    MASK,
    NFT_TABLE,
    POOL4,
    POOL6,
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
    TUN4,
    TUN6,
    UNREACHABLE_METRIC,
)
from proxyvpn.tunnel import DNS, Connection, Endpoint, Host, IPAddress, IPNetwork, Tunnel, collapsed

__all__ = [
    "Address", "Connection", "Endpoint", "Firewall", "Host", "IPAddress", "IPNetwork", "Link", "NameTaken",
    "Neighbours", "NotPossible", "OpenedHere", "Route", "Rule", "Step", "Tunnel", "device_line", "engaging", "firewall",
    "moved", "opening", "steps", "sysctls", "unbound",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Firewall:
    """The whole firewall, loaded in one transaction (for each family, with iptables)."""

    tunnel: Tunnel
    host: Host

    @property
    def text(self) -> str:
        if self.host.backend == "iptables":
            return "\n".join(
                f"{program} --noflush <<'EOF'\n{script}EOF"
                for program, script in chains.scripts(self.tunnel, self.host).items()
            )
        return f"nft -f - <<'EOF'\n{ruleset.text(self.tunnel, self.host)}EOF"

    @property
    def line(self) -> str:
        if self.host.backend == "iptables":
            return " && ".join(f"{name} --noflush <<'EOF' …" for name in chains.programs(self.host))
        number = ruleset.text(self.tunnel, self.host).count("chain ")
        return f"nft -f - <<'EOF' … (inet {NFT_TABLE}, arp {NFT_TABLE}: {number} chains)"

    @property
    def undo(self) -> str:
        if self.host.backend == "iptables":
            return " && ".join(
                f"{name} --noflush <<'EOF' … (without our chains)" for name in chains.programs(self.host)
            )
        return f"nft delete table inet {NFT_TABLE}; nft delete table arp {NFT_TABLE}"


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Forget the neighbours that did not answer yet: packets that wait for one have passed the firewall already."""

    version: int

    @property
    def text(self) -> str:
        return f"ip -{self.version} neigh flush all nud incomplete"

    @property
    def line(self) -> str:
        return self.text

    @property
    def undo(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Link:
    """The TUN device, up, with its sysctls set before; it ends with its last queue."""

    ifname: str
    queues: int
    sysctls: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        return "\n".join(
            (
                f"ip tuntap add dev {self.ifname} mode tun user 0 multi_queue vnet_hdr",
                f"ip link set dev {self.ifname} mtu {LINK_MTU} txqueuelen {LINK_QUEUE} alias proxyvpn",
                *(f"sysctl -w {name}={value}" for name, value in self.sysctls),
                f"ip link set dev {self.ifname} up",
            )
        )

    @property
    def line(self) -> str:
        return "; ".join(self.text.splitlines())

    @property
    def undo(self) -> str:
        return f"ip link del dev {self.ifname}"


@dataclass(frozen=True, slots=True)
class Address:
    """An address of the TUN: without an IPv4 one the kernel drops all that comes out of it (rp_filter)."""

    ifname: str
    address: IPAddress

    @property
    def text(self) -> str:
        length, more = ("128", " nodad") if isinstance(self.address, IPv6Address) else ("32", "")
        return f"ip -{self.address.version} address add {self.address}/{length} dev {self.ifname}{more}"

    @property
    def line(self) -> str:
        return self.text

    @property
    def undo(self) -> str:
        return ""  # it goes with the link


@dataclass(frozen=True, slots=True)
class Route:
    """A default route in our table; through no device: unreachable, and the last to be chosen."""

    version: int
    ifname: str

    @property
    def text(self) -> str:
        what = f"default dev {self.ifname}" if self.ifname else f"unreachable default metric {UNREACHABLE_METRIC}"
        return f"ip -{self.version} route add {what} table {TABLE} protocol {PROTOCOL}"

    @property
    def line(self) -> str:
        return self.text

    @property
    def undo(self) -> str:
        return self.text.replace(" add ", " del ")


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule with one of our preferences: of what came in by a link, from or to a network, or of a user."""

    version: int
    preference: int
    ifname: str = ""
    network: IPNetwork | None = None
    port: int = 0
    user: int = 0

    @property
    def text(self) -> str:
        what = {
            PREFERENCE_ATTACHED: f"iif {self.ifname} lookup main suppress_prefixlength 0",
            PREFERENCE_STRAY: f"iif {self.ifname} blackhole",
            PREFERENCE_MARK: f"fwmark {MARK:#x}/{MASK:#x} lookup {TABLE}",
            PREFERENCE_DIRECT: f"fwmark {DIRECT:#x}/{MASK:#x} lookup main",
            PREFERENCE_POOL: f"to {self.network} lookup {TABLE}",
            PREFERENCE_ALLOWED: f"to {self.network} lookup main",
            PREFERENCE_DHCP: "ipproto udp sport 68 dport 67 lookup main",
            PREFERENCE_ANSWER: f"ipproto udp sport {self.port} lookup main",
            PREFERENCE_EXCLUDED: f"fwmark {EXCLUDED:#x}/{MASK:#x} lookup main",
            PREFERENCE_USER: f"uidrange {self.user}-{self.user} lookup main",
            PREFERENCE_UNBOUND: f"from {self.network} lookup {TABLE}",
            PREFERENCE_NO_ROUTE: f"ipproto {f'udp dport {self.port}' if self.port else 'tcp'} lookup {TABLE}",
        }[self.preference]
        return f"ip -{self.version} rule add pref {self.preference} {what} protocol {PROTOCOL}"

    @property
    def line(self) -> str:
        return self.text

    @property
    def undo(self) -> str:
        return self.text.replace(" add ", " del ")


@dataclass(frozen=True, slots=True)
class OpenedHere:
    """End the TCP connections that were opened here before: their programs connect anew, through the tunnel."""

    connections: tuple[Connection, ...]

    @property
    def text(self) -> str:
        return "ss --kill --tcp … (opened here before, but not to a proxy, a resolver or a bypassed network)"

    @property
    def line(self) -> str:
        return self.text

    @property
    def undo(self) -> str:
        return ""


class NameTaken(KernelError):
    """Somebody else's link has the name."""


class NotPossible(KernelError):
    """This kernel cannot do a step that a tunnel can do without."""


Step = Firewall | Neighbours | Link | Address | Route | Rule | OpenedHere


def steps(tunnel: Tunnel, host: Host) -> tuple[Step, ...]:
    """Give every step of `up` in its order. `.text` is what a person would type, `.line` the same on one line."""
    return opening(tunnel, host) + engaging(tunnel, host)


def opening(tunnel: Tunnel, host: Host) -> tuple[Step, ...]:
    """Give the steps of Open: the link, and with the killswitch the firewall before it."""
    link = Link(host.ifname, tunnel.queues, sysctls(host))
    addresses = [Address(host.ifname, each) for each in (TUN4, TUN6) if each.version == 4 or host.ipv6]
    return (*(firewall(tunnel, host) if tunnel.killswitch else ()), link, *addresses)


def engaging(tunnel: Tunnel, host: Host) -> tuple[Step, ...]:
    """Give the steps of Engage: routes and rules, and without the killswitch the firewall after them.

    With it, what was opened before ends when there is a way to open it anew.
    """
    found: list[Step] = []
    for version in _versions(host):
        found += [Route(version, "")] if tunnel.killswitch else []
        found.append(Route(version, host.ifname))
    preferences = (PREFERENCE_ATTACHED, PREFERENCE_STRAY, PREFERENCE_MARK, PREFERENCE_NO_ROUTE)
    for version in _versions(host):
        found += [Rule(version, each, _of_link(each, host.ifname)) for each in preferences]
        found += [Rule(version, PREFERENCE_DIRECT)] if tunnel.dials else []
        found += naming(version) if tunnel.captures_names else ()
        found += unbound(tunnel, version) if tunnel.killswitch else ()
    if not tunnel.killswitch:
        return (*found, *firewall(tunnel, host))
    return (*found, OpenedHere(tuple(each for each in host.opened_here if not _goes_on(tunnel, each))))


def naming(version: int) -> tuple[Rule, ...]:
    """Give the rules that captured DNS needs besides."""
    pool = POOL4 if version == 4 else POOL6
    return Rule(version, PREFERENCE_POOL, network=pool), Rule(version, PREFERENCE_NO_ROUTE, port=DNS)


def unbound(tunnel: Tunnel, version: int) -> tuple[Rule, ...]:
    """Give the rules by which a connection that is bound to nothing finds the TUN without a mark (see above).

    The first lookup of an IPv4 connection is from 0.0.0.0. That of IPv6 has no source; the rule asks which one it would
    get (FIB_RULE_FIND_SADDR, for which ip(8) has no word).
    """
    resolvers = () if tunnel.captures_names else tunnel.resolvers
    elsewhere = (each.address for each in tunnel.proxies if not each.address.is_loopback)
    networks = [*map(ip_network, elsewhere), *map(ip_network, resolvers)]
    allowed = sorted({each for each in networks if each.version == version}, key=str)
    bypass = collapsed(tunnel.bypass, version)
    sources = (ip_network("0.0.0.0/32"), ip_network(TUN4)) if version == 4 else (ip_network(TUN6),)
    return (
        *(Rule(version, PREFERENCE_ALLOWED, network=each) for each in dict.fromkeys((*allowed, *bypass))),
        *((Rule(version, PREFERENCE_DHCP),) if version == 4 else ()),
        *(Rule(version, PREFERENCE_ANSWER, port=each) for each in tunnel.inbound),
        *((Rule(version, PREFERENCE_EXCLUDED),) if tunnel.excludes else ()),
        *(Rule(version, PREFERENCE_USER, user=each) for each in tunnel.excluded_users),
        *(Rule(version, PREFERENCE_UNBOUND, network=each) for each in sources),
    )


def moved(old: Tunnel, new: Tunnel, host: Host) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Give the rules to add before the firewall's sets are replaced, and those to remove afterwards."""
    before, after = engaging(old, host), engaging(new, host)
    return (
        tuple(each for each in after if isinstance(each, Rule) and each not in before),
        tuple(each for each in before if isinstance(each, Rule) and each not in after),
    )


def sysctls(host: Host) -> tuple[tuple[str, str], ...]:
    """Give what is set on the TUN before it is up, so that the kernel sends nothing of its own into it.

    rp_filter 2 works whatever `all` says. The settings end with the device.
    """
    four = (("ipv4", "rp_filter", "2"),)
    six = (
        ("ipv6", "disable_ipv6", "0"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "addr_gen_mode", "1"),
        ("ipv6", "router_solicitations", "0"),
    )
    chosen = (*four, *six) if host.ipv6 else four
    return tuple((f"net.{family}.conf.{host.ifname}.{name}", value) for family, name, value in chosen)


def device_line(ifname: str) -> str:
    """Give the words for a link of ours that was found in the kernel."""
    return f"ip link add dev {ifname}"


def _goes_on(tunnel: Tunnel, each: Connection) -> bool:
    """Say whether an older connection may go on directly, as new ones to its far end may."""
    proxy = any((each.remote, each.remote_port) == (known.address, known.port) for known in tunnel.proxies)
    if each.remote_port == DNS:
        return proxy or (each.remote in tunnel.resolvers and not tunnel.captures_names)
    return proxy or any(each.remote in network for network in tunnel.bypass)


def firewall(tunnel: Tunnel, host: Host) -> tuple[Step, ...]:
    """Give the steps of the firewall; done again they put it back, without a gap where it is still there."""
    return (Firewall(tunnel, host), *(Neighbours(version) for version in _versions(host)))


def _versions(host: Host) -> tuple[int, ...]:
    return (4, 6) if host.ipv6 else (4,)


def _of_link(preference: int, ifname: str) -> str:
    return ifname if preference in (PREFERENCE_ATTACHED, PREFERENCE_STRAY) else ""
