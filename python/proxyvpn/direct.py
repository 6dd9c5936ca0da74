"""Grants the wish for a connection past the tunnel: to a resolver of direct names, by the helper, which checks it.

The wish is `ADDRESS PORT` in ASCII, or `resolver N`: the Nth of the machine's resolvers of now, round and round. The
grant is a descriptor of a connection that was begun.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from proxyvpn.errors import ProxyvpnError
from proxyvpn.tunnel import IPAddress
from proxyvpn.wishes import Granted

KIND = "direct"


class Direct:
    """Asks the helper, which answers at once."""

    def __init__(
        self, dial: Callable[[IPAddress, int], int], resolvers: Callable[[], tuple[IPAddress, ...]] = tuple
    ) -> None:
        self._dial = dial
        self._resolvers = resolvers
        self._granted: list[Granted] = []

    def begin(self, number: int, content: bytes) -> None:
        """Dial what `content` names."""
        try:
            address, port = parse(content, self._resolvers())
            self._granted.append(Granted(number, fd=self._dial(address, port)))
        except ValueError:
            self._granted.append(Granted(number, refusal="not an address and a port"))
        except ProxyvpnError as error:
            self._granted.append(Granted(number, refusal=f"{error.what}{f': {error.why}' if error.why else ''}"))

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
