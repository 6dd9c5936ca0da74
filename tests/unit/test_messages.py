"""messages.py: what goes over comes back the same, and nothing else is let in."""

from __future__ import annotations

import typing
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import msgpack
import pytest
from tests.unit.test_plan import PROXIES, RESOLVERS, a_tunnel

from proxyvpn import messages
from proxyvpn.balancing import Balancing
from proxyvpn.errors import ProtocolError
from proxyvpn.messages import MAX_BYTES, Open, Opened, Outcome, Standing, Start, Status, Upstream, decode, encode
from proxyvpn.names import Names, Resolver
from proxyvpn.plan import Endpoint

SOME: dict[Any, Any] = {
    int: 7,
    bool: True,
    str: "text",
    bytes: b"\x00\xff",
    dict[str, int]: {"flows_now": 3},
    tuple[str, ...]: ("one", "two"),
    tuple[int, ...]: (80, 3128),
    tuple[Upstream, ...]: (Upstream(PROXIES[0], "proxy.example", True, "ann", b"x", ("basic",), True),),
    tuple[Outcome, ...]: (Outcome(0, "407", "no"),),
    tuple[Standing, ...]: (Standing(PROXIES[0], "down", 7, {"connects": 9}, "http://proxy.example:3128"),),
    Balancing: Balancing("destination", "check.example", 443, True),
    tuple[Endpoint, ...]: PROXIES,
    IPv4Address | IPv6Address: RESOLVERS[0],
    tuple[IPv4Address | IPv6Address, ...]: RESOLVERS,
    tuple[IPv4Network | IPv6Network, ...]: (),
    type(a_tunnel()): a_tunnel(),
    Names: Names("proxy", ("corp.example",), (Resolver("dns.example", 443, "/dns-query"),)),
}
EVERY = [
    kind(**{name: SOME[hint] for name, hint in typing.get_type_hints(kind).items()})
    for kind in typing.get_args(messages.Message)
]


def packed(**fields: Any) -> bytes:
    """Give a packet with these fields, whatever they are."""
    return typing.cast(bytes, msgpack.packb({key.rstrip("_"): value for key, value in fields.items()}))


def as_map(message: Any) -> dict[str, Any]:
    """Give the map that a message becomes."""
    return typing.cast(dict[str, Any], msgpack.unpackb(encode(message)))


@pytest.mark.parametrize("message", EVERY, ids=lambda each: type(each).__name__)
def test_every_message_comes_back_as_it_went(message: Any) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", EVERY, ids=lambda each: type(each).__name__)
def test_a_message_with_one_field_more_or_less_is_refused(message: Any) -> None:
    fields = as_map(message)
    with pytest.raises(ProtocolError):
        decode(msgpack.packb({**fields, "more": 1}))
    for name in fields:
        with pytest.raises(ProtocolError):
            decode(msgpack.packb({key: value for key, value in fields.items() if key != name}))


@pytest.mark.parametrize("message", EVERY, ids=lambda each: type(each).__name__)
def test_a_field_of_another_type_is_refused(message: Any) -> None:
    fields = as_map(message)
    for name, value in fields.items():
        others: tuple[Any, ...] = (None, 1.5, [[]], {"x": "y"}, b"\xff", -1 if type(value) is not int else "1")
        for other in (each for each in others if type(each) is not type(value) or each == [[]]):
            with pytest.raises(ProtocolError):
                decode(msgpack.packb({**fields, name: other}))


@pytest.mark.parametrize(
    "packet",
    [
        *(b"", b"\x80", b"\xc1", b"\x81\xa2is", b"\x00" * 32, b"\x93\x01\x02\x03"),
        packed(is_="Nonsense"),
        packed(is_=1),
        packed(is_="Status") + b"\x00",
        b"\x82\xa2is\xa6Status\xa2is\xa6Status",
        b"\x81\x01\xa6Status",
        b"\x82\xa2is\xa6Opened\xa6ifname\xd4\x01\x00",
        b"\x91" * 2000,
        b"\x81\xa2is" * 600,
        packed(is_="Opened", ifname="x" * MAX_BYTES),
    ],
)
def test_a_packet_that_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(packet)


@pytest.mark.parametrize(
    "changed",
    [
        {"proxies": []},
        {"proxies": [{"address": "0.0.0.0", "port": 80}]},
        {"proxies": [{"address": "192.0.2.1", "port": 0}]},
        {"proxies": [{"address": "192.0.2.1", "port": True}]},
        {"proxies": [{"address": "192.0.2.01", "port": 80}]},
        {"proxies": [{"address": "192.0.2.1\n", "port": 80}]},
        {"proxies": [{"address": "2001:DB8::1", "port": 80}]},
        {"proxies": [{"address": "fe80::1%eth0", "port": 80}]},
        {"resolvers": ["192.0.2.53; flush ruleset"]},
        {"resolvers": ["192.0.2.53"] * 9},
        {"bypass": ["0.0.0.0/0"]},
        {"inbound": [0]},
        {"inbound": ["53"]},
        {"inbound": [True]},
        {"inbound": list(range(1, 17))},
        {"bypass": ["192.0.2.1/24"]},
        {"bypass": ["192.0.2.0/255.255.255.0"]},
        {"queues": 9},
        {"killswitch": 1},
    ],
)
def test_a_tunnel_that_makes_no_sense_does_not_get_in(changed: dict[str, Any]) -> None:
    fields = as_map(Open(1, a_tunnel()))
    with pytest.raises(ProtocolError):
        decode(msgpack.packb({**fields, "tunnel": {**fields["tunnel"], **changed}}))


def test_a_message_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolError):
        encode(Opened("x" * MAX_BYTES))


def test_the_largest_tunnel_fits() -> None:
    bypass = tuple(IPv6Network(f"2001:db8:{n:x}:ffff:ffff:ffff:ffff:ff00/120") for n in range(64))
    message = Open(1, a_tunnel(proxies=PROXIES * 4, resolvers=RESOLVERS * 4, bypass=bypass))
    assert decode(encode(message)) == message


def test_credentials_do_not_show_in_what_is_printed() -> None:
    assert "hunter2" not in repr(Start((Upstream(PROXIES[0], "proxy.example", password=b"hunter2"),), 0))


def test_a_message_without_fields_is_only_its_name() -> None:
    assert msgpack.unpackb(encode(Status())) == {"is": "Status"}
