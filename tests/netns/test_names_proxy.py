"""`--names proxy` and `--direct-domain`: real answers, from behind the proxy or from this network's own resolver; and
nothing else of DNS leaves.

host: curl, getent, `proxyvpn up` ---- mid: squid, tcpdump, this network's resolver ---- world: nginx, a resolver
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.netns import clients, proxies, questions
from tests.netns.internet import PAGE, Internet
from tests.netns.namespaces import Namespace, end
from tests.netns.questions import AAAA, NOERROR, NXDOMAIN, SERVFAIL, TXT
from tests.netns.rig import HOST4, MID4, RESOLVER4, RESOLVER6, WORLD4, WORLD6, Rig, detector
from tests.netns.up import up

pytestmark = pytest.mark.privileged

ANY_RESOLVER = "203.0.113.53"
INTRANET4 = "10.71.0.99"


@contextlib.contextmanager
def resolver_of_this_network(mid: Namespace) -> Iterator[None]:
    """Run a resolver on mid's side of the cable, which knows one domain."""
    child = mid.start(
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"),
        *(f"--listen-address={MID4}", "--bind-interfaces", f"--address=/corp.example/{INTRANET4}"),
        *(f"--address=/printer/{INTRANET4}", f"--address=/nas.local/{INTRANET4}"),
        stderr=subprocess.DEVNULL,
    )
    try:
        mid.wait_for_port(MID4, 53)
        yield
    finally:
        end(child)


@pytest.fixture(scope="module", params=[RESOLVER4, RESOLVER6])
def carried(request: pytest.FixtureRequest, bed: Rig, world: Internet, squid: proxies.RunningProxy) -> Iterator[str]:
    """`up` with a resolver behind the proxy, by IPv4 and by IPv6; gives the resolver."""
    bed.host.resolv_conf.write_text(f"nameserver {MID4}\n")
    options = ("--proxy", squid.url4, "--names", "proxy", "--dns", request.param, "--killswitch")
    with resolver_of_this_network(bed.mid), up(bed.host, *options, "--direct-domain", "corp.example") as running:
        assert f"through the proxy by {request.param}, single labels, .local, corp.example" in running.ready_line()
        yield request.param
    bed.host.resolv_conf.write_text("")


def test_answers_are_real_and_come_through_the_proxy(
    carried: str, bed: Rig, squid: proxies.RunningProxy, world: Internet
) -> None:
    before = squid.log_size()
    with detector(bed.mid, f"port 53 and host {HOST4}") as seen:
        assert questions.by_udp(bed.host, ANY_RESOLVER, "World.Test").addresses == (WORLD4,)
        assert questions.by_udp(bed.host, ANY_RESOLVER, "world.test", AAAA).addresses == (WORLD6,)
        assert questions.by_tcp(bed.host, RESOLVER4, "world.test", "world.test")[1].addresses == (WORLD4,)
        assert clients.curl(bed.host, "http://world.test/").stdout == PAGE
        assert clients.curl(bed.box, f"http://{WORLD4}/").stdout == PAGE
        assert questions.by_udp(bed.box, RESOLVER4, "world.test").addresses == (WORLD4,)
        assert seen.seen() == []
    host = f"[{carried}]" if ":" in carried else carried
    squid.logged(f"CONNECT {host}:53", before)
    assert squid.log.read_text()[before:].count(":53 ") <= 2, "few connections for all questions"


def test_what_the_resolver_does_not_know_is_passed_on(carried: str, bed: Rig) -> None:
    assert questions.by_udp(bed.host, ANY_RESOLVER, "nowhere.example").code not in (NOERROR, SERVFAIL)
    assert questions.by_udp(bed.host, ANY_RESOLVER, "world.test", TXT).data == ()


def test_names_of_this_network_are_asked_here(carried: str, bed: Rig) -> None:
    with detector(bed.mid, f"udp port 53 and host {HOST4}") as seen:
        for name in ("www.corp.example", "printer", "nas.local"):
            found = questions.by_udp(bed.host, ANY_RESOLVER, name)
            assert found.addresses == (INTRANET4,), (name, found)
        (answer,) = questions.by_tcp(bed.host, ANY_RESOLVER, "www.corp.example")
        assert answer == questions.by_udp(bed.host, ANY_RESOLVER, "www.corp.example")
        assert seen.seen() == [], "the worker's own connection is TCP"


def test_many_at_once_are_all_answered(carried: str, bed: Rig) -> None:
    names = [f"n{number}.world.test" for number in range(200)]
    found = questions.by_tcp(bed.host, ANY_RESOLVER, *names)
    assert [each.addresses for each in found] == [(WORLD4,)] * len(names)


def test_virtual_asks_behind_the_proxy_for_other_types_and_directly_for_direct_names(fresh: Rig) -> None:
    with proxies.squid(fresh.mid) as squid, resolver_of_this_network(fresh.mid):
        fresh.host.resolv_conf.write_text(f"nameserver {MID4}\n")
        options = ("--names", "virtual", "--direct-domain", "corp.example", "--bypass", f"{INTRANET4}/32")
        with up(fresh.host, "--proxy", squid.url4, *options):
            assert questions.by_udp(fresh.host, ANY_RESOLVER, "www.corp.example").addresses == (INTRANET4,)
            assert questions.by_udp(fresh.host, ANY_RESOLVER, "www.example.com").addresses[0].startswith("198.18.")


def test_no_resolver_means_a_failure_in_time(fresh: Rig) -> None:
    with proxies.squid(fresh.mid) as squid:
        fresh.host.resolv_conf.write_text(f"nameserver {MID4}\n")
        with up(fresh.host, "--proxy", squid.url4, "--names", "proxy", "--dns", "198.51.100.54") as running:
            assert questions.by_udp(fresh.host, ANY_RESOLVER, "world.test").code == SERVFAIL
            assert questions.by_udp(fresh.host, ANY_RESOLVER, "printer").code in (SERVFAIL, NXDOMAIN)
            running.stop()
            assert "resolver" in running.said()
