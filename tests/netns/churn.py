"""Programs of every kind for a while: each in turn does one thing with one connection and checks what came of it.

All in one thread with asyncio, against the proxy of peer.py that is the far end as well. What goes wrong is a line in
`Churn.wrong`; nothing is tried twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.netns.namespaces import Namespace
from tests.netns.peer import BAD_GATEWAY, BLOCK, CUT, ECHO, FORBIDDEN, HALF, SINK, SLOW, SOURCE, stream
from tests.netns.rig import MANY, WORLD6

Kind = Callable[[random.Random], Awaitable[None]]
AT_ONCE = 60
STALL_S = 1.0
MOST = 300_000
"""Bytes of a transfer; more than the smallest ring, so that windows close, and than a stalled one holds."""


class Churn:
    """See the head of this file. `done` counts what was done, by kind."""

    def __init__(self, space: Namespace) -> None:
        self.space = space
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, seconds: float, seed: int) -> None:
        """Do what KINDS says, in random order, with AT_ONCE connections at a time."""
        with self.space.inside():
            asyncio.run(self._all(time.monotonic() + seconds, seed))

    async def _all(self, end: float, seed: int) -> None:
        await asyncio.gather(*(self._one_after_another(end, random.Random(seed * AT_ONCE + i)) for i in range(AT_ONCE)))

    async def _one_after_another(self, end: float, chance: random.Random) -> None:
        while time.monotonic() < end and len(self.wrong) < 10:
            kind = chance.choice(KINDS)
            try:
                await asyncio.wait_for(kind(chance), 30)
                self.done[kind.__name__] += 1
            except (OSError, EOFError, ValueError, AssertionError, TimeoutError) as error:
                self.wrong.append(f"{kind.__name__}: {error!r}")


class Connection:
    """A connection to a port of some address; closed on leaving."""

    def __init__(self, chance: random.Random, port: int) -> None:
        self._target = (WORLD6 if chance.random() < 0.1 else f"{MANY}{chance.randrange(1, 251)}", port)

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._reader, self._writer = await asyncio.open_connection(*self._target)
        return self._reader, self._writer

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()


async def echo(chance: random.Random) -> None:
    message = _bytes(chance)
    async with Connection(chance, ECHO) as (reader, writer):
        writer.write(message)
        assert await reader.readexactly(len(message)) == message


async def connect_only(chance: random.Random) -> None:
    async with Connection(chance, ECHO):
        pass


async def download(chance: random.Random) -> None:
    async with Connection(chance, SOURCE) as (reader, writer):
        await _whole(reader, writer, chance.randrange(MOST))


async def late_download(chance: random.Random) -> None:
    """Read nothing for a while, then all."""
    async with Connection(chance, SOURCE) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await _whole(reader, writer, 10 * MOST, STALL_S)


async def abandoned_download(chance: random.Random) -> None:
    """Read nothing for a while, then reset the connection."""
    async with Connection(chance, SOURCE) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"%d\n" % (10 * MOST))
        await asyncio.sleep(chance.random() * STALL_S)
        _reset(writer)


async def upload(chance: random.Random) -> None:
    """Half-close after the last byte, and learn what arrived."""
    message = _bytes(chance)
    async with Connection(chance, SINK) as (reader, writer):
        writer.write(message)
        writer.write_eof()
        assert (await reader.read()).decode() == f"{len(message)} {hashlib.sha256(message).hexdigest()}\n"


async def abandoned_upload(chance: random.Random) -> None:
    async with Connection(chance, SINK) as (_, writer):
        writer.write(_bytes(chance))
        _reset(writer)


async def half_closed_server(chance: random.Random) -> None:
    async with Connection(chance, HALF) as (reader, writer):
        assert await reader.read() == b"I have finished\n"
        writer.write(_bytes(chance))
        await writer.drain()


async def refused(chance: random.Random) -> None:
    try:
        async with Connection(chance, chance.choice((FORBIDDEN, BAD_GATEWAY))):
            raise AssertionError("connect() succeeded")
    except ConnectionRefusedError:
        pass


async def given_up(chance: random.Random) -> None:
    """Close before there is an answer, as a program does that has waited long enough."""
    try:
        async with asyncio.timeout(0.05), Connection(chance, SLOW):
            raise AssertionError("connect() succeeded")
    except TimeoutError:
        pass


async def cut(chance: random.Random) -> None:
    """Be reset by the far end, which must never look like an end in order."""
    try:
        async with Connection(chance, CUT) as (reader, _):
            await reader.read()
            raise AssertionError("a cut stream ended in order")
    except ConnectionResetError:
        pass


async def cut_and_reset(chance: random.Random) -> None:
    """Be reset by the far end while reading nothing, and reset the connection, too."""
    try:
        async with Connection(chance, CUT) as (_, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(chance.random() * 0.1)
            _reset(writer)
    except ConnectionResetError:
        pass


KINDS: tuple[Kind, ...] = (
    *(echo, connect_only, download, upload, half_closed_server, late_download),
    *(abandoned_download, abandoned_upload, refused, given_up, cut, cut_and_reset),
)


def _bytes(chance: random.Random) -> bytes:
    length = chance.randrange(1, len(BLOCK))
    at = chance.randrange(len(BLOCK) - length)
    return BLOCK[at : at + length]


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int, stall: float = 0) -> None:
    writer.write(b"%d\n" % count)
    if stall:
        await asyncio.sleep(stall)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
    found = await reader.read()
    assert len(found) == count, f"{len(found)} bytes of {count}"
    at = 0
    for block in stream(count):
        assert found[at : at + len(block)] == block, f"other bytes from {at} on"
        at += len(block)
