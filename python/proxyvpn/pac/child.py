"""The process in which a PAC file is evaluated: `python -m proxyvpn.pac.child`, its channel as fd 0.

It has no capability, a uid of its own where it was started by root, little memory, and can write to no file and start
no process. A question that takes longer than LIMIT ends it, by a timer that is set before each (setitimer(2)) and whose
signal is not caught: no script and no resolver can keep that from happening. Who asks starts another one.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from typing import Final

from proxyvpn import privilege
from proxyvpn.channel import Channel, close_all
from proxyvpn.errors import Exit, ProtocolError, ProxyvpnError
from proxyvpn.messages import Evaluate, Evaluated, Load, Loaded, Refused
from proxyvpn.pac.engine import MAX_SCRIPT, Engine, Exhausted
from proxyvpn.pac.virtual import is_virtual

LIMIT: Final = 1.0
"""Seconds for one question, its name lookups included."""
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
    try:
        signal.setitimer(signal.ITIMER_REAL, 3 * limit)  # it is parsed and run for the first time
        engine = Engine(script, resolve, received.message.mine)
    except ProxyvpnError as error:
        channel.send(Refused(error.code, error.what, error.why, error.advice))
        return Exit.ERROR
    signal.setitimer(signal.ITIMER_REAL, 0)
    channel.send(Loaded())
    return _answer(channel, engine, limit)


def _answer(channel: Channel, engine: Engine, limit: float) -> Exit:
    while (received := channel.receive()) is not None:
        question = received.message
        close_all(received.fds)
        if not isinstance(question, Evaluate):
            raise ProtocolError(f"{type(question).__name__} is no question")
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            answer = Evaluated(engine.find(question.url, question.host)[:MAX_ANSWER], "")
        except ProxyvpnError as error:
            answer = Evaluated("", f"{error.what}{f': {error.why}' if error.why else ''}")
            if isinstance(error, Exhausted):
                channel.send(answer)
                return Exit.ERROR
        signal.setitimer(signal.ITIMER_REAL, 0)
        channel.send(answer)
    return Exit.OK


MAX_ANSWER: Final = 8192


def resolve(host: str) -> tuple[str, ...]:
    """Give a name's addresses, those left out that stand for names (they say nothing about where it is)."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    addresses = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return tuple(address for address in addresses if not is_virtual(address))


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
