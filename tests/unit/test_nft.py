"""firewall/nft.py against an nft that notes what it is given."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxyvpn.errors import KernelError
from proxyvpn.firewall.nft import Nft
from proxyvpn.plan import Endpoint, Host, Tunnel

TUNNEL = Tunnel((Endpoint(ip_address("192.0.2.10"), 3128),), (), (), True, 1)
HOST = Host("pvpn0", ipv6=True)


class Noting:
    """Loads what does not hold one of `unknown`."""

    def __init__(self, *unknown: str) -> None:
        self.unknown = unknown
        self.loaded: list[str] = []

    def __call__(self, text: str) -> tuple[int, str, str]:
        if any(word in text for word in self.unknown):
            return 1, "", "Error: Could not process rule: Operation not supported"
        self.loaded += [text] if "chain" in text else []
        return 0, "", ""


def test_kernel_with_everything_gets_everything_at_once() -> None:
    nft = Noting()
    Nft(nft, "test", needs_root=False).add(TUNNEL, HOST)
    assert len(nft.loaded) == 1
    assert "ct timeout set" in nft.loaded[0]


def test_kernel_without_conntrack_timeouts_gets_the_rest() -> None:
    nft = Noting("ct timeout")
    Nft(nft, "test", needs_root=False).add(TUNNEL, HOST)
    assert len(nft.loaded) == 1
    assert "chain guard" in nft.loaded[0]


def test_kernel_that_refuses_more_than_that_is_an_error() -> None:
    with pytest.raises(KernelError, match="nftables refused"):
        Nft(Noting("chain"), "test", needs_root=False).add(TUNNEL, HOST)
