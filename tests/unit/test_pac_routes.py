"""What a PAC file's answer means, and which proxies its text names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyvpn.pac.routes import Route, ScriptFailed, named_in, parse

A = Route("http", "a.example", 3128)
B = Route("https", "b.example", 8443)
DIRECT = Route()


@pytest.mark.parametrize(
    ("text", "routes"),
    [
        ("PROXY a.example:3128", (A,)),
        ("PROXY a.example:3128; HTTPS b.example:8443; DIRECT", (A, B, DIRECT)),
        ("DIRECT", (DIRECT,)),
        (" direct ;; proxy\ta.example:3128 ; ", (DIRECT, A)),
        ("HTTP a.example:3128", (A,)),
        ("PROXY A.example:3128;PROXY a.Example:3128", (A,)),
        ("PROXY a.example", (Route("http", "a.example", 80),)),
        ("HTTPS a.example", (Route("https", "a.example", 443),)),
        ("PROXY [2001:DB8::1]:3128", (Route("http", "2001:db8::1", 3128),)),
        ("PROXY 192.0.2.7:3128", (Route("http", "192.0.2.7", 3128),)),
    ],
)
def test_answer_is_read_in_order(text: str, routes: tuple[Route, ...]) -> None:
    assert parse(text).routes == routes


def test_kinds_that_cannot_be_used_are_left_out_and_told() -> None:
    found = parse("SOCKS s.example:1080; SOCKS5 s.example:1080; PROXY a.example:3128; SOCKS t.example:1080")
    assert (found.routes, found.left_out) == ((A,), ("SOCKS", "SOCKS5"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        (" ; ", "it is empty"),
        ("SOCKS s.example:1080; SOCKS4 s.example:1080", "it names only SOCKS and SOCKS4"),
        ("PROXY", "cannot be understood"),
        ("DIRECT a.example:80", "cannot be understood"),
        ("FTP a.example:80", "cannot be understood"),
        ("PROXY a.example:3128 b.example:3128", "cannot be understood"),
        ("PROXY http://a.example:3128", "cannot be understood"),
        ("PROXY ann:secret@a.example:3128", "cannot be understood"),
        ("PROXY a.example:3128, DIRECT", "cannot be understood"),
        ("PROXY a.example:0", "no possible proxy"),
        ("PROXY a.example:65536", "no possible proxy"),
        ("PROXY -a.example:80", "no possible proxy"),
        ("PROXY 1.2.3:80", "no possible proxy"),
        ("PROXY a.example:3128\r\nX: y", "cannot be understood"),
        ("SOCKS", "cannot be understood"),
        ("x" * 5000, "too long"),
    ],
)
def test_answer_that_is_not_exactly_one_is_refused(text: str, says: str) -> None:
    with pytest.raises(ScriptFailed) as caught:
        parse(text)
    assert says in str(caught.value)


def test_one_bad_entry_spoils_the_answer() -> None:
    with pytest.raises(ScriptFailed):
        parse("PROXY a.example:3128; PROXY b.example:nonsense")


@given(st.text(max_size=80))
def test_any_text_is_routes_or_an_error(text: str) -> None:
    try:
        found = parse(text)
    except ScriptFailed as error:
        assert all(line.isprintable() for line in str(error).splitlines())
        return
    assert found.routes
    assert parse("; ".join(_written(route) for route in found.routes)).routes == found.routes


def _written(route: Route) -> str:
    if route.is_direct:
        return "DIRECT"
    host = f"[{route.host}]" if ":" in route.host else route.host
    return f"{'PROXY' if route.scheme == 'http' else 'HTTPS'} {host}:{route.port}"


def test_text_of_a_script_names_proxies() -> None:
    script = """
        // HTTP requests go out; see https://wiki.example:443/ and "12:30"
        var east = "east.example:8080", west = 'west.example:8080';
        function FindProxyForURL(url, host) {
            if (timeRange(9, 17)) return "PROXY a.example:3128; HTTPS b.example:8443; DIRECT";
            return "PROXY " + (x ? east : west) + ";PROXY [2001:db8::1]:3128";
        }"""
    named = {route.url for route in named_in(script)}
    assert {
        *("http://a.example:3128", "https://b.example:8443", "http://[2001:db8::1]:3128"),
        *("http://east.example:8080", "http://west.example:8080"),
    } == named


def test_quoted_place_that_is_known_as_https_is_not_taken_for_another() -> None:
    assert named_in("""x = "HTTPS b.example:8443"; y = "b.example:8443";""") == (B,)
