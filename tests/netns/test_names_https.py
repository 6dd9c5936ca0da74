"""`--names proxy` with DNS over HTTPS: TLS inside the tunnel, also where the tunnel is within TLS itself.

host: `proxyvpn up` ---- mid: haproxy (TLS), squid ---- world: a resolver by HTTPS
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import fronts, proxies, questions, wait
from tests.netns.certificates import authority
from tests.netns.internet import Internet
from tests.netns.namespaces import end
from tests.netns.questions import AAAA, SERVFAIL
from tests.netns.rig import MID4, RESOLVER4, WORLD4, WORLD6, Rig
from tests.netns.up import up

pytestmark = pytest.mark.privileged

ANY_RESOLVER = "203.0.113.53"
PORT = 8443
URL = f"https://dns.world.test:{PORT}/dns-query"


@pytest.fixture(scope="module")
def resolver(bed: Rig, world: Internet) -> Iterator[tuple[Path, Path]]:
    """The resolver; gives its authority's certificate, and the log of its connections."""
    ours = authority(bed.world.home / "doh", "authority of resolvers")
    certificate = ours.issue("dns", "DNS:dns.world.test")
    log, out = bed.world.home / "doh.log", bed.world.home / "doh.out"
    script = str(Path(__file__).with_name("doh.py"))
    arguments = (str(certificate.chain), str(certificate.key), WORLD4, str(PORT), RESOLVER4, str(log))
    with out.open("wb") as stdout:
        child = bed.world.start(sys.executable, "-I", script, *arguments, stdout=stdout)
    wait.for_line(out, "ready")
    yield ours.certificate, log
    end(child)


def test_answers_come_by_https_over_few_connections(
    bed: Rig, squid: proxies.RunningProxy, resolver: tuple[Path, Path]
) -> None:
    authorities, log = resolver
    options = ("--proxy", squid.url4, "--names", "proxy", "--dns", URL, "--killswitch")
    with up(bed.host, *options, env={"SSL_CERT_FILE": str(authorities)}):
        assert questions.by_udp(bed.host, ANY_RESOLVER, "World.Test").addresses == (WORLD4,)
        assert questions.by_udp(bed.host, ANY_RESOLVER, "world.test", AAAA).addresses == (WORLD6,)
        found = questions.by_tcp(bed.host, ANY_RESOLVER, *(f"n{number}.world.test" for number in range(60)))
        assert [each.addresses for each in found] == [(WORLD4,)] * 60
    assert len(log.read_text().splitlines()) <= 4


def test_tunnel_may_be_within_tls_itself(bed: Rig, squid: proxies.RunningProxy, resolver: tuple[Path, Path]) -> None:
    authorities, _ = resolver
    ours = authority(bed.home / "proxies", "authority of the proxies")
    with fronts.front(bed.mid, ours.issue("proxy", f"IP:{MID4}"), squid.port) as front:
        options = ("--proxy", front.url4, "--proxy-ca", str(ours.certificate), "--names", "proxy", "--dns", URL)
        with up(bed.host, *options, env={"SSL_CERT_FILE": str(authorities)}):
            for name in ("world.test", "other.world.test"):
                assert questions.by_udp(bed.host, ANY_RESOLVER, name).addresses == (WORLD4,)


def test_resolver_that_does_not_prove_who_it_is_is_not_believed(
    bed: Rig, squid: proxies.RunningProxy, resolver: tuple[Path, Path]
) -> None:
    other = authority(bed.home / "other", "another authority").certificate
    options = ("--proxy", squid.url4, "--names", "proxy", "--dns", URL)
    with up(bed.host, *options, env={"SSL_CERT_FILE": str(other)}) as running:
        assert questions.by_udp(bed.host, ANY_RESOLVER, "world.test").code == SERVFAIL
        wait.until(lambda: "cannot be trusted" in running.said(), "up says why")
