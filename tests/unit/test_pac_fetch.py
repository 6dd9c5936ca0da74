"""Where a PAC file comes from, with a real server; and what is not followed, believed or waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from proxyvpn.errors import UsageError
from proxyvpn.pac import fetch, wpad
from proxyvpn.pac.fetch import Unfetched
from proxyvpn.pac.routes import MAX_SCRIPT

SCRIPT = "function FindProxyForURL(url, host) { return 'DIRECT'; } // é"


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind = self.path.strip("/")
        if kind.startswith("to-"):
            self.send_response(302)
            self.send_header("Location", kind.removeprefix("to-"))
            self.end_headers()
        elif kind == "missing":
            self.send_error(404)
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            while not self.server.ended.wait(0):  # type: ignore[attr-defined]
                self.wfile.write(b"x" * 65536)
        elif kind == "silent":
            self.server.ended.wait(20)  # type: ignore[attr-defined]
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            while not self.server.ended.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b"x")
        elif kind == "long":
            self._give(b"x" * (MAX_SCRIPT + 1))
        elif kind == "longest":
            self._give(b"x" * MAX_SCRIPT)
        elif kind == "latin":
            self._give(SCRIPT.encode("latin-1"))
        else:
            self._give(b"\xef\xbb\xbf" + SCRIPT.encode())

    def _give(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.ended = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked has hung up, as expected."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = _Server()
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.ended.set()
    running.shutdown()
    running.server_close()


def test_file_comes_by_http_without_its_mark(server: str) -> None:
    assert fetch.fetch(f"{server}/proxy.pac?x=1").text == SCRIPT
    assert fetch.fetch(f"{server}/latin").text == SCRIPT
    assert len(fetch.fetch(f"{server}/longest").text) == MAX_SCRIPT


def test_proxy_of_the_environment_is_not_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch.fetch(f"{server}/").text == SCRIPT


def test_redirections_are_followed_a_few_times(server: str) -> None:
    assert fetch.fetch(f"{server}/to-/there").url == f"{server}/there"
    with pytest.raises(Unfetched, match="again and again"):
        fetch.fetch(f"{server}/to-to-to-to-to-to-to-to-x")


@pytest.mark.parametrize(
    "there", ["file:///etc/passwd", "ftp://x.example/", "data:,x", "http://a:b@x.example/", "http:///"]
)
def test_redirection_to_anything_else_is_not_followed(server: str, there: str) -> None:
    with pytest.raises(Unfetched, match="redirected"):
        fetch.fetch(f"{server}/to-{there}")


@pytest.mark.parametrize(
    ("path", "says"),
    [("missing", "answered 404"), ("long", "too long"), ("endless", "too long"), ("slow", "cannot be fetched")],
)
def test_what_is_no_file_of_its_size_is_refused(server: str, path: str, says: str) -> None:
    with pytest.raises(Unfetched, match=says):
        fetch.fetch(f"{server}/{path}", limit=0.4 if path == "slow" else 10)


def test_silence_has_an_end(server: str) -> None:
    begun = time.monotonic()
    with pytest.raises(Unfetched, match="cannot be fetched"):
        fetch.fetch(f"{server}/silent", limit=0.3)
    assert time.monotonic() - begun < 2


def test_nobody_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(Unfetched, match="refused"):
        fetch.fetch(f"http://127.0.0.1:{port}/")


def test_plain_http_where_https_is_meant_is_refused(server: str) -> None:
    with pytest.raises(Unfetched, match="cannot be fetched"):
        fetch.fetch(f"{server.replace('http:', 'https:')}/", limit=3)


def test_file_and_data(tmp_path: Path) -> None:
    (tmp_path / "a b.pac").write_text(SCRIPT)
    assert fetch.fetch(str(tmp_path / "a b.pac")).text == SCRIPT
    assert fetch.fetch(f"file://{tmp_path}/a%20b.pac").text == SCRIPT
    assert fetch.fetch("data:,function%20x()%7B%7D").text == "function x(){}"
    assert fetch.fetch("data:application/x-ns-proxy-autoconfig;base64,eCgp").text == "x()"
    with pytest.raises(Unfetched, match="base64"):
        fetch.fetch("data:;base64,!")
    with pytest.raises(Unfetched, match="No such file"):
        fetch.fetch(str(tmp_path / "nothing"))
    with pytest.raises(Unfetched, match="directory"):
        fetch.fetch(str(tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        *("", "proxy.pac", "ftp://x.example/", "http://", "http:///x", "file://x.example/y", "http://x.example:0/"),
        *(
            "http://x.example:99999/",
            "http://a:b@x.example/",
            "http://x.example/\r\nX: y",
            "javascript:x",
            "http://[::1/",
        ),
    ],
)
def test_what_is_no_url_of_a_pac_file_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        fetch.check(url)


@pytest.mark.parametrize(
    "url", ["http://x.example/a?b", "https://[2001:db8::1]:8443/", "/etc/a b.pac", "file:///x", "data:,x y"]
)
def test_what_is_one_is_let_pass(url: str) -> None:
    fetch.check(url)


DHCLIENT = """lease { option wpad "http://old.example/p.pac"; }
lease { option domain-name-servers 192.0.2.53; option wpad "http://new.example/p.pac\n"; }
lease { option wpad "javascript:x"; }"""


def test_lease_names_a_file_the_last_one_first() -> None:
    assert wpad.in_lease(DHCLIENT) == ("http://new.example/p.pac", "http://old.example/p.pac")
    networkd = f"ADDRESS=192.0.2.2\nOPTION_252={b'http://n.example/p.pac'.hex()}00\nOPTION_224=00\n"
    assert wpad.in_lease(networkd) == ("http://n.example/p.pac",)
    assert wpad.in_lease("OPTION_252=fffe\n") == ()


def test_domains_are_those_of_this_machine_and_none_is_shortened() -> None:
    found = wpad.candidates((), "host.a.corp.example", "nameserver 192.0.2.1\nsearch a.corp.example b.example com .\n")
    assert found == ("http://wpad.a.corp.example/wpad.dat", "http://wpad.b.example/wpad.dat")
    assert wpad.candidates((DHCLIENT,), "host", "")[0] == "http://new.example/p.pac"
    assert wpad.candidates((), "host", "search co\nsearch " + "x" * 70 + ".example") == ()
