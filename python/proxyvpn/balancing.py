"""Pure: what was typed about several proxies -> Balancing: who is asked first and next, and how health is checked.

What these mean is decided by the data plane: rust/balance.rs, rust/health.rs and rust/refusal.rs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxyvpn import proxy
from proxyvpn.errors import UsageError

ORDER: Final = "order"
WAYS: Final = (ORDER, "round-robin", "least-connections", "destination")


@dataclass(frozen=True, slots=True)
class Balancing:
    """`way` is one of WAYS. `check_host` (a name or an address, empty: none) and `check_port` are what a healthy proxy
    opens a connection to. `on_refusal`: another proxy is asked also where one has refused by its policy (4xx)."""

    way: str = ORDER
    check_host: str = ""
    check_port: int = 0
    on_refusal: bool = False

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise UsageError(f"--balance {self.way[:20]!r} is not known", "", f"it is one of {', '.join(WAYS)}")
        if bool(self.check_host) != (0 < self.check_port < 65536):
            raise UsageError("a health check needs a host and a port from 1 to 65535")


PLAIN: Final = Balancing()
"""What it is where nothing was typed."""


def read(way: str | None, check: str | None, on_refusal: bool) -> Balancing:
    """Give what `--balance`, `--health-check HOST:PORT` and `--failover-on-refusal` say. Raises UsageError."""
    host, port = _target(check) if check is not None else ("", 0)
    return Balancing(way or ORDER, host, port, on_refusal)


def _target(text: str) -> tuple[str, int]:
    try:
        return proxy.host_and_port(text)
    except UsageError as error:
        shown = "".join(letter if letter.isprintable() else "?" for letter in text[:60])
        advice = "write it like --health-check example.com:443"
        raise UsageError(f"--health-check {shown} is not a host and a port", advice=advice) from error
