"""Starts the helper and the worker, asks them, and reaps them.

A child is a process with one SEQPACKET socket as its fd 0; closing our end is what tells it to stop. Children get an
environment of their own making: no proxy variable, and so no password, ever reaches one. An answer that does not come
in time leaves the channel out of step, so it ends the child: what it was asked last, it has then not been told to undo.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Final, TypeVar

from proxyvpn import way
from proxyvpn.channel import Channel, Received, close_all, is_stopped
from proxyvpn.errors import Exit, PrivilegeMissing, ProtocolError, ProxyvpnError, from_code
from proxyvpn.messages import (
    VERSION,
    Attach,
    Attached,
    Carry,
    Carrying,
    Close,
    Closed,
    Count,
    Counters,
    Dial,
    Dialled,
    Engage,
    Engaged,
    Grant,
    Message,
    Open,
    Opened,
    Reclaim,
    Reclaimed,
    Refused,
    Replace,
    Replaced,
    Start,
    Started,
    State,
    Status,
    Tried,
    Try,
    Update,
    Updated,
    Upstream,
    Wish,
)
from proxyvpn.plan import IPAddress, Tunnel
from proxyvpn.way import Process

LIMIT: Final = 5.0
"""Seconds that an answer may take …"""
UNDO_LIMIT: Final = 10.0
"""… and one that loads or undoes everything; not from a process that is stopped (channel.PATIENCE)."""
START_LIMIT: Final = 20.0
"""The first answer comes from a process that has yet to start, maybe on a busy machine."""
REAP_LIMIT: Final = 3.0

Answer = TypeVar("Answer", bound=Message)


class ChildGone(ProxyvpnError):
    """One of our own processes ended, or does not answer."""


class Child:
    """A running child process and our end of its socket."""

    name = "child"

    def __init__(self, channel: Channel, process: Process) -> None:
        self._channel = channel
        self._process = process
        self._closed = False
        self._out_of_step = False
        self._has_answered = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Give the descriptor that becomes readable when the child ends, or, if it is the worker, speaks unasked."""
        return self._channel.fileno()

    def end(self) -> int | None:
        """Close our end and wait for the process; kill it when it does not end by itself. Idempotent."""
        if not self._closed:
            self._closed = True
            self._channel.close()
        given_up = self._out_of_step and is_stopped(self.pid)
        try:
            return self._process.wait(0 if given_up else REAP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Ask without waiting. Raises ChildGone."""
        if self._closed or self._out_of_step:
            raise ChildGone(f"the {self.name} process has ended")
        try:
            self._channel.settimeout(LIMIT)
            self._channel.send(message, fds)
        except OSError as error:
            raise self._last_word() or self._gone() from error

    def take(self, wanted: type[Answer], limit: float = LIMIT) -> tuple[Answer, tuple[int, ...]]:
        """Wait for the answer of type `wanted`. Raises what the child refused with, ChildGone, ProtocolError."""
        received = self._receive(limit)
        while self._is_unasked(received.message, received.fds):
            received = self._receive(limit)
        message = received.message
        if isinstance(message, wanted):
            return message, received.fds
        close_all(received.fds)
        if isinstance(message, Refused):
            raise from_code(message.code, message.what, message.why, message.advice)
        raise ProtocolError(f"the {self.name} process answered with {type(message).__name__}")

    def ask(self, message: Message, wanted: type[Answer], limit: float = LIMIT) -> Answer:
        """Send `message` and give the answer, which comes without descriptors."""
        self.send(message)
        answer, fds = self.take(wanted, limit)
        close_all(fds)
        return answer

    def _is_unasked(self, message: Message, fds: tuple[int, ...]) -> bool:  # noqa: ARG002 - the worker's does
        """Say whether this is no answer; keep it then."""
        return False

    def _last_word(self) -> ProxyvpnError | None:
        """Give the refusal that a child sent unasked before it ended: it could not even get ready."""
        try:
            message = self._receive(LIMIT).message
        except ProxyvpnError:
            return None
        return (
            from_code(message.code, message.what, message.why, message.advice) if isinstance(message, Refused) else None
        )

    def _receive(self, limit: float) -> Received:
        try:
            received = self._channel.receive_from(self.pid, limit if self._has_answered else max(limit, START_LIMIT))
        except TimeoutError as error:
            self._out_of_step = True
            self._channel.hang_up()
            raise ChildGone(
                f"the {self.name} process{f' (pid {self.pid})' if self.pid else ''} does not answer",
                str(error),
                "try again; if it happens again, please report it with the lines above",
            ) from error
        if received is None:
            raise self._gone()
        self._has_answered = True
        return received

    def _gone(self) -> ProxyvpnError:
        """Give the error for a child that has ended by itself."""
        return ChildGone(f"the {self.name} process has ended", "", "its last lines above may say why")


class Helper(Child):
    """The process with CAP_NET_ADMIN."""

    name = "helper"

    @classmethod
    def start(cls, environ: Mapping[str, str] = os.environ) -> Helper:
        """Start one by the way that there is. Raises PrivilegeMissing."""
        return cls(*way.start(environ))

    def open(self, tunnel: Tunnel) -> tuple[str, tuple[int, ...]]:
        """Make the TUN; give its name and its queues."""
        self.send(Open(VERSION, tunnel))
        opened, fds = self.take(Opened, UNDO_LIMIT)
        return opened.ifname, fds

    def engage(self) -> tuple[str, ...]:
        """Route and capture; give the steps that the kernel now holds."""
        return self.ask(Engage(), Engaged, UNDO_LIMIT).steps

    def attach(self) -> tuple[int, ...]:
        """Give the TUN queues again."""
        self.send(Attach())
        return self.take(Attached)[1]

    def dial(self, address: IPAddress, port: int) -> int:
        """Give a socket that connects past the tunnel, where the helper permits it."""
        self.send(Dial(address, port))
        return self.take(Dialled)[1][0]

    def status(self) -> State:
        """Give what the kernel holds."""
        return self.ask(Status(), State)

    def _gone(self) -> ProxyvpnError:
        """The installed launcher has one exit code for all that it refuses, and has said which it was."""
        if self.end() != Exit.NO_PRIVILEGE:
            return super()._gone()
        advice = f"sudo {way.program()} setup --check says how to mend it"
        return PrivilegeMissing("the helper cannot start", "its last line above says why", advice)

    def update(self, update: Update) -> None:
        """Replace resolvers and proxies in the firewall's sets."""
        self.ask(update, Updated)

    def close(self) -> Closed:
        """Undo everything; the process ends afterwards."""
        return self.ask(Close(), Closed, UNDO_LIMIT)

    def reclaim(self) -> Reclaimed:
        """Remove whatever carries our tag."""
        return self.ask(Reclaim(), Reclaimed, UNDO_LIMIT)


class Worker(Child):
    """The process that carries the packets."""

    name = "worker"

    def __init__(self, channel: Channel, process: Process) -> None:
        super().__init__(channel, process)
        self._wishes: list[Wish] = []

    @classmethod
    def start(cls, environ: Mapping[str, str] = os.environ) -> Worker:
        return cls(*way.spawn([sys.executable, "-I", "-m", "proxyvpn.worker"], environ))

    def prepare(self, start: Start, files: tuple[int, ...]) -> tuple[str, ...]:
        """Let it make ready with `files` (they are closed here); give what could not be sandboxed."""
        try:
            self.send(start, files)
        finally:
            close_all(files)
        return self.take(Started)[0].sandbox

    def carry(self, queues: tuple[int, ...]) -> None:
        """Hand over the TUN queues (they are closed here)."""
        try:
            self.send(Carry(), queues)
        finally:
            close_all(queues)
        self.take(Carrying)

    def begin_trial(self, attempt: Try) -> None:
        """Let it try the proxies; hear() gives what came of it."""
        self.send(attempt)

    def hear(self, readable: bool = True) -> tuple[tuple[Wish, ...], Tried | None]:
        """Give what it has said unasked. Raises ChildGone when it has ended, ProtocolError."""
        tried = None
        if readable:
            received = self._receive(LIMIT)
            if not self._is_unasked(received.message, received.fds):
                close_all(received.fds)
                raise ProtocolError(f"the worker process said {type(received.message).__name__} unasked")
            tried = received.message if isinstance(received.message, Tried) else None
        wishes, self._wishes = tuple(self._wishes), []
        return wishes, tried

    def grant(self, grant: Grant, fds: tuple[int, ...]) -> None:
        """Tell it what became of a wish (`fds` are closed here)."""
        try:
            self.send(grant, fds)
        finally:
            close_all(fds)

    def _is_unasked(self, message: Message, fds: tuple[int, ...]) -> bool:
        if isinstance(message, Wish) and not fds:
            self._wishes.append(message)
            return True
        return isinstance(message, Tried)  # of a trial that nobody waits for any more

    def replace(self, upstreams: tuple[Upstream, ...]) -> None:
        """Let connections that begin from now on use other proxies."""
        self.ask(Replace(upstreams), Replaced)

    def counters(self) -> Counters:
        """Give the counters, and how the proxies are."""
        return self.ask(Count(), Counters)
