"""https:// proxies that cannot be used, or not any more, and those that want a certificate.

host: `proxyvpn up` ──TLS── mid: haproxy ── a scripted proxy; squid without TLS
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import clients, proxies, secured
from tests.netns.internet import Internet
from tests.netns.namespaces import Namespace
from tests.netns.peer import ECHO
from tests.netns.rig import MID4, RESOLVER4, WORLD4, Rig
from tests.netns.secured import Authority
from tests.netns.up import kill, proxyvpn, up

pytestmark = pytest.mark.privileged

PORT = 3443


@pytest.fixture(scope="module")
def authority(bed: Rig) -> Authority:
    return Authority.found(bed.mid.home / "authority")


@pytest.fixture(scope="module")
def scripted(bed: Rig, world: Internet) -> Iterator[proxies.ScriptedProxy]:
    with proxies.scripted(bed.mid) as proxy:
        yield proxy


def options(url: str, authority: Authority) -> tuple[str, ...]:
    return ("--proxy", url, "--proxy-ca", str(authority.certificate), "--dns", RESOLVER4)


def test_end_of_the_proxy_resets_connections_and_refuses_new_ones(
    bed: Rig, scripted: proxies.ScriptedProxy, authority: Authority
) -> None:
    with (
        secured.haproxy(bed.mid, scripted.port, authority.sign("proxy"), PORT) as front,
        up(bed.host, *options(front.url4, authority)),
        bed.host.connect(WORLD4, ECHO) as sock,
    ):
        assert clients.echoes(sock)
        kill(front.process.pid)
        assert sock.recv(1) == b"" or clients.is_reset(sock)
        assert clients.connect_error(bed.host, WORLD4, ECHO) == errno.ECONNREFUSED


def test_proxy_that_wants_a_certificate_gets_it(
    bed: Rig, scripted: proxies.ScriptedProxy, authority: Authority
) -> None:
    identity = authority.sign("client", "DNS:client.test")
    more = f"ca-file {authority.certificate} verify required"
    with secured.haproxy(bed.mid, scripted.port, authority.sign("proxy"), PORT, more) as front:
        wanted = options(front.url4, authority)
        with up(bed.host, *wanted, "--proxy-cert", str(identity)), bed.host.connect(WORLD4, ECHO) as sock:
            assert clients.echoes(sock)
        code, said = refusal(bed.host, *wanted)
        assert code == 5 and "certificate of this machine" in said, said
        assert "--proxy-cert" in said


def refusal(host: Namespace, *options: str) -> tuple[int, str]:
    """Give the exit code of an `up` that does not come up, and what it said."""
    done = proxyvpn(host, "up", *options)
    return done.returncode, done.stderr


def test_up_says_what_is_wrong_with_a_certificate(
    bed: Rig, squid: proxies.RunningProxy, scripted: proxies.ScriptedProxy, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority.found(tmp_path / "stranger")
    with secured.haproxy(bed.mid, scripted.port, authority.sign("other", "DNS:other.test"), PORT) as front:
        code, said = refusal(bed.host, *options(front.url4, authority))
        assert code == 5 and "its certificate is for other.test" in said, said
        code, said = refusal(bed.host, *options(front.url4, stranger))
        assert code == 5 and "--proxy-ca FILE" in said, said
    code, said = refusal(bed.host, *options(f"https://{MID4}:{squid.port}", authority))
    assert code == 5 and "http://" in said, said
