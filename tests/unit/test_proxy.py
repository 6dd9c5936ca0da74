"""Every way to write a proxy, and what no error and no print of one may tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyvpn import options
from proxyvpn.errors import UsageError
from proxyvpn.options import Typed
from proxyvpn.proxy import Proxy, parse


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://proxy.example:3128", "proxy.example", 3128),
        ("http://proxy.example:3128/", "proxy.example", 3128),
        ("HTTP://proxy.example", "proxy.example", 80),
        ("proxy.example:8080", "proxy.example", 8080),
        ("proxy.example", "proxy.example", 80),
        ("proxy_1.example.:1", "proxy_1.example.", 1),
        ("http://192.0.2.7:65535", "192.0.2.7", 65535),
        ("[2001:db8::1]:3128", "2001:db8::1", 3128),
        ("http://[2001:DB8:0::1]", "2001:db8::1", 80),
        ("http://[::ffff:192.0.2.7]:3128", "192.0.2.7", 3128),
        ("ann:secret@proxy.example:3128", "proxy.example", 3128),
        ("https://proxy.example:3128", "proxy.example", 3128),
        ("https://proxy.example", "proxy.example", 443),
        ("HTTPS://[2001:db8::1]", "2001:db8::1", 443),
    ],
)
def test_proxy_is_read(url: str, host: str, port: int) -> None:
    proxy = parse(url)
    assert (proxy.host, proxy.port) == (host, port)
    assert proxy.tls == url.lower().startswith("https:")
    assert str(proxy).startswith("https://" if proxy.tls else "http://")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("socks4://proxy.example:3128", "socks4://"),
        ("socks5://proxy.example:1080", "socks5://"),
        ("http://proxy.example:0", "1 to 65535"),
        ("http://proxy.example:70000", "70000"),
        ("http://proxy.example:", "1 to 65535"),
        ("http://proxy.example:٣١٢٨", "1 to 65535"),
        ("http://proxy.example:+80", "1 to 65535"),
        ("http://", "no host"),
        ("http://:3128", "no host"),
        ("http://@:3128", "no host"),
        ("", "no host"),
        ("http://proxy.example:3128/path", "path"),
        ("http://proxy.example?x=1", "path"),
        ("http://2001:db8::1:3128", "colon"),
        ("http://[2001:db8::1%25eth0]:3128", "zone"),
        ("http://[fe80::1]:3128", "cannot be used"),
        ("http://[nonsense]:3128", "IPv6"),
        ("http://127.1:3128", "IPv4"),
        ("http://0x7f000001:3128", "IPv4"),
        ("http://2130706433:3128", "IPv4"),
        ("http://192.0.2.256:3128", "IPv4"),
        ("http://192.0.2.07:3128", "IPv4"),
        ("http://-proxy.example:3128", "host name"),
        ("http://proxy..example:3128", "host name"),
        ("http://prоxy.example:3128", "ASCII"),
        ("http://proxy.example:3128\r\nX: y", "control"),
        ("http://pro xy.example:3128", "space"),
        ("http://0.0.0.0:3128", "not the address of one machine"),
        ("http://224.0.0.1:3128", "not the address of one machine"),
        ("http://a%0Ab:c@proxy.example", "line break"),
        ("http://a:b%00c@proxy.example", "line break"),
        ("http://a:b%zz@proxy.example", "percent"),
        ("http://a:b%ff@proxy.example", "UTF-8"),
        ("http://a%3Ab:c@proxy.example", "colon"),
        ("http://:secret@proxy.example", "user is empty"),
    ],
)
def test_what_cannot_be_a_proxy_is_refused_with_a_reason(url: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(url)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://ann:hunter2@proxy.example:99999",
        "http://ann:hunter2/x@proxy.example:3128",
        "http://ann:hunter2/x",
        "http://ann:hunter2",
        "http://ann:hunter2#x@proxy.example",
        "socks5://ann:hunter2@proxy.example",
        "ann:hunter2@0.0.0.0",
        "http://ann:hunter2%zz@proxy.example",
        "http://ann:hunter2@[fe80::1]:3128",
        "http://ann:hunter2@proxy..example",
    ],
)
def test_error_never_tells_the_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(url)
    assert "hunter2" not in str(caught.value)


def test_print_never_tells_the_password() -> None:
    proxy = parse("http://ann:hunter2@[2001:db8::1]:3128")
    assert str(proxy) == "http://ann:***@[2001:db8::1]:3128"
    assert "hunter2" not in repr(proxy) + repr((proxy,)) + f"{proxy}"


def test_credentials_are_percent_decoded() -> None:
    proxy = parse("http://ann%40corp:p%C3%A4ss%3A%2F@proxy.example")
    assert (proxy.user, proxy.password) == ("ann@corp", "päss:/")


def test_nothing_before_the_at_sign_means_no_credentials() -> None:
    assert parse("http://proxy.example").user is None
    assert parse("http://:@proxy.example").user is None


def test_user_without_password_has_an_empty_one() -> None:
    assert parse("http://ann@proxy.example") == Proxy("proxy.example", 80, "ann", "")


def test_given_user_replaces_that_of_the_url() -> None:
    assert parse("http://ann:one@proxy.example", "bob", "two") == Proxy("proxy.example", 80, "bob", "two")


@given(st.text(max_size=40))
def test_any_text_is_a_proxy_or_a_usage_error(text: str) -> None:
    try:
        proxy = parse(text)
    except UsageError:
        return
    assert 1 <= proxy.port <= 65535
    assert proxy.host
    assert parse(str(parse(f"http://{'[' + proxy.host + ']' if ':' in proxy.host else proxy.host}:{proxy.port}")))


@given(user=st.text(min_size=1, max_size=20), password=st.text(max_size=20))
def test_every_credential_is_refused_or_arrives_whole(user: str, password: str) -> None:
    try:
        proxy = parse("http://proxy.example", user, password)
    except UsageError:
        return
    assert (proxy.user, proxy.password) == (user, password)
    assert not any(letter in user + password for letter in "\r\n\0")


# Where the proxy comes from.


def test_typed_proxy_comes_before_the_environment() -> None:
    found = options.read(Typed(proxy=("http://a.example:1",)), {"PROXYVPN_PROXY": "http://b.example:1"})
    assert [each.host for each in found.proxies] == ["a.example"]
    assert found.source == ""


def test_environment_is_searched_in_order() -> None:
    environ = dict.fromkeys(options.VARIABLES, "")
    for name in reversed(options.VARIABLES):
        environ[name] = f"http://{name.replace('_', '-').lower()}.example:3128"
        found = options.read(Typed(), environ)
        assert (found.source, found.proxies[0].host) == (name, f"{name.replace('_', '-').lower()}.example")


def test_http_proxy_in_capitals_is_not_believed() -> None:
    with pytest.raises(UsageError, match="no proxy was given"):
        options.read(Typed(), {"HTTP_PROXY": "http://a.example:3128"})


def test_bad_variable_is_named() -> None:
    with pytest.raises(UsageError, match="all_proxy"):
        options.read(Typed(), {"all_proxy": "socks5://a.example:1"})


def test_password_in_argv_is_warned_of_once() -> None:
    both = Typed(proxy=("http://a:b@x.example", "http://y.example"), proxy_user="c:d")
    assert len(options.read(both, {}).warnings) == 1
    assert "ps" in options.read(Typed(proxy=("http://a:b@x.example",)), {}).warnings[0]
    assert options.read(Typed(), {"PROXYVPN_PROXY": "http://a:b@x.example"}).warnings == ()


def test_password_is_taken_as_it_is() -> None:
    typed = Typed(proxy=("http://x.example",), proxy_user="ann", password=" se cret ")
    assert options.read(typed, {}).proxies[0].password == " se cret "


def test_password_twice_or_without_user_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        options.read(Typed(proxy=("http://x.example",), proxy_user="a:b", password="c"), {})
    with pytest.raises(UsageError, match="no user"):
        options.read(Typed(proxy=("http://x.example",), password="c"), {})


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "10.0.0.0/33", "fe80::%eth0/64", "example.org", ""])
def test_bypass_that_cannot_be_meant_is_refused(network: str) -> None:
    with pytest.raises(UsageError, match="--bypass"):
        options.read(Typed(proxy=("http://x.example",), bypass=(network,)), {})


def test_bypass_takes_a_host_and_a_network() -> None:
    found = options.read(Typed(proxy=("http://x.example",), bypass=("192.0.2.7", "10.1.2.3/8", "2001:db8::/32")), {})
    assert [str(each) for each in found.bypass] == ["192.0.2.7/32", "10.0.0.0/8", "2001:db8::/32"]


def test_inbound_ports_are_udp_ports_once_each() -> None:
    typed = Typed(proxy=("http://x.example",), inbound=("udp/53", "udp/51820", "udp/53"), killswitch=True)
    found = options.read(typed, {})
    assert found.inbound == (53, 51820) and found.warnings == ()


def test_inbound_without_the_killswitch_is_a_warning() -> None:
    found = options.read(Typed(proxy=("http://x.example",), inbound=("udp/53",)), {})
    assert "--inbound" in found.warnings[0]


@pytest.mark.parametrize(
    "text",
    ["53", "tcp/53", "udp/", "udp/0", "udp/65536", "udp/-1", "udp/ 53", "udp/٣", "sctp/53", "udp/1-9", "udp/53\n"],
)
def test_inbound_that_is_no_udp_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        options.read(Typed(proxy=("http://x.example",), inbound=(text,)), {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_proxy_may_run_on_this_machine(host: str) -> None:
    found = parse(f"http://{host}:3128").address
    assert found is not None and found.is_loopback
