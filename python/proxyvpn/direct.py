"""Grants the wish for a connection past the tunnel: to a resolver of direct names, or to where a PAC file says DIRECT.
The helper makes it, and checks that the tunnel is one that permits it.

The wish is `ADDRESS PORT` in ASCII, or `resolver N`: the Nth of the machine's resolvers of now, round and round. The
grant is a descriptor of a connection that was begun.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from proxyvpn.errors import ProxyvpnError
from proxyvpn.tunnel import DNS, IPAddress
from proxyvpn.wishes import Granted

KIND = "direct"


def anywhere(address: IPAddress, port: int) -> bool:  # noqa: ARG001
    """Permit all that the helper does."""
    return True


class Direct:
    """Asks the helper, which answers at once."""

    def __init__(
        self,
        dial: Callable[[IPAddress, int], int],
        resolvers: Callable[[], tuple[IPAddress, ...]] = tuple,
        permits: Callable[[IPAddress, int], bool] = anywhere,
    ) -> None:
        self._dial = dial
        self._resolvers = resolvers
        self._permits = permits
        self._granted: list[Granted] = []

    def begin(self, number: int, content: bytes) -> None:
        """Dial what `content` names."""
        try:
            address, port = self._checked(content)
            self._granted.append(Granted(number, fd=self._dial(address, port)))
        except ValueError:
            self._granted.append(Granted(number, refusal="not an address and a port"))
        except ProxyvpnError as error:
            self._granted.append(Granted(number, refusal=f"{error.what}{f': {error.why}' if error.why else ''}"))

    def _checked(self, content: bytes) -> tuple[IPAddress, int]:
        resolvers = self._resolvers()
        address, port = parse(content, resolvers)
        if self._permits(address, port) or (port == DNS and address in resolvers):
            return address, port
        raise ProxyvpnError("the PAC file does not say so")

    def fileno(self) -> int:
        """All is granted at once."""
        return -1

    def take(self) -> list[Granted]:
        """Give what was dialled since."""
        taken, self._granted = self._granted, []
        return taken

    def end(self) -> None:
        """Nothing is kept."""


def parse(content: bytes, resolvers: tuple[IPAddress, ...] = ()) -> tuple[IPAddress, int]:
    """Give the address and the port in a wish. Raises ValueError."""
    address, _, port = content.decode("ascii").partition(" ")
    if address == "resolver" and resolvers and port.isdigit() and len(port) < 10:
        return resolvers[int(port) % len(resolvers)], 53
    if not (port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError("no port")
    return ip_address(address), int(port)
