"""The TUN device's queues: /dev/net/tun and its ioctls (linux/if_tun.h, Documentation/networking/tuntap.rst).

The node may be readable for root only, so its descriptors are opened first, before any privilege is given up, and
attached later. The device is not persistent: it ends with the last descriptor. Its owner is root: without an owner
every process that can open the node could attach a queue and read what is sent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from proxyvpn.errors import KernelError, PrivilegeMissing, ProxyvpnError
from proxyvpn.plan import NameTaken

NODE: Final = "/dev/net/tun"

_TUNSETIFF: Final = 0x400454CA
_TUNSETOWNER: Final = 0x400454CC
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_TUN: Final = 0x0001
_IFF_MULTI_QUEUE: Final = 0x0100
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000
_FLAGS: Final = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_MULTI_QUEUE
_TUN_F_CSUM: Final = 0x01
_TUN_F_TSO4: Final = 0x02
_TUN_F_TSO6: Final = 0x04

_TAKEN: Final = (errno.EBUSY, errno.EEXIST, errno.EINVAL)
"""What TUNSETIFF says when a device of that name is there already, of our kind or of another."""


def open_nodes(number: int) -> tuple[int, ...]:
    """Open /dev/net/tun `number` times. Raises PrivilegeMissing, KernelError."""
    fds: list[int] = []
    try:
        for _ in range(number):
            fds.append(os.open(NODE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise _why(error) from error
    return tuple(fds)


def attach(fds: tuple[int, ...], ifname: str) -> None:
    """Make the device and attach each descriptor as a queue. Raises NameTaken, PrivilegeMissing, KernelError."""
    for number, fd in enumerate(fds):
        flags = _FLAGS | (0 if number else _IFF_TUN_EXCL)
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", ifname.encode(), flags))
            if number == 0:
                fcntl.ioctl(fd, _TUNSETOWNER, 0)
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6)
        except OSError as error:
            if number == 0 and error.errno in _TAKEN:
                raise NameTaken(f"the name {ifname} is taken", error.strerror or "") from error
            if error.errno == errno.EPERM:
                raise PrivilegeMissing("no TUN device", "the kernel wants CAP_NET_ADMIN for it") from error
            raise KernelError(f"queue {number} of {ifname} cannot be attached", error.strerror or "") from error


def _why(error: OSError) -> ProxyvpnError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return PrivilegeMissing(
            f"{NODE} cannot be opened", error.strerror or "", f"as root: chmod 0666 {NODE}, or run proxyvpn as root"
        )
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return KernelError(
            f"there is no {NODE}" if error.errno == errno.ENOENT else f"{NODE} leads to no driver",
            "this kernel has no TUN driver loaded, or this container was not given the device",
            "as root: modprobe tun (docker: --device /dev/net/tun)",
        )
    return KernelError(f"{NODE} cannot be opened", error.strerror or "")
