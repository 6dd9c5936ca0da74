"""`--names virtual`: no question leaves, and the proxy is asked for names. What cannot be asked is refused.

box ---- host: curl, getent, `proxyvpn up` ---- mid: squid, tcpdump ---- world: nginx, a resolver
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator

import pytest

from tests.netns import clients, proxies, questions, wait
from tests.netns.internet import PAGE, Internet
from tests.netns.questions import AAAA, HTTPS, MX, NOERROR, NXDOMAIN, PTR, SERVFAIL
from tests.netns.rig import RESOLVER4, RESOLVER6, Rig, detector
from tests.netns.up import PROGRAM, Up, environment, up

pytestmark = pytest.mark.privileged

ANY_RESOLVER = "203.0.113.53"
"""Nobody is there who would answer."""
NO_DNS = "port 53 or port 853"
COULD_NOT_CONNECT = 7
"""Of curl."""


@pytest.fixture(scope="module")
def carried(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> Iterator[Up]:
    """`up` on host; its resolv.conf names a resolver that does not exist."""
    bed.host.resolv_conf.write_text(f"nameserver {ANY_RESOLVER}\noptions timeout:3 attempts:1\n")
    bed.box.resolv_conf.write_text(f"nameserver {ANY_RESOLVER}\noptions timeout:3 attempts:1\n")
    with up(bed.host, "--proxy", squid.url4, "--names", "virtual", "--killswitch") as running:
        yield running
    bed.host.resolv_conf.write_text("")
    bed.box.resolv_conf.write_text("")


def test_ready_line_says_who_resolves_names(carried: Up) -> None:
    assert "names are resolved by the proxy (virtual)" in carried.ready_line()


def test_page_comes_by_name_and_no_question_leaves(carried: Up, bed: Rig, world: Internet) -> None:
    with detector(bed.mid, NO_DNS) as seen:
        for url in ("http://world.test/", "https://world.test/", "http://WORLD.test/"):
            assert clients.curl(bed.host, url, "-k").stdout == PAGE
        for family in ("-4", "-6"):
            assert clients.curl(bed.host, "http://world.test/", family).stdout == PAGE
        assert clients.curl(bed.box, "http://world.test/").stdout == PAGE
        assert seen.seen() == []


def test_proxy_is_asked_for_the_name(carried: Up, bed: Rig, squid: proxies.RunningProxy) -> None:
    before = squid.log_size()
    clients.curl(bed.host, "http://World.Test/")
    squid.logged("CONNECT world.test:80", before)


def test_name_that_the_proxy_cannot_resolve_is_refused_at_connect(carried: Up, bed: Rig) -> None:
    assert clients.curl(bed.host, "http://nowhere.test/").returncode == COULD_NOT_CONNECT


@pytest.mark.parametrize("resolver", [ANY_RESOLVER, RESOLVER4, RESOLVER6, "198.18.0.2"])
def test_any_resolver_answers_by_udp_and_tcp_and_alike(carried: Up, bed: Rig, resolver: str) -> None:
    for kind, prefix in ((questions.A, "198.18."), (AAAA, "fd70:7670:6e:1:")):
        answer = questions.by_udp(bed.host, resolver, "wWw.eXample.com", kind)
        assert (answer.code, len(answer.addresses)) == (NOERROR, 1)
        assert answer.addresses[0].startswith(prefix)
        assert questions.by_tcp(bed.host, resolver, "www.example.com", kind=kind) == [answer]
        assert questions.by_udp(bed.host, resolver, "www.example.com", kind, edns=0) == answer


def test_getent_knows_both_directions(carried: Up, bed: Rig) -> None:
    address = bed.host.run("getent", "ahostsv4", "some.example").stdout.split()[0]
    assert bed.host.run("getent", "hosts", address).stdout.split() == [address, "some.example"]
    both = bed.host.run("getent", "ahosts", "some.example").stdout
    assert address in both
    assert "fd70:7670:6e:1::" in both


def test_hints_and_other_records_are_none(carried: Up, bed: Rig) -> None:
    for kind in (HTTPS, MX):
        assert questions.by_udp(bed.host, ANY_RESOLVER, "www.example.com", kind) == questions.Answer(NOERROR, (), False)
    for name, kind in (
        ("use-application-dns.net", questions.A),
        ("9.9.18.198.in-addr.arpa", PTR),
        ("host", questions.A),
    ):
        assert questions.by_udp(bed.host, ANY_RESOLVER, name, kind).code in (NXDOMAIN, SERVFAIL), name


def test_box_gets_its_answers_too(carried: Up, bed: Rig) -> None:
    for resolver in (ANY_RESOLVER, RESOLVER6):
        assert questions.by_udp(bed.box, resolver, "www.example.com").addresses[0].startswith("198.18.")
        assert questions.by_tcp(bed.box, resolver, "www.example.com", "b.example")[0].code == NOERROR


def test_virtual_address_carries_nothing_but_tcp(carried: Up, bed: Rig) -> None:
    address = questions.by_udp(bed.host, ANY_RESOLVER, "www.example.com").addresses[0]
    with bed.host.new_socket(kind=socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match=r"refused|not permitted"):
        sock.settimeout(5)
        sock.connect((address, 443))
        sock.send(b"QUIC")
        sock.recv(1)
    assert clients.connect_error(bed.host, "198.18.77.77", 443) == errno.ECONNREFUSED
    assert clients.connect_error(bed.host, ANY_RESOLVER, 853) == errno.ECONNREFUSED


def test_worker_that_dies_forgets_no_name(carried: Up, bed: Rig) -> None:
    before = questions.by_udp(bed.host, ANY_RESOLVER, "kept.example").addresses
    worker = carried.worker
    os.kill(worker, 9)
    wait.until(lambda: carried.worker not in (0, worker), "another worker runs", 10)

    def answer() -> questions.Answer | None:
        with contextlib.suppress(OSError):
            return questions.by_udp(bed.host, ANY_RESOLVER, "other.example", seconds=1)
        return None

    wait.until(lambda: answer() is not None, "it answers", 20)
    assert questions.by_udp(bed.host, ANY_RESOLVER, "kept.example").addresses == before
    address = before[0].split(".")
    name = ".".join(reversed(address)) + ".in-addr.arpa"
    assert questions.by_udp(bed.host, ANY_RESOLVER, name, PTR).data == (b"\x04kept\x07example\x00",)


def test_status_counts_questions_and_names(carried: Up, bed: Rig) -> None:
    questions.by_udp(bed.host, ANY_RESOLVER, "www.example.com")
    found = json.loads(bed.host.run(PROGRAM, "status", "--json", env=environment(None)).stdout)
    assert found["names"] == {"mode": "virtual", "direct_domains": [], "resolvers": []}
    assert found["figures"]["dns"]["questions"] > 0
    assert found["figures"]["dns"]["names"]["now"] > 0
    assert "resolved by the proxy" in bed.host.run(PROGRAM, "status", env=environment(None)).stdout


def test_names_outlive_the_tunnel(fresh: Rig) -> None:
    with proxies.squid(fresh.mid) as squid:
        options = ("--proxy", squid.url4, "--names", "virtual")
        with up(fresh.host, *options):
            first = questions.by_udp(fresh.host, ANY_RESOLVER, "first.example").addresses
        with up(fresh.host, *options):
            second = questions.by_udp(fresh.host, ANY_RESOLVER, "second.example").addresses
            assert questions.by_udp(fresh.host, ANY_RESOLVER, "first.example").addresses == first
        assert first != second
