"""Pure: the rows of the leak matrix for DNS that the worker answers, and for the virtual addresses that it gives.

Each row has a destination of its own. What goes to a virtual address is nobody's: `mid` only counts it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.netns.leak_rows import Row
from tests.netns.rig import HOST4, HOST6, MANY, RESOLVER4, RESOLVER6

_CONNECTS: Final = 0.1


def _hosts(number: int) -> tuple[tuple[int, str], tuple[int, str]]:
    """Give the destinations of one row, by IP version."""
    return (4, f"{MANY}{number}"), (6, f"2001:db8:99::b{number}")


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _udp(
    name: str, hosts: Iterable[tuple[int, str]], how: str = "", space: str = "host", captured: bool = True
) -> list[Row]:
    """Give rows of UDP to port 53; `raw`: as root, past the kernel's own UDP."""
    kind, port = ("raw", 17) if how == "raw" else ("udp", 53)
    return [
        Row(
            f"{name}, IPv{version}",
            f"{_ip(version)} daddr {host} udp dport 53",
            kind,
            host,
            port,
            how,
            HOST4 if version == 4 else HOST6,
            space=space,
            root=kind == "raw",
            captured=captured,
        )
        for version, host in hosts
    ]


def _dns(name: str, number: int, how: str = "", *, space: str = "host", captured: bool = True) -> list[Row]:
    return _udp(name, _hosts(number), how, space, captured)


def _tcp(name: str, number: int, port: int, space: str = "host") -> list[Row]:
    return [
        Row(
            f"{name}, IPv{version}",
            f"{_ip(version)} daddr {host} tcp dport {port}",
            "tcp",
            host,
            port,
            share=_CONNECTS,
            space=space,
            captured=True,
        )
        for version, host in _hosts(number)
    ]


def _pool(name: str, number: int, kind: str, *, how: str = "", space: str = "host") -> list[Row]:
    """Give rows to virtual addresses: a port of UDP or TCP, or ICMP by root."""
    found = []
    for version, host in ((4, f"198.18.77.{number}"), (6, f"fd70:7670:6e:1::{number}")):
        port = 443 if kind != "raw" else 1 if version == 4 else 58
        share = _CONNECTS if kind == "tcp" else 1.0
        match = f"{_ip(version)} daddr {host}"
        row = Row(f"{name}, IPv{version}", match, kind, host, port, how, "", share, space, kind == "raw", captured=True)
        found.append(row)
    return found


ROWS: Final = (
    *_udp("DNS to the resolver", ((4, RESOLVER4), (6, RESOLVER6))),
    *_dns("DNS to others", 10),
    *_dns("DNS, source bound", 11, "source"),
    *_dns("DNS, SO_BINDTODEVICE", 12, "device", captured=False),
    *_dns("DNS, IP_UNICAST_IF", 13, "unicast_if"),
    *_dns("DNS, socket from before", 14, "connected"),
    *_tcp("DNS over TCP", 15, 53),
    *_tcp("DNS over TLS", 16, 853),
    *_udp("DNS, raw", _hosts(17), "raw"),
    *_dns("container: DNS", 18, space="box"),
    *_tcp("container: DNS over TCP", 19, 53, "box"),
    *_pool("virtual address: UDP", 1, "udp"),
    *_pool("virtual address: UDP, SO_BINDTODEVICE", 2, "udp", how="device"),
    *_pool("virtual address: UDP, socket from before", 3, "udp", how="connected"),
    *_pool("virtual address: TCP", 4, "tcp"),
    *_pool("virtual address: ICMP", 5, "raw"),
    *_pool("container: virtual address, UDP", 6, "udp", space="box"),
    *_pool("container: virtual address, TCP", 7, "tcp", space="box"),
)
