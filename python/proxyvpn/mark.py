"""The numbers and names under which proxyvpn lives in the kernel, and nothing else.

They are constants, never chosen by a caller: the helper only ever adds, finds and removes objects that carry them.
PROTOCOL is the tag (rtnetlink(7) rtm_protocol, FRA_PROTOCOL) that makes `teardown` possible without a state file.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

MARK: Final = 0x70767076
"""fwmark of every captured packet; matched with MASK, so that an unmarked packet can never match."""
MASK: Final = 0xFFFFFFFF
INBOUND: Final = 0x70767069
"""conntrack mark of connections that came in: connections whose SYN this machine answered."""
DIRECT: Final = 0x70767044
"""fwmark (SO_MARK) of the few connections that the helper makes itself: they go past the tunnel."""
EXCLUDED: Final = 0x70767058
"""fwmark, and conntrack mark of TCP, of what programs send that are excluded; only our own chains may set it."""

TABLE: Final = 28790
PROTOCOL: Final = 118
PREFERENCE_ATTACHED: Final = 5198
"""What comes out of the TUN may go to local and attached networks (a container) …"""
PREFERENCE_STRAY: Final = 5199
"""… and nowhere else."""
PREFERENCE_MARK: Final = 5200
PREFERENCE_DIRECT: Final = 5201
"""What carries DIRECT goes by the machine's own routes."""
PREFERENCE_POOL: Final = 5202
"""To the virtual addresses of names: into the TUN, marked or not, so that nothing to them ever leaves."""
PREFERENCE_ALLOWED: Final = 5203
"""With the killswitch: what may leave directly goes by the machine's own routes …"""
PREFERENCE_DHCP: Final = 5204
PREFERENCE_ANSWER: Final = 5205
"""What a UDP server of `--inbound` answers may have no address of its own yet, either."""
PREFERENCE_EXCLUDED: Final = 5206
"""What carries EXCLUDED goes by the machine's own routes …"""
PREFERENCE_USER: Final = 5207
"""… and what an excluded user sends even before it carries that, so that it gets an address of the machine."""
PREFERENCE_UNBOUND: Final = 5210
"""… and what has no address of its own yet, or the TUN's, goes into the TUN, marked or not."""
PREFERENCE_NO_ROUTE: Final = 40000
"""After main and default: lets connect() find a route on a machine without a default route; DNS, too, if it is ours."""
UNREACHABLE_METRIC: Final = 4278198272

LINK_PREFIX: Final = "pvpn"
LINK_NUMBERS: Final = range(10)
LINK_ALIAS: Final = "proxyvpn"
LINK_MTU: Final = 65535
LINK_QUEUE: Final = 1000
"""Packets the TUN holds for a reader that is busy (txqueuelen)."""

NFT_TABLE: Final = "proxyvpn"
CHAIN_PREFIX: Final = "PROXYVPN_"
"""Names of the chains of the iptables fallback."""

TUN4: Final = IPv4Address("198.18.0.1")
TUN6: Final = IPv6Address("fd70:7670:6e::1")
POOL4: Final = IPv4Network("198.18.0.0/15")
POOL6: Final = IPv6Network("fd70:7670:6e:1::/64")
"""The virtual addresses of names (RFC 2544's range for tests, and one of ours)."""
