"""Offers packets without end, of every kind that a program can send; runs in a namespace of the leak matrix.

    python leak_offer.py COUNTS PER_SECOND UID ROW…

Each ROW is a JSON object (leak_rows.Row.order): how to send, where to, and how often. COUNTS is a file with one 64-bit
number for each row, of what was offered so far: attempts, whether or not the kernel refused them. UID 0 stays root.
Prints `ready` when every row has its sockets; ends with its reader. Standard library only: it runs on its own.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import resource
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

Offer = Callable[[], None]
DEVICE = "eth0"
IP_UNICAST_IF, IPV6_UNICAST_IF, MSG_FASTOPEN, MPTCP = 50, 76, 0x20000000, 262
OUR_MARK = 0x70767076
AT_ONCE = 32
"""Connections of a row that are open at a time: the oldest is closed for the next."""
STREAMS = 8
GIVE_UP = 500
"""Milliseconds without an answer after which a stream's connection is given up."""


def family(host: str) -> int:
    """Give the address family of an address in text."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def prepared(row: dict[str, Any], kind: int, proto: int = 0) -> socket.socket:
    """Give a non-blocking socket with what the row wants of it: a source, a device, an interface."""
    sock = socket.socket(family(row["host"]), kind, proto)
    sock.setblocking(False)
    if row["how"] == "source":
        sock.bind((row["source"], 0))
    elif row["how"] == "mark":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, OUR_MARK)
    elif row["how"] == "device":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE.encode())
    elif row["how"] == "unicast_if":
        index = socket.htonl(socket.if_nametoindex(DEVICE))
        four = family(row["host"]) == socket.AF_INET
        level, option = (socket.IPPROTO_IP, IP_UNICAST_IF) if four else (socket.IPPROTO_IPV6, IPV6_UNICAST_IF)
        sock.setsockopt(level, option, index)
    return sock


def tcp(row: dict[str, Any]) -> Offer:
    """Open connections, one after the other; nobody waits for an answer."""
    target = (row["host"], row["port"])
    proto = MPTCP if row["how"] == "mptcp" else 0
    open_now: deque[socket.socket] = deque()

    def offer() -> None:
        if len(open_now) >= AT_ONCE:
            open_now.popleft().close()
        sock = prepared(row, socket.SOCK_STREAM, proto)
        open_now.append(sock)
        if row["how"] == "fast_open":
            sock.sendto(b"data in the SYN", MSG_FASTOPEN, target)
        else:
            sock.connect(target)

    return offer


def stream(row: dict[str, Any]) -> Offer:
    """Send byte after byte over open connections; those that end are opened anew."""
    target = (row["host"], row["port"])
    turn = 0

    def fresh() -> socket.socket:
        sock = prepared(row, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVE_UP)
        return sock

    opened = [fresh() for _ in range(STREAMS)]
    for each in opened:
        each.settimeout(5)
        each.connect(target)
        each.setblocking(False)

    def offer() -> None:
        nonlocal turn
        turn = (turn + 1) % STREAMS
        try:
            with contextlib.suppress(BlockingIOError):
                opened[turn].send(b"x")
            with contextlib.suppress(BlockingIOError):
                if not opened[turn].recv(65536):
                    raise ConnectionError
        except OSError:
            opened[turn].close()
            opened[turn] = fresh()
            with contextlib.suppress(BlockingIOError):
                opened[turn].connect(target)

    return offer


def udp(row: dict[str, Any]) -> Offer:
    """Send datagrams, from one socket."""
    sock = prepared(row, socket.SOCK_DGRAM)
    if row["how"] == "multicast":
        index = socket.if_nametoindex(DEVICE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if family(row["host"]) == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", b"", b"", index))
    if row["how"] == "connected":
        sock.connect((row["host"], row["port"]))
        return lambda: ignored(sock.send(b"from before up"))
    target = (row["host"], row["port"])
    return lambda: ignored(sock.sendto(b"datagram", target))


def raw(row: dict[str, Any]) -> Offer:
    """Send packets of the protocol whose number is the row's port."""
    sock = prepared(row, socket.SOCK_RAW, row["port"])
    dns = bytes.fromhex("0fa0003500080000")
    echo = {17: dns, 1: b"\x08\0\xf7\xff\0\0\0\0", 58: b"\x80" + bytes(7), 132: bytes.fromhex("1b591b59") + bytes(8)}
    packet, target = echo.get(row["port"], b"of no protocol"), (row["host"], 0)
    return lambda: ignored(sock.sendto(packet, target))


def segment(row: dict[str, Any]) -> Offer:
    """Send TCP segments that belong to no connection, past the kernel's own TCP."""
    sock = prepared(row, socket.SOCK_RAW, socket.IPPROTO_TCP)
    target = (row["host"], 0)

    def offer() -> None:
        head = struct.pack(">HHIIBBHHH", random.randrange(1024, 65535), row["port"], 1, 1, 0x50, 0x10, 8192, 0, 0)
        sock.sendto(head, target)

    return offer


def membership(row: dict[str, Any]) -> Offer:
    """Join and leave multicast groups, of which the kernel tells the network (IGMP, MLD)."""
    sock = prepared(row, socket.SOCK_DGRAM)
    index, joined = socket.if_nametoindex(DEVICE), False
    if family(row["host"]) == socket.AF_INET:
        group = struct.pack("4s4si", socket.inet_aton(row["host"]), bytes(4), index)
        level, join, leave = socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.IP_DROP_MEMBERSHIP
    else:
        group = socket.inet_pton(socket.AF_INET6, row["host"]) + struct.pack("i", index)
        level, join, leave = socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.IPV6_LEAVE_GROUP

    def offer() -> None:
        nonlocal joined
        joined = not joined
        sock.setsockopt(level, join if joined else leave, group)

    return offer


def ignored(_: int) -> None:
    """Say that a result does not matter."""


KINDS = {each.__name__: each for each in (tcp, stream, udp, raw, segment, membership)}


def main() -> None:
    """Offer until standard input ends."""
    counts_file, per_second, uid = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    rows = [json.loads(word) for word in sys.argv[4:]]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with open(counts_file, "r+b") as file:
        counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    if uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    offers = [KINDS[row["kind"]](row) for row in rows]
    shares, slots = [row["share"] for row in rows], [row["slot"] for row in rows]
    due = [random.random() for _ in rows]
    print("ready", flush=True)
    next_turn, parent = time.monotonic(), os.getppid()
    while os.getppid() == parent:
        for number, offer in enumerate(offers):
            due[number] += shares[number]
            if due[number] >= 1:
                due[number] -= 1
                counts[slots[number]] += 1
                with contextlib.suppress(OSError):  # refused, or in progress
                    offer()
        next_turn = max(next_turn + 1 / per_second, time.monotonic() - 0.05)
        select.select([], [], [], max(0.0, next_turn - time.monotonic()))


if __name__ == "__main__":
    main()
