"""All that `up` does outside its own memory, in one value: tests pass their own.

Also who this process is, and signals as something to poll.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxyvpn import exclusion, privilege, reach, token_source
from proxyvpn.children import Helper, Worker
from proxyvpn.exclusion import NOBODY, Excluded
from proxyvpn.mark import LINK_NUMBERS, LINK_PREFIX
from proxyvpn.options import Options
from proxyvpn.pac import evaluator, source
from proxyvpn.plan import Host
from proxyvpn.reach import Place
from proxyvpn.renewal import EVERY
from proxyvpn.wishes import Provider

WORKER_UIDS: Final = privilege.HELPER_UIDS[::-1]
"""The helper takes the first free one, the worker the last: neither may signal or trace the other."""
_MOST_ANCESTORS: Final = 64


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are, for the record and for the worker."""

    boot_id: str
    netns: int
    pid: int
    worker_uid: int
    queues: int


@dataclass(frozen=True, slots=True)
class World:
    """All that `up` does outside its own memory; tests pass their own."""

    helper: Callable[[], Helper]
    worker: Callable[[], Worker]
    resolve: Callable[[Options, int], tuple[Place, ...]]
    attempt: Callable[[tuple[Place, ...], int], Place]
    providers: Callable[[Options], dict[str, Provider]]
    """Who grants the worker's wishes, by their kind."""
    read: Callable[[str], str]
    host: Callable[[], Host]
    say: Callable[[str], None]
    ready: Callable[[str], None]
    identity: Identity
    stop: int
    """A descriptor that becomes readable when a signal asks to end."""
    look_every: float = 5.0
    """Seconds between two looks at resolv.conf."""
    renew_every: float = EVERY
    """Seconds between two looks at what the proxies' names mean."""
    terminal: int = -1
    """A terminal on which Enter may be typed; -1: none."""
    remote: bool = False
    """Whether whoever typed `up` came in by SSH."""
    exclude: Callable[[Options, tuple[Place, ...]], Excluded] = lambda *_: NOBODY
    """Who is to be left alone: whom the options name, and proxies on this machine."""
    ticket: bool = False
    """Whether there may be a Kerberos ticket to show to a proxy."""


def real(say: Callable[[str], None], ready: Callable[[str], None]) -> World:
    """Give the World in which `up` runs. From here on no core is left: it would hold the proxy's password.

    Of one byte, not zero: a program that the kernel pipes cores to gets them at any limit but this one (core(5)).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    environ = dict(os.environ)
    return World(
        helper=lambda: Helper.start(environ),
        worker=lambda: Worker.start(environ),
        resolve=lambda options, stop: reach.resolve(options.proxies, stop),
        attempt=reach.attempt,
        providers=lambda options: providers(options, environ, say),
        read=read_text,
        host=host,
        say=say,
        ready=ready,
        identity=identity(),
        stop=catch_signals(),
        terminal=0 if os.isatty(0) else -1,
        remote=came_by_ssh(environ, ancestors(os.getppid())),
        exclude=exclude,
        ticket=token_source.may_have_ticket(environ, os.geteuid(), read_text("/etc/krb5.conf"), os.path.exists),
    )


def providers(options: Options, environ: Mapping[str, str], say: Callable[[str], None]) -> dict[str, Provider]:
    """Give who grants the worker's wishes."""
    found: dict[str, Provider] = {"token": token_source.TokenSource.of(options.proxies, environ)}
    if options.script is not None:
        found[source.KIND] = source.Source(options.script, options.proxies, evaluator.starter(environ), say)
    return found


def exclude(options: Options, places: tuple[Place, ...]) -> Excluded:
    """Find out who is to be left alone. Raises UsageError."""
    proxies = ((str(place.proxy), place.endpoint) for place in places)
    found = exclusion.find(options.exclude_users, options.exclude_cgroups, proxies)
    settings = (read_text(str(path)) for path in Path("/proc/sys/net/ipv4/conf").glob("*/rp_filter"))
    strict = options.killswitch and "1" in {text.strip() for text in settings}
    return exclusion.warned(found, options.names.are_captured, strict)


def came_by_ssh(environ: Mapping[str, str], programs: tuple[str, ...]) -> bool:
    """Pure: say whether whoever started us came in by SSH; sudo takes the variable away, but not the ancestors."""
    return "SSH_CONNECTION" in environ or any(name.startswith("sshd") for name in programs)


def ancestors(pid: int) -> tuple[str, ...]:
    """Give the names of process `pid` and of those above it, as far as they can be seen."""
    names: list[str] = []
    while pid > 0 and len(names) < _MOST_ANCESTORS:
        before, _, after = read_text(f"/proc/{pid}/stat").rpartition(")")
        names.append(before.partition("(")[2])
        pid = int(after.split()[1]) if after else 0
    return tuple(names)


def identity() -> Identity:
    """Find out who we are."""
    cores = len(os.sched_getaffinity(0))
    return Identity(
        boot_id=read_text("/proc/sys/kernel/random/boot_id").strip(),
        netns=os.stat("/proc/self/ns/net").st_ino,
        pid=os.getpid(),
        worker_uid=privilege.free_uid(read_text("/etc/passwd"), (), WORKER_UIDS) if os.geteuid() == 0 else 0,
        queues=1 if cores <= 2 else min(4, cores // 2),
    )


def read_text(path: str) -> str:
    """Give a small file's text; empty when it cannot be read."""
    try:
        return Path(path).read_bytes()[: 64 * 1024].decode(errors="replace")
    except OSError:
        return ""


def catch_signals() -> int:
    """Turn SIGINT, SIGTERM and SIGHUP into bytes of a pipe; give its end to read. One that was ignored stays so."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(wanted) is not signal.SIG_IGN:
            signal.signal(wanted, lambda *_: None)
    return reading


def host() -> Host:
    """Find out what the plan depends on, without privilege; the helper looks for itself."""
    taken = {name for _, name in socket.if_nameindex()}
    free = (f"{LINK_PREFIX}{number}" for number in LINK_NUMBERS if f"{LINK_PREFIX}{number}" not in taken)
    return Host(next(free, f"{LINK_PREFIX}0"), ipv6=Path("/proc/sys/net/ipv6").exists())
