"""The privileged process: a table of requests for each phase, and end of file as the command to undo.

It holds CAP_NET_ADMIN and never sees a packet's payload, a name or a password. What it may be asked for is nouns; the
steps are its own (plan.py), each said on stderr before it is done. A message that is not in the row of the phase, that
cannot be read, or that brings a descriptor ends the conversation, as a crash of the asker does, with exit 1. So does an
asker that does not read its answers.

    phase     may be asked                      leads to
    FRESH     Open, Reclaim, Status             OPEN, FRESH, FRESH
    OPEN      Engage, Status, Close             ENGAGED, OPEN, CLOSED
    ENGAGED   Update, Attach, Dial, Status      ENGAGED
              Close                             CLOSED
    CLOSED    nothing

End of file without Close before it is a crash of the asker. Without the killswitch everything is undone; with it the
machine stays locked, since opening it silently is what a killswitch is there to prevent. So does a machine that was
locked before, until Engage has put the open firewall of a tunnel without killswitch in place.

SIGINT, SIGHUP and SIGTERM are ignored: Ctrl-C reaches the whole process group, and the asker then says what is to be
done. See OpenSSH's monitor.c.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from proxyvpn import peer, plan, privilege, stderr
from proxyvpn.channel import Channel, Received, close_all
from proxyvpn.errors import KernelError, MachineLocked, ProtocolError, ProxyvpnError, RolledBack
from proxyvpn.mark import LINK_NUMBERS
from proxyvpn.messages import (
    VERSION,
    Attach,
    Attached,
    Close,
    Closed,
    Dial,
    Dialled,
    Engage,
    Engaged,
    Message,
    Open,
    Opened,
    Reclaim,
    Reclaimed,
    Refused,
    State,
    Status,
    Update,
    Updated,
)
from proxyvpn.upkeep import Upkeep

if TYPE_CHECKING:
    from proxyvpn.kernel import Kernel

LIMIT: Final = 3.0
"""Seconds that the asker may take to read an answer, when so many are unread that there is no room for more."""

Say = Callable[[str], None]
Answer = tuple[Message, tuple[int, ...]]


class Phase(enum.Enum):
    """Where in its life the tunnel is."""

    FRESH = "fresh"
    OPEN = "open"
    ENGAGED = "engaged"
    CLOSED = "closed"


class Helper:
    """The life of one tunnel."""

    def __init__(self, kernel: Kernel, say: Say) -> None:
        self._kernel = kernel
        self._say = say
        self.phase = Phase.FRESH
        self._done: list[plan.Step] = []
        self._tunnel: plan.Tunnel | None = None
        self._host: plan.Host | None = None
        self._was_locked = False
        self.upkeep = Upkeep(kernel, say)

    def answer(self, message: Message) -> Answer:
        """Do what `message` asks. Raises ProtocolError when this phase does not permit it, else what went wrong."""
        do = PERMITTED[self.phase].get(type(message))
        if do is None:
            raise ProtocolError(f"{type(message).__name__} is not permitted in phase {self.phase.value}")
        return do(self, message)

    def abandon(self) -> None:
        """The asker is gone. Idempotent."""
        self.upkeep.end()
        if not self._done:
            return
        begun, self.phase = self.phase, Phase.CLOSED
        stays_locked = self._was_locked and begun is Phase.OPEN  # its own killswitch is off, but not in place yet
        if stays_locked or (self._tunnel is not None and self._tunnel.killswitch):
            self._say(
                "proxyvpn: the tunnel ended without being closed, so the killswitch stays and nothing leaves: "
                "`proxyvpn up` brings the tunnel back, `proxyvpn teardown` opens the machine"
            )
            return
        self._say("proxyvpn: the tunnel ended without being closed; undoing everything")
        for line in self._undo()[1]:
            self._say(f"proxyvpn: could not be undone: {line}")

    def answer_open(self, message: Open) -> Answer:
        """Make the link, and with the killswitch the closed firewall before it."""
        if message.version != VERSION:
            raise ProtocolError(f"the asker speaks version {message.version}, this helper {VERSION}")
        self._kernel.claim()
        self._kernel.check(message.tunnel)
        host = self._kernel.host()
        self._was_locked = self._kernel.locked()
        self._tunnel = message.tunnel
        try:
            self._host = self._add_opening(message.tunnel, host)
        except ProxyvpnError as error:
            raise self._rolled_back(error) from error
        self.phase = Phase.OPEN
        return Opened(self._host.ifname), self._kernel.queues()

    def answer_engage(self, _: Engage) -> Answer:
        """Route and capture; then remove what an earlier tunnel left."""
        tunnel, host = self._open()
        try:
            if not tunnel.killswitch:
                host = dataclasses.replace(host, earlier=self._kernel.earlier())
            else:
                host = dataclasses.replace(host, opened_here=self._kernel.opened_here(tunnel))
            for step in plan.engaging(tunnel, host):
                self._add_if_possible(step)
            lines = tuple(step.line for step in plan.steps(tunnel, host))
            self._kernel.reclaim((*lines, plan.device_line(host.ifname)), self._say_step)
        except ProxyvpnError as error:
            raise self._rolled_back(error) from error
        self.phase = Phase.ENGAGED
        self.upkeep.begin(tunnel, host)
        return Engaged(lines), ()

    def answer_update(self, message: Update) -> Answer:
        """Replace resolvers and proxies in the firewall's sets."""
        tunnel, host = self._open()
        wanted = dataclasses.replace(tunnel, resolvers=message.resolvers, proxies=message.proxies)
        new, old = plan.moved(tunnel, wanted, host)
        for step in new:
            self._add(step)
        self._kernel.update(wanted, host)
        for step in old:
            self._done.remove(step)
            self._say_step(step.undo)
            self._kernel.remove(step)
        self._tunnel = wanted
        self.upkeep.begin(wanted, host)
        return Updated(), ()

    def answer_attach(self, _: Attach) -> Answer:
        """Give the queues again: no link, route or rule moves when a worker is replaced."""
        return Attached(), self._kernel.queues()

    def answer_dial(self, message: Dial) -> Answer:
        """Connect past the tunnel, where the tunnel says that the worker needs it."""
        tunnel, _ = self._open()
        if not tunnel.may_dial(message.address, message.port):
            raise KernelError("the tunnel permits no connection past it there")
        return Dialled(), (self._kernel.dial(message.address, message.port),)

    def answer_status(self, _: Status) -> Answer:
        """Say what the kernel holds; of an earlier tunnel, when there is none of ours."""
        if self.phase is not Phase.FRESH:
            held = self._kernel.dropped(), (), self._kernel.locked()
            return State(self.phase.value, *held, self.upkeep.notes()), ()
        self._kernel.claim(alone=False)
        try:
            return State("fresh", self._kernel.dropped(), self._kernel.left(), self._kernel.locked(), ()), ()
        finally:
            self._kernel.release()

    def answer_close(self, _: Close) -> Answer:
        """Undo everything in reverse: the guard last, if there is one."""
        undone, left = self._undo()
        self.phase = Phase.CLOSED
        return Closed(undone, left), ()

    def answer_reclaim(self, _: Reclaim) -> Answer:
        """Remove what an earlier tunnel left."""
        self._kernel.claim()
        try:
            return Reclaimed(*self._kernel.reclaim((), self._say_step)), ()
        finally:
            self._kernel.release()

    def _open(self) -> tuple[plan.Tunnel, plan.Host]:
        if self._tunnel is None or self._host is None:
            raise ProtocolError("no tunnel is open")
        return self._tunnel, self._host

    def _add_opening(self, tunnel: plan.Tunnel, host: plan.Host) -> plan.Host:
        """Add the steps of Open, with the next name where somebody took the link's meanwhile."""
        for skip in LINK_NUMBERS:
            if tunnel.killswitch:
                host = dataclasses.replace(host, earlier=self._kernel.earlier())
            try:
                for step in plan.opening(tunnel, host):
                    self._add(step)
            except plan.NameTaken as error:
                self._say(f"proxyvpn: {error.what}; taking the next")
                self._done.pop()  # that link is not ours to undo
                host = self._kernel.host(skip + 1)
                continue
            return host
        raise KernelError("no name was left for the link")

    def _add(self, step: plan.Step) -> None:
        """Say it, remember it, do it: a step that fails half-way is undone as well."""
        self._say_step(step.line)
        self._done.append(step)
        self._kernel.add(step)

    def _add_if_possible(self, step: plan.Step) -> None:
        try:
            self._add(step)
        except plan.NotPossible as error:
            self._say(f"proxyvpn: {error.what}: {error.why}; {error.advice}")

    def _undo(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Undo what was done, in reverse, then whatever else carries our tag; give both kinds of lines."""
        self.upkeep.end()
        undone: list[str] = []
        left: list[str] = []
        while self._done:
            step = self._done.pop()
            if not step.undo:
                continue
            self._say_step(step.undo)
            try:
                self._kernel.remove(step)
                undone.append(step.undo)
            except ProxyvpnError as error:
                left.append(f"{step.line} ({error.why or error.what})")
        removed, stuck = self._kernel.reclaim((), self._say_step)
        return tuple(undone) + removed, tuple(dict.fromkeys((*left, *stuck)))

    def _rolled_back(self, error: ProxyvpnError) -> ProxyvpnError:
        """Undo what was begun and give the error to answer with; a machine that was locked before stays so."""
        self.phase = Phase.CLOSED
        if self._was_locked and self._kernel.locked():
            self._done.clear()
            return MachineLocked(
                error.what, error.why, "the machine stays locked, as before: proxyvpn teardown opens it"
            )
        _, left = self._undo()
        if left:
            return KernelError(error.what, error.why, f"left behind: {'; '.join(left)}; try proxyvpn teardown")
        return RolledBack(error.what, error.why, error.advice or "everything was undone")

    def _say_step(self, line: str) -> None:
        self._say(f"[#] {line}")


PERMITTED: Final[Mapping[Phase, Mapping[type[Any], Callable[[Helper, Any], Answer]]]] = {
    Phase.FRESH: {Open: Helper.answer_open, Reclaim: Helper.answer_reclaim, Status: Helper.answer_status},
    Phase.OPEN: {Engage: Helper.answer_engage, Status: Helper.answer_status, Close: Helper.answer_close},
    Phase.ENGAGED: {
        Update: Helper.answer_update,
        Attach: Helper.answer_attach,
        Dial: Helper.answer_dial,
        Status: Helper.answer_status,
        Close: Helper.answer_close,
    },
    Phase.CLOSED: {},
}


def serve(channel: Channel, kernel: Kernel, say: Say) -> int:
    """Answer until end of file; give the exit code."""
    helper = Helper(kernel, say)
    try:
        while (received := _next(channel, kernel, helper.upkeep)) is not None:
            message, fds = _answer(helper, received)
            channel.settimeout(LIMIT)
            try:
                channel.send(message, fds)
            finally:
                close_all(fds if isinstance(message, Dialled) else ())  # the queues are kept
    except ProtocolError as error:
        say(f"proxyvpn: the helper stops: {error.what}")
        _refuse(channel, error)
        return 1
    except (BrokenPipeError, ConnectionError):
        pass  # the asker went away while it was answered: end of file by another name
    except OSError as error:  # it does not read, or it meddled with our end of the socket
        say(f"proxyvpn: the helper stops: nobody takes its answers ({error})")
        return 1
    finally:
        helper.abandon()
    return 0


def _next(channel: Channel, kernel: Kernel, upkeep: Upkeep) -> Received | None:
    """Wait for the next message, and keep the kernel as it is to be meanwhile; None at end of file."""
    poll = select.poll()
    for fd in (channel.fileno(), *kernel.filenos()):
        poll.register(fd, select.POLLIN)
    while True:
        due = upkeep.due()
        ready = {fd for fd, _ in poll.poll(None if due is None else due * 1000)}
        if channel.fileno() in ready:
            channel.settimeout(None)
            return channel.receive()
        upkeep.look()


def _answer(helper: Helper, received: Received) -> Answer:
    if received.fds:
        close_all(received.fds)
        raise ProtocolError("a message to the helper brought a descriptor")
    try:
        return helper.answer(received.message)
    except ProtocolError:
        raise
    except ProxyvpnError as error:
        return _refusal(error), ()


def _refusal(error: ProxyvpnError) -> Refused:
    return Refused(int(error.code), error.what, error.why, error.advice)


def _refuse(channel: Channel, error: ProxyvpnError) -> None:
    with contextlib.suppress(OSError):  # nobody may be there any more
        channel.settimeout(LIMIT)
        channel.send(_refusal(error))


def check_peer(fd: int, group: int | None = None) -> peer.Peer:
    """Give who is at the other end of `fd`.

    Raises ProtocolError unless that is of our network namespace, and of somebody who may ask.
    """
    with socket.socket(fileno=os.dup(fd)) as sock:
        asker = peer.of(sock)
        theirs = frozenset[int]() if group is None else peer.groups(sock)
        try:
            network = peer.network(sock)
        except OSError as error:
            if not privilege.has(privilege.CAP_NET_ADMIN):
                return asker  # every request will be refused for that reason, with words to act on
            raise ProtocolError("the asker is in another network namespace", error.strerror or "") from error
    ours = os.stat("/proc/self/ns/net")
    if network != (ours.st_dev, ours.st_ino):
        raise ProtocolError("the asker is in another network namespace")
    if not peer.may_ask(asker, theirs, os.getuid(), group):
        raise ProtocolError(f"user {asker.uid} may not ask this helper")
    return asker


def main(ways: tuple[str, ...] = (), group: int | None = None) -> int:
    """Take the socket at descriptor 0, get ready, give up privilege, and serve.

    `ways`, names of firewall.WAYS, are tried instead of all of them; only tests give any. `group` is whose members may
    ask, where there is one.
    """
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    try:
        channel = Channel.from_fd(0)
        asker = check_peer(0, group)
    except ProtocolError as error:
        stderr.say(f"proxyvpn: the helper cannot start: {error.what}")
        return 1
    from proxyvpn.kernel import RealKernel  # noqa: PLC0415  (100 ms of imports: not before the signals are ignored)

    try:
        kernel = RealKernel(ways, asker) if ways else RealKernel(asker=asker)
        if note := kernel.give_up():
            stderr.say(f"proxyvpn: {note}")
    except ProxyvpnError as error:
        _refuse(channel, error)
        return 1
    return serve(channel, kernel, stderr.say)


if __name__ == "__main__":
    sys.exit(main())
