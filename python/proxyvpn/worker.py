"""The unprivileged process: takes the TUN queues, gives everything else up, and lets the Rust stack carry packets.

Order (each step needs the ones before it): import all, since no file can be opened later; wait for Start; give up the
uid and all capabilities; the sandbox; only then the first byte of a proxy and, after Carry, the first packet. It holds
no wire on which a route could be asked for; what it wishes for, it is given or not.
Ctrl-C reaches the whole process group, so signals are ignored: end of file on fd 0 is what ends this process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Protocol

from proxyvpn import _tunstack, privilege, stderr
from proxyvpn.channel import Channel, Received, close_all
from proxyvpn.errors import Exit, ProtocolError, ProxyvpnError
from proxyvpn.messages import (
    Carry,
    Carrying,
    Count,
    Counters,
    Grant,
    Message,
    Outcome,
    Refused,
    Replace,
    Replaced,
    Standing,
    Start,
    Started,
    Tried,
    Try,
    Upstream,
    Wish,
)
from proxyvpn.plan import Endpoint

DESCRIPTORS: Final = 1 << 17
"""A flow holds one; where root's limit can be raised, it is."""
MOST_WISHES: Final = 32
"""Under way at a time: fewer than would fill a socket both ways, so that nobody waits for the other for ever."""


class Stack(Protocol):
    """What is needed of _tunstack.Stack."""

    def fileno(self) -> int: ...
    def notes(self) -> list[str]: ...
    def counters(self) -> dict[str, int]: ...
    def standings(self) -> list[tuple[str, int, str, int, dict[str, int]]]: ...
    def attempt(self, target: tuple[str, int] | None, /) -> None: ...
    def tried(self) -> list[tuple[int, str, str]] | None: ...
    def carry(self, queues: Sequence[int], /) -> None: ...
    def wishes(self, most: int, /) -> list[tuple[int, str, bytes]]: ...
    def grant(self, number: int, content: bytes, refusal: str, fd: int, /) -> None: ...
    def replace(self, upstreams: Sequence[Upstream], /) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the worker does to itself; tests pass their own."""

    drop: Callable[[int], None]
    sandbox: Callable[[Sequence[int]], list[str]]
    stack: Callable[[Start, Mapping[str, int]], Stack]
    say: Callable[[str], None]


def main() -> None:
    """Run as a child of `up`, with the channel as fd 0."""
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    only_write(2)
    try:
        channel = Channel.from_fd(0)
    except ProtocolError as error:
        _say(f"the worker is started by `proxyvpn up` only ({error.what})")
        sys.exit(Exit.USAGE)
    code = serve(channel, Parts(give_up, _tunstack.enter_sandbox, _tunstack.Stack, _say))
    os._exit(code)  # no clean-up at exit: it would open files


def serve(channel: Channel, parts: Parts) -> Exit:
    """Wait for Start, then run until end of file. Says what goes wrong in one line."""
    try:
        stack = _start(channel, parts)
        if stack is None:
            return Exit.OK
        try:
            _Running(channel, stack, parts.say).run()
        finally:
            stack.stop()
    except BrokenPipeError:
        return Exit.OK
    except (ProxyvpnError, OSError, RuntimeError) as error:
        parts.say(f"the worker ends: {_line(error)}")
        return Exit.ERROR
    return Exit.OK


def _start(channel: Channel, parts: Parts) -> Stack | None:
    received = channel.receive()
    if received is None:
        return None
    start = received.message
    if not isinstance(start, Start) or len(received.fds) != len(start.files):
        close_all(received.fds)
        raise ProtocolError(f"{type(start).__name__} with {len(received.fds)} files is not how a worker starts")
    try:
        parts.drop(start.uid)
        missing = parts.sandbox(sorted({upstream.endpoint.port for upstream in start.upstreams}.union(start.ports)))
        stack = parts.stack(start, dict(zip(start.files, received.fds, strict=True)))
    except (ProxyvpnError, OSError, RuntimeError, ValueError) as error:
        channel.send(Refused(Exit.ERROR, "the worker cannot start", _line(error), ""))
        raise ProtocolError("it could not start") from error
    finally:
        close_all(received.fds)
    channel.send(Started(tuple(missing)))
    return stack


class _Running:
    """A worker that has started: its stack on one side, `up` on the other."""

    def __init__(self, channel: Channel, stack: Stack, say: Callable[[str], None]) -> None:
        self._channel = channel
        self._stack = stack
        self._say = say
        self._wishes: set[int] = set()

    def run(self) -> None:
        """Pass on what each says until end of file."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        poll.register(self._stack.fileno(), select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._stack.fileno() in ready:
                self._hear_stack()
            if self._channel.fileno() in ready:
                received = self._channel.receive()
                if received is None:
                    return
                self._answer(received)

    def _hear_stack(self) -> None:
        for note in self._stack.notes():
            self._say(note)
        tried = self._stack.tried()
        if tried is not None:
            self._channel.send(Tried(tuple(Outcome(*each) for each in tried)))
        self._pass_wishes_on()

    def _pass_wishes_on(self) -> None:
        for number, kind, content in self._stack.wishes(MOST_WISHES - len(self._wishes)):
            self._wishes.add(number)
            self._channel.send(Wish(number, kind, content))

    def _answer(self, received: Received) -> None:
        message, fds = received.message, received.fds
        if isinstance(message, Grant) and len(fds) <= 1:
            self._wishes.discard(message.number)
            self._stack.grant(message.number, message.content, message.refusal, fds[0] if fds else -1)
            return self._pass_wishes_on()
        try:
            if fds and not isinstance(message, Carry):
                raise ProtocolError(f"a running worker was sent descriptors with {type(message).__name__}")
            self._do(message, fds)
        finally:
            close_all(fds)
        return None

    def _do(self, message: Message, queues: tuple[int, ...]) -> None:
        match message:
            case Count():
                standings = tuple(_standing(*each) for each in self._stack.standings())
                self._channel.send(Counters(self._stack.counters(), standings))
            case Replace():
                self._stack.replace(message.upstreams)
                self._channel.send(Replaced())
            case Try():
                self._stack.attempt((message.host, message.port) if message.host else None)
            case Carry():
                self._carry(queues)
            case _:
                raise ProtocolError(f"a running worker was sent {type(message).__name__}")

    def _carry(self, queues: tuple[int, ...]) -> None:
        try:
            self._stack.carry(queues)
        except (OSError, ValueError) as error:
            self._channel.send(Refused(Exit.ERROR, "the worker cannot carry packets", _line(error), ""))
            raise ProtocolError("it could not carry packets") from error
        self._channel.send(Carrying())


def _standing(address: str, port: int, state: str, seconds: int, counters: dict[str, int]) -> Standing:
    return Standing(Endpoint(ip_address(address), port), state, seconds, counters)


def only_write(fd: int) -> None:
    """Open the terminal at `fd` anew, for writing alone: who took this process over is not to read what is typed."""
    if os.isatty(fd):
        with contextlib.suppress(OSError):  # the terminal of another user, which stays as it is
            new = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
            os.dup2(new, fd)
            os.close(new)


def give_up(uid: int) -> None:
    """Become `uid` (0: stay who we are) with as many descriptors as can be had, and without any capability."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, DESCRIPTORS)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (ValueError, OSError):  # only root may raise the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    privilege.drop_all(uid)


def _line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:300]


def _say(line: str) -> None:
    stderr.say(f"proxyvpn: {line}")


if __name__ == "__main__":
    main()
