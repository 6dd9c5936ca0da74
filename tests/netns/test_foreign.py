"""What somebody else has put where ours would be: refused with a sentence, or another taken, and never touched.

host, with something planted: the real helper (kernel_support.py has the drawing) ---- outside
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyvpn.channel import close_all
from proxyvpn.errors import ProxyvpnError
from tests.netns import kernel_support as support
from tests.netns.dumps import difference
from tests.netns.kernel_support import Bed, tunnel
from tests.netns.up import LONG

pytestmark = pytest.mark.privileged

NFT, LEGACY = "libnftables", "iptables-legacy"

BESIDE = {
    "tun of our name": (NFT, "ip tuntap add dev pvpn0 mode tun"),
    "tap of our name": (NFT, "ip tuntap add dev pvpn0 mode tap"),
    "veth of our name and alias": (NFT, "ip link add pvpn0 type veth; ip link set pvpn0 alias proxyvpn"),
    "bridge of our name and alias": (NFT, "ip link add pvpn0 type bridge; ip link set pvpn0 alias proxyvpn"),
    "the rules of ours, without our tag": (
        NFT,
        """for v in 4 6; do
            ip -$v rule add pref 5198 iif pvpn0 lookup main suppress_prefixlength 0
            ip -$v rule add pref 5199 iif pvpn0 blackhole
            ip -$v rule add pref 5200 fwmark 0x70767076/0xffffffff lookup 28790
            ip -$v rule add pref 40000 ipproto tcp lookup 28790
        done""",
    ),
    "the rules of ours, with another tag": (
        NFT,
        """for v in 4 6; do
            ip -$v rule add pref 5200 fwmark 0x70767076/0xffffffff lookup 28790 protocol 99
            ip -$v rule add pref 40000 ipproto tcp lookup 28790 protocol 99
        done""",
    ),
    "other rules at our preferences": (
        NFT,
        """for v in 4 6; do for pref in 5198 5199 5200 40000; do
            ip -$v rule add pref $pref fwmark 7 lookup 99; done; done""",
    ),
    "tables of almost our name": (
        NFT,
        "nft add table ip proxyvpn; nft add table ip6 proxyvpn; nft add table bridge proxyvpn; "
        "nft add table inet proxyvpn2",
    ),
    "the mark of our connections": (
        NFT,
        "nft 'table inet theirs { chain out { type filter hook output priority 300; ct mark set 0x70767069; }; }'",
    ),
    "chains of almost our name": (
        LEGACY,
        """for p in iptables-legacy ip6tables-legacy; do
            $p -t mangle -N PROXYVPN_MINE; $p -t mangle -A PROXYVPN_MINE -j ACCEPT
            $p -t mangle -A OUTPUT -p icmp -j PROXYVPN_MINE; $p -t filter -N PROXYVPN_GUARD
            $p -t filter -A PROXYVPN_GUARD -j DROP
        done""",
    ),
}


@pytest.fixture
def bed() -> Iterator[Bed]:
    with support.bed() as made:
        yield made


@pytest.mark.parametrize("killswitch", [True, *([False] * LONG)])
@pytest.mark.parametrize("planted", BESIDE)
def test_planted_thing_is_worked_around_and_never_touched(bed: Bed, planted: str, killswitch: bool) -> None:
    way, script = BESIDE[planted]
    bed.host.sh(script)
    before = bed.dump()
    for crash in (False, True):
        helper = bed.helper(way)
        _, queues = helper.open(tunnel(killswitch))
        helper.engage()
        if crash:
            helper._process.kill()
            close_all(queues)
            helper.end()
            assert bed.helper(way).reclaim().left == ()
        else:
            assert helper.close().left == ()
            close_all(queues)
            helper.end()
        assert difference(before, bed.dump()) == ""


IN_THE_WAY = {
    "route": (NFT, "ip route add 192.0.2.0/24 dev up0 table 28790", "routing table 28790"),
    "default route": (NFT, "ip -6 route add default dev up0 table 28790", "routing table 28790"),
    "nft table": (NFT, "nft 'table inet proxyvpn { chain guard { type filter hook output priority 0; }; }'", "inet"),
    "nft table, locked": (
        NFT,
        "nft 'table inet proxyvpn { chain guard { type filter hook forward priority 0; policy drop; }; }'",
        "the nftables table inet proxyvpn is somebody else's",
    ),
    "empty nft table": (NFT, "nft add table inet proxyvpn", "the nftables table inet proxyvpn is somebody else's"),
    "arp table": (
        NFT,
        "nft 'table arp proxyvpn { chain shield { type filter hook input priority 0; arp operation 9 drop; }; }'",
        "the nftables table arp proxyvpn is somebody else's",
    ),
    "empty arp table": (NFT, "nft add table arp proxyvpn", "the nftables table arp proxyvpn is somebody else's"),
    "chain": (
        LEGACY,
        "iptables-legacy -t mangle -N PROXYVPN_GUARD; iptables-legacy -t mangle -A PROXYVPN_GUARD -p sctp -j DROP",
        "the iptables chain mangle PROXYVPN_GUARD is somebody else's",
    ),
    "chain, IPv6": (
        LEGACY,
        "ip6tables-legacy -t filter -N PROXYVPN_REFUSE; ip6tables-legacy -t filter -A PROXYVPN_REFUSE -j DROP",
        "the ip6tables chain filter PROXYVPN_REFUSE is somebody else's",
    ),
}


@pytest.mark.parametrize("planted", IN_THE_WAY)
def test_planted_thing_in_the_way_is_an_error_and_never_touched(bed: Bed, planted: str) -> None:
    way, script, words = IN_THE_WAY[planted]
    bed.host.sh(script)
    before = bed.dump()
    refusing = bed.helper(way)
    with pytest.raises(ProxyvpnError, match=words) as found:
        refusing.open(tunnel(killswitch=True))
    refusing.end()
    assert found.value.advice.startswith("see `")
    looking = bed.helper(way)
    assert not looking.status().locked
    assert looking.status().left == ()
    assert (looking.reclaim().removed, looking.reclaim().left) == ((), ())
    assert difference(before, bed.dump()) == ""


@pytest.mark.parametrize("planted", ["nft table", "empty arp table"])
def test_table_that_is_planted_after_a_crash_keeps_nothing_of_ours(bed: Bed, planted: str) -> None:
    before = bed.dump()
    helper = bed.helper(NFT)
    _, queues = helper.open(tunnel(killswitch=True))
    helper.engage()
    close_all(queues)
    helper.end()
    kind = "arp" if "arp" in planted else "inet"
    bed.host.sh(f"nft delete table {kind} proxyvpn; {IN_THE_WAY[planted][1]}")
    assert bed.helper(NFT).reclaim().left == ()
    bed.host.sh(f"nft list table {kind} proxyvpn; nft delete table {kind} proxyvpn")
    assert difference(before, bed.dump()) == ""


@pytest.mark.parametrize(
    ("way", "script"),
    [
        (NFT, "nft flush table inet proxyvpn; nft flush table arp proxyvpn"),
        (LEGACY, "iptables-legacy -t mangle -F; ip6tables-legacy -t mangle -F; iptables-legacy -F"),
    ],
)
def test_firewall_of_ours_that_somebody_has_emptied_is_still_ours(bed: Bed, way: str, script: str) -> None:
    before = bed.dump()
    for again in (False, True):
        helper = bed.helper(way)
        _, queues = helper.open(tunnel(killswitch=True))
        helper.engage()
        if again:
            assert helper.close().left == ()
        close_all(queues)
        helper.end()
        if not again:
            bed.host.sh(script)
    assert difference(before, bed.dump()) == ""
