"""Asks resolvers as programs do, by UDP and TCP, and understands as much of the answers as the tests need."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from tests.netns.namespaces import Namespace, family_of

A, PTR, MX, TXT, AAAA, HTTPS = 1, 12, 15, 16, 28, 65
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
NUMBER = 0x1234


@dataclass(frozen=True, slots=True)
class Answer:
    """The response code, and the data of each record in the answer section that is of the type asked for."""

    code: int
    data: tuple[bytes, ...]
    truncated: bool

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_address(each)) for each in self.data if len(each) in (4, 16))


def question(name: str, kind: int = A, edns: int = 1232) -> bytes:
    """Give a message that asks; `edns` 0: without EDNS."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    opt = struct.pack(">BHHIH", 0, 41, edns, 0, 0) if edns else b""
    header = struct.pack(">HHHHHH", NUMBER, 0x0100, 1, 0, 0, bool(edns))
    return header + labels + struct.pack(">BHH", 0, kind, 1) + opt


def by_udp(
    space: Namespace, resolver: str, name: str, kind: int = A, *, seconds: float = 6, edns: int = 1232
) -> Answer:
    """Ask once. Raises TimeoutError, and OSError where an ICMP error comes."""
    message = question(name, kind, edns)
    with space.new_socket(family_of(resolver), socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        sock.connect((resolver, 53))
        sock.send(message)
        return parse(sock.recv(65535), message)


def by_tcp(space: Namespace, resolver: str, *names: str, kind: int = A) -> list[Answer]:
    """Ask all at once over one connection, and give the answers as they come."""
    messages = [question(name, kind) for name in names]
    with space.connect(resolver, 53) as sock:
        sock.sendall(b"".join(struct.pack(">H", len(message)) + message for message in messages))
        with sock.makefile("rb") as stream:
            found = [stream.read(struct.unpack(">H", stream.read(2))[0]) for _ in messages]
    return [parse(each) for each in found]


def parse(message: bytes, asked: bytes = b"") -> Answer:
    """Read an answer, which must repeat what was `asked`."""
    number, flags, questions, answers = struct.unpack(">HHHH", message[:8])
    assert (number, flags >> 15, questions) == (NUMBER, 1, 1)
    at = _skip_name(message, 12)
    kind = struct.unpack(">H", message[at : at + 2])[0]
    at += 4
    assert not asked or message[12:at] == asked[12:at]
    data = []
    for _ in range(answers):
        at = _skip_name(message, at)
        found, _, _, length = struct.unpack(">HHIH", message[at : at + 10])
        at += 10
        if found == kind:
            data.append(message[at : at + length])
        at += length
    return Answer(flags & 15, tuple(data), bool(flags & 0x200))


def _skip_name(message: bytes, at: int) -> int:
    while message[at]:
        if message[at] >= 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1
