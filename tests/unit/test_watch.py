"""Netlink packets as the kernel sends them, written out here by hand: what they are about, and what is left alone."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from proxyvpn import sockets, watch
from proxyvpn.errors import KernelError
from proxyvpn.mark import PROTOCOL, TABLE

MAIN = 254


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def route(kind: int, table: int, length: int) -> bytes:
    return message(kind, bytes([2, length]) + bytes(10) + attribute(15, struct.pack("=I", table)))


def rule(protocol: int) -> bytes:
    return message(33, bytes(12) + attribute(6, b"abcd") + attribute(21, bytes([protocol])))


@pytest.mark.parametrize(
    ("packet", "about"),
    [
        (route(25, TABLE, 0), {"routes"}),
        (route(25, MAIN, 0), {"uplink"}),
        (route(24, MAIN, 24), set()),
        (rule(PROTOCOL), {"routes"}),
        (rule(4), set()),
        (message(16, bytes(16) + attribute(3, b"pvpn0\0")), {"routes"}),
        (message(17, bytes(16) + attribute(3, b"eth0\0")), {"uplink"}),
        (message(21, bytes(8)), {"routes"}),
        (message(28, bytes(12)), set()),
        (route(24, MAIN, 24) + rule(PROTOCOL), {"routes"}),
    ],
)
def test_packet_is_about(packet: bytes, about: set[str]) -> None:
    assert watch.of_routes(packet) == about


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_cut_packet_is_no_error(cut: int) -> None:
    whole = route(25, TABLE, 0) + rule(PROTOCOL)
    assert watch.of_routes(whole[:cut]) <= {"routes"}
    assert watch.process_name(whole[:cut]) == ""


def test_length_of_nothing_ends_it() -> None:
    assert list(watch.messages(bytes(64))) == []
    assert list(watch.messages(struct.pack("=IHHII", 1 << 30, 16, 0, 0, 0))) == []


def test_program_that_changed_the_ruleset_is_named_printably() -> None:
    body = bytes(4) + attribute(1, bytes(4)) + attribute(2, bytes(4))
    assert watch.process_name(body + attribute(3, b"nft\0")) == "nft"
    assert watch.process_name(body + attribute(3, b"n\x1b[2J\0")) == "n?[2J"
    assert watch.process_name(body) == ""


def tcp(family: int, state: int, port: int) -> tuple[int, bytes]:
    size = 4 if family == 2 else 16
    address = bytes([10, 0, 0, 1]) if family == 2 else bytes(15) + b"\1"
    addresses = (address + bytes(16 - size)) * 2
    return 20, bytes([family, state, 0, 0]) + struct.pack("!HH", port, 40000) + addresses + bytes(32)


def test_list_of_sockets_is_read() -> None:
    found = list(sockets.read([tcp(2, 1, 22), tcp(10, 10, 80)]))
    assert [(each.state, each.local_port, each.ends[0]) for each in found] == [
        (1, 22, ip_address("10.0.0.1")),
        (10, 80, ip_address("::1")),
    ]


def test_refusal_of_the_list_is_an_error() -> None:
    with pytest.raises(KernelError, match="cannot be read"):
        list(sockets.read([(2, struct.pack("=i", -1) + bytes(16))]))
