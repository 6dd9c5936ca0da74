"""What an attacker may send to the helper: a table of packets, each with the phase in which it is sent.

Data only. A row is a name, a packet, and how many descriptors come with it; test_hostile_requests.py sends it over a
real socket to a real helper. Packets are written as msgpack or as bytes, never by messages.py, which would refuse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

import msgpack

from tests.netns.kernel_support import BYPASS, PROXY, PROXY6, RESOLVER, RESOLVER6


@dataclass(frozen=True, slots=True)
class Row:
    """One hostile packet. `fds`: how many descriptors are attached."""

    name: str
    packet: bytes
    fds: int = 0


def packed(value: Any) -> bytes:
    """Give `value` as msgpack, whatever it is."""
    found: bytes = msgpack.packb(value, datetime=False)
    return found


TUNNEL: Final[dict[str, Any]] = {
    "proxies": [{"address": PROXY, "port": 3128}, {"address": PROXY6, "port": 3128}],
    "resolvers": [RESOLVER, RESOLVER6],
    "bypass": [f"{BYPASS}/32"],
    "killswitch": False,
    "queues": 2,
    "inbound": [],
    "names": "direct",
    "pac": False,
    "excluded_users": [],
    "excluded_cgroups": [],
}
OPEN: Final[dict[str, Any]] = {"is": "Open", "version": 1, "tunnel": TUNNEL}
UPDATE: Final[dict[str, Any]] = {"is": "Update", "resolvers": [RESOLVER], "proxies": TUNNEL["proxies"]}
ENDPOINT: Final = {"address": PROXY, "port": 3128}
UPSTREAM: Final = {
    **{"endpoint": ENDPOINT, "name": "proxy.example", "tls": False, "user": "", "password": b""},
    **{"schemes": [], "preemptive": False},
}

EVERY: Final[dict[str, dict[str, Any]]] = {
    "Open": OPEN,
    "Opened": {"is": "Opened", "ifname": "pvpn0"},
    "Engage": {"is": "Engage"},
    "Engaged": {"is": "Engaged", "steps": ["ip link add dev pvpn0"]},
    "Update": UPDATE,
    "Updated": {"is": "Updated"},
    "Attach": {"is": "Attach"},
    "Attached": {"is": "Attached"},
    "Dial": {"is": "Dial", "address": RESOLVER, "port": 53},
    "Dialled": {"is": "Dialled"},
    "Status": {"is": "Status"},
    "State": {"is": "State", "phase": "fresh", "dropped": 0, "left": [], "locked": False},
    "Close": {"is": "Close"},
    "Closed": {"is": "Closed", "undone": [], "left": []},
    "Reclaim": {"is": "Reclaim"},
    "Reclaimed": {"is": "Reclaimed", "removed": [], "left": []},
    "Refused": {"is": "Refused", "code": 0, "what": "", "why": "", "advice": ""},
    "Start": {"is": "Start", "upstreams": [UPSTREAM], "uid": 0, "files": []},
    "Try": {"is": "Try", "host": "", "port": 0},
    "Tried": {"is": "Tried", "outcomes": []},
    "Carry": {"is": "Carry"},
    "Carrying": {"is": "Carrying"},
    "Wish": {"is": "Wish", "number": 1, "kind": "token", "content": b""},
    "Grant": {"is": "Grant", "number": 1, "content": b"", "refusal": ""},
    "Started": {"is": "Started", "sandbox": []},
    "Make": {
        **{"is": "Make", "number": 1, "host": "proxy.example", "scheme": "ntlm", "context": "1", "challenge": ""},
        **{"user": "", "password": ""},
    },
    "Made": {"is": "Made", "number": 1, "answer": "done"},
    "Count": {"is": "Count"},
    "Counters": {"is": "Counters", "values": {}},
    "Ask": {"is": "Ask"},
    "Report": {
        **{"is": "Report", "ifname": "pvpn0", "proxies": [], "resolvers": [], "bypass": [], "killswitch": True},
        **{"since": 0, "restarts": 0, "dropped": 0, "notes": [], "counters": {}},
    },
    "Down": {"is": "Down"},
}
"""A good packet of every kind, to be sent where it has no business."""

PERMITTED: Final[dict[str, tuple[str, ...]]] = {
    "fresh": ("Open", "Reclaim", "Status"),
    "open": ("Engage", "Status", "Close"),
    "engaged": ("Update", "Attach", "Dial", "Status", "Close"),
    "closed": (),
}
PHASES: Final = tuple(PERMITTED)

STATUS: Final = packed({"is": "Status"})
_ARRAY_1G, _MAP_1G = b"\xdd\x40\x00\x00\x00", b"\xdf\x40\x00\x00\x00"
_TEXT_1G, _BYTES_1G, _EXT_1G = b"\xdb\x40\x00\x00\x00", b"\xc6\x40\x00\x00\x00", b"\xc9\x40\x00\x00\x00\x01"
_WIDE = b"\xdc\x3f\xf0"

NOT_MESSAGES: Final[dict[str, bytes]] = {
    "one byte that msgpack never uses": b"\xc1",
    "nil": b"\xc0",
    "true": b"\xc3",
    "a number": b"\x07",
    "a negative number": b"\xff",
    "the largest number": b"\xcf" + b"\xff" * 8,
    "the smallest number": b"\xd3\x80" + b"\x00" * 7,
    "a float": b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00",
    "not a number": b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "infinity": b"\xca\x7f\x80\x00\x00",
    "a text": packed("Status"),
    "bytes": packed(b"Status"),
    "an empty map": b"\x80",
    "an empty list": b"\x90",
    "a list of the right words": packed(["is", "Status"]),
    "a map in a list": packed([{"is": "Status"}]),
    "a timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "a timestamp of 96 bits": b"\xc7\x0c\xff" + b"\x00" * 12,
    "a timestamp with too many nanoseconds": b"\xd7\xff" + b"\xff" * 8,
    "an extension": b"\xd4\x01\x00",
    "an extension of no bytes": b"\xc7\x00\x01",
    "a lone map header": b"\x81",
    "a map cut in its key": b"\x81\xa2i",
    "a map cut in its value": b"\x81\xa2is\xa6Stat",
    "trailing nil": STATUS + b"\xc0",
    "trailing zero": STATUS + b"\x00",
    "two maps in one packet": STATUS + STATUS,
    "a map and half of another": STATUS + STATUS[:-3],
    "no name": packed({"version": 1}),
    "a name of another case": packed({"is": "status"}),
    "a name with a blank": packed({"is": "Status "}),
    "a name with a zero byte": packed({"is": "Status\0"}),
    "an empty name": packed({"is": ""}),
    "a name in bytes": packed({"is": b"Status"}),
    "a name that is a number": packed({"is": 1}),
    "a name that is nil": packed({"is": None}),
    "a name that is a list": packed({"is": ["Status"]}),
    "a name that is a map": packed({"is": {"is": "Status"}}),
    "a Python name": packed({"is": "__class__"}),
    "the name of a part": packed({"is": "Tunnel", **TUNNEL}),
    "the name of an endpoint": packed({"is": "Endpoint", **ENDPOINT}),
    "a name of invalid UTF-8": b"\x81\xa2is\xa2\xff\xfe",
    "a name of a lone surrogate": b"\x81\xa2is\xa3\xed\xa0\x80",
    "a name of overlong UTF-8": b"\x81\xa2is\xa2\xc1\xbf",
    "a key of invalid UTF-8": b"\x82\xa2is\xa6Status\xa2\xff\xfe\x01",
    "a key that is a number": b"\x82\xa2is\xa6Status\x01\x01",
    "a key that is nil": b"\x82\xa2is\xa6Status\xc0\x01",
    "a key that is a float": b"\x82\xa2is\xa6Status\xcb" + struct.pack(">d", 1.5) + b"\x01",
    "a key that is a list": b"\x82\xa2is\xa6Status\x90\x01",
    "a key that is a map": b"\x82\xa2is\xa6Status\x80\x01",
    "a key that is an extension": b"\x82\xa2is\xa6Status\xd4\x01\x00\x01",
    "a key in bytes": b"\x82\xa2is\xa6Status\xc4\x01x\x01",
    "the name in bytes as the key": b"\x81\xc4\x02is\xa6Status",
    "the name twice": b"\x82\xa2is\xa6Status\xa2is\xa6Status",
    "the name twice, two kinds": b"\x82\xa2is\xa6Status\xa2is\xa7Reclaim",
    "a field twice": b"\x83\xa2is\xa6Opened\xa6ifname\xa1a\xa6ifname\xa1a",
    "a field that Status does not have": packed({"is": "Status", "verbose": True}),
    "a field with an empty name": packed({"is": "Status", "": 0}),
    "a dunder field": packed({"is": "Status", "__init__": 0}),
    "a list of 2^30 declared": b"\x81\xa2is" + _ARRAY_1G,
    "a map of 2^30 declared": b"\x81\xa2is" + _MAP_1G,
    "a text of 1 GiB declared": b"\x81\xa2is" + _TEXT_1G + b"x",
    "bytes of 1 GiB declared": b"\x81\xa2is" + _BYTES_1G + b"x",
    "an extension of 1 GiB declared": b"\x81\xa2is" + _EXT_1G,
    "a top map of 2^30 declared": _MAP_1G,
    "a top list of 2^32-1 declared": b"\xdd" + b"\xff" * 4,
    "a text of 4 GiB declared": b"\xdb" + b"\xff" * 4 + b"x" * 100,
    "lists 16,000 deep": b"\x91" * 16000,
    "maps 5,000 deep": b"\x81\xa1a" * 5000,
    "lists 500 deep, ended well": b"\x81\xa2is" + b"\x91" * 500 + b"\xc0",
    "wide lists, 1,000 deep": _WIDE * 1000,
    "wide lists, 5,000 deep": _WIDE * 5000,
    "wide maps, 1,000 deep": b"\xde\x3f\xf0\xa1a" * 1000,
    "wide lists, 500 deep, in a whole packet": (_WIDE * 500).ljust(16 * 1024, b"\xc0"),
    "wide maps, 500 deep, in a whole packet": (b"\xde\x3f\xf0\xa1a" * 500).ljust(16 * 1024, b"\xc0"),
    "wide lists in a field": b"\x82\xa2is\xa6Opened\xa6ifname" + _WIDE * 1000,
    "16,000 nils": b"\xdc\x3e\x80" + b"\xc0" * 16000,
    "16,000 empty maps": b"\xdc\x3e\x80" + b"\x80" * 16000,
    "a map of 3,000 fields": packed({f"{n:x}": None for n in range(3000)}),
    "a map of one field 5,000 times": b"\xde\x13\x88" + b"\xa1a\xc0" * 5000,
    "a packet of the longest length, nonsense": b"\xa5" * (16 * 1024),
    "a packet one byte too long": packed({"is": "x" * (16 * 1024 + 1 - 7)}),
    "a packet far too long": b"\x81\xa2is\xda\xff\xff" + b"x" * 65535,
    "a good packet with much behind it": STATUS + b"\x00" * (16 * 1024),
    "a line of HTTP": b"CONNECT 192.0.2.1:443 HTTP/1.1\r\n\r\n",
    "JSON": b'{"is": "Status"}',
    "a pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}
"""Packets that are no message of any kind."""

_WRONG_FIELDS: Final[dict[str, tuple[Any, ...]]] = {
    "version": (0, 2, -1, 2**63, True, 1.0, "1", b"1", None, [1], {"": 1}),
    "tunnel": (None, [], "", 1, b"", {}, {**TUNNEL, "table": 254}, {**TUNNEL, "ifname": "eth0"}, [TUNNEL]),
}
_WRONG_TUNNELS: Final[dict[str, tuple[Any, ...]]] = {
    "killswitch": (0, 1, "true", None, b"\x01", [], 1.0),
    "queues": (0, 5, 65, -1, 2**31, 2**64 - 1, 1.0, True, "1", None, [2]),
    "inbound": (
        *(None, {}, "", 53, [None], [0], [65536], [-1], [True], ["53"], [53.0], [b"5"], [[53]], ["udp/53"]),
        list(range(1000, 1400)),
    ),
    "names": (None, "", "Direct", "virtual ", "proxy\n", 1, b"direct", True, [], {}, ["virtual"]),
    "pac": (0, 1, "false", None, b"", [], {}),
    "excluded_users": (
        *(None, {}, "", 13, [None], [0], [-1], [2**32 - 1], [2**64 - 1], [True], ["13"], [13.0], [b"13"], [[13]]),
        list(range(1, 10)),
    ),
    "excluded_cgroups": (
        *(None, {}, "", "a", [None], [""], ["/"], ["."], [".."], ["/a"], ["a/"], ["a//b"], ["a/../b"], ["a/./b"]),
        *(['a"'], ["a\n"], ["a\0"], ["a b"], ["a*"], ["ä"], ["a;flush ruleset"], ["x" * 300], ["a/" * 300 + "a"], [1]),
        *([b"a"], [["a"]], list("abcdefghi")),
        ["../../proc/self"],
    ),
    "proxies": (
        *([], None, {}, "", 1, [None], [[]], [PROXY], [{}], ENDPOINT),
        *([ENDPOINT] * 17, [ENDPOINT] * 400, [{**ENDPOINT, "scheme": "http"}], [{"address": PROXY}], [{"port": 1}]),
    ),
    "resolvers": (None, {}, "", RESOLVER, [None], [53], [b"\x0a\x62\x00\x35"], [RESOLVER] * 9, [RESOLVER] * 1000),
    "bypass": (
        None,
        {},
        "",
        [None],
        [0],
        [f"10.{n}.0.0/16" for n in range(65)],
        [f"{n}.0.0.0/8" for n in range(1, 99)],
    ),
}
_WRONG_ADDRESSES: Final[tuple[Any, ...]] = (
    *("0.0.0.0", "255.255.255.255", "224.0.0.1", "239.255.255.255"),
    *("::", "ff02::1", "ff0e::1", "fe80::1", "fe80::1%up0", f"{PROXY6}%up0", f"{PROXY6}%; flush ruleset"),
    *(str(ip_address("::ffff:10.98.0.1")), "::ffff:10.98.0.1", "::ffff:a62:1", "198.18.0.1", "fd70:7670:6e::1"),
    *("proxy.example", "localhost", "", " ", f"{PROXY}\n", f" {PROXY}", f"{PROXY}\0", f"{PROXY}/32", f"{PROXY}:3128"),
    *("10.98.0.01", "10.98.1", "0x0a620001", "174194689", "FD98::1", "fd98:0::1", f"[{PROXY6}]", "１０.98.0.1"),
    *("10.98.0.1; flush ruleset", 'include "/etc/shadow"', "10.98.0.1 }", "x" * 9000),
    *(None, 174194689, b"\x0a\x62\x00\x01", 1.0, True, [], {}),
)
_LOOPBACK: Final = ("127.0.0.1", "127.255.255.254", "::1")
"""Where a proxy may be, and a resolver to be let past may not."""
_WRONG_PROXIES: Final = ("169.254.0.1",)
_WRONG_PORTS: Final[tuple[Any, ...]] = (0, -1, 65536, 2**31, 2**63, 2**64 - 1, 1.0, True, "3128", None, b"", [], {})
_WRONG_NETWORKS: Final[tuple[Any, ...]] = (
    *("0.0.0.0/0", "::/0", "10.98.0.7/24", "fd98::7/64", "10.98.0.0/33", "fd98::/129", "10.98.0.0/-1", "10.98.0.0"),
    *("10.98.0.0/255.255.255.0", "10.98.0.0/0.0.0.255", "10.98.0.0/024", "10.98.0.0/ 24", "10.98.0.0/24 ", "example/8"),
    *("fd98::%up0/64", "fe80::%; flush ruleset/64", "FD98::/64", "", "/", "10.98.0.0/24, 0.0.0.0/0"),
    *(None, 0, b"\x0a", 1.0, True, [], {}, ["10.98.0.0", 24]),
)
_WRONG_LISTS_OF_NETWORKS: Final = {
    "both halves": ["0.0.0.0/1", "128.0.0.0/1"],
    "both halves of IPv6": ["::/1", "8000::/1"],
    "four quarters": ["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"],
    "one and all": [f"{BYPASS}/32", "0.0.0.0/0"],
}


def in_fresh() -> Iterator[Row]:
    """Give what is refused before anything is open."""
    yield from (Row(name, packet) for name, packet in NOT_MESSAGES.items())
    for field, values in _WRONG_FIELDS.items():
        yield from (_open(f"{field} {value!r}", {field: value}) for value in values)
        yield Row(f"Open without {field}", packed({key: value for key, value in OPEN.items() if key != field}))
    for field, values in _WRONG_TUNNELS.items():
        yield from (_tunnel(f"{field} {value!r}", {field: value}) for value in values)
        without = {key: value for key, value in TUNNEL.items() if key != field}
        yield _open(f"a tunnel without {field}", {"tunnel": without})
    for address in (*_WRONG_ADDRESSES, *_WRONG_PROXIES):
        yield _tunnel(f"the proxy {address!r}", {"proxies": [{"address": address, "port": 3128}]})
    for address in (*_LOOPBACK, *_WRONG_ADDRESSES):
        yield _tunnel(f"the resolver {address!r}", {"resolvers": [RESOLVER, address]})
    for port in _WRONG_PORTS:
        yield _tunnel(f"the port {port!r}", {"proxies": [{"address": PROXY, "port": port}]})
    for network in _WRONG_NETWORKS:
        yield _tunnel(f"the bypass {network!r}", {"bypass": [network]})
    for name, networks in _WRONG_LISTS_OF_NETWORKS.items():
        yield _tunnel(f"a bypass of {name}", {"bypass": networks})
    for number in (1, 8, 9, 253):
        yield Row(f"Status with {number} descriptors", STATUS, number)
    yield Row("Open with a descriptor", packed(OPEN), 1)
    yield Row("no message, with a descriptor", b"", 1)
    yield Row("nonsense with descriptors", b"\xc1", 8)


def out_of_phase(phase: str) -> Iterator[Row]:
    """Give every good packet that `phase` does not permit."""
    for name, fields in EVERY.items():
        if name not in PERMITTED[phase]:
            yield Row(f"{name} when {phase}", packed(fields))


def while_up() -> Iterator[Row]:
    """Give what is refused where Update and Attach are permitted, beside what has no business there."""
    for number, name in enumerate(NOT_MESSAGES):
        if number % 6 == 0:
            yield Row(name, NOT_MESSAGES[name])
    for address in _WRONG_ADDRESSES[::3]:
        yield _update(f"the proxy {address!r}", {"proxies": [{"address": address, "port": 3128}]})
    for port in _WRONG_PORTS[::2]:
        yield _update(f"the port {port!r}", {"proxies": [{"address": PROXY, "port": port}]})
    yield _update("resolvers of numbers", {"resolvers": [53]})
    for address in ("proxy.example", "", "10.98.0.01", None, 174194689, b"\x0a\x62\x00\x35", [], {}):
        yield Row(f"Dial: the address {address!r}", packed({**EVERY["Dial"], "address": address}))
    for port in (1.0, True, "53", None, b"5", [53]):
        yield Row(f"Dial: the port {port!r}", packed({**EVERY["Dial"], "port": port}))
    yield Row("Dial with a mark", packed({**EVERY["Dial"], "mark": 0}))
    yield Row("Dial without a port", packed({"is": "Dial", "address": RESOLVER}))
    yield Row("Dial with a descriptor", packed(EVERY["Dial"]), 1)
    yield _update("another killswitch", {"killswitch": False})
    yield Row("Attach with a descriptor", packed({"is": "Attach"}), 1)
    yield Row("Close with more descriptors than fit", packed({"is": "Close"}), 9)


DECLINED: Final = (
    *("127.0.0.1", "::1", "224.0.0.1", "ff02::1", "fe80::1%up0", f"{RESOLVER6}%; flush ruleset"),
    str(ip_address("::ffff:10.98.0.53")),
    *("0.0.0.0", "198.18.0.1"),
)
"""Resolvers that an Update is refused for without ending the tunnel: resolv.conf may come to hold such a line."""


def _open(name: str, changed: dict[str, Any]) -> Row:
    return Row(f"Open: {name[:80]}", packed({**OPEN, **changed}))


def _tunnel(name: str, changed: dict[str, Any]) -> Row:
    return _open(name, {"tunnel": {**TUNNEL, **changed}})


def _update(name: str, changed: dict[str, Any]) -> Row:
    return Row(f"Update: {name[:80]}", packed({**UPDATE, **changed}))
