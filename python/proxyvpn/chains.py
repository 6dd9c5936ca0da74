"""Pure: the iptables chains of a tunnel, for a kernel without nf_tables, as text for iptables-restore(8).

The same as ruleset.py, in the older words: chains of our own, each entered by one jump from a built-in chain. In words
that differ: fib becomes addrtype; sets become single rules; and since POSTROUTING cannot ask where a packet came in,
what comes out of the TUN gets a packet mark in PREROUTING, for the guard to know it again.

    table mangle   PREROUTING -> SHIELD, ARRIVALS    OUTPUT -> CAPTURE (-> EARLIER)    POSTROUTING -> GUARD
    table filter   OUTPUT -> REFUSE                  (REJECT is possible in this table only)

One commit replaces all rules of a table at once; a chain of ours that is named in it is emptied first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from proxyvpn.mark import CHAIN_PREFIX, DIRECT, EXCLUDED, INBOUND, LINK_PREFIX, MARK, POOL4, POOL6, TUN4, TUN6
from proxyvpn.tunnel import Connection, Host, Tunnel, collapsed

_JUMPS: Final = {
    "mangle": (("PREROUTING", "ARRIVALS"), ("PREROUTING", "SHIELD"), ("OUTPUT", "CAPTURE"), ("POSTROUTING", "GUARD")),
    "filter": (("OUTPUT", "REFUSE"),),
}
"""Inserted in this order, each before the one above it: SHIELD comes to stand before ARRIVALS."""
_NAMES: Final = {"mangle": ("SHIELD", "ARRIVALS", "EARLIER", "CAPTURE", "GUARD"), "filter": ("REFUSE",)}
_SIGN: Final = re.compile(rf"{MARK:#x}|{INBOUND:#x}|-[io] {LINK_PREFIX}\d\b")
"""What our rules in either table speak of, and nobody else's."""
_IN: Final = f"-m connmark --mark {INBOUND:#x}"
_LET_IN: Final = f"-j CONNMARK --set-mark {INBOUND:#x}"
_RESET: Final = "REJECT --reject-with tcp-reset"
_CAPTURE: Final = f"-j MARK --set-mark {MARK:#x}"
_EXCLUDED: Final = f"-m mark --mark {EXCLUDED:#x}"
_DIRECT: Final = f"-p tcp -m mark --mark {DIRECT:#x}"
_SYN_ACK: Final = "-p tcp -m conntrack --ctdir REPLY -m tcp --tcp-flags FIN,SYN,RST,ACK SYN,ACK"
_SOURCE_ROUTED: Final = {4: '-m u32 --u32 "0>>24&0xF=6:15"', 6: "-m rt"}
"""An IPv4 header with options, an IPv6 routing header (any user may set one): either could lead anywhere."""
_OWN: Final = {4: "-m addrtype ! --src-type UNICAST", 6: "-s fe80::/10"}
"""From an address of this machine, or from none yet; what is forwarded has another machine's. In IPv6, addrtype takes
an address of this machine for UNICAST, too, and several types mean that all must be true: one rule for each."""
_NOT_FORWARDED: Final = {4: ("LOCAL,BROADCAST,MULTICAST,ANYCAST",), 6: ("LOCAL", "MULTICAST", "ANYCAST")}


def versions(host: Host) -> tuple[int, ...]:
    """Give the IP versions that need chains."""
    return (4, 6) if host.ipv6 else (4,)


def programs(host: Host) -> tuple[str, ...]:
    """Give the names of the programs as a person knows them."""
    return tuple("iptables-restore" if version == 4 else "ip6tables-restore" for version in versions(host))


def scripts(tunnel: Tunnel, host: Host) -> dict[str, str]:
    """Give the text for each program, by its name, for a machine without chains of ours."""
    pairs = zip(programs(host), versions(host), strict=True)
    return {program: load(tunnel, host, version, "") for program, version in pairs}


def load(tunnel: Tunnel, host: Host, version: int, saved: str, keep_earlier: bool = False) -> str:
    """Give the text that fills our chains, over those in `saved` (of iptables-save) without a gap.

    With `keep_earlier`, the chain of connections that came in before is left as it is.
    """
    lines = []
    for table, chains in _tables(tunnel, host, version).items():
        named = {name: rules for name, rules in chains.items() if not (keep_earlier and name == "EARLIER")}
        lines += [f"*{table}", *(f":{CHAIN_PREFIX}{name} - [0:0]" for name in named)]
        lines += [f"-A {CHAIN_PREFIX}{name} {rule}" for name, rules in named.items() for rule in rules]
        there = _jumps(saved, table)
        lines += [f"-I {built_in} -j {CHAIN_PREFIX}{name}" for built_in, name in _JUMPS[table] if name not in there]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def admit(connections: Iterable[Connection], version: int) -> str:
    """Give the text that adds connections that came in before; empty when there are none."""
    rules = [f"-A {CHAIN_PREFIX}EARLIER {rule}" for rule in _earlier(connections, version)]
    return "\n".join(["*mangle", *rules, "COMMIT"]) + "\n" if rules else ""


def removal(saved: str) -> str:
    """Give the text that removes exactly what is ours in `saved`; empty when nothing is."""
    lines: list[str] = []
    for table, rows in _by_table(saved).items():
        own = _own(table, rows)
        jumps = [row for row in rows if row.rpartition("-j ")[2] in own and row.split()[1] not in own]
        if own:
            lines += [f"*{table}", *(f"-D {row.removeprefix('-A ')}" for row in jumps)]
            lines += [*(f"-F {name}" for name in own), *(f"-X {name}" for name in own), "COMMIT"]
    return "\n".join(lines) + "\n" if lines else ""


def present(saved: str) -> tuple[str, ...]:
    """Give the chains of ours in `saved`, each with its table: `mangle PROXYVPN_GUARD`."""
    return tuple(f"{table} {name}" for table, rows in _by_table(saved).items() for name in _own(table, rows))


def strangers(saved: str) -> tuple[str, ...]:
    """Give the chains in `saved` that have a name of ours and are somebody else's."""
    found = _by_table(saved).items()
    return tuple(f"{table} {name}" for table, rows in found for name in _named(table, rows) if not _own(table, rows))


def locked(saved: str) -> bool:
    """Say whether a closed guard is among the chains in `saved`."""
    rows = _by_table(saved).get("mangle", [])
    return f"{CHAIN_PREFIX}GUARD" in _own("mangle", rows) and f"-A {CHAIN_PREFIX}GUARD -j DROP" in rows


def _named(table: str, rows: list[str]) -> list[str]:
    """Give the chains of a table that have exactly a name of ours."""
    ours = {f"{CHAIN_PREFIX}{name}" for name in _NAMES[table]} if table in _NAMES else set()
    return [name for row in rows if row.startswith(":") and (name := row[1:].split()[0]) in ours]


def _own(table: str, rows: list[str]) -> list[str]:
    """Give our chains of a table: their rules speak of our marks or our link, or somebody has emptied them all."""
    named = _named(table, rows)
    rules = [row for row in rows if row.startswith("-A ") and row.split()[1] in named]
    return named if not rules or any(_SIGN.search(row) for row in rules) else []


def dropped(counted: str) -> int:
    """Give the packets that were stopped, from iptables-save -c: of each our DROP and REJECT but the shield's."""
    total = 0
    for line in counted.splitlines():
        count, _, rule = line.partition(" ")
        ours = rule.startswith((f"-A {CHAIN_PREFIX}GUARD ", f"-A {CHAIN_PREFIX}REFUSE "))
        if count.startswith("[") and ours and ("-j DROP" in rule or "-j REJECT" in rule):
            total += int(count[1:].split(":")[0])
    return total


def _by_table(saved: str) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    rows: list[str] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            rows = tables.setdefault(line[1:], [])
        else:
            rows.append(line)
    return tables


def _jumps(saved: str, table: str) -> set[str]:
    rows = _by_table(saved).get(table, [])
    found = [row.rpartition(f"-j {CHAIN_PREFIX}") for row in rows if not row.startswith(f"-A {CHAIN_PREFIX}")]
    return {name for _, jump, name in found if jump}


def _tables(tunnel: Tunnel, host: Host, version: int) -> dict[str, dict[str, list[str]]]:
    return {
        "mangle": {
            "SHIELD": _shield(host, version),
            "ARRIVALS": _arrivals(tunnel, host, version),
            "EARLIER": _earlier(host.earlier, version),
            "CAPTURE": [f"{_EXCLUDED} -j MARK --set-mark 0", *_leave_alone(tunnel, host), *_capture(tunnel, version)],
            "GUARD": _guard(tunnel, host, version),
        },
        "filter": {"REFUSE": _refuse(tunnel, host, version)},
    }


def _shield(host: Host, version: int) -> list[str]:
    own = TUN4 if version == 4 else TUN6
    return ["-i lo -j RETURN", f"-i {host.ifname} -j RETURN", f"-d {own} -j DROP"]


def _arrivals(tunnel: Tunnel, host: Host, version: int) -> list[str]:
    return [
        f"-i {host.ifname} -j MARK --set-mark {INBOUND:#x}",
        f"-i {host.ifname} -j RETURN",
        *_of_proxies(tunnel, version),
        *([] if tunnel.captures_names else ["! -p tcp -j RETURN"]),
        *(f"-m addrtype --dst-type {kind} -j RETURN" for kind in _NOT_FORWARDED[version]),
        *_names(tunnel, "udp"),
        *(["! -p tcp -j RETURN"] if tunnel.captures_names else []),
        *(f"-s {network} {_SYN_ACK} {_LET_IN}" for network in collapsed(tunnel.bypass, version)),
        f"{_SYN_ACK} -m conntrack --ctstate DNAT {_LET_IN}",
        f"{_IN} -j RETURN",
        *_names(tunnel, "tcp"),
        *_bypass(tunnel, version),
        _CAPTURE,
    ]


def _of_proxies(tunnel: Tunnel, version: int) -> list[str]:
    """What a proxy itself sends through this machine (it is in a container), and the answers."""
    there = dict.fromkeys(each.address for each in tunnel.proxies if each.address.version == version)
    return [
        *(f"-s {each} -m addrtype --dst-type UNICAST -j CONNMARK --set-mark {EXCLUDED:#x}" for each in there),
        f"-m connmark --mark {EXCLUDED:#x} -j MARK --set-mark {EXCLUDED:#x}",
        f"{_EXCLUDED} -j RETURN",
    ]


def _names(tunnel: Tunnel, protocol: str) -> list[str]:
    """DNS where it is ours, whomever it is for."""
    dns = f"-p {protocol} --dport 53"
    return [f"{dns} {_CAPTURE}", f"{dns} -j RETURN"] if tunnel.captures_names else []


def _leave_alone(tunnel: Tunnel, host: Host) -> list[str]:
    """What excluded programs send, whatever it is (see ruleset.py)."""
    if not tunnel.excludes:
        return []
    there = [each for each in tunnel.excluded_cgroups if each not in host.cgroups_gone]
    by = [f"-m owner --uid-owner {each}" for each in tunnel.excluded_users]
    by += [f'-m cgroup --path "{each}"' for each in there]
    later = f"-p tcp -m tcp ! --syn -m connmark --mark {EXCLUDED:#x}"
    return [
        "-o lo -j RETURN",
        *(f"{each} -j MARK --set-mark {EXCLUDED:#x}" for each in (*by, later)),
        f"{_EXCLUDED} -j CONNMARK --set-mark {EXCLUDED:#x}",
        f"{_EXCLUDED} -j RETURN",
    ]


def _capture(tunnel: Tunnel, version: int) -> list[str]:
    direct = [f"{_DIRECT} -j RETURN"] if tunnel.dials else []
    udp = [*_answers(tunnel), *_names(tunnel, "udp")] if tunnel.captures_names else []
    return [
        *([] if tunnel.captures_names else ["! -p tcp -j RETURN"]),
        "-o lo -j RETURN",
        "-m addrtype --dst-type LOCAL -j RETURN",
        *direct,
        *udp,
        *(["! -p tcp -j RETURN"] if tunnel.captures_names else []),
        f"{_SYN_ACK} {_LET_IN}",
        f"-j {CHAIN_PREFIX}EARLIER",
        f"{_IN} -j RETURN",
        *_proxies(tunnel, version),
        *([] if tunnel.captures_names else _resolvers(tunnel, version, ("tcp",))),
        *_names(tunnel, "tcp"),
        *_bypass(tunnel, version),
        _CAPTURE,
    ]


def _refuse(tunnel: Tunnel, host: Host, version: int) -> list[str]:
    """Say no at once, first to the worker, when no route but the TUN is left to a proxy: it would go in circles."""
    reject = f"-j REJECT --reject-with {'icmp-port-unreachable' if version == 4 else 'icmp6-port-unreachable'}"
    circles = [f"-o {host.ifname} {each}" for each in _proxies(tunnel, version, _RESET)]
    if not tunnel.killswitch:
        into = [*_into_tun(tunnel, host)[1:], f"-o {host.ifname} ! -p tcp {reject}"]
        return [*circles, *_turned_back(tunnel, version, reject), *into, *_strayed(tunnel, host, version, reject)]
    return [
        "-o lo -j RETURN",
        *circles,
        *_strayed(tunnel, host, version, reject)[1:],
        *_turned_back(tunnel, version, reject),
        *([f"{_EXCLUDED} -j RETURN"] if tunnel.excludes else []),
        f"-p tcp -m mark --mark {MARK:#x} -j RETURN",
        *([f"-p udp --dport 53 -m mark --mark {MARK:#x} -j RETURN"] if tunnel.captures_names else []),
        f"{_IN} -j RETURN",
        *_answers(tunnel),
        *_allowed(tunnel, version, reject),
        f"-p tcp -j {_RESET}",
        reject,
    ]


def _guard(tunnel: Tunnel, host: Host, version: int) -> list[str]:
    pool = _strayed(tunnel, host, version, "-j DROP")
    circling = [f"-o {host.ifname} {_EXCLUDED} -j DROP"] if tunnel.excludes else []
    into = [*circling, *_into_tun(tunnel, host), *_pool(tunnel, version, host.ifname), f"-o {host.ifname} -j DROP"]
    if not tunnel.killswitch:
        return [*into, *pool]
    return [
        "-o lo -j RETURN",
        *into,
        *pool[1:],
        f"-m mark --mark {MARK:#x} -j DROP",
        f"{_SOURCE_ROUTED[version]} -j DROP",
        f"{_IN} -j RETURN",
        f"-m mark --mark {INBOUND:#x} -m conntrack --ctdir REPLY -j RETURN",
        f"{_EXCLUDED} -j RETURN",
        *_answers(tunnel),
        *_allowed(tunnel, version, "-j DROP"),
        "-j DROP",
    ]


def _into_tun(tunnel: Tunnel, host: Host) -> list[str]:
    dns = [f"-o {host.ifname} -p udp --dport 53 -j RETURN"] if tunnel.captures_names else []
    return [f"-o {host.ifname} -p tcp -j RETURN", *dns]


def _pool(tunnel: Tunnel, version: int, ifname: str) -> list[str]:
    """What containers send to a virtual address enters the TUN, where the worker refuses it."""
    return [f"-o {ifname} -d {POOL4 if version == 4 else POOL6} -j RETURN"] if tunnel.captures_names else []


def _turned_back(tunnel: Tunnel, version: int, verdict: str) -> list[str]:
    """A virtual address that an excluded program was told by another leads it nowhere."""
    if not (tunnel.excludes and tunnel.captures_names):
        return []
    return [f"{_EXCLUDED} -d {POOL4 if version == 4 else POOL6} {verdict}"]


def _strayed(tunnel: Tunnel, host: Host, version: int, verdict: str) -> list[str]:
    """What is sent to a virtual address by another device, which a program may have bound itself to."""
    if not tunnel.captures_names:
        return []
    return ["-o lo -j RETURN", f"! -o {host.ifname} -d {POOL4 if version == 4 else POOL6} {verdict}"]


def _answers(tunnel: Tunnel) -> list[str]:
    """What UDP servers of this machine say to who asked them first."""
    if not tunnel.inbound:
        return []
    ports = ",".join(map(str, sorted(set(tunnel.inbound))))
    return [f"-p udp -m multiport --sports {ports} -m addrtype --src-type LOCAL -m conntrack --ctdir REPLY -j RETURN"]


def _allowed(tunnel: Tunnel, version: int, refused: str) -> list[str]:
    direct = [f"{_DIRECT} -j RETURN"] if tunnel.dials else []
    closed = [f"-p {protocol} --dport 53 {refused}" for protocol in ("tcp", "udp")]
    resolvers = closed if tunnel.captures_names else _resolvers(tunnel, version, ("tcp", "udp"))
    lines = [*_proxies(tunnel, version), *direct, *resolvers, *_bypass(tunnel, version)]
    if version == 4:
        return [*lines, f"-p udp --sport 68 --dport 67 {_OWN[4]} -j RETURN"]
    neighbours = [f"-p icmpv6 --icmpv6-type {kind} -m hl --hl-eq 255 -j RETURN" for kind in (133, 135, 136)]
    return [*lines, *neighbours, f"-p udp --sport 546 --dport 547 {_OWN[6]} -j RETURN"]


def _proxies(tunnel: Tunnel, version: int, verdict: str = "RETURN") -> list[str]:
    ours = dict.fromkeys(each for each in tunnel.proxies if each.address.version == version)
    return [f"-p tcp -d {each.address} --dport {each.port} -j {verdict}" for each in ours]


def _resolvers(tunnel: Tunnel, version: int, protocols: tuple[str, ...]) -> list[str]:
    ours = dict.fromkeys(each for each in tunnel.resolvers if each.version == version)
    return [f"-p {protocol} -d {each} --dport 53 -j RETURN" for each in ours for protocol in protocols]


def _bypass(tunnel: Tunnel, version: int) -> list[str]:
    return [f"-d {network} -j RETURN" for network in collapsed(tunnel.bypass, version)]


def _earlier(connections: Iterable[Connection], version: int) -> list[str]:
    ours = dict.fromkeys(each for each in connections if each.local.version == version)
    return [
        f"-p tcp -s {each.local} --sport {each.local_port} -d {each.remote} --dport {each.remote_port} {_LET_IN}"
        for each in ours
    ]
