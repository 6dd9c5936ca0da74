"""A proxy that dies and returns, a second one that steps in, and one that wants a password.

host: curl, `proxyvpn up` ---- mid: scripted proxies, squid with users ---- world: nginx, peer.py
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.netns import clients, proxies
from tests.netns.internet import PAGE, Internet
from tests.netns.peer import ECHO
from tests.netns.rig import RESOLVER4, WORLD4, Rig
from tests.netns.up import up

pytestmark = pytest.mark.privileged


def test_proxy_gone_and_back(bed: Rig, world: Internet) -> None:
    with proxies.scripted(bed.mid, port=8081) as proxy, up(bed.host, "--proxy", proxy.url4, "--dns", RESOLVER4):
        sock = bed.host.connect(WORLD4, ECHO)
        assert clients.echoes(sock)
        proxy.close()
        assert not clients.echoes(sock)
        sock.close()
        assert clients.connect_error(bed.host, WORLD4, ECHO) == errno.ECONNREFUSED
        with proxies.scripted(bed.mid, port=8081):
            assert clients.curl(bed.host, f"http://{WORLD4}/").stdout == PAGE


def test_second_proxy_takes_over(bed: Rig, world: Internet) -> None:
    with proxies.scripted(bed.mid, port=8082) as first, proxies.scripted(bed.mid, port=8083) as second:
        both = ("--proxy", first.url4, "--proxy", second.url4)
        with up(bed.host, *both, "--dns", RESOLVER4):
            assert clients.curl(bed.host, f"http://{WORLD4}/").stdout == PAGE
            first.close()
            assert clients.curl(bed.host, f"http://{WORLD4}/").stdout == PAGE
            assert second.requests


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Busy\r\n\r\n", b"220 ftp\r\n", b""])
def test_second_proxy_is_asked_where_the_first_refuses(bed: Rig, world: Internet, answer: bytes) -> None:
    with (
        proxies.scripted(bed.mid, lambda _head: answer, port=8084) as first,
        proxies.scripted(bed.mid, port=8085) as second,
        up(bed.host, "--proxy", first.url4, "--proxy", second.url4, "--dns", RESOLVER4),
    ):
        assert clients.curl(bed.host, f"http://{WORLD4}/").stdout == PAGE
        assert first.requests and second.requests


@pytest.mark.parametrize("how", ["in the URL", "by option and file"])
def test_password_is_sent_and_never_shown(bed: Rig, world: Internet, how: str) -> None:
    word = "p%40ss:w/rd"
    port = proxies.SQUID_WITH_USERS
    with proxies.squid(bed.mid, users={"ann": "p@ss:w/rd"}, port=port) as proxy:
        options = ["--proxy", proxy.url4.replace("//", f"//ann:{word.replace('/', '%2F')}@")]
        if how == "by option and file":
            (bed.host.home / "word").write_text("p@ss:w/rd\n")
            (bed.host.home / "word").chmod(0o600)
            options = ["--proxy", proxy.url4, "--proxy-user", "ann", "--proxy-password-file"]
            options.append(str(bed.host.home / "word"))
        with up(bed.host, *options, "--dns", RESOLVER4) as running:
            assert clients.curl(bed.host, f"http://{WORLD4}/").stdout == PAGE
            record = bed.host.sh("cat /run/proxyvpn/state.json")
            words = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (running.helper, running.worker)]
        shown = "".join((*words, record, running.said(), running.out.read_text()))
        assert "w/rd" not in shown and "w%2Frd" not in shown
