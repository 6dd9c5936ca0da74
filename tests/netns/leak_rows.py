"""Pure: the rows of the leak matrix. What is sent, by whom, and how the detector outside knows it again.

Each row has a port, an address or a protocol of its own, so that one look at a packet on the wire names its row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from tests.netns.rig import BOX4, BOX6, HOST4, HOST6, MID4, WORLD4, WORLD6

PLAIN_UID: Final = 65534


@dataclass(frozen=True, slots=True)
class Row:
    """One source of packets.

    `match` is its packet in nft's words; `share` the part of all turns in which it offers one (a connection costs more
    than a datagram); `captured`: the tunnel takes it, with the killswitch or without.
    """

    name: str
    match: str
    kind: str
    host: str
    port: int
    how: str = ""
    source: str = ""
    share: float = 1.0
    space: str = "host"
    root: bool = False
    captured: bool = False

    def order(self, slot: int) -> str:
        """Give what leak_offer.py is told; it counts in `slot`."""
        told = {name: getattr(self, name) for name in ("kind", "host", "port", "how", "source", "share")}
        return json.dumps({**told, "slot": slot})


_CONNECTS: Final = 0.1
_STREAMS: Final = 0.1
_JOINS: Final = 0.05


def _tcp(name: str, ports: int, how: str = "", captured: bool = True) -> list[Row]:
    return [
        Row(
            f"{name}, IPv{4 if host == WORLD4 else 6}",
            f"tcp dport {port}",
            "tcp",
            host,
            port,
            how,
            HOST4 if host == WORLD4 else HOST6,
            _CONNECTS,
            captured=captured,
        )
        for host, port in ((WORLD4, ports), (WORLD6, ports + 1))
    ]


def _udp(name: str, ports: tuple[int, int], how: str = "") -> list[Row]:
    pairs = ((4, WORLD4, ports[0]), (6, WORLD6, ports[1]))
    return [
        Row(f"{name}, IPv{version}", f"{_ip(version)} daddr {host} udp dport {port}", "udp", host, port, how)
        for version, host, port in pairs
    ]


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


ROWS: Final = (
    *_tcp("TCP", 7001),
    *_tcp("TCP, source bound", 7003, "source"),
    *_tcp("TCP, SO_BINDTODEVICE", 7005, "device", captured=False),
    *_tcp("TCP, IP_UNICAST_IF", 7007, "unicast_if"),
    *_tcp("MPTCP", 7009, "mptcp"),
    *_tcp("TCP Fast Open", 7011, "fast_open"),
    Row("TCP to the proxy's other ports", "tcp dport 7013", "tcp", MID4, 7013, share=_CONNECTS, captured=True),
    Row(
        "TCP, open connections, IPv4",
        f"ip saddr {HOST4} tcp dport 9",
        "stream",
        WORLD4,
        9,
        share=_STREAMS,
        captured=True,
    ),
    Row(
        "TCP, open connections, IPv6",
        f"ip6 saddr {HOST6} tcp dport 9",
        "stream",
        WORLD6,
        9,
        share=_STREAMS,
        captured=True,
    ),
    Row("TCP segments, raw, IPv4", "tcp dport 7015", "segment", WORLD4, 7015, root=True, captured=True),
    Row("TCP segments, raw, IPv6", "tcp dport 7016", "segment", WORLD6, 7016, root=True, captured=True),
    Row(
        "TCP, SO_MARK by root", "tcp dport 7017", "tcp", WORLD4, 7017, "mark", share=_CONNECTS, root=True, captured=True
    ),
    *_udp("UDP", (7101, 7102)),
    Row("UDP, SO_MARK by root", "udp dport 7110", "udp", WORLD4, 7110, "mark", root=True),
    *_udp("UDP, socket from before", (7103, 7104), "connected"),
    *_udp("UDP, SO_BINDTODEVICE", (7105, 7106), "device"),
    *_udp("UDP, IP_UNICAST_IF", (7107, 7108), "unicast_if"),
    *_udp("QUIC's port", (443, 443)),
    *_udp("DNS to others", (53, 53)),
    Row("ICMP echo", "icmp type echo-request", "raw", WORLD4, 1, root=True),
    Row("ICMPv6 echo", "icmpv6 type echo-request", "raw", WORLD6, 58, root=True),
    Row("SCTP, IPv4", "ip protocol 132", "raw", WORLD4, 132, root=True),
    Row("SCTP, IPv6", "ip6 nexthdr 132", "raw", WORLD6, 132, root=True),
    Row("raw, protocol 253, IPv4", "ip protocol 253", "raw", WORLD4, 253, root=True),
    Row("raw, protocol 253, IPv6", "ip6 nexthdr 253", "raw", WORLD6, 253, root=True),
    Row("multicast (mDNS), IPv4", "ip daddr 224.0.0.251", "udp", "224.0.0.251", 5353, "multicast"),
    Row("multicast (mDNS), IPv6", "ip6 daddr ff02::fb", "udp", "ff02::fb", 5353, "multicast"),
    Row("broadcast", "ip daddr 255.255.255.255", "udp", "255.255.255.255", 7109, "multicast"),
    Row("IGMP", "ip protocol igmp", "membership", "239.70.70.70", 0, share=_JOINS),
    Row("MLD", "ip6 daddr ff02::16", "membership", "ff05::7070", 0, share=_JOINS),
    Row("container: TCP, IPv4", "tcp dport 7301", "tcp", WORLD4, 7301, share=_CONNECTS, space="box", captured=True),
    Row("container: TCP, IPv6", "tcp dport 7302", "tcp", WORLD6, 7302, share=_CONNECTS, space="box", captured=True),
    Row(
        "container: TCP, open connections",
        f"ip saddr {BOX4} tcp dport 9",
        "stream",
        WORLD4,
        9,
        share=_STREAMS,
        space="box",
        captured=True,
    ),
    Row("container: UDP, IPv4", "udp dport 7303", "udp", WORLD4, 7303, space="box"),
    Row("container: UDP, IPv6", "udp dport 7304", "udp", WORLD6, 7304, space="box"),
    Row("container: ICMP echo", f"ip saddr {BOX4} icmp type echo-request", "raw", WORLD4, 1, space="box", root=True),
    Row(
        "container: ICMPv6 echo",
        f"ip6 saddr {BOX6} icmpv6 type echo-request",
        "raw",
        WORLD6,
        58,
        space="box",
        root=True,
    ),
)
OTHER: Final = "anything else"
"""What leaves and belongs to no row: nothing offers it, and none of it may be seen."""
