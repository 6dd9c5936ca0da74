"""What can go wrong, in words a person can act on, and the exit code each kind ends with.

Every error says what failed, why, and what to do about it: three short lines at most. Classes are named by what
failed, never by the library that noticed. A message must never contain a password, and text that came from outside (a
proxy's reply, a file) is made printable before it gets here.
"""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Exit codes of every proxyvpn command; part of the interface, see README.md."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_RUNNING = 3
    NO_PRIVILEGE = 4
    PROXY_UNREACHABLE = 5
    PROXY_REFUSES = 6
    ALREADY_UP = 7
    ROLLED_BACK = 8
    LOCKED = 9


class ProxyvpnError(Exception):
    """Say what failed, why, and what to do; `code` is the exit code of the command that it ends."""

    code: Exit = Exit.ERROR

    def __init__(self, what: str, why: str = "", advice: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.advice = advice

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.why, self.advice) if line)


class UsageError(ProxyvpnError):
    """What was typed, or found in an environment variable, cannot be meant."""

    code = Exit.USAGE


class NotRunning(ProxyvpnError):
    """There is no tunnel to ask or to end."""

    code = Exit.NOT_RUNNING


class PrivilegeMissing(ProxyvpnError):
    """The kernel did not allow it."""

    code = Exit.NO_PRIVILEGE


class ProxyUnreachable(ProxyvpnError):
    """No TCP connection to any address of the proxy."""

    code = Exit.PROXY_UNREACHABLE


class CredentialsRefused(ProxyvpnError):
    """The proxy answered 407 to the user and password it was given."""

    code = Exit.PROXY_REFUSES


class AlreadyUp(ProxyvpnError):
    """Another tunnel holds this network namespace or this state directory."""

    code = Exit.ALREADY_UP


class RolledBack(ProxyvpnError):
    """Bringing the tunnel up failed half-way; the machine is as it was."""

    code = Exit.ROLLED_BACK


class MachineLocked(ProxyvpnError):
    """A killswitch without its tunnel: nothing leaves until `proxyvpn up` or `proxyvpn teardown`."""

    code = Exit.LOCKED


class StateError(ProxyvpnError):
    """The state directory or the file in it cannot be used."""


class ProtocolError(ProxyvpnError):
    """A message that one of our own processes must not send: unknown, cut, out of phase, or of the wrong type."""


class KernelError(ProxyvpnError):
    """A step that the kernel refused."""


_BY_CODE: dict[Exit, type[ProxyvpnError]] = {
    kind.code: kind
    for kind in (
        *(UsageError, NotRunning, PrivilegeMissing, ProxyUnreachable, CredentialsRefused, AlreadyUp),
        *(RolledBack, MachineLocked),
    )
}


def from_code(code: int, what: str, why: str, advice: str) -> ProxyvpnError:
    """Rebuild the error that another process reported; an unknown code becomes a plain ProxyvpnError."""
    kind = _BY_CODE.get(Exit(code), ProxyvpnError) if code in Exit._value2member_map_ else ProxyvpnError
    return kind(what, why, advice)
