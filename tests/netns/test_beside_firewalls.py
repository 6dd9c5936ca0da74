"""Other firewalls beside ours, with the rules that they ship: TCP goes through, nothing leaks, theirs is left alone.

box ---- host: firewalld's, ufw's or docker's rules, `proxyvpn up` ---- [tcpdump] mid: squid ---- world: nginx
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import clients, internet, proxies, wait
from tests.netns.dumps import difference, dump
from tests.netns.internet import PAGE, ask
from tests.netns.rig import RESOLVER4, WORLD4, WORLD6, Rig, detector, leak_filter
from tests.netns.up import up

pytestmark = pytest.mark.privileged

BOTH = pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
RULESETS = Path(__file__).with_name("rulesets")
LOAD = {
    "firewalld": "nft -f firewalld.nft",
    "ufw": "iptables-restore < ufw4.rules; ip6tables-restore < ufw6.rules",
    "docker": "iptables-restore < docker4.rules",
    "strict": """for name in all default eth0 b0; do
        sysctl -qw net.ipv4.conf.$name.rp_filter=1 net.ipv4.conf.$name.arp_ignore=2 net.ipv4.conf.$name.src_valid_mark=1
    done""",
}
RELOAD = {
    "firewalld": "nft delete table inet firewalld; nft -f firewalld.nft",
    "ufw": f"iptables -F; ip6tables -F; {LOAD['ufw']}",
    "docker": f"iptables -F; iptables -t nat -F; {LOAD['docker']}",
    "strict": "true",
}
URLS = (f"http://{WORLD4}/", f"http://[{WORLD6}]/")


@pytest.fixture
def proxy(fresh: Rig) -> Iterator[proxies.RunningProxy]:
    """squid, and the servers of the world, for one test alone."""
    with internet.internet(fresh.world), proxies.squid(fresh.mid) as found:
        yield found


@BOTH
@pytest.mark.parametrize("firewall", LOAD)
def test_both_do_their_work(fresh: Rig, proxy: proxies.RunningProxy, firewall: str, killswitch: str) -> None:
    def run(script: str) -> None:
        fresh.host.sh(f"cd {RULESETS}; {script}")

    run(LOAD[firewall])
    before = dump(fresh.host)
    options = ("--proxy", proxy.url4, killswitch, "--dns", RESOLVER4)
    with up(fresh.host, *options) as running, detector(fresh.mid, leak_filter()) as watch:
        for _ in range(2):
            for url in URLS:
                assert clients.curl(fresh.host, url).stdout == PAGE, f"{firewall}: {url}"
            assert ask(fresh.host, RESOLVER4)
            if firewall in ("docker", "strict"):  # the two others forward for nobody
                assert clients.curl(fresh.box, URLS[0]).stdout == PAGE, f"{firewall}: from the container"
            run(RELOAD[firewall])
        if killswitch == "--killswitch":
            clients.offer_datagrams(fresh.host, 20)
            clients.offer_bound_connections(fresh.host, 20)
            clients.offer_pings(fresh.host, 20)
            clients.offer_datagrams(fresh.box, 20)
        seen = [line for line in watch.seen() if f"{RESOLVER4}.53" not in line and f"> {RESOLVER4}" not in line]
        assert [line for line in seen if "Flags" in line or killswitch == "--killswitch"] == []
        wait.until(lambda: "is put back" not in running.said(), "ours was not touched")
        assert running.stop() == 0
    assert difference(before, dump(fresh.host)) == ""
