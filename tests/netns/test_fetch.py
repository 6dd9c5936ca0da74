"""The main job: programs that know nothing of a proxy, carried through real ones.

box ---- host: curl, `proxyvpn up` ---- mid: squid, tinyproxy ---- world: nginx, a resolver
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns import clients, proxies, wait
from tests.netns.internet import PAGE, Internet
from tests.netns.rig import RESOLVER4, WORLD4, WORLD6, Rig
from tests.netns.up import up

pytestmark = pytest.mark.privileged

URLS = [f"http://{WORLD4}/", f"http://[{WORLD6}]/", f"https://{WORLD4}/", f"https://[{WORLD6}]/"]


@pytest.fixture(scope="module", params=["squid, IPv4", "squid, IPv6", "tinyproxy, IPv4"])
def carried(request: pytest.FixtureRequest, bed: Rig, world: Internet) -> Iterator[proxies.RunningProxy]:
    """`up` on host, through each kind of proxy in turn."""
    kind, _, family = request.param.partition(", ")
    start = proxies.squid if kind == "squid" else proxies.tinyproxy
    with start(bed.mid) as proxy:
        url = proxy.url6 if family == "IPv6" else proxy.url4
        with up(bed.host, "--proxy", url, "--dns", RESOLVER4):
            yield proxy


@pytest.mark.parametrize("url", URLS)
def test_page_comes_through_the_proxy(carried: proxies.RunningProxy, bed: Rig, world: Internet, url: str) -> None:
    before = carried.log_size()
    done = clients.curl(bed.host, url, world=world)
    assert (done.stdout, done.stderr) == (PAGE, "")
    where = f"{f'[{WORLD6}]' if '[' in url else WORLD4}:{443 if 'https' in url else 80}"
    carried.logged(f"CONNECT {where}", before)


def test_name_is_looked_up_directly_and_fetched_through_the_proxy(
    carried: proxies.RunningProxy, bed: Rig, world: Internet
) -> None:
    bed.host.resolv_conf.write_text(f"nameserver {RESOLVER4}\n")
    assert clients.curl(bed.host, "https://world.test/", "-k").stdout == PAGE
    bed.host.resolv_conf.write_text("")


def test_container_behind_the_host_is_carried(carried: proxies.RunningProxy, bed: Rig, world: Internet) -> None:
    before = carried.log_size()
    for url in URLS:
        done = clients.curl(bed.box, url, world=world)
        assert (done.stdout, done.stderr) == (PAGE, "")
    wait.until(lambda: carried.log.read_text()[before:].count("CONNECT") >= len(URLS), "the proxy logs all of them")
