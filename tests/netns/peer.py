"""The far end of raw TCP and UDP tests, as one process in `world`; prints `ready`, then runs until it is ended.

    7   echo                          2222  banner first, then echo
    9   sink: reads to end of file, answers with "<count> <sha256>", closes
    11  counted sink: reads "<count>\\n" and so many bytes, answers in the same way without waiting for the end
    19  source: reads "<count>\\n", sends so many bytes of the test stream, closes
    79  speaks first and half-closes, then reads to end of file, and writes the count to standard output
    8008  a proxy that is the far end as well (one descriptor a flow): answers CONNECT with 200 and goes on as the port
          that was asked for would, by echo where that is none of these; but 1 is never answered, 2 with 504 after
          two seconds, 403 and 502 with that status, and 3 gets 64 KiB and a RST
    UDP 7   echo (each datagram also printed)

The test stream is one block of pseudo-random bytes, each time with its number in front.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import cast

BLOCK = random.Random(118).randbytes((1 << 18) - 8)
ECHO, SINK, SOURCE, BANNER, HALF, CONNECT, COUNTED = 7, 9, 19, 2222, 79, 8008, 11
SILENT, SLOW, CUT, FORBIDDEN, BAD_GATEWAY = 1, 2, 3, 403, 502


def stream(count: int) -> Iterator[bytes]:
    """Give the first `count` bytes of the test stream, in blocks."""
    for number in range(-(-count // (len(BLOCK) + 8))):
        block = struct.pack(">Q", number) + BLOCK
        yield block[: count - number * len(block)]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()


async def _banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-banner_first\r\n")
    await _echo(reader, writer)


async def _sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    digest, count = hashlib.sha256(), 0
    while piece := await reader.read(1 << 20):
        digest.update(piece)
        count += len(piece)
    writer.write(f"{count} {digest.hexdigest()}\n".encode())


async def _counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    wanted, count, digest = int(await reader.readline()), 0, hashlib.sha256()
    while count < wanted and (piece := await reader.read(1 << 20)):
        digest.update(piece)
        count += len(piece)
    writer.write(f"{count} {digest.hexdigest()}\n".encode())


async def _source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for block in stream(int(await reader.readline())):
        writer.write(block)
        await writer.drain()


async def _half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"I have finished\n")
    writer.write_eof()
    print(f"after half-close: {len(await reader.read())}", flush=True)


async def _cut(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(BLOCK[: 1 << 16])
    await writer.drain()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    port = int(head.split()[1].rpartition(b":")[2])
    if port == SILENT:
        await reader.read()
    elif port == SLOW:
        await asyncio.wait([asyncio.ensure_future(reader.read())], timeout=2)
        writer.write(b"HTTP/1.1 504 Slow\r\n\r\n")
    elif port in (FORBIDDEN, BAD_GATEWAY):
        writer.write(b"HTTP/1.1 %d No\r\n\r\n" % port)
    else:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await SERVED.get(port, _echo)(reader, writer)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SERVED: dict[int, Serve] = {
    ECHO: _echo,
    SINK: _sink,
    SOURCE: _source,
    BANNER: _banner,
    HALF: _half,
    COUNTED: _counted,
    CUT: _cut,
}


class _Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        print(f"udp from {addr[0]}: {data!r}", flush=True)
        self._transport.sendto(data, addr)


def _closing(serve: Serve) -> Serve:
    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError):
            writer.transport.abort()

    return run


async def main() -> None:
    """Listen on all ports and serve for ever."""
    for port, serve in {**SERVED, CONNECT: _connect}.items():
        await asyncio.start_server(_closing(serve), ["0.0.0.0", "::"], port, backlog=8192, limit=1 << 20)
    both = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)  # takes IPv4 too, as ::ffff:…
    both.bind(("::", ECHO))
    await asyncio.get_running_loop().create_datagram_endpoint(_Datagrams, sock=both)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
