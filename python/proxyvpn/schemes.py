"""Pure: what --proxy-auth says -> the schemes of authentication that may be used with a proxy.

    --proxy-auth negotiate,digest       only these, the strongest first whatever their order here
    --proxy-auth preemptive             Basic before the proxy asks for it: the password goes out unasked
    --proxy-auth basic,preemptive       both

Negotiate needs a Kerberos ticket or a keytab, the others a user and a password.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from proxyvpn.errors import UsageError
from proxyvpn.proxy import Proxy

NAMES: Final = ("negotiate", "digest", "ntlm", "basic")
"""The strongest first."""
PREEMPTIVE: Final = "preemptive"
_EXAMPLE: Final = "write it like --proxy-auth negotiate,digest or --proxy-auth preemptive"


@dataclass(frozen=True, slots=True)
class Schemes:
    """Those that may be used (none: all), and whether Basic is sent unasked."""

    names: tuple[str, ...]
    preemptive: bool


def parse(text: str) -> Schemes:
    """Read the value of --proxy-auth. Raises UsageError."""
    words = [word.strip().lower() for word in text.split(",")]
    for word in words:
        if word not in (*NAMES, PREEMPTIVE):
            shown = "".join(letter if letter.isprintable() else "?" for letter in word[:30])
            raise UsageError(f"--proxy-auth {shown} is no scheme", f"there are {', '.join(NAMES)}", _EXAMPLE)
    names = tuple(name for name in NAMES if name in words)
    preemptive = PREEMPTIVE in words
    if preemptive and names and "basic" not in names:
        raise UsageError("--proxy-auth preemptive is about basic, which is not among those that may be used")
    return Schemes(names, preemptive)


def apply(schemes: Schemes, proxy: Proxy) -> Proxy:
    """Give `proxy` with these. Raises UsageError when it lacks the user that all of them need."""
    if proxy.user is None and (schemes.preemptive or (schemes.names and "negotiate" not in schemes.names)):
        raise UsageError("--proxy-auth is given, but no user", str(proxy), "add --proxy-user USER")
    return replace(proxy, schemes=schemes.names, preemptive=schemes.preemptive)
