"""A PAC file asked on behalf of the worker, with the real process that evaluates it."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

pytest.importorskip("_quickjs", reason="the extra `pac` is not installed")

from proxyvpn import options, proxy
from proxyvpn.errors import ProxyvpnError, UsageError
from proxyvpn.options import Script, Typed
from proxyvpn.pac import evaluator, load, lookups
from proxyvpn.pac.evaluator import Evaluator, Gone
from proxyvpn.pac.refresh import Refresh
from proxyvpn.pac.routes import ScriptFailed
from proxyvpn.pac.source import Source
from proxyvpn.tunnel import IPAddress
from proxyvpn.wishes import Granted

A, B = proxy.parse("http://192.0.2.8:3128"), proxy.parse("http://b.example:8080")
START = evaluator.starter(os.environ)

TEXT = """
var asked = 0;
function FindProxyForURL(url, host) {
    asked++;
    if (host == "loop.example") for (;;) ;
    if (host == "throw.example") throw new Error("no idea");
    if (host == "direct.example") return "DIRECT";
    if (host == "unknown.example") return "PROXY " + "192.0.2.99:3128";
    if (host == "both.example") return "PROXY " + "192.0.2.99:3128; SOCKS s.example:1; PROXY 192.0.2.8:3128";
    if (host == "regexp.example") return String(/(x+x+)+y/.test("x".repeat(1e6)));
    if (host == "hungry.example") { const all = []; for (;;) all.push("x".repeat(1e6) + all.length); }
    if (host == "count.example") return "PROXY p" + asked + ".example:1";
    return "PROXY B.example:8080; PROXY 192.0.2.8:3128; DIRECT";
}
"""


class Asker:
    """A Source, and what it says."""

    def __init__(self, text: str = TEXT) -> None:
        self.said: list[str] = []
        self.source = Source(Script(text), (A, B), START, self.said.append)

    def ask(self, *wishes: str, seconds: float = 10) -> dict[int, Granted]:
        """Wish for all at once; give all grants, by the place of the wish."""
        for number, wish in enumerate(wishes):
            self.source.begin(number, wish.encode())
        missing, found = set(range(len(wishes))), dict[int, Granted]()
        deadline = time.monotonic() + seconds
        while True:
            found |= {granted.number: granted for granted in self.source.take()}
            if missing <= found.keys():
                return found
            poll = select.poll()
            poll.register(self.source.fileno(), select.POLLIN)
            assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000), found

    def one(self, wish: str) -> str:
        granted = self.ask(wish)[0]
        return granted.refusal or granted.content.decode()


@pytest.fixture
def asker() -> Iterator[Asker]:
    found = Asker()
    yield found
    found.source.end()


def test_ways_are_granted_in_order(asker: Asker) -> None:
    assert asker.one("443 www.example.com") == "http b.example 8080\nhttp 192.0.2.8 3128\ndirect\n"
    assert asker.one("25 2001:db8::1") == "http b.example 8080\nhttp 192.0.2.8 3128\ndirect\n"
    assert asker.one("443 direct.example") == "direct\n"
    assert asker.said == []


@pytest.mark.parametrize(
    "wish", ["", "443", "443 ", "0 x.example", "65536 x.example", "443 a b", "443 é", "x x.example"]
)
def test_wish_that_is_none_is_refused(asker: Asker, wish: str) -> None:
    assert "not a port and a host" in asker.one(wish)


def test_answer_is_kept_for_the_same_host_and_port(asker: Asker) -> None:
    counts = [
        asker.one(f"{port} {host}") for port, host in ((1, "count.example"), (1, "COUNT.example"), (2, "count.example"))
    ]
    assert ["p1.example" in counts[0], "p1.example" in counts[1], "p2.example" in counts[2]] == [True, True, True]


def test_many_who_ask_the_same_at_once_are_one_question(asker: Asker) -> None:
    found = asker.ask(*["1 count.example"] * 50)
    assert {"p1.example" in granted.refusal for granted in found.values()} == {True}


def test_script_that_loops_costs_a_second_once_and_the_next_is_answered(asker: Asker) -> None:
    begun = time.monotonic()
    found = asker.ask("443 loop.example", "443 www.example.com")
    assert "takes too long" in found[0].refusal
    assert found[1].content.startswith(b"http b.example")
    assert 0.9 < time.monotonic() - begun < 4
    begun = time.monotonic()
    assert "takes too long" in asker.one("443 loop.example")
    assert time.monotonic() - begun < 0.5
    assert asker.said == [
        "the PAC file has no way to loop.example:443: the PAC file takes too long: a second is enough for any that ends"
    ]


def test_regular_expression_that_goes_back_for_ever_is_ended(asker: Asker) -> None:
    assert "takes too long" in asker.one("443 regexp.example")
    assert asker.one("443 direct.example") == "direct\n"


def test_error_is_one_connection_s_and_said_once(asker: Asker) -> None:
    assert "no idea" in asker.one("443 throw.example")
    assert "no idea" in asker.one("80 throw.example")
    assert asker.one("443 direct.example") == "direct\n"
    assert len(asker.said) == 1 and "no idea" in asker.said[0]


def test_memory_that_ran_out_is_given_back(asker: Asker) -> None:
    assert "out of memory" in asker.one("443 hungry.example")
    assert asker.one("443 direct.example") == "direct\n"


def test_proxy_that_is_not_known_is_passed_over_and_said(asker: Asker) -> None:
    assert asker.one("443 both.example") == "http 192.0.2.8 3128\n"
    assert "none of its proxies can be used" in asker.one("443 unknown.example")
    assert ["SOCKS" in asker.said[0], "http://192.0.2.99:3128" in asker.said[1]] == [True, True]
    assert "--proxy" in asker.said[1]


def test_child_that_was_killed_is_replaced(asker: Asker) -> None:
    asker.one("443 direct.example")
    assert asker.source._evaluator is not None
    poll = select.poll()
    poll.register(asker.source._evaluator.fileno(), select.POLLIN)
    os.kill(asker.source._evaluator._process.pid, signal.SIGKILL)
    poll.poll()
    assert asker.one("443 www.example.com").startswith("http b.example")


def test_other_script_takes_its_place_and_what_was_kept_is_forgotten(asker: Asker) -> None:
    assert asker.one("443 www.example.com").startswith("http b.example")
    asker.source.begin(7, b"443 loop.example")
    asker.source.renew(Script("function FindProxyForURL(url, host) { return 'DIRECT'; }"))
    assert asker.one("443 www.example.com") == "direct\n"


def test_child_is_nobody_and_can_do_little() -> None:
    child = Evaluator(Script(TEXT), START, evaluator.own_uid())
    child.ask("direct.example", 443)
    assert child.wait() == "DIRECT"
    process = Path(f"/proc/{child._process.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (process / "limits").read_text().splitlines()}
    child.end()
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    assert status["NoNewPrivs"].strip() == "1"
    if os.geteuid() == 0:
        assert int(status["Uid"].split()[0]) >= 61184
    assert limits["Max core file size"] == limits["Max file size"] == ["0", "0"]
    assert limits["Max address space"] == ["536870912", "536870912"]


def test_child_that_is_stopped_is_given_up() -> None:
    child = Evaluator(Script(TEXT), START)
    child.ask("direct.example", 443)
    assert child.wait() == "DIRECT"
    os.kill(child._process.pid, signal.SIGSTOP)
    child.ask("direct.example", 443)
    child._deadline = time.monotonic() + 0.2
    with pytest.raises(Gone, match="does not answer"):
        child.wait()
    child.end()


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("a.example", 80, "http://a.example/"),
        ("a.example", 443, "https://a.example/"),
        ("a.example", 22, "https://a.example:22/"),
        ("2001:db8::1", 443, "https://[2001:db8::1]/"),
    ],
)
def test_url_that_a_script_is_asked_about(host: str, port: int, url: str) -> None:
    assert evaluator.url(host, port) == url


def expand(*urls: str, user: str | None = None, password: str | None = None) -> tuple[Typed, list[str]]:
    said: list[str] = []
    return load.expanded(Typed(proxy=urls, proxy_user=user, password=password), START, said.append), said


def pac(body: str) -> str:
    return f"pac:data:,function FindProxyForURL(url, host) {{ {body} }}"


def test_proxies_of_a_script_are_found_in_its_text_and_in_its_answers() -> None:
    body = "if (host == 'x') return 'PROXY 192.0.2.7:3128'; return 'PROXY 192.0.2.' + 8 + ':' + 3128 + '; DIRECT'"
    typed, said = expand("http://192.0.2.1:1", pac(body), user="ann", password="secret")
    assert typed.proxy == ("http://192.0.2.1:1", "http://192.0.2.8:3128", "http://192.0.2.7:3128")
    assert said == []
    wanted = options.read(typed, {})
    assert wanted.script is not None and wanted.script.origin == "data:"
    assert {each.password for each in wanted.proxies} == {"secret"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return 'DIRECT'", "names no proxy that can be found"),
        ("throw new Error('no idea')", "no idea"),
        ("for (;;) ;", "takes too long"),
        ("nonsense(", "SyntaxError"),
        ("return 'SOCKS s.example:1080'", "it names only SOCKS"),
    ],
)
def test_script_that_is_of_no_use_is_an_error_of_up(body: str, says: str) -> None:
    with pytest.raises(ProxyvpnError) as caught:
        expand(pac(body))
    assert says in str(caught.value)


def test_some_failures_are_a_warning() -> None:
    body = "if (host == 'example.net') throw new Error('no idea'); return 'PROXY 192.0.2.7:3128; PROXY 127.0.0.1:3128'"
    typed, said = expand(pac(body))
    assert "http://192.0.2.7:3128" in typed.proxy
    assert any("no idea" in line for line in said)


def test_two_pac_files_are_too_many() -> None:
    with pytest.raises(UsageError, match="more than one"):
        expand(pac("return 'DIRECT'"), "pac:auto")


def test_name_that_takes_long_is_none_now_and_there_later() -> None:
    go = threading.Event()

    def look(host: str) -> tuple[str, ...]:
        go.wait(10)
        return ("192.0.2.1",)

    names = lookups.Lookups(look, budget=0.1)
    names.begin()
    begun = time.monotonic()
    assert [names.addresses("a.example"), names.addresses("b.example"), names.addresses("a.example")] == [(), (), ()]
    assert time.monotonic() - begun < 0.5
    go.set()
    names.begin()
    assert names.addresses("a.example") == ("192.0.2.1",)


def test_lookups_at_once_have_an_end() -> None:
    go = threading.Event()
    count: list[str] = []

    def look(host: str) -> tuple[str, ...]:
        count.append(host)
        go.wait(10)
        return ()

    names = lookups.Lookups(look, budget=0.05)
    names.begin()
    for number in range(100):
        assert names.addresses(f"{number}.example") == ()
    assert len(count) <= lookups.MOST_AT_ONCE
    go.set()


def test_virtual_addresses_say_nothing() -> None:
    assert lookups.real(["198.18.1.4", "192.0.2.1", "fd70:7670:6e:1::7", "fe80::1%eth0", "192.0.2.1"]) == (
        "192.0.2.1",
        "fe80::1",
    )


def test_failure_of_the_script_is_told_apart_from_that_of_the_process() -> None:
    child = Evaluator(Script("function FindProxyForURL() { throw 'x'; }"), START)
    child.ask("a.example", 443)
    with pytest.raises(ScriptFailed) as caught:
        child.wait()
    assert not isinstance(caught.value, Gone)
    child.end()


def test_script_is_fetched_again_past_the_tunnel_and_the_last_good_one_kept(asker: Asker, tmp_path: Path) -> None:
    """The address is one that only the dialled socket leads to: nothing else is asked."""
    answers = [b"200 OK\r\n\r\nfunction FindProxyForURL(u, h) { return 'DIRECT'; }", b"404 Not Found\r\n\r\n"]
    dialled: list[tuple[str, int]] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def dial(address: IPAddress, port: int) -> int:
            dialled.append((str(address), port))
            sock = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            assert sock.connect_ex(server.getsockname()) in (0, errno.EINPROGRESS)
            return sock.detach()

        def serve() -> None:
            for answer in answers:
                with server.accept()[0] as client:
                    client.recv(4096)
                    client.sendall(b"HTTP/1.0 " + answer)

        threading.Thread(target=serve, daemon=True).start()
        script = Script(TEXT, url="http://pac.example:8080/p.pac", address="192.0.2.80")
        refresh = Refresh(script, asker.source, dial, asker.said.append, every=1e9)
        poll = select.poll()
        poll.register(refresh.fileno(), select.POLLIN)
        for count, _ in enumerate(answers, 1):
            refresh._due = 0.0
            refresh.take()
            assert len(asker.said) == count or poll.poll(10_000)
            refresh.take()
    assert dialled == [("192.0.2.80", 8080)] * 2
    assert asker.said[0] == "the PAC file has changed; the new one is used"
    assert "answered 404; the one from before is used" in asker.said[1]
    assert asker.one("443 www.example.com") == "direct\n"
    assert asker.source.permits(ip_address("192.0.2.1"), 443) is False
    assert asker.one("443 192.0.2.1") == "direct\n"
    assert asker.source.permits(ip_address("192.0.2.1"), 443) is True
    assert asker.source.permits(ip_address("192.0.2.1"), 444) is False
