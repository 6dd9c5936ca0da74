"""The unprivileged process: takes the TUN queues, gives everything else up, and lets the Rust stack carry packets.

Order (each step needs the ones before it): import all, since no file can be opened later; wait for Start; give up the
uid and all capabilities; the sandbox; only then the first packet. It holds no wire on which a route could be asked for.
Ctrl-C reaches the whole process group, so signals are ignored: end of file on fd 0 is what ends this process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from proxyvpn import _tunstack, privilege, stderr
from proxyvpn.channel import Channel, close_all
from proxyvpn.errors import Exit, ProtocolError, ProxyvpnError
from proxyvpn.messages import Count, Counters, Refused, Replace, Replaced, Start, Started, Upstream

DESCRIPTORS: Final = 1 << 17
"""A flow holds one; where root's limit can be raised, it is."""


class Stack(Protocol):
    """What is needed of _tunstack.Stack."""

    def fileno(self) -> int: ...
    def notes(self) -> list[str]: ...
    def counters(self) -> dict[str, int]: ...
    def replace(self, upstreams: Sequence[tuple[str, int, bytes]], /) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the worker does to itself; tests pass their own."""

    drop: Callable[[int], None]
    sandbox: Callable[[Sequence[int]], list[str]]
    stack: Callable[[Sequence[int], Sequence[tuple[str, int, bytes]]], Stack]
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
            _run(channel, stack, parts.say)
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
    if not isinstance(start, Start) or not received.fds:
        close_all(received.fds)
        raise ProtocolError(f"{type(start).__name__} with {len(received.fds)} queues is not how a worker starts")
    upstreams = _plain(start.upstreams)
    try:
        parts.drop(start.uid)
        missing = parts.sandbox(sorted({port for _, port, _ in upstreams}))
        stack = parts.stack(received.fds, upstreams)
    except (ProxyvpnError, OSError, RuntimeError, ValueError) as error:
        channel.send(Refused(Exit.ERROR, "the worker cannot start", _line(error), ""))
        raise ProtocolError("it could not start") from error
    finally:
        close_all(received.fds)
    channel.send(Started(tuple(missing)))
    return stack


def _run(channel: Channel, stack: Stack, say: Callable[[str], None]) -> None:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    poll.register(stack.fileno(), select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if stack.fileno() in ready:
            for note in stack.notes():
                say(note)
        if channel.fileno() in ready:
            received = channel.receive()
            if received is None:
                return
            if received.fds or not isinstance(received.message, Count | Replace):
                close_all(received.fds)
                raise ProtocolError(f"a running worker was sent {type(received.message).__name__}")
            channel.send(_answer(stack, received.message))


def _answer(stack: Stack, message: Count | Replace) -> Counters | Replaced:
    if isinstance(message, Count):
        return Counters(stack.counters())
    stack.replace(_plain(message.upstreams))
    return Replaced()


def _plain(upstreams: tuple[Upstream, ...]) -> list[tuple[str, int, bytes]]:
    return [(str(up.endpoint.address), up.endpoint.port, up.authorization) for up in upstreams]


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
