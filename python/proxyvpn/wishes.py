"""What the worker wishes for and cannot have by itself, and who grants it. Never waits: `up` polls the descriptors.

A provider grants wishes of one kind in its own time. A worker that was replaced takes its wishes with it: what is
granted later is dropped, and its descriptors closed. What the worker says is not to be trusted more than a packet: a
provider checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from proxyvpn.channel import close_all
from proxyvpn.messages import Grant, Wish

MOST: Final = 256
"""Under way at a time; a worker that keeps to its own limit never comes near it."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What became of the request with this number; `refusal`, if not empty, is words for a person. `fd` -1: none."""

    number: int
    content: bytes = b""
    refusal: str = ""
    fd: int = -1


class Provider(Protocol):
    """Grants wishes of one kind."""

    def begin(self, number: int, content: bytes) -> None:
        """Begin with the wish that is called `number` here."""

    def fileno(self) -> int:
        """Give a descriptor that is readable when take() may have something; -1: none now."""

    def take(self) -> list[Granted]:
        """Give what has been granted or refused since."""

    def end(self) -> None:
        """Give everything back. Idempotent."""


class Wishes:
    """The wishes of the worker of now."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = providers
        self._count = 0
        self._open: dict[int, int] = {}
        self._refused: list[Granted] = []

    def begin(self, wish: Wish) -> None:
        """Let the provider of its kind begin with it."""
        self._count += 1
        provider = self._providers.get(wish.kind)
        self._open[self._count] = wish.number
        if provider is None or len(self._open) > MOST:
            self._refused.append(Granted(self._count, refusal="it cannot be had"))
        else:
            provider.begin(self._count, wish.content)

    def filenos(self) -> tuple[int, ...]:
        """Give the descriptors to wait for."""
        return tuple(fd for fd in (each.fileno() for each in self._providers.values()) if fd >= 0)

    def take(self) -> list[tuple[Grant, tuple[int, ...]]]:
        """Give what the worker is to be told, with descriptors, which are then the caller's."""
        found, self._refused = self._refused, []
        for provider in self._providers.values():
            found += provider.take()
        told: list[tuple[Grant, tuple[int, ...]]] = []
        for each in found:
            number = self._open.pop(each.number, None)
            fds = (each.fd,) if each.fd >= 0 else ()
            if number is None:
                close_all(fds)
            else:
                told.append((Grant(number, each.content, each.refusal), fds))
        return told

    def forget(self) -> None:
        """The worker is gone: what it wished for is nobody's any more."""
        self._open.clear()

    def end(self) -> None:
        """End the providers."""
        for provider in self._providers.values():
            provider.end()
