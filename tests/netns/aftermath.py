"""What must be true after any crash: as before, or locked, or (killswitch off) open with leftovers that are named.

`status` says which, `teardown` gives back the dump from before, byte for byte.
"""

from __future__ import annotations

import errno
from ipaddress import ip_address

from tests.netns.dumps import difference, dump
from tests.netns.namespaces import Namespace, family_of
from tests.netns.rig import WORLD4, WORLD6
from tests.netns.up import proxyvpn

AS_BEFORE, LEFTOVERS, LOCKED = "as before", "open, with leftovers", "locked"
ELSEWHERE_PORT = 4433


def check(host: Namespace, before: dict[str, str], killswitch: bool, *options: str) -> str:
    """Check what `status` says against the kernel, tear down, compare; give which of the three it was."""
    found = condition(host, before, killswitch, *options)
    done = proxyvpn(host, "teardown", *options)
    assert done.returncode == 0, (found, done.stdout, done.stderr)
    assert difference(before, dump(host)) == "", found
    return found


def condition(host: Namespace, before: dict[str, str], killswitch: bool, *options: str) -> str:
    """Give which of the three the machine is, after checking that `status` says the same."""
    status = proxyvpn(host, "status", *options)
    changed = difference(before, dump(host))
    assert status.returncode in (3, 9), (status.stdout, status.stderr)
    if status.returncode == 9:
        assert killswitch, "locked, and nobody asked for it"
        assert status.stdout.startswith("locked:"), status.stdout
        assert not leaves(host), "locked, and a datagram leaves"
        return LOCKED
    assert status.stdout.startswith("down:"), status.stdout
    assert leaves(host), "nothing leaves, and status does not say so"
    if not changed:
        return AS_BEFORE
    assert not killswitch, changed
    assert "left behind" in status.stdout, (status.stdout, changed)
    return LEFTOVERS


def leaves(host: Namespace) -> bool:
    """Say whether datagrams may leave, by IPv4 and by IPv6; one without the other is a failure."""
    found = {_leaves(host, each) for each in (WORLD4, WORLD6)}
    assert len(found) == 1, "one family is open and the other is not"
    return found.pop()


def _leaves(host: Namespace, address: str) -> bool:
    assert ip_address(address)
    with host.new_socket(family_of(address), 2) as sock:
        try:
            sock.sendto(b"?", (address, ELSEWHERE_PORT))
        except OSError as error:  # refused by the firewall, or without a route
            if error.errno not in (errno.EPERM, errno.EHOSTUNREACH, errno.ENETUNREACH):
                raise
            return False
    return True
