"""Proxies that want credentials, real ones and some whose every answer is written here.

host: `proxyvpn up` = app + helper + worker (+ tokens) ---- mid: squid, tinyproxy, a scripted proxy ---- world: a server
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import spnego

from proxyvpn.errors import Exit
from tests.netns import clients, internet, proxies, wait
from tests.netns.proxies import Answer
from tests.netns.rig import MANY, RESOLVER4, WORLD4, Rig
from tests.netns.up import Up, proxyvpn, up

pytestmark = pytest.mark.privileged

USER, PASSWORD = "ann", "p@ss w/rd"
URL = f"http://{WORLD4}/"
DIGEST = """
auth_param digest program /usr/lib/squid/digest_file_auth {home}/words
auth_param digest children 1 startup=1
auth_param digest realm tests, of squid
auth_param digest nonce_max_count 5
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""
NTLM = """
auth_param ntlm program /usr/lib/squid/ntlm_fake_auth
auth_param ntlm children 2 startup=2
auth_param ntlm keep_alive on
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""
BASIC = b"Proxy-Authorization: Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode())
WANTED = b"HTTP/1.1 407 No\r\nProxy-Authenticate: %s\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody"


@pytest.fixture(autouse=True, scope="module")
def _servers(world: internet.Internet) -> None:
    """The servers of the internet run."""


class Words:
    """The options of one `up`, with its state and its password in files of its own."""

    def __init__(self, folder: Path, url: str, password: str = PASSWORD) -> None:
        (folder / "password").write_text(password)
        self.options = (
            *("--proxy", url, "--proxy-user", USER, "--proxy-password-file", str(folder / "password")),
            *("--dns", RESOLVER4, "--state-dir", str(folder / "state")),
        )


@contextlib.contextmanager
def tunnel(bed: Rig, folder: Path, url: str, *more: str) -> Iterator[Up]:
    """Bring one up that knows the password."""
    with up(bed.host, *Words(folder, url).options, *more) as running:
        yield running


def fetches(bed: Rig, times: int = 1) -> bool:
    return all(clients.curl(bed.host, URL).returncode == 0 for _ in range(times))


def refused_with(bed: Rig, folder: Path, url: str, *more: str) -> str:
    """Give what is said when `up` ends for wrong credentials."""
    done = proxyvpn(bed.host, "up", *Words(folder, url, "wrong").options, *more)
    assert done.returncode == Exit.PROXY_REFUSES, done.stderr
    assert "wrong" not in done.stderr
    return done.stderr


def counted(log: Path, status: int) -> int:
    return len(re.findall(rf"TCP_\w+/{status} ", log.read_text()))


def test_digest_of_squid_is_answered_once_and_then_ahead(bed: Rig, tmp_path: Path) -> None:
    with proxies.squid(bed.mid, users={USER: PASSWORD}, auth=DIGEST) as proxy:
        with tunnel(bed, tmp_path, proxy.url4):
            assert fetches(bed, 3)
            assert counted(proxy.log, 407) == 1, "the trial's"
            assert fetches(bed, 17)
            assert 3 <= counted(proxy.log, 407) <= 6, "a nonce is good for five"
        assert refused_with(bed, tmp_path, proxy.url4).startswith("proxyvpn: the proxy http://ann:***@")


def test_many_connections_at_once_get_through_digest(bed: Rig, tmp_path: Path) -> None:
    with (
        proxies.squid(bed.mid, users={USER: PASSWORD}, auth=DIGEST) as proxy,
        tunnel(bed, tmp_path, proxy.url4) as running,
    ):
        urls = " ".join(f"http://{MANY}{number}/" for number in range(1, 61))
        done = bed.host.run("sh", "-c", f"curl -sS --noproxy '*' -Z --parallel-max 60 {urls} >/dev/null", check=False)
        assert done.returncode == 0, done.stderr
        assert "refuses" not in running.said()


def test_ntlm_of_squid_is_spoken(bed: Rig, tmp_path: Path) -> None:
    with proxies.squid(bed.mid, users={USER: PASSWORD}, auth=NTLM) as proxy, tunnel(bed, tmp_path, proxy.url4):
        assert fetches(bed, 4)
        assert counted(proxy.log, 407) == 2 + 4, "a challenge in each handshake, and the trial's first"


def test_basic_of_tinyproxy_and_its_401(bed: Rig, tmp_path: Path) -> None:
    more = f"BasicAuth {USER} secret"
    with proxies.tinyproxy(bed.mid, more) as proxy:
        (tmp_path / "p").write_text("secret")
        words = list(Words(tmp_path, proxy.url4).options)
        words[words.index("--proxy-password-file") + 1] = str(tmp_path / "p")
        with up(bed.host, *words):
            assert fetches(bed, 3)
        assert "401" in refused_with(bed, tmp_path, proxy.url4)


def demanding(challenge: bytes, good: Callable[[bytes], bool]) -> Answer:
    """Give the answers of a proxy that says `challenge` unless a request is `good`."""
    return lambda head: proxies.honest(head) if good(head) else WANTED % challenge


def test_nothing_is_shown_before_a_challenge_unless_asked_for(bed: Rig, tmp_path: Path) -> None:
    answer = demanding(b'Basic realm="x"', lambda head: BASIC in head)
    with proxies.scripted(bed.mid, answer) as proxy:
        with tunnel(bed, tmp_path, proxy.url4):
            assert fetches(bed, 2)
        assert [BASIC in head for head in proxy.requests] == [False, True, True, True]
        proxy.requests.clear()
        with tunnel(bed, tmp_path, proxy.url4, "--proxy-auth", "preemptive"):
            assert fetches(bed)
        assert [BASIC in head for head in proxy.requests] == [True, True]
        proxy.requests.clear()
        assert "wants credentials by Basic" in refused_with(bed, tmp_path, proxy.url4, "--proxy-auth", "digest,ntlm")
        assert len(proxy.requests) == 1


def test_wrong_password_is_shown_once_and_ends_up(bed: Rig, tmp_path: Path) -> None:
    with proxies.scripted(bed.mid, demanding(b"Basic", lambda head: BASIC in head)) as proxy:
        said = refused_with(bed, tmp_path, proxy.url4)
        assert len(said.splitlines()) == 3 and "407" in said
        assert sum(b"Proxy-Authorization" in head for head in proxy.requests) == 1


def test_password_that_is_changed_is_told_of_once_and_shown_a_few_times(bed: Rig, tmp_path: Path) -> None:
    with (
        proxies.scripted(bed.mid, demanding(b"Basic", lambda head: BASIC in head)) as proxy,
        tunnel(bed, tmp_path, proxy.url4) as running,
    ):
        assert fetches(bed)
        proxy.answer = lambda _: WANTED % b"Basic"
        proxy.requests.clear()
        errors = [clients.connect_error(bed.host, f"{MANY}{number}", 80) for number in range(1, 41)]
        assert all(errors)
        assert sum(b"Proxy-Authorization" in head for head in proxy.requests) == 3
        assert len(proxy.requests) <= 6, "and then it is not asked at all"
        lines = [line for line in running.said().splitlines() if "refuses the user" in line]
        assert 1 <= len(lines) <= 2, running.said()


def ntlm_session(users: Path) -> Answer:
    """Give the answers of a proxy on one connection that knows users by NTLM."""
    os.environ["NTLM_USER_FILE"] = str(users)  # where the library's server looks
    server = spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)

    def answer(head: bytes) -> bytes:
        found = re.search(rb"Proxy-Authorization: NTLM (\S+)\r\n", head)
        if found is None:
            return WANTED % b"NTLM"
        try:
            token = server.step(base64.b64decode(found[1]))
        except spnego.exceptions.SpnegoError:
            return WANTED % b"NTLM"
        return proxies.honest(head) if server.complete else WANTED % (b"NTLM " + base64.b64encode(token or b""))

    return answer


def test_ntlm_password_is_proven_on_one_connection(bed: Rig, tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f":{USER}:{PASSWORD}\n".replace(PASSWORD, "plain"))
    with proxies.scripted(bed.mid) as proxy:
        proxy.session = lambda: ntlm_session(tmp_path / "users")
        (tmp_path / "plain").write_text("plain")
        words = list(Words(tmp_path, proxy.url4).options)
        words[words.index("--proxy-password-file") + 1] = str(tmp_path / "plain")
        with up(bed.host, *words) as running:
            assert fetches(bed, 3)
            assert len(proxy.requests) == 3 + 3 * 2, "the trial's three, and two for each later connection"
            maker = _tokens_of(running)
            shown = Path(f"/proc/{maker}/cmdline").read_bytes() + Path(f"/proc/{maker}/environ").read_bytes()
            assert b"plain" not in shown
        wait.until(lambda: not Path(f"/proc/{maker}").exists(), "it has ended with `up`")
        assert "refuses the user or the password" in refused_with(bed, tmp_path, proxy.url4)


def test_proxy_that_wants_a_ticket_says_so_without_one(bed: Rig, tmp_path: Path) -> None:
    with proxies.scripted(bed.mid, lambda _: WANTED % b"Negotiate") as proxy:
        words = ("--proxy", proxy.url4, "--dns", RESOLVER4, "--state-dir", str(tmp_path / "state"))
        done = proxyvpn(bed.host, "up", *words, "--proxy-auth", "negotiate", env={"KRB5CCNAME": "FILE:/nonexistent"})
        assert done.returncode == Exit.PROXY_REFUSES
        assert "run kinit" in done.stderr


def _tokens_of(running: Up) -> int:
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and b"proxyvpn.tokens" in (folder / "cmdline").read_bytes():
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == running.process.pid:
                    return int(folder.name)
    raise AssertionError("no process makes tokens")
