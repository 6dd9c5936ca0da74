"""Machines that are not like the usual one: no default route, no IPv6, strict source checks, a masquerading container.

box ---- host: `proxyvpn up` ---- [tcpdump] mid: squid ---- world: nginx, peer.py
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from tests.netns import clients, internet, proxies
from tests.netns.dumps import difference, dump
from tests.netns.internet import PAGE, ask
from tests.netns.rig import HOST4, MID4, MID6, RESOLVER4, WORLD4, WORLD6, Rig, detector, leak_filter
from tests.netns.up import up

pytestmark = pytest.mark.privileged

BOTH = pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])


@pytest.fixture
def proxy(fresh: Rig) -> Iterator[proxies.RunningProxy]:
    """squid, and the servers of the world, for one test alone."""
    with internet.internet(fresh.world), proxies.squid(fresh.mid) as found:
        yield found


def carried_and_undone(bed: Rig, proxy: proxies.RunningProxy, *options: str, hosts: tuple[str, ...]) -> None:
    """Check that pages come through and that nothing is left afterwards."""
    before = dump(bed.host)
    with up(bed.host, "--proxy", proxy.url4, "--dns", RESOLVER4, *options):
        for host in hosts:
            done = clients.curl(bed.host, f"http://{host}/")
            assert (done.stdout, done.stderr) == (PAGE, "")
    assert difference(before, dump(bed.host)) == ""


@BOTH
def test_without_a_default_route(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str) -> None:
    fresh.host.sh("ip route del default; ip -6 route del default")
    carried_and_undone(fresh, proxy, killswitch, hosts=(WORLD4, f"[{WORLD6}]"))


@BOTH
def test_ipv6_switched_off_by_sysctl(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str) -> None:
    fresh.host.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    carried_and_undone(fresh, proxy, killswitch, hosts=(WORLD4,))


@BOTH
@pytest.mark.parametrize("rp_filter", [1, 2])
def test_source_checks(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str, rp_filter: int) -> None:
    for name in ("all", "default", "eth0"):
        fresh.host.sh(f"sysctl -qw net.ipv4.conf.{name}.rp_filter={rp_filter}")
    carried_and_undone(fresh, proxy, killswitch, hosts=(WORLD4, f"[{WORLD6}]"))


@BOTH
def test_masquerading_container_host(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str) -> None:
    rule = "ip saddr 172.31.97.0/24 oifname != b0 masquerade"
    fresh.host.run("nft", f"table ip nat {{ chain post {{ type nat hook postrouting priority srcnat; {rule}; }}; }}")
    with up(fresh.host, "--proxy", proxy.url4, "--dns", RESOLVER4, killswitch), detector(fresh.mid, "tcp") as watch:
        assert clients.curl(fresh.box, f"http://{WORLD4}/").stdout == PAGE
        assert clients.curl(fresh.box, f"http://[{WORLD6}]/").stdout == PAGE
        assert all(f"> {MID4}.3128" in line for line in watch.seen())


@BOTH
def test_ipv6_only_way_to_the_proxy(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str) -> None:
    fresh.host.sh(f"ip addr del {HOST4}/24 dev eth0; ip route add default dev eth0 onlink via 10.71.0.1 || true")
    with up(fresh.host, "--proxy", f"http://[{MID6}]:3128", "--dns", RESOLVER4, killswitch):
        for host in (WORLD4, f"[{WORLD6}]"):
            assert clients.curl(fresh.host, f"http://{host}/").stdout == PAGE


def test_nothing_leaves_between_ready_and_the_end(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            clients.offer_datagrams(fresh.host, 20)
            clients.offer_datagrams(fresh.box, 20)
            clients.offer_bound_connections(fresh.host, 5)

    hammering = threading.Thread(target=hammer)
    with detector(fresh.mid, leak_filter()) as watch, contextlib.ExitStack() as stack:
        hammering.start()
        stack.callback(hammering.join)
        stack.callback(stop.set)
        with up(fresh.host, "--proxy", proxy.url4, "--dns", RESOLVER4, "--killswitch") as running:
            begun = len(watch.seen())
            for _ in range(20):
                assert clients.curl(fresh.host, f"http://{WORLD4}/").stdout == PAGE
                assert ask(fresh.host, RESOLVER4)
            seen = [line for line in watch.seen()[begun:] if f"{RESOLVER4}.53" not in line]
            assert begun > 0 and seen == []
            assert running.stop() == 0
