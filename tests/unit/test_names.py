"""Who resolves names: what may be typed, and how it is said."""

from __future__ import annotations

import pytest

from proxyvpn import names, options, report
from proxyvpn.errors import UsageError
from proxyvpn.names import Names, Resolver
from proxyvpn.options import Typed

PROXY = ("http://proxy.example:3128",)


def read(**typed: object) -> options.Options:
    return options.read(Typed(proxy=PROXY, **typed), {})  # type: ignore[arg-type]


def test_direct_asks_the_resolvers_of_dns_past_the_tunnel() -> None:
    found = read(dns=("192.0.2.53",))
    assert (found.names, [str(each) for each in found.dns]) == (Names(), ["192.0.2.53"])


def test_other_modes_ask_them_behind_the_proxy() -> None:
    dns = ("192.0.2.53", "https://dns.example/q?x", "https://[2001:db8::1]:8443/dns-query", "192.0.2.53")
    found = read(names="proxy", dns=dns, direct_domain=("Corp.Example.", "*.lan", ".home.arpa", "bücher.example"))
    assert found.dns == ()
    assert found.names == Names(
        "proxy",
        ("corp.example", "lan", "home.arpa", "xn--bcher-kva.example"),
        (
            Resolver("192.0.2.53"),
            Resolver("dns.example", 443, "/q?x"),
            Resolver("2001:db8::1", 8443, "/dns-query"),
        ),
    )
    assert [str(each) for each in found.names.resolvers] == [dns[0], dns[1], dns[2]]
    assert read(names="virtual").names == Names("virtual")


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ({"names": "proxy"}, "needs a resolver"),
        ({"dns": ("https://dns.example/q",)}, "through the proxy only"),
        ({"direct_domain": ("corp.example",)}, "for --names virtual and proxy"),
        ({"names": "virtual", "direct_domain": ("a b",)}, "not a domain"),
        ({"names": "virtual", "direct_domain": ("",)}, "not a domain"),
        ({"names": "virtual", "direct_domain": ("a..b",)}, "not a domain"),
        ({"names": "virtual", "direct_domain": ("a" * 64,)}, "not a domain"),
        ({"names": "virtual", "direct_domain": ("a." * 127 + "bc",)}, "not a domain"),
        ({"names": "virtual", "direct_domain": ("10.0.0.1",)}, "not a domain"),
        ({"names": "virtual", "direct_domain": ("a\r\nb",)}, "not a domain"),
        ({"names": "virtual", "direct_domain": tuple(f"a{n}" for n in range(65))}, "more than 64"),
        ({"names": "proxy", "dns": ("http://dns.example/q",)}, "DNS over HTTPS"),
        ({"names": "proxy", "dns": ("https://user@dns.example/q",)}, "DNS over HTTPS"),
        ({"names": "proxy", "dns": ("https://dns.example:0/q",)}, "port"),
        ({"names": "proxy", "dns": ("https://dns.example:99999/q",)}, "not a URL"),
        ({"names": "proxy", "dns": ("https://dns.example/é",)}, "path"),
        ({"names": "proxy", "dns": ("https://dns example/q",)}, "host"),
        ({"names": "proxy", "dns": ("127.0.0.1",)}, "on this machine"),
        ({"names": "proxy", "dns": tuple(f"192.0.2.{n}" for n in range(1, 6))}, "more than 4"),
    ],
)
def test_what_cannot_be_meant_is_refused(typed: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(**typed)
    assert word in refused.value.what


def test_no_control_character_comes_out() -> None:
    for text in ("https://dns.example/a\r\nb", "https://dns.exa\r\nmple/", "https://dns.example/a b"):
        try:
            found = names.parse_resolver(text)
        except UsageError:
            continue
        assert (found.host + found.path).isprintable()
        assert " " not in found.path


@pytest.mark.parametrize(
    ("typed", "resolvers", "text"),
    [
        (
            {"names": "virtual"},
            (),
            "killswitch off, UDP is left alone; names are resolved by the proxy (virtual), single labels, .local by "
            "nobody",
        ),
        (
            {"names": "virtual", "direct_domain": ("corp.example",), "dns": ("192.0.2.53",), "killswitch": True},
            ("10.0.0.53",),
            "killswitch on, UDP is dropped; names are resolved by the proxy (virtual; other records by 192.0.2.53 "
            "behind it), single labels, .local, corp.example directly by 10.0.0.53",
        ),
        (
            {"names": "proxy", "dns": ("https://dns.example/dns-query",)},
            ("10.0.0.53", "10.0.0.54"),
            "killswitch off, UDP is left alone; names are resolved through the proxy by https://dns.example/dns-query, "
            "single labels, .local directly by 10.0.0.53, 10.0.0.54",
        ),
    ],
)
def test_ready_line_says_who_resolves(typed: dict[str, object], resolvers: tuple[str, ...], text: str) -> None:
    assert report.ready_line(read(**typed), "pvpn0", resolvers).partition("; ")[2] == text
