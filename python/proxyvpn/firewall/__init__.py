"""The firewall, by whatever this machine has: libnftables, the `nft` program, or the iptables programs.

Each way is a class with the same few verbs; `choose` finds the first that works. The programs are only used as root:
they are what needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from proxyvpn.errors import KernelError, ProxyvpnError
from proxyvpn.firewall import iptables, nft
from proxyvpn.plan import Connection, Host, Tunnel


class Backend(Protocol):
    """A way to load and remove the firewall of a tunnel."""

    @property
    def kind(self) -> str:
        """nft or iptables: what plan.Host calls the backend."""
        ...

    @property
    def way(self) -> str:
        """How it is done, for the log."""
        ...

    @property
    def needs_root(self) -> bool:
        """Whether uid 0 must be kept for its programs."""
        ...

    def check(self) -> None:
        """Raise KernelError when something with our names is there that is somebody else's."""

    def add(self, tunnel: Tunnel, host: Host) -> None:
        """Load everything at once, taking over what is there of ours without a gap."""

    def remove(self) -> None:
        """Remove everything of ours; success when there is nothing."""

    def admit(self, connections: Iterable[Connection]) -> None:
        """Let more connections that came in go on."""

    def update(self, tunnel: Tunnel, host: Host) -> None:
        """Replace the proxies and resolvers by those of `tunnel`, without a gap."""

    def present(self) -> tuple[str, ...]:
        """Give what is loaded of ours, as a person would name it."""
        ...

    def locked(self) -> bool:
        """Say whether a closed guard is loaded."""
        ...

    def loaded(self) -> str:
        """Give what is loaded of ours without counters, to be compared; empty when it is not there as a whole."""
        ...

    def dropped(self) -> int:
        """Give the number of packets that were refused or dropped."""
        ...


WAYS: dict[str, Callable[[], Backend]] = {
    "libnftables": nft.by_library,
    "nft": nft.by_program,
    "iptables-legacy": iptables.legacy,
    "iptables": iptables.usual,
}


def choose(root: bool, ways: tuple[str, ...] = tuple(WAYS)) -> Backend:
    """Give the first of `ways` that works here. Raises KernelError that says what each lacks."""
    problems = []
    for name in ways:
        if not root and name != "libnftables":
            problems.append(f"{name}: only as root")
            continue
        try:
            return WAYS[name]()
        except ProxyvpnError as error:
            problems.append(f"{name}: {error.what}{': ' + error.why if error.why else ''}")
    raise KernelError(
        "no way to load a firewall was found",
        "; ".join(problems),
        "install nftables (Debian, Ubuntu: apt install libnftables1), or iptables for a kernel without nf_tables",
    )
