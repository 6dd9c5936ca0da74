"""https:// proxies with real parts: haproxy speaks TLS and passes what is inside on to squid.

host: curl, a raw peer, `proxyvpn up --proxy https://…` ==TLS==> mid: haproxy:3443 ----> squid:3128 ----> world
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.netns import clients, fronts, internet, proxies
from tests.netns.certificates import Authority, Certificate, authority
from tests.netns.peer import ECHO
from tests.netns.rig import MID4, MID6, RESOLVER4, WORLD4, Rig
from tests.netns.up import counters, up

pytestmark = pytest.mark.privileged

OPTIONS = ("--allow-dns", RESOLVER4)


@pytest.fixture(scope="module")
def ours(bed: Rig) -> Authority:
    return authority(bed.home / "authority", "authority of the proxies")


@pytest.fixture(scope="module")
def certificate(ours: Authority) -> Certificate:
    return ours.issue("proxy", f"IP:{MID4}", f"IP:{MID6}", "DNS:proxy.test")


@pytest.fixture(scope="module")
def front(
    bed: Rig, world: internet.Internet, squid: proxies.RunningProxy, certificate: Certificate
) -> Iterator[fronts.Front]:
    with fronts.front(bed.mid, certificate, squid.port) as found:
        yield found


@pytest.mark.parametrize("family", ["url4", "url6"])
def test_programs_reach_the_world_through_tls(
    bed: Rig, world: internet.Internet, front: fronts.Front, ours: Authority, family: str
) -> None:
    with up(bed.host, "--proxy", getattr(front, family), "--proxy-ca", str(ours.certificate), *OPTIONS, "--killswitch"):
        for _ in range(3):
            done = clients.curl(bed.host, f"https://{WORLD4}/", "--insecure")
            assert done.stdout == internet.PAGE, done.stderr
        with bed.host.connect(WORLD4, ECHO) as sock:
            assert clients.echoes(sock)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b"", "the end comes back"
        count = counters(bed.host)
        assert (count["flows_opened"], count["refused_tls"]) == (4, 0)
    lines = front.log.read_text().splitlines()
    assert any("TLSv1.3" in line and "resumed=1" in line for line in lines), lines
