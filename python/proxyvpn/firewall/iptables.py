"""iptables: to come."""

from __future__ import annotations

from proxyvpn.errors import KernelError
from proxyvpn.firewall.nft import Nft


def legacy() -> Nft:
    raise KernelError("not built yet")


def usual() -> Nft:
    raise KernelError("not built yet")
