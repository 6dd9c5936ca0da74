"""messages.py by properties: every message comes back, and whatever else comes is refused, in little memory and time.

PROXYVPN_EXAMPLES says how many examples each property is tried with (200 by default).
"""

from __future__ import annotations

import os
import tracemalloc
import typing
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

import msgpack
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxyvpn import messages, plan, tunnel
from proxyvpn.balancing import WAYS, Balancing
from proxyvpn.errors import ProtocolError, UsageError
from proxyvpn.messages import MAX_BYTES, MAX_ITEMS, Opened, Outcome, Standing, Upstream, decode, encode
from proxyvpn.names import Names, Resolver
from proxyvpn.plan import Endpoint, Tunnel

MOST_MEMORY = 8 << 20
KINDS = typing.get_args(messages.Message)

many = settings(max_examples=int(os.environ.get("PROXYVPN_EXAMPLES", "200")), deadline=2000)


def possible(make: Any, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give values of a class that checks itself; those it refuses are left out."""

    def made(values: dict[str, Any]) -> Any:
        try:
            return make(**values)
        except UsageError:
            return None

    return st.fixed_dictionaries(fields).map(made).filter(lambda value: value is not None)


def tuples(of: st.SearchStrategy[Any], most: int, least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(of, min_size=least, max_size=most).map(tuple)


ADDRESS = st.ip_addresses()
NETWORK = st.tuples(ADDRESS, st.integers(0, 128)).map(
    lambda pair: (
        ip_network((int(pair[0]), min(pair[1], pair[0].max_prefixlen)), strict=False)
        if pair[0].version == 4 or int(pair[0]) >> 32
        else ip_network("fd98::/64")
    )
)
NUMBER = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text(max_size=40)
ENDPOINT = possible(Endpoint, address=ADDRESS, port=st.integers(1, 65535))
UPSTREAM = st.builds(
    Upstream, ENDPOINT, TEXT, st.booleans(), TEXT, st.binary(max_size=300), tuples(TEXT, 4), st.booleans()
)
OF: dict[Any, st.SearchStrategy[Any]] = {
    int: NUMBER,
    bool: st.booleans(),
    str: TEXT,
    bytes: st.binary(max_size=300),
    dict[str, int]: st.dictionaries(TEXT, NUMBER, max_size=60),
    IPv4Address | IPv6Address: ADDRESS,
    tuple[str, ...]: tuples(TEXT, 60),
    tuple[int, ...]: tuples(NUMBER, 8),
    tuple[Endpoint, ...]: tuples(ENDPOINT, 8),
    tuple[Upstream, ...]: tuples(UPSTREAM, 8),
    tuple[Outcome, ...]: tuples(st.builds(Outcome, NUMBER, TEXT, TEXT), 8),
    tuple[Standing, ...]: tuples(
        st.builds(Standing, ENDPOINT, TEXT, NUMBER, st.dictionaries(TEXT, NUMBER, max_size=20), TEXT), 8
    ),
    Balancing: possible(
        Balancing,
        way=st.sampled_from(WAYS),
        check_host=TEXT,
        check_port=st.integers(0, 65535),
        on_refusal=st.booleans(),
    ),
    tuple[IPv4Address | IPv6Address, ...]: tuples(ADDRESS, 8),
    tuple[IPv4Network | IPv6Network, ...]: tuples(NETWORK, 64),
    Names: st.builds(Names, TEXT, tuples(TEXT, 60), tuples(st.builds(Resolver, TEXT, NUMBER, TEXT), 4)),
    Tunnel: possible(
        Tunnel,
        proxies=tuples(ENDPOINT, 8, least=1),
        resolvers=tuples(possible(lambda address: plan.Endpoint(address, 53).address, address=ADDRESS), 8),
        bypass=tuples(NETWORK.filter(lambda network: network.prefixlen > 8), 64),
        killswitch=st.booleans(),
        queues=st.integers(1, 4),
        names=st.sampled_from(tunnel.NAMES),
    ),
}
MESSAGE = st.one_of(
    [st.builds(kind, **{name: OF[hint] for name, hint in typing.get_type_hints(kind).items()}) for kind in KINDS]
)


def packet_of(message: Any) -> bytes:
    """Give the packet of a message, if it is not too long for one."""
    try:
        return encode(message)
    except ProtocolError:
        assume(False)
        raise


@many
@given(MESSAGE)
def test_every_message_comes_back(message: Any) -> None:
    found = decode(packet_of(message))
    assert found == message and type(found) is type(message)


def is_message_or_refused(packet: bytes) -> None:
    """Check that `packet` is a message, which then is the only one that it can be, or a ProtocolError."""
    try:
        found = decode(packet)
    except ProtocolError:
        return
    assert isinstance(found, KINDS)
    assert decode(encode(found)) == found


@many
@given(st.binary(max_size=MAX_BYTES + 2))
def test_any_bytes_are_a_message_or_refused(packet: bytes) -> None:
    is_message_or_refused(packet)


NAMES = st.sampled_from(sorted({"is", *(kind.__name__ for kind in KINDS), *dir(Tunnel), "address", "port", "endpoint"}))
SCALAR = (
    st.none() | st.booleans() | NUMBER | st.floats() | TEXT | NAMES | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9))
    | st.just(datetime(2020, 1, 1, tzinfo=UTC)) | ADDRESS.map(str) | NETWORK.map(str)
)  # fmt: skip
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=9) | st.dictionaries(NAMES | TEXT | st.binary(max_size=4), inner, max_size=9)
    ),
)


@many
@given(VALUE)
def test_any_msgpack_value_is_a_message_or_refused(value: Any) -> None:
    is_message_or_refused(msgpack.packb(value, datetime=True))


@many
@given(MESSAGE, st.data())
def test_message_with_any_value_in_the_place_of_a_field(message: Any, data: st.DataObject) -> None:
    fields = msgpack.unpackb(packet_of(message))
    name = data.draw(st.sampled_from(sorted(fields)))
    is_message_or_refused(msgpack.packb({**fields, name: data.draw(VALUE)}, datetime=True))


@many
@given(MESSAGE, st.data())
def test_message_with_some_bytes_changed(message: Any, data: st.DataObject) -> None:
    packet = packet_of(message)
    begin = data.draw(st.integers(0, len(packet)))
    end = data.draw(st.integers(begin, min(len(packet), begin + 4)))
    is_message_or_refused(packet[:begin] + data.draw(st.binary(max_size=4)) + packet[end:])


HEADERS = st.sampled_from(
    (
        *(b"\x81", b"\x91", b"\x9f", b"\x8f\xa1a", b"\xdc\x01\xff", b"\xdc\x3f\xff", b"\xde\x3f\xff\xa1a"),
        *(b"\xdd\x00\x00\x3f\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xdb\x3f\xff\xff\xff"),
        *(b"\xc6\x00\x00\x3f\xf0", b"\xc9\x00\x00\x3f\xf0\x01"),
    )
)


@many
@given(st.lists(HEADERS, min_size=1, max_size=6), st.integers(1, 600), st.booleans())
def test_headers_that_promise_much_take_little_memory(headers: list[bytes], times: int, filled: bool) -> None:
    packet = (b"".join(headers) * times)[:MAX_BYTES]
    packet = packet.ljust(MAX_BYTES, b"\xc0") if filled else packet
    tracemalloc.start()
    try:
        is_message_or_refused(packet)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", [MAX_ITEMS, MAX_ITEMS + 1])
def test_list_of_the_longest_length_is_read_and_no_longer_one(number: int) -> None:
    packet = msgpack.packb({"is": "Engaged", "steps": ["x"] * number})
    if number > MAX_ITEMS:
        with pytest.raises(ProtocolError):
            decode(packet)
    else:
        assert decode(packet) == messages.Engaged(("x",) * number)


def test_packet_of_the_longest_length_is_read() -> None:
    spare = MAX_BYTES - len(encode(Opened("x" * 1000)))
    packet = encode(Opened("x" * (1000 + spare)))
    assert len(packet) == MAX_BYTES
    assert decode(packet) == Opened("x" * (1000 + spare))
