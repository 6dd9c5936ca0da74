"""What may be typed about several proxies, and what it means."""

from __future__ import annotations

import pytest

from proxyvpn import balancing
from proxyvpn.balancing import ORDER, WAYS, Balancing
from proxyvpn.cli import cli
from proxyvpn.errors import UsageError


def test_nothing_typed_is_the_order_of_the_proxies_and_no_check() -> None:
    assert balancing.read(None, None, False) == Balancing(ORDER, "", 0, False)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.com:443", "example.com", 443),
        ("192.0.2.7:1", "192.0.2.7", 1),
        ("[2001:db8::7]:65535", "2001:db8::7", 65535),
    ],
)
def test_check_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    found = balancing.read("destination", text, True)
    assert found == Balancing("destination", host, port, True)


@pytest.mark.parametrize(
    "text",
    [
        *("", "example.com", ":443", "example.com:", "example.com:0", "example.com:65536", "a b:1", "2001:db8::7:443"),
        *("[::1:443", "x://example.com:443", "256.1.1.1:80", "example.com:443\r\nX:1", "é:1", "a:" + "9" * 5000),
    ],
)
def test_what_is_no_host_and_port_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="--health-check") as caught:
        balancing.read(None, text, False)
    assert caught.value.what.isprintable()


def test_unknown_way_is_refused_by_the_value_itself() -> None:
    with pytest.raises(UsageError, match="random"):
        Balancing("random")
    with pytest.raises(UsageError, match="port"):
        Balancing(check_host="example.com")


def test_command_line_offers_every_way() -> None:
    option = next(found for found in cli.commands["up"].params if found.name == "balance")
    assert tuple(option.type.choices) == WAYS  # type: ignore[attr-defined]
