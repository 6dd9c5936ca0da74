"""What `status`, `confirm` and `teardown` do from outside a running `up`: ask it, or look at the kernel by a helper.

The record in the state directory is only shown, never followed: a helper finds what is ours by its tags.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxyvpn import control
from proxyvpn.channel import Channel, Received, close_all
from proxyvpn.children import Helper
from proxyvpn.errors import AlreadyUp, Exit, NotRunning, ProtocolError, ProxyvpnError, StateError
from proxyvpn.messages import Ask, Closed, Confirm, Confirmed, Down, Report
from proxyvpn.peer import Peer
from proxyvpn.report import Condition
from proxyvpn.state import Record, StateDir

ANSWER_LIMIT: Final = 12.0
DOWN_LIMIT: Final = 15.0
GONE_LIMIT: Final = 5.0


class HungUp(StateError):
    """The running `up` closed the connection instead of answering: it ends, or does not know the question."""


@dataclass(frozen=True, slots=True)
class Here:
    """This boot and this network namespace, and whether we may look into the kernel."""

    boot_id: str
    privileged: bool


def condition(state: StateDir | None, here: Here, start_helper: Callable[[], Helper]) -> Condition:
    """Find out how things are. Raises StateError, and ProxyvpnError when a running `up` does not answer."""
    connected = control.connect(state) if state else None
    if connected is not None:
        channel, peer = connected
        found = answer(channel, peer.pid, Ask(), ANSWER_LIMIT).message
        if not isinstance(found, Report):
            raise ProtocolError(f"the running proxyvpn (pid {peer.pid}) answered with something else than a report")
        return Condition("up", pid=peer.pid, report=found)
    record, notes = _record(state, here)
    if here.privileged:
        helper = start_helper()
        try:
            left = helper.status()
        except AlreadyUp as error:
            raise _elsewhere(error) from error
        finally:
            helper.end()
        name = "locked" if left.locked else "down"
        return Condition(name, record=record, left=left.left, dropped=left.dropped, notes=notes)
    if record is None:
        return Condition("down")
    note = "seen from the state file alone; as root or after `proxyvpn setup`, `proxyvpn status` looks into the kernel"
    return Condition("locked" if record.killswitch else "down", record=record, left=record.steps, notes=(note,))


def _record(state: StateDir | None, here: Here) -> tuple[Record | None, tuple[str, ...]]:
    """Give the record of this boot, and what is to be said about it: whoever may look into the kernel needs none."""
    try:
        record = state.read() if state else None
    except StateError as error:
        if not here.privileged:
            raise
        return None, (f"{error.what} ({error.why}); {error.advice}",)
    if record is not None and record.boot_id != here.boot_id:
        return None, ()  # a reboot has left nothing of it
    return record, ()


def exit_code(found: Condition) -> Exit:
    """Give the exit code of `status`."""
    return {"up": Exit.OK, "locked": Exit.LOCKED}.get(found.state, Exit.NOT_RUNNING)


def confirm(state: StateDir | None, say: Callable[[str], None]) -> Exit:
    """Tell a running `up --confirm` that all is well. Raises NotRunning."""
    connected = control.connect(state) if state else None
    if connected is None:
        raise NotRunning("no tunnel is running", "", "it may have undone itself: see `proxyvpn status`")
    channel, peer = connected
    found = answer(channel, peer.pid, Confirm(), ANSWER_LIMIT).message
    if not isinstance(found, Confirmed):
        raise ProtocolError(f"the running proxyvpn (pid {peer.pid}) answered with something else than a confirmation")
    say("confirmed: the tunnel stays up" if found.waited else "nothing to confirm: the tunnel stays up anyway")
    return Exit.OK


def end(state: StateDir | None, start_helper: Callable[[], Helper], say: Callable[[str], None]) -> Exit:
    """End the running `up`, or clean up after a dead one."""
    connected = control.connect(state) if state else None
    hung_up: HungUp | None = None
    if connected is not None:
        try:
            return _end_running(*connected, say)
        except HungUp as error:
            hung_up = error  # where it was just ending, see what is left
    if state is not None:
        try:
            state.lock()
        except AlreadyUp as error:
            raise hung_up or AlreadyUp(
                "proxyvpn is just starting or ending", f"it holds {state.path}", "try again in a moment"
            ) from error
        except StateError as error:  # a full disk must not keep a machine locked; the helper's own lock is what counts
            say(f"{error.what}: {error.why}; going on without")
    return _clean_up(state, start_helper, say)


def _end_running(channel: Channel, peer: Peer, say: Callable[[str], None]) -> Exit:
    with control.watched(peer.pid) as gone:
        try:
            closed = answer(channel, peer.pid, Down(), DOWN_LIMIT).message
        except HungUp:
            gone.wait(GONE_LIMIT)
            raise
        gone.wait(GONE_LIMIT)  # it still ends its children and lets go of the lock: a new `up` may follow at once
    if not isinstance(closed, Closed):
        raise ProtocolError(f"the running proxyvpn (pid {peer.pid}) answered with something else than an end")
    say(f"ended; {_count(closed.undone)} undone")
    return _say_left(closed.left, say)


def _clean_up(state: StateDir | None, start_helper: Callable[[], Helper], say: Callable[[str], None]) -> Exit:
    helper = start_helper()
    try:
        reclaimed = helper.reclaim()
    except AlreadyUp as error:
        raise _elsewhere(error) from error
    finally:
        helper.end()
    try:
        if state is not None:
            state.clear()
    except StateError as error:
        say(f"{error.what}: {error.why}")
    if not reclaimed.removed and not reclaimed.left:
        say("nothing to do: no tunnel is running and nothing was left behind")
    for step in reclaimed.removed:
        say(f"removed: {step}")
    return _say_left(reclaimed.left, say)


def _elsewhere(error: AlreadyUp) -> AlreadyUp:
    what = "a tunnel runs in this network namespace: just starting or ending, or with another state directory"
    return AlreadyUp(what, error.why, "give the --state-dir that its `up` was given, or end that `up` itself (Ctrl-C)")


def _say_left(left: tuple[str, ...], say: Callable[[str], None]) -> Exit:
    for step in left:
        say(f"could not be removed: {step}")
    return Exit.ERROR if left else Exit.OK


def _count(steps: tuple[str, ...]) -> str:
    return "1 step" if len(steps) == 1 else f"{len(steps)} steps"


def answer(channel: Channel, pid: int, question: control.Question, limit: float) -> Received:
    """Ask a running `up` and hang up. Raises ProxyvpnError when it does not answer, StateError when it hangs up."""
    channel.settimeout(limit)
    try:
        channel.send(question)
        received = channel.receive_from(pid, limit)
    except TimeoutError as error:
        raise ProxyvpnError(
            f"the running proxyvpn (pid {pid}) does not answer",
            str(error),
            f"end it by `kill {pid}`, or by `kill -9 {pid}` and then `proxyvpn teardown`",
        ) from error
    except ProtocolError as error:
        raise ProxyvpnError(
            f"the running proxyvpn (pid {pid}) speaks another version",
            error.what,
            f"end it by `kill {pid}`: it undoes everything by itself",
        ) from error
    except OSError as error:
        raise HungUp(f"the running proxyvpn (pid {pid}) hung up", error.strerror or "", "try again") from error
    finally:
        channel.close()
    if received is None:
        raise HungUp(
            f"the running proxyvpn (pid {pid}) hung up", "it may just be ending", f"try again, or `kill {pid}`"
        )
    close_all(received.fds)
    return received
