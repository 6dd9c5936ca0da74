"""Resolvers as they are met: systemd-resolved on the machine, dnsmasq and unbound behind the proxy.

host: programs, systemd-resolved, `proxyvpn up` ---- [tcpdump] mid: squid ---- world: nginx, dnsmasq .53, unbound .54
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import clients, daemons, proxies
from tests.netns.certificates import authority
from tests.netns.internet import PAGE, Internet
from tests.netns.rig import MID4, RESOLVER4, WORLD4, Rig, detector
from tests.netns.up import up

pytestmark = pytest.mark.privileged

UNBOUND, HTTPS = "198.51.100.54", 8443
NOT_TO_SQUID = f"(ip or ip6) and not (dst host {MID4} and tcp dst port 3128) and not icmp6"
STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\n"


@pytest.fixture(scope="module")
def unbound(bed: Rig, world: Internet) -> Iterator[Path]:
    """The log of unbound, which alone knows only-here.test."""
    bed.world.run("ip", "addr", "add", f"{UNBOUND}/24", "dev", "eth0")
    certificate = authority(bed.home / "authority", "authority of resolvers").issue("dns", f"IP:{UNBOUND}")
    with daemons.unbound(bed.world, UNBOUND, HTTPS, certificate, {"only-here.test": WORLD4}) as log:
        yield log


@pytest.fixture(scope="module")
def resolvectl(bed: Rig, world: Internet) -> Iterator[Path]:
    """systemd-resolved in `host`, as the stub that programs ask."""
    with daemons.resolved(bed.host, RESOLVER4) as found:
        yield found


@pytest.mark.parametrize("per_link", [False, True])
def test_resolved_asks_the_tunnel_whether_its_resolver_is_of_a_link_or_not(
    bed: Rig, squid: proxies.RunningProxy, resolvectl: Path, per_link: bool
) -> None:
    bed.host.resolv_conf.write_text(STUB)
    ctl = str(resolvectl)
    if per_link:
        bed.host.run(ctl, "dns", "eth0", RESOLVER4)
        bed.host.run(ctl, "domain", "eth0", "~.")
    with (
        up(bed.host, "--proxy", squid.url4, "--names", "virtual", "--killswitch"),
        detector(bed.mid, NOT_TO_SQUID) as w,
    ):
        bed.host.run(ctl, "flush-caches")
        for name in ("www.world.test", "world.test"):
            assert clients.curl(bed.host, f"http://{name}/").stdout == PAGE
        assert "198.18." in bed.host.run(ctl, "query", "www.world.test").stdout
        assert w.seen() == []


@pytest.mark.parametrize("resolver", [RESOLVER4, UNBOUND])
def test_resolver_behind_the_proxy_is_asked_through_it(
    bed: Rig, world: Internet, squid: proxies.RunningProxy, unbound: Path, resolver: str
) -> None:
    bed.host.resolv_conf.write_text("nameserver 192.0.2.53\n")
    name = "www.world.test" if resolver == RESOLVER4 else "only-here.test"
    log = world.queries if resolver == RESOLVER4 else unbound
    begun = log.stat().st_size
    with (
        up(bed.host, "--proxy", squid.url4, "--names", "proxy", "--dns", resolver, "--killswitch"),
        detector(bed.mid, NOT_TO_SQUID) as watch,
    ):
        assert clients.curl(bed.host, f"http://{name}/").stdout == PAGE
        assert WORLD4 in bed.host.run("getent", "ahostsv4", name).stdout
        assert clients.curl(bed.host, "http://nowhere.only-here.test/").returncode == 6
        assert watch.seen() == []
    assert name in log.read_text()[begun:]
