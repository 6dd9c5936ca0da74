"""A TCP connection past the tunnel, made by the helper: SO_MARK needs CAP_NET_ADMIN (socket(7)), and a mark stays.

It is begun, not waited for: whoever gets the descriptor sees how it ends (connect(2), EINPROGRESS).
"""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import IPv6Address
from typing import Final

from proxyvpn.errors import KernelError
from proxyvpn.mark import DIRECT
from proxyvpn.tunnel import IPAddress

_LATER: Final = (0, errno.EINPROGRESS)


def dial(address: IPAddress, port: int) -> int:
    """Give a non-blocking socket that carries DIRECT and connects to `address`. Raises KernelError."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise KernelError(f"no socket for a connection to {address}", error.strerror or "") from error
    with sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, DIRECT)
        except OSError as error:
            raise KernelError(f"no mark for a connection to {address}", error.strerror or "") from error
        outcome = sock.connect_ex((str(address), port))
        if outcome not in _LATER:
            raise KernelError(f"no connection to {address} port {port}", os.strerror(outcome))
        return sock.detach()
