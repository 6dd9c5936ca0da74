"""A steady load of short connections, from a thread of its own, while a test does something to the proxies.

What is told apart: a connect that failed, which no program should see while a proxy lives, and a connection that was
open and broke, which happens to those whose proxy is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

from tests.netns.namespaces import Namespace
from tests.netns.peer import ECHO
from tests.netns.rig import MANY, WORLD6

AT_ONCE = 8
PAUSE_S = 0.01


class Steady:
    """See the head of this file."""

    def __init__(self, space: Namespace) -> None:
        self.opened = 0
        self.broken: list[str] = []
        self.failed: list[str] = []
        self.waits: list[float] = []
        """Seconds that each connect took."""
        self._space = space
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        with self._space.inside():
            asyncio.run(self._all())

    async def _all(self) -> None:
        await asyncio.gather(*(self._one_after_another(number) for number in range(AT_ONCE)))

    async def _one_after_another(self, number: int) -> None:
        while not self._end.is_set():
            number += AT_ONCE
            host = WORLD6 if number % 10 == 9 else f"{MANY}{number % 250 + 1}"
            begun = time.monotonic()
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(host, ECHO), 20)
            except ConnectionResetError as error:
                self.broken.append(f"{host}: {error}")
                continue
            except (OSError, TimeoutError) as error:
                self.failed.append(f"{host}: {error!r}")
                continue
            self.waits.append(time.monotonic() - begun)
            await self._echo(host, reader, writer)
            await asyncio.sleep(PAUSE_S)

    async def _echo(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            writer.write(host.encode())
            await asyncio.wait_for(reader.readexactly(len(host)), 20)
        except (OSError, EOFError, TimeoutError) as error:
            self.broken.append(f"{host}: {error!r}")
        finally:
            writer.close()


@contextlib.contextmanager
def steady(space: Namespace) -> Iterator[Steady]:
    """Load, until the end of the block."""
    load = Steady(space)
    load.start()
    try:
        yield load
    finally:
        load.stop()
