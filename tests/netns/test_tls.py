"""https:// proxies with real parts: haproxy speaks TLS and passes what is inside on to squid.

host: curl, a raw peer, `proxyvpn up --proxy https://…` ==TLS==> mid: haproxy:3443 ----> squid:3128 ----> world
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.netns import clients, fronts, internet, proxies
from tests.netns.certificates import Authority, Certificate, authority
from tests.netns.peer import COUNTED, ECHO, SOURCE
from tests.netns.rig import MID4, MID6, RESOLVER4, WORLD4, Rig
from tests.netns.up import at_rest, counters, proxyvpn, up

pytestmark = pytest.mark.privileged

OPTIONS = ("--allow-dns", RESOLVER4)
BYTES = 40_000_000


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


def refusal(bed: Rig, url: str, *options: str) -> tuple[int, str]:
    """Give the exit code of an `up` that is to fail, and its words."""
    done = proxyvpn(bed.host, "up", "--proxy", url, *OPTIONS, *options)
    return done.returncode, done.stderr


def test_proxy_that_nobody_here_trusts_is_refused_before_anything_is_changed(bed: Rig, front: fronts.Front) -> None:
    code, said = refusal(bed, front.url4)
    assert code == 5
    assert "no authority that is trusted here" in said
    assert "--proxy-ca" in said
    assert "pvpn0" not in bed.host.run("ip", "link").stdout


def test_certificate_for_another_name_lists_its_names(
    bed: Rig, squid: proxies.RunningProxy, ours: Authority, world: internet.Internet
) -> None:
    other = ours.issue("other", "DNS:other.test", "DNS:*.more.test", "IP:192.0.2.9")
    with fronts.front(bed.mid, other, squid.port, port=3444) as found:
        code, said = refusal(bed, found.url4, "--proxy-ca", str(ours.certificate))
    assert code == 5
    assert f"is not for {MID4}, but for other.test, *.more.test, 192.0.2.9" in said


def test_proxy_without_tls_is_guessed(bed: Rig, squid: proxies.RunningProxy, ours: Authority) -> None:
    code, said = refusal(bed, squid.url4.replace("http:", "https:"), "--proxy-ca", str(ours.certificate))
    assert code == 5
    assert "http:// proxy?" in said


@pytest.mark.usefixtures("world")
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_proxy_that_wants_a_certificate_gets_ours(
    bed: Rig,
    squid: proxies.RunningProxy,
    ours: Authority,
    certificate: Certificate,
    version: str,
) -> None:
    ann = ours.issue(f"ann-{version}")
    wants = f"verify required ca-file {ours.certificate} ssl-min-ver TLSv{version} ssl-max-ver TLSv{version}"
    with fronts.front(bed.mid, certificate, squid.port, wants, port=3445) as found:
        trust = ("--proxy-ca", str(ours.certificate))
        code, said = refusal(bed, found.url4, *trust)
        assert code == 5
        assert "--proxy-cert" in said, said
        identity = ("--proxy-cert", str(ann.chain), "--proxy-key", str(ann.key))
        with up(bed.host, "--proxy", found.url4, *trust, *identity, *OPTIONS):
            assert clients.curl(bed.host, f"http://{WORLD4}/").stdout == internet.PAGE
        assert f"TLSv{version}" in found.log.read_text()


@pytest.mark.usefixtures("world")
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_streams_are_whole_both_ways_and_end_in_order(
    bed: Rig,
    squid: proxies.RunningProxy,
    ours: Authority,
    certificate: Certificate,
    version: str,
) -> None:
    only = f"ssl-min-ver TLSv{version} ssl-max-ver TLSv{version}"
    with (
        fronts.front(bed.mid, certificate, squid.port, only, port=3446) as found,
        up(bed.host, "--proxy", found.url4, "--proxy-ca", str(ours.certificate), *OPTIONS),
    ):
        with bed.host.connect(WORLD4, SOURCE) as sock:
            assert clients.download(sock, BYTES) == (BYTES, clients.digest_of(BYTES))
        with bed.host.connect(WORLD4, COUNTED) as sock:
            sock.sendall(b"%d\n" % BYTES)
            expected = clients.upload(sock, BYTES)
            assert sock.makefile().read() == expected
        count = at_rest(bed.host, 10)
        assert count["flows_finished"] == count["flows_opened"] == 2
