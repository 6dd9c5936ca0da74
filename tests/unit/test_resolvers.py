"""resolv.conf as it is found in the wild, and which resolvers DNS may reach."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyvpn.errors import UsageError
from proxyvpn.mark import TUN4, TUN6
from proxyvpn.resolvers import MOST, choose, parse, parse_address
from proxyvpn.tunnel import check_resolvers


def found(text: str) -> list[str]:
    return [str(address) for address in parse(text).addresses]


def test_nameservers_are_read_in_order_and_once() -> None:
    text = (
        "# by hand\nsearch example\nnameserver 192.0.2.2\nnameserver\t2001:db8::53\nnameserver 192.0.2.2\noptions x\n"
    )
    assert found(text) == ["192.0.2.2", "2001:db8::53"]


@pytest.mark.parametrize(
    "line",
    ["#nameserver 192.0.2.1", "; nameserver 192.0.2.1", " nameserver 192.0.2.1", "nameserver", "nameservers 192.0.2.1"],
)
def test_line_that_is_no_nameserver_is_passed_over(line: str) -> None:
    assert parse(line).addresses == ()
    assert parse(line).warnings == ()


@pytest.mark.parametrize(
    "address",
    ["fe80::1%eth0", "fe80::1", "example.org", "192.0.2", "224.0.0.1", "\x1b[31m", "255.255.255.255", "198.18.0.1"],
)
def test_address_that_cannot_be_let_through_is_skipped_with_a_warning(address: str) -> None:
    result = parse(f"nameserver {address}\nnameserver 192.0.2.1 # mine\n")
    assert [str(each) for each in result.addresses] == ["192.0.2.1"]
    assert len(result.warnings) == 1
    assert result.warnings[0].isprintable()


def test_loopback_stub_leads_to_the_file_of_systemd() -> None:
    chosen = choose("nameserver 127.0.0.53\nnameserver ::1\n", "nameserver 192.0.2.9\n", (), ())
    assert [str(each) for each in chosen.addresses] == ["192.0.2.9"]
    assert chosen.warnings == ()


def test_file_of_systemd_is_left_alone_when_there_is_a_real_resolver() -> None:
    chosen = choose("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", "nameserver 192.0.2.9\n", (), ())
    assert [str(each) for each in chosen.addresses] == ["192.0.2.1"]


@pytest.mark.parametrize("text", ["", "search example\n", "nameserver 127.0.0.1\n"])
def test_no_resolver_at_all_is_a_warning(text: str) -> None:
    chosen = choose(text, "", (), ())
    assert chosen.addresses == ()
    assert len(chosen.warnings) == 1
    assert "--allow-dns" in chosen.warnings[0]


def test_dns_replaces_and_allow_dns_adds() -> None:
    one, two = ip_address("192.0.2.7"), ip_address("192.0.2.8")
    assert choose("nameserver 192.0.2.1\n", "", (one,), (two,)).addresses == (one, two)
    assert choose("nameserver 192.0.2.1\n", "", (), (two,)).addresses == (ip_address("192.0.2.1"), two)


def test_more_resolvers_than_fit_keep_those_that_were_typed() -> None:
    typed = ip_address("192.0.2.99")
    chosen = choose("".join(f"nameserver 192.0.2.{number}\n" for number in range(1, 12)), "", (), (typed,))
    assert len(chosen.addresses) == MOST
    assert chosen.addresses[0] == typed
    assert len(chosen.warnings) == 1


@pytest.mark.parametrize("text", ["127.0.0.53", "::1", "0.0.0.0", "fe80::1%eth0", "example.org", ""])
def test_typed_resolver_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--dns"):
        parse_address(text, "--dns")


@given(st.text())
def test_any_text_gives_addresses_outside_this_machine(text: str) -> None:
    for address in parse(text).addresses:
        assert not address.is_loopback


@given(
    st.one_of(st.ip_addresses(), st.sampled_from([TUN4, TUN6, ip_address("255.255.255.255"), ip_address("0.0.0.0")]))
)
def test_what_resolv_conf_can_say_never_makes_the_tunnel_refuse(address: object) -> None:
    check_resolvers(parse(f"nameserver {address}\n").addresses)


def test_where_names_are_captured_an_empty_file_is_said_and_a_stub_is_none_of_our_business() -> None:
    (warning,) = choose("search corp.example\n", "", (), (), captured=True).warnings
    assert "names no resolver" in warning
    assert choose("nameserver 127.0.0.53\n", "", (), (), captured=True).warnings == ()
    assert choose("nameserver 192.0.2.53\n", "", (), (), captured=True).warnings == ()
