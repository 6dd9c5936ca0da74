"""In the worker's place: answers every datagram to port 53 that comes out of the TUN, and remembers what else came.

An answer is the question with `answer to ` before it, from the address that was asked. Nothing else is answered.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

VNET_HEADER: Final = 10
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
DNS: Final = 53
ANSWER: Final = b"answer to "


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet that came out of the TUN; port 0 where the protocol has none."""

    protocol: int
    source: str
    host: str
    port: int


@dataclass(slots=True)
class Answering:
    """What has come so far."""

    seen: list[Seen] = field(default_factory=list)

    def has(self, protocol: int, host: str, port: int) -> bool:
        """Say whether a packet of this protocol went to this host and port."""
        return any((each.protocol, each.host, each.port) == (protocol, host, port) for each in self.seen)


@contextlib.contextmanager
def answering(queues: tuple[int, ...]) -> Iterator[Answering]:
    """Answer in a thread."""
    found = Answering()
    stop = os.eventfd(0, os.EFD_CLOEXEC)
    thread = threading.Thread(target=_run, args=(queues, stop, found))
    thread.start()
    try:
        yield found
    finally:
        os.eventfd_write(stop, 1)
        thread.join()
        os.close(stop)


def _run(queues: tuple[int, ...], stop: int, found: Answering) -> None:
    while stop not in (ready := select.select([*queues, stop], [], [])[0]):
        for queue in ready:
            with contextlib.suppress(BlockingIOError):
                _one(queue, os.read(queue, 70000)[VNET_HEADER:], found)


def _one(queue: int, packet: bytes, found: Answering) -> None:
    four = packet[0] >> 4 == 4
    protocol, head, at, length = (packet[9], 20, 12, 4) if four else (packet[6], 40, 8, 16)
    source, host = packet[at : at + length], packet[at + length : at + 2 * length]
    family = socket.AF_INET if four else socket.AF_INET6
    ports = struct.unpack_from("!HH", packet, head) if protocol in (TCP, UDP) else (0, 0)
    found.seen.append(Seen(protocol, socket.inet_ntop(family, source), socket.inet_ntop(family, host), ports[1]))
    if protocol == UDP and ports[1] == DNS:
        body = ANSWER + packet[head + 8 :]
        os.write(queue, bytes(VNET_HEADER) + datagram(host, source, (DNS, ports[0]), body))


def datagram(source: bytes, host: bytes, ports: tuple[int, int], body: bytes) -> bytes:
    """Give an IP packet with a UDP datagram in it, with its checksums."""
    length = 8 + len(body)
    pseudo = source + host + struct.pack("!II", length, UDP)
    segment = struct.pack("!HHHH", *ports, length, 0) + body
    segment = segment[:6] + struct.pack("!H", _checksum(pseudo + segment) or 0xFFFF) + body
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, length, UDP, 64) + source + host + segment
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, UDP, 0) + source + host
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + segment


def _checksum(data: bytes) -> int:
    """Give the Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
