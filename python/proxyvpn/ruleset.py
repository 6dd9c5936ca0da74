"""Pure: the nftables ruleset of a tunnel as text. It is what a person reads, what the tests compare, what is loaded.

In words: every TCP packet that this machine originates or forwards gets MARK, but not to itself, not in answer on
connections that came in, not to the proxies, the resolvers' port 53 and the bypass networks. With the killswitch the
guard lets nothing else out.

Where the worker answers names, DNS is marked, too, over UDP and TCP, whomever it is for, and nothing to port 53 leaves
but what the helper connected itself (DIRECT).

A connection came in if *we answered its SYN*. `ct direction reply` alone is no proof: conntrack first sees an older
outgoing flow when its far end sends, and then calls our side the reply; nor is a SYN from outside, which the far end
can send at will (an established socket answers it with an ACK, never with a SYN/ACK).

The guard sits in postrouting, since only there `oifname` is true: in the output hook it is stale for packets that the
mark re-routes, and a program may have bound itself to a device. `refuse` only makes programs notice at once.

Both what a program sends into the TUN and what the worker sends to the proxy are known to conntrack, and it would keep
each for two minutes after its end: some hundred connections a second would fill its table, and then every packet of the
machine is dropped. So what this machine originates is forgotten soon after its end, where the kernel can be told so.

Built from ipaddress objects and constants only: text of a caller's would be a way to `include` files. See nft(8).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from proxyvpn.mark import DIRECT, EXCLUDED, INBOUND, MARK, NFT_TABLE, POOL4, POOL6, TUN4, TUN6
from proxyvpn.tunnel import Connection, Endpoint, Host, IPAddress, IPNetwork, Tunnel, collapsed

_SYN_ACK: Final = "tcp flags & (fin | syn | rst | ack) == syn | ack"
_IN: Final = f"ct mark {INBOUND:#x}"
_CAPTURED: Final = f"ct mark {MARK:#x}"
_CAPTURE: Final = f"ct mark set {MARK:#x} meta mark set {MARK:#x}"
_DIRECT: Final = f"meta mark {DIRECT:#x}"
_EXCLUDED: Final = f"meta mark {EXCLUDED:#x}"
_DNS: Final = "meta l4proto { tcp, udp } th dport 53"
_ELEMENTS_PER_LINE: Final = 4
_OWN: Final = "fib saddr type != unicast"
"""From an address of this machine, or from none yet; what is forwarded has another machine's."""
_AFTER_END: Final = 2
"""Seconds for which conntrack remembers a connection of ours that has ended; its own values are 10 and 120."""
_CHAINS: Final = ("shield", "arrivals", "capture", "refuse", "guard")
_TYPES: Final = {
    "proxy": "type {0}_addr . inet_service",
    "sender": "type {0}_addr",
    "resolver": "type {0}_addr",
    "bypass": "type {0}_addr; flags interval",
    "earlier": "type {0}_addr . inet_service . {0}_addr . inet_service",
    "tun": "type {0}_addr",
}


def text(tunnel: Tunnel, host: Host) -> str:
    """Give the ruleset for a machine that has no table of ours yet."""
    return "\n".join([*_inet(tunnel, host, elements(tunnel, host)), *_arp()]) + "\n"


def take_over(tunnel: Tunnel, host: Host) -> str:
    """Give the ruleset for a machine with tables of ours: emptied and filled in one transaction.

    No base chain is ever deleted: between the old one and the new one packets would pass.
    """
    names = [f"{kind}{version}" for kind in _TYPES for version in _versions(host)]
    lines = [f"table inet {NFT_TABLE} {{", *_sets(host, {}), "}", f"table arp {NFT_TABLE} {{", "}"]
    lines += [f"flush table inet {NFT_TABLE}", f"flush table arp {NFT_TABLE}"]
    lines += [f"flush set inet {NFT_TABLE} {name}" for name in names]
    return "\n".join(lines) + "\n" + text(tunnel, host)


def replace(name: str, values: tuple[str, ...]) -> str:
    """Give the transaction that replaces the elements of one set."""
    lines = [f"flush set inet {NFT_TABLE} {name}"]
    return "\n".join(lines + ([add(name, values)] if values else [])) + "\n"


def add(name: str, values: tuple[str, ...]) -> str:
    """Give the command that adds elements to a set; those that are there already do no harm."""
    return f"add element inet {NFT_TABLE} {name} {{ {', '.join(values)} }}"


def delete(kinds: Iterable[str] = ("inet", "arp")) -> str:
    """Give the transaction that removes our tables of these kinds, whether or not they are there."""
    return "".join(f"table {kind} {NFT_TABLE}\ndelete table {kind} {NFT_TABLE}\n" for kind in kinds)


def is_ours(kind: str, listed: str) -> bool:
    """Say whether a table with our name is ours, by its chains, even when somebody has emptied them.

    `listed` is what `nft list chains KIND` shows, or for arp, where one chain's name proves little, the whole table.
    A table of ours is never without its chains, as it is loaded in one transaction.
    """
    _, _, table = listed.partition(f"table {kind} {NFT_TABLE} {{")
    lines = [line.strip() for line in table.partition("\n}")[0].splitlines() if line.strip() not in ("", "}")]
    names = {line.split()[1] for line in lines if line.startswith("chain ")}
    if kind == "inet":
        return set(_CHAINS) <= names
    return names == {"shield"} and all(line.startswith(("chain ", "type ", f"arp daddr ip {TUN4} ")) for line in lines)


def elements(tunnel: Tunnel, host: Host) -> dict[str, tuple[str, ...]]:
    """Give the elements of every set, by the set's name."""
    found = {**_of_addresses("resolver", tunnel.resolvers), **of_proxies(tunnel.proxies), **of_earlier(host.earlier)}
    found |= {f"bypass{version}": tuple(map(str, collapsed(tunnel.bypass, version))) for version in (4, 6)}
    return found | _of_addresses("tun", (TUN4, TUN6))


def of_proxies(proxies: Iterable[Endpoint]) -> dict[str, tuple[str, ...]]:
    """Give the elements of proxy4 and proxy6, and of sender4 and sender6: where proxies are that are not here."""
    listed = tuple(proxies)
    places = _by_version("proxy", ((each.address, f"{each.address} . {each.port}") for each in listed))
    return places | _of_addresses("sender", (each.address for each in listed if not each.address.is_loopback))


def of_resolvers(resolvers: Iterable[IPAddress]) -> dict[str, tuple[str, ...]]:
    """Give the elements of resolver4 and resolver6."""
    return _of_addresses("resolver", resolvers)


def of_earlier(earlier: Iterable[Connection]) -> dict[str, tuple[str, ...]]:
    """Give the elements of earlier4 and earlier6."""
    return _by_version(
        "earlier",
        ((c.local, f"{c.local} . {c.local_port} . {c.remote} . {c.remote_port}") for c in earlier),
    )


def _of_addresses(kind: str, addresses: Iterable[IPAddress]) -> dict[str, tuple[str, ...]]:
    return _by_version(kind, ((each, str(each)) for each in addresses))


def _by_version(kind: str, pairs: Iterable[tuple[IPAddress, str]]) -> dict[str, tuple[str, ...]]:
    listed = tuple(dict.fromkeys(pairs))
    return {f"{kind}{version}": tuple(t for a, t in listed if a.version == version) for version in (4, 6)}


def _versions(host: Host) -> tuple[int, ...]:
    return (4, 6) if host.ipv6 else (4,)


def _both(host: Host, rule: str) -> list[str]:
    """Give `rule` for IPv4, and for IPv6 if the machine has it: `{ip}` and `{v}` stand for what differs."""
    return [rule.format(ip="ip" if version == 4 else "ip6", v=version) for version in _versions(host)]


def _inet(tunnel: Tunnel, host: Host, filled: dict[str, tuple[str, ...]]) -> list[str]:
    lines = [f"table inet {NFT_TABLE} {{", *_sets(host, filled), "    counter dropped { }", *_timeouts(host)]
    lines += _chain("shield", "type filter hook prerouting priority raw; policy accept;", _shield(host))
    lines += _chain("arrivals", "type filter hook prerouting priority mangle; policy accept;", _arrivals(tunnel, host))
    lines += _chain("capture", "type route hook output priority mangle; policy accept;", _capture(tunnel, host))
    policy = "drop" if tunnel.killswitch else "accept"
    closed = tunnel.killswitch
    refuse = _refuse(tunnel, host) if closed else _refuse_open(tunnel, host)
    guard = _guard(tunnel, host) if closed else _guard_open(tunnel, host)
    lines += _chain("refuse", "type filter hook output priority filter; policy accept;", refuse)
    lines += _chain("guard", f"type filter hook postrouting priority filter; policy {policy};", guard)
    if closed and tunnel.excluded_cgroups:
        lines += _chain("source", "type nat hook postrouting priority srcnat; policy accept;", _source(host))
    return [*lines, "}"]


def _timeouts(host: Host) -> list[str]:
    if not host.timeouts:
        return []
    policy = f"policy = {{ close : {_AFTER_END}, time_wait : {_AFTER_END} }};"
    kinds = ["ip" if version == 4 else "ip6" for version in _versions(host)]
    return [f"    ct timeout soon_{kind} {{ protocol tcp; l3proto {kind}; {policy} }}" for kind in kinds]


def _forget_soon(host: Host) -> list[str]:
    """conntrack takes a time-out for what it has just seen first, and for nothing else."""
    if not host.timeouts:
        return []
    return _both(host, 'ct state new meta nfproto ipv{v} ct timeout set "soon_{ip}"')


def _arp() -> list[str]:
    """Without it the kernel answers ARP for the TUN's address on every interface (arp_ignore=0)."""
    rules = [f"arp daddr ip {TUN4} drop"]
    chain = _chain("shield", "type filter hook input priority filter; policy accept;", rules)
    return [f"table arp {NFT_TABLE} {{", *chain, "}"]


def _chain(name: str, head: str, rules: list[str]) -> list[str]:
    return [f"    chain {name} {{", *(f"        {line}" for line in [head, *rules]), "    }"]


def _sets(host: Host, filled: dict[str, tuple[str, ...]]) -> list[str]:
    lines = []
    for kind, shape in _TYPES.items():
        for version in _versions(host):
            name = f"{kind}{version}"
            lines.append(f"    set {name} {{ {shape.format(f'ipv{version}')};")
            lines += [f"        {line}" for line in _wrapped(filled.get(name, ()))]
            lines.append("    }")
    return lines


def _wrapped(values: tuple[str, ...]) -> list[str]:
    if not values:
        return []
    rows = [
        ", ".join(values[start : start + _ELEMENTS_PER_LINE]) for start in range(0, len(values), _ELEMENTS_PER_LINE)
    ]
    return [f"elements = {{ {(',' + chr(10) + ' ' * 12).join(rows)} }}"]


def _shield(host: Host) -> list[str]:
    """Nobody on an attached network may talk to the TUN's addresses (CVE-2019-14899)."""
    return _both(host, f'{{ip}} daddr @tun{{v}} iifname != {{{{ "lo", "{host.ifname}" }}}} drop')


def _arrivals(tunnel: Tunnel, host: Host) -> list[str]:
    """Forwarded TCP: of containers, virtual machines, neighbours; and their DNS, where it is ours.

    Here a SYN/ACK may as well be the far end's answer to a container. Ours is one from where SYNs may arrive: from a
    bypassed network, or from behind an address of this machine that is translated (a published port).

    What a proxy itself sends through this machine (it is in a container) would come back to it, were it captured, and
    the answers would not reach it.

    What comes out of the TUN gets its connection's mark back, so that a check of its source (firewalld's IPv6_rpfilter,
    rp_filter with src_valid_mark) finds that the way back leads into the TUN.
    """
    from_proxy = "{ip} saddr @sender{v} fib daddr type unicast fib saddr . iif oif exists"
    return [
        *_both(host, f"{from_proxy} ct mark set {EXCLUDED:#x} meta mark set {EXCLUDED:#x} return"),
        f"ct mark {EXCLUDED:#x} meta mark set {EXCLUDED:#x} return",
        _of_no_interest(tunnel),
        f'iifname "{host.ifname}" {_CAPTURED} meta mark set {MARK:#x} return',
        f'iifname "{host.ifname}" return',
        *_only_dns_of_udp(tunnel),
        "fib daddr type { local, broadcast, multicast, anycast } return",
        *_both(host, f"{{ip}} saddr @bypass{{v}} ct direction reply {_SYN_ACK} {_set_in()}"),
        f"ct status dnat ct direction reply {_SYN_ACK} {_set_in()}",
        *_known(),
        *_names(tunnel),
        *_both(host, "{ip} daddr @bypass{v} return"),
        *_forget_soon(host),
        _CAPTURE,
    ]


def _capture(tunnel: Tunnel, host: Host) -> list[str]:
    """TCP that this machine originates, and its DNS, where that is ours."""
    return [
        f"{_EXCLUDED} meta mark set 0",
        *_leave_alone(tunnel, host),
        _of_no_interest(tunnel),
        'oifname "lo" return',
        *_only_dns_of_udp(tunnel),
        *([f"{_DIRECT} return"] if tunnel.dials else []),
        *_forget_soon(host),
        *_both(host, "{ip} daddr . tcp dport @proxy{v} return"),
        f"ct direction reply {_SYN_ACK} {_set_in()}",
        *_known(),
        "fib daddr type local return",
        *_both(host, "{ip} saddr . tcp sport . {ip} daddr . tcp dport @earlier{v} " + _set_in()),
        *([] if tunnel.captures_names else _both(host, "tcp dport 53 {ip} daddr @resolver{v} return")),
        *(_answers(tunnel.inbound, "return") if tunnel.captures_names else []),
        *_names(tunnel),
        *_both(host, "{ip} daddr @bypass{v} return"),
        _CAPTURE,
    ]


def _leave_alone(tunnel: Tunnel, host: Host) -> list[str]:
    """What excluded programs send, whatever it is; only here can a packet's program be asked for.

    A socket that is closed, or that the kernel keeps only for its last words, has no program any more: of TCP, the
    connection's mark then says whose it was. A SYN always has one, so that no other program inherits that mark.
    """
    if not tunnel.excludes:
        return []
    by = [f"meta skuid {{ {_listed(tunnel.excluded_users)} }}"] if tunnel.excluded_users else []
    for path in tunnel.excluded_cgroups:
        if path not in host.cgroups_gone:
            place = f"{host.cgroup_place}/" if host.cgroup_place else ""
            by.append(f'socket cgroupv2 level {path.count("/") + 1} "{place}{path}"')
    return [
        'oifname "lo" return',
        *(f"{each} ct mark set {EXCLUDED:#x} meta mark set {EXCLUDED:#x} return" for each in by),
        f"ct mark {EXCLUDED:#x} tcp flags & (syn | ack) != syn meta mark set {EXCLUDED:#x} return",
    ]


def _source(host: Host) -> list[str]:
    """An excluded program that is known by its cgroup got the TUN's address: no routing rule can ask for a cgroup."""
    return _both(
        host,
        f'{_EXCLUDED} oifname != {{{{ "lo", "{host.ifname}" }}}} {{ip}} saddr @tun{{v}} masquerade',
    )


def _of_no_interest(tunnel: Tunnel) -> str:
    return "meta l4proto != { tcp, udp } return" if tunnel.captures_names else "meta l4proto != tcp return"


def _only_dns_of_udp(tunnel: Tunnel) -> list[str]:
    return ["udp dport != 53 return"] if tunnel.captures_names else []


def _names(tunnel: Tunnel) -> list[str]:
    """A bypassed network's resolvers are no exception: who bypasses a network does not mean its answers."""
    return [f"{_DNS} {_CAPTURE} return"] if tunnel.captures_names else []


def _known() -> list[str]:
    """Do as was done with the connection's first packet: most packets need no more than this.

    The mark of the connection is that of the packet, so that whoever restores marks from conntrack does the same.
    """
    return [f"{_IN} return", f"{_CAPTURED} meta mark set {MARK:#x} return"]


def _set_in() -> str:
    return f"ct mark set {INBOUND:#x} return"


def _refuse(tunnel: Tunnel, host: Host) -> list[str]:
    """Say no to what the guard will drop, so that programs (QUIC first of all) fall back at once.

    Marked TCP passes whatever its device is called here; what must not leave is stopped by the guard.
    """
    return [
        'oifname "lo" return',
        *_circles(host),
        *_strayed(tunnel, host, "reject with icmpx type port-unreachable"),
        *_turned_back(tunnel, host),
        *([f"{_EXCLUDED} return"] if tunnel.excludes else []),
        f"meta l4proto tcp meta mark {MARK:#x} return",
        *([f"udp dport 53 meta mark {MARK:#x} return"] if tunnel.captures_names else []),
        f"{_IN} return",
        *_answers(tunnel.inbound, "return"),
        *_allowed(tunnel, host, "return"),
        'meta l4proto tcp counter name "dropped" reject with tcp reset',
        'counter name "dropped" reject with icmpx type port-unreachable',
    ]


def _guard(tunnel: Tunnel, host: Host) -> list[str]:
    """What may leave; the rest is dropped and counted."""
    return [
        'oifname "lo" accept',
        *_into_tun(tunnel, host, "accept"),
        *_pool(tunnel, host, f'oifname "{host.ifname}"', "accept"),
        f'oifname "{host.ifname}" counter name "dropped" drop',
        *_strayed(tunnel, host, "drop"),
        'ip option lsrr exists counter name "dropped" drop',
        'ip option ssrr exists counter name "dropped" drop',
        *(['exthdr rt exists counter name "dropped" drop'] if host.ipv6 else []),
        f'iifname "{host.ifname}" ct direction reply accept',
        f'meta mark {MARK:#x} counter name "dropped" drop',
        f"{_IN} accept",
        f"{_EXCLUDED} accept",
        *_answers(tunnel.inbound, "accept"),
        *_allowed(tunnel, host, "accept"),
        'counter name "dropped" drop',
    ]


def _answers(inbound: tuple[int, ...], verdict: str) -> list[str]:
    """What a UDP server of this machine says to who asked it first; from its port nothing else may leave."""
    if not inbound:
        return []
    return [f"udp sport {{ {_listed(inbound)} }} fib saddr type local ct direction reply {verdict}"]


def _listed(ports: tuple[int, ...]) -> str:
    return ", ".join(map(str, sorted(set(ports))))


def _allowed(tunnel: Tunnel, host: Host, verdict: str) -> list[str]:
    return [
        *_both(host, f"{{ip}} daddr . tcp dport @proxy{{v}} {verdict}"),
        *_resolvers(tunnel, host, verdict),
        *_both(host, f"{{ip}} daddr @bypass{{v}} {verdict}"),
        *(_icmpv6(verdict) if host.ipv6 else []),
        f"udp sport 68 udp dport 67 {_OWN} {verdict}",
        *([f"udp sport 546 udp dport 547 {_OWN} {verdict}"] if host.ipv6 else []),
    ]


def _resolvers(tunnel: Tunnel, host: Host, verdict: str) -> list[str]:
    direct = [f"meta l4proto tcp {_DIRECT} {verdict}"] if tunnel.dials else []
    if not tunnel.captures_names:
        dns = f"{{ip}} daddr @resolver{{v}} meta l4proto {{{{ tcp, udp }}}} th dport 53 {verdict}"
        return [*direct, *_both(host, dns)]
    refused = "drop" if verdict == "accept" else "reject with icmpx type port-unreachable"
    return [*direct, f'{_DNS} counter name "dropped" {refused}']


def _into_tun(tunnel: Tunnel, host: Host, verdict: str) -> list[str]:
    """What may enter the TUN: nothing of excluded programs, whose traffic would come back to them."""
    circling = [f'oifname "{host.ifname}" {_EXCLUDED} counter name "dropped" drop'] if tunnel.excludes else []
    dns = [f'oifname "{host.ifname}" udp dport 53 {verdict}'] if tunnel.captures_names else []
    return [*(circling if verdict == "accept" else []), f'oifname "{host.ifname}" meta l4proto tcp {verdict}', *dns]


def _turned_back(tunnel: Tunnel, host: Host) -> list[str]:
    """A virtual address that an excluded program was told by another (a stub resolver) leads it nowhere."""
    if not tunnel.excludes:
        return []
    return _pool(tunnel, host, _EXCLUDED, 'counter name "dropped" reject with icmpx type port-unreachable')


def _strayed(tunnel: Tunnel, host: Host, verdict: str) -> list[str]:
    """What is sent to a virtual address by another device, which a program may have bound itself to."""
    return _pool(tunnel, host, f'oifname != {{ "lo", "{host.ifname}" }}', f'counter name "dropped" {verdict}')


def _pool(tunnel: Tunnel, host: Host, by: str, verdict: str) -> list[str]:
    """What is sent to a virtual address. Of containers all of it enters the TUN, where the worker refuses it."""
    if not tunnel.captures_names:
        return []
    return [f"{by} {'ip' if pool.version == 4 else 'ip6'} daddr {pool} {verdict}" for pool in _pools(host)]


def _pools(host: Host) -> tuple[IPNetwork, ...]:
    return (POOL4, POOL6) if host.ipv6 else (POOL4,)


def _icmpv6(verdict: str) -> list[str]:
    kinds = "nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert"
    return [f"icmpv6 type {{ {kinds} }} ip6 hoplimit 255 {verdict}"]


def _circles(host: Host) -> list[str]:
    """Say no to the worker when no route but the TUN is left to a proxy: its connections would go in circles."""
    return _both(host, f'oifname "{host.ifname}" {{ip}} daddr . tcp dport @proxy{{v}} reject with tcp reset')


def _refuse_open(tunnel: Tunnel, host: Host) -> list[str]:
    """Without the killswitch nothing is held back but what a program sends into the TUN on purpose."""
    return [
        *_circles(host),
        *_strayed(tunnel, host, "reject with icmpx type port-unreachable"),
        *_turned_back(tunnel, host),
        *_into_tun(tunnel, host, "return")[1:],
        f'oifname "{host.ifname}" meta l4proto != tcp counter name "dropped" reject with icmpx type port-unreachable',
    ]


def _guard_open(tunnel: Tunnel, host: Host) -> list[str]:
    return [
        *_into_tun(tunnel, host, "accept"),
        *_pool(tunnel, host, f'oifname "{host.ifname}"', "accept"),
        f'oifname "{host.ifname}" counter name "dropped" drop',
        *_strayed(tunnel, host, "drop"),
    ]
