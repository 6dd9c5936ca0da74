"""The process in which a PAC file is evaluated: `python -m proxyvpn.pac.child`, its channel as fd 0.

It has no capability, a uid of its own where it was started by root, little memory, and can write to no file. A question
that takes longer than LIMIT ends it, by a timer that is set before each (setitimer(2)) and whose signal is not caught:
no script can keep that from happening. Who asks starts another one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from functools import partial
from typing import Final

from proxyvpn import privilege
from proxyvpn.channel import Channel, close_all
from proxyvpn.errors import Exit, ProtocolError, ProxyvpnError
from proxyvpn.messages import Evaluate, Evaluated, Load, Loaded, Refused
from proxyvpn.pac.engine import Engine, Exhausted
from proxyvpn.pac.lookups import Lookups
from proxyvpn.pac.routes import MAX_SCRIPT

LIMIT: Final = 1.0
"""Seconds for one question, its name lookups included."""
MAX_ANSWER: Final = 8192
_LIMITS: Final = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_AS, 512 * 1024 * 1024),
    (resource.RLIMIT_NOFILE, 32),
)


def main() -> None:
    """Serve until end of file."""
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        channel = Channel.from_fd(0)
        code = serve(channel)
    except BrokenPipeError:
        code = Exit.OK
    except (ProxyvpnError, OSError):  # whoever asks sees the end of file, and says so
        code = Exit.ERROR
    sys.exit(code)


def serve(channel: Channel, limit: float = LIMIT) -> Exit:
    """Load what comes first, then answer one question after the other."""
    received = channel.receive()
    if received is None:
        return Exit.OK
    try:
        if not isinstance(received.message, Load) or len(received.fds) != 1:
            raise ProtocolError(f"{type(received.message).__name__} is not how this process begins")
        script = _read(received.fds[0])
    finally:
        close_all(received.fds)
    _give_up(received.message.uid)
    lookups = Lookups()
    make = partial(_engine, script, received.message.mine, lookups, limit)
    try:
        engine = make()
    except ProxyvpnError as error:
        channel.send(Refused(error.code, error.what, error.why, error.advice))
        while channel.receive() is not None:
            pass  # who ends with a question unread takes the last words back, too (ECONNRESET at the other end)
        return Exit.ERROR
    channel.send(Loaded())
    while (received := channel.receive()) is not None:
        close_all(received.fds)
        if not isinstance(received.message, Evaluate):
            raise ProtocolError(f"{type(received.message).__name__} is no question")
        try:
            channel.send(_answer(engine, lookups, received.message, limit))
        except Exhausted as error:
            channel.send(Evaluated("", _words(error)))
            engine = make()
    return Exit.OK


def _engine(script: str, mine: tuple[str, ...], lookups: Lookups, limit: float) -> Engine:
    lookups.begin()
    with _ended_after(3 * limit):  # it is parsed, and runs for the first time
        return Engine(script, lookups.addresses, mine)


def _answer(engine: Engine, lookups: Lookups, question: Evaluate, limit: float) -> Evaluated:
    lookups.begin()
    try:
        with _ended_after(limit):
            return Evaluated(engine.find(question.url, question.host)[:MAX_ANSWER], "")
    except Exhausted:
        raise
    except ProxyvpnError as error:
        return Evaluated("", _words(error))


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """Let this process be ended when what is within takes longer."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _words(error: ProxyvpnError) -> str:
    return f"{error.what}{f': {error.why}' if error.why else ''}"


def _give_up(uid: int) -> None:
    os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"  # resolv.conf(5): nobody waits longer than that anyway
    privilege.drop_all(uid)
    for which, most in _LIMITS:
        resource.setrlimit(which, (most, most))


def _read(fd: int) -> str:
    size = os.fstat(fd).st_size
    if size > MAX_SCRIPT:
        raise ProtocolError("the script is too long")
    return os.pread(fd, size, 0).decode()


if __name__ == "__main__":
    main()
