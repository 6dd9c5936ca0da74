"""What the worker wishes to connect to past the tunnel: parsed, dialled by the helper, refused in words."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxyvpn.direct import Direct, parse
from proxyvpn.errors import KernelError
from proxyvpn.tunnel import IPAddress
from proxyvpn.wishes import Granted


def test_wish_becomes_a_descriptor() -> None:
    direct = Direct(lambda address, port: 7 if (str(address), port) == ("192.0.2.53", 53) else -1)
    direct.begin(3, b"192.0.2.53 53")
    assert direct.take() == [Granted(3, fd=7)]
    assert direct.take() == []


def test_what_the_helper_refuses_is_refused_in_its_words() -> None:
    def refuse(address: IPAddress, port: int) -> int:
        raise KernelError("not there", "no way")

    direct = Direct(refuse)
    direct.begin(1, b"2001:db8::1 53")
    assert direct.take() == [Granted(1, refusal="not there: no way")]


@pytest.mark.parametrize(
    "content", [b"", b"192.0.2.53", b"192.0.2.53 0", b"a.example 53", b"\xff 53", b"192.0.2.53 -1"]
)
def test_nonsense_reaches_no_helper(content: bytes) -> None:
    direct = Direct(lambda *_: pytest.fail("dialled"))
    direct.begin(1, content)
    assert direct.take()[0].refusal


def test_parse_knows_both_families() -> None:
    assert parse(b"2001:db8::1 53") == (ip_address("2001:db8::1"), 53)
