"""The sentences the processes say to each other: frozen dataclasses, one msgpack map a packet.

The table is closed. A map must name a known message in `is`, hold exactly its fields, each of exactly its type, within
MAX_BYTES; anything else raises ProtocolError and yields nothing. Nothing here opens a file or a socket.
Addresses travel as text in the one form that Python prints.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

import msgpack

from proxyvpn.balancing import PLAIN, Balancing
from proxyvpn.errors import ProtocolError, ProxyvpnError
from proxyvpn.names import DIRECTLY, Names
from proxyvpn.plan import Endpoint, IPAddress, Tunnel

VERSION: Final = 1
MAX_BYTES: Final = 16 * 1024
MAX_ITEMS: Final = 512
"""Of one list or map. msgpack makes room for as many as a header declares, and lists nest 500 deep: without this limit
one packet could take 64 MB."""


# What `up` asks of the helper, and what it answers.


@dataclass(frozen=True, slots=True)
class Open:
    """Create the TUN (and, with the killswitch, the guard before it); nothing is routed into it yet."""

    version: int
    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class Opened:
    """The TUN queues come with this message, as file descriptors."""

    ifname: str


@dataclass(frozen=True, slots=True)
class Engage:
    """Route and capture: from the answer on, traffic flows through the TUN."""


@dataclass(frozen=True, slots=True)
class Engaged:
    """`steps` is what the kernel now holds, each as a person would type it."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """Replace the elements of the resolver and proxy sets; no chain, route or rule moves."""

    resolvers: tuple[IPAddress, ...]
    proxies: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Updated:
    """The sets hold the new elements."""


@dataclass(frozen=True, slots=True)
class Attach:
    """Ask for the TUN queues again, for a new worker."""


@dataclass(frozen=True, slots=True)
class Attached:
    """The TUN queues come with this message."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect past the tunnel, for the worker; only to where the tunnel permits it."""

    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class Dialled:
    """The connection comes with this message; it may still be under way."""


@dataclass(frozen=True, slots=True)
class Status:
    """Ask what the kernel holds."""


@dataclass(frozen=True, slots=True)
class State:
    """`phase` is fresh, open or engaged; `dropped` counts packets that the guard stopped; `left` is what an earlier
    tunnel left behind (only when fresh), `locked` whether that includes a closed guard; `notes` is for `status`."""

    phase: str
    dropped: int
    left: tuple[str, ...]
    locked: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Undo everything, in reverse, the guard last."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What was undone, and what could not be."""

    undone: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Remove whatever in this network namespace carries our tag."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What was removed, and what could not be."""

    removed: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A ProxyvpnError on its way to another process."""

    code: int
    what: str
    why: str
    advice: str


# What `up` asks of the worker.


@dataclass(frozen=True, slots=True)
class Upstream:
    """A proxy as the worker needs it: where it listens, and what it is told. `name` is the host of its URL; `schemes`
    are those of authentication that the user gave means for, none: all that `user` and `password` suffice for.
    """

    endpoint: Endpoint
    name: str
    tls: bool = False
    user: str = ""
    password: bytes = field(default=b"", repr=False)
    schemes: tuple[str, ...] = ()
    preemptive: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """Give up everything and make ready. `uid` 0 means: stay who you are. A descriptor comes with this message for each
    of `files`, in this order. `has_resolvers`: names of direct domains can be asked of somebody.
    """

    upstreams: tuple[Upstream, ...]
    uid: int
    files: tuple[str, ...] = ()
    balancing: Balancing = PLAIN
    names: Names = DIRECTLY
    has_resolvers: bool = False
    ports: tuple[int, ...] = ()
    """Of proxies that may come later: no connection is possible to others than these and those of `upstreams`."""
    by_script: bool = False
    """Whether each connection wishes for the ways that a PAC file gives (kind `pac`)."""


@dataclass(frozen=True, slots=True)
class Started:
    """It is ready. `sandbox` lists what this kernel could not enforce."""

    sandbox: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Try:
    """Ask each proxy for a tunnel to this host and port (none: its own, 443), until one can be spoken to."""

    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking upstream number `proxy`: `ok`, or the kind of its refusal, and words for a person. `wrong`:
    it refuses the credentials; with `credentials`, the words go on from the proxy's name.
    """

    proxy: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of Try, in order; the last one is `ok` if any is."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Carry:
    """Carry packets of the TUN queues that come with this message."""


@dataclass(frozen=True, slots=True)
class Carrying:
    """The packet threads run."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The worker, unasked, wants something from outside its sandbox."""

    number: int
    kind: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """What became of the wish with this number; `refusal`, if not empty, says why nothing. May bring a descriptor."""

    number: int
    content: bytes = field(default=b"", repr=False)
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Replace:
    """Use these proxies for connections that begin from now on; their ports are those of Start."""

    upstreams: tuple[Upstream, ...]


@dataclass(frozen=True, slots=True)
class Replaced:
    """They are used."""


@dataclass(frozen=True, slots=True)
class Count:
    """Ask for the counters."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a proxy is at one of its addresses, and since how many seconds; its own counters. `proxy` is its URL without
    the password: the worker does not know it and leaves it empty."""

    endpoint: Endpoint
    state: str
    seconds: int
    counters: dict[str, int]
    proxy: str = ""


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters by name since the worker started, and each proxy's standing, in the order in which they are tried;
    docs/counters.md lists them."""

    values: dict[str, int]
    standings: tuple[Standing, ...] = ()


# What `up` asks of the process that makes tokens.


@dataclass(frozen=True, slots=True)
class Make:
    """Make a token for the proxy `host`, or check its last one. An empty `challenge` (base64) begins the context with
    this number. `answer` comes back in a Made with the same `number`.
    """

    number: int
    host: str
    scheme: str
    context: str
    challenge: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Made:
    """What came of Make: `token BASE64`, `done`, `missing WHY` or `wrong WHY`, as rust/token.rs reads it."""

    number: int
    answer: str = field(repr=False)


# What `up` asks of the process that evaluates a PAC file.


@dataclass(frozen=True, slots=True)
class Load:
    """Load the script whose file comes with this message, and become `uid` (0: stay who you are). `mine` are this
    machine's addresses, for myIpAddress()."""

    mine: tuple[str, ...]
    uid: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """It is loaded."""


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Ask the script for the way to `url`, whose host is `host`."""

    url: str
    host: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What FindProxyForURL gave; or, in words for a person, why nothing."""

    answer: str
    error: str


# What `status` and `teardown` ask of a running `up`, over the socket in the state directory.


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a running `up` how it is."""


@dataclass(frozen=True, slots=True)
class Report:
    """How it is. `since` is in seconds of the Unix epoch; proxies are printed without credentials."""

    ifname: str
    proxies: tuple[str, ...]
    resolvers: tuple[str, ...]
    bypass: tuple[str, ...]
    killswitch: bool
    since: int
    restarts: int
    dropped: int
    notes: tuple[str, ...]
    counters: dict[str, int]
    standings: tuple[Standing, ...] = ()
    names: Names = DIRECTLY


@dataclass(frozen=True, slots=True)
class Down:
    """Ask a running `up` to end in order."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """Say to an `up --confirm` that the machine can still be reached: it stays up."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Whether it was waiting for that."""

    waited: bool


Message = (
    Open | Opened | Engage | Engaged | Update | Updated | Attach | Attached | Dial | Dialled | Status | State | Close
    | Closed | Reclaim | Reclaimed | Refused | Start | Started | Try | Tried | Carry | Carrying | Wish | Grant
    | Replace | Replaced | Count | Counters | Make | Made | Load | Loaded | Evaluate | Evaluated | Ask | Report | Down
    | Confirm | Confirmed
)  # fmt: skip

_BY_NAME: Final[dict[str, type[Any]]] = {kind.__name__: kind for kind in typing.get_args(Message)}
_HINTS: Final[dict[type[Any], dict[str, Any]]] = {}
_LIMITS: Final = {"max_array_len": MAX_ITEMS, "max_map_len": MAX_ITEMS, "max_ext_len": 0}


def encode(message: Message) -> bytes:
    """Give the packet for `message`. Raises ProtocolError when it is longer than MAX_BYTES."""
    packet: bytes = msgpack.packb({"is": type(message).__name__, **_fields(message)}, use_bin_type=True)
    if len(packet) > MAX_BYTES:
        raise ProtocolError(f"a {type(message).__name__} message is longer than {MAX_BYTES} bytes")
    return packet


def decode(packet: bytes) -> Message:
    """Give the message in `packet`. Raises ProtocolError for anything that is not exactly one known message."""
    if len(packet) > MAX_BYTES:
        raise ProtocolError(f"a message is longer than {MAX_BYTES} bytes")
    try:
        value = msgpack.unpackb(packet, raw=False, strict_map_key=True, object_pairs_hook=_pairs, **_LIMITS)
    except ProtocolError:
        raise
    except Exception as error:  # msgpack raises its own kinds, ValueError, TypeError, RecursionError among them
        raise ProtocolError("a message is not msgpack", type(error).__name__) from error
    name = value.pop("is", None) if isinstance(value, dict) else None
    kind = _BY_NAME.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ProtocolError("a message of an unknown kind")
    message: Message = _read(kind, value, kind.__name__)
    return message


def _pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ProtocolError("a message names a field twice")
    return found


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _write(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _write(value: Any) -> Any:
    if isinstance(value, IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        return str(value)
    if isinstance(value, tuple):
        return [_write(item) for item in value]
    return _fields(value) if dataclasses.is_dataclass(value) else value


def _types(kind: type[Any]) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def _read(wanted: Any, value: Any, where: str) -> Any:
    """Give `value` as `wanted`, which is int, bool, str, bytes, dict, a tuple, an address or one of our dataclasses."""
    if wanted in (int, bool, str, bytes):
        if type(value) is not wanted:
            raise ProtocolError(f"{where} is not {wanted.__name__}")
        return value
    if dataclasses.is_dataclass(wanted):
        return _read_fields(typing.cast(type[Any], wanted), value, where)
    if typing.get_origin(wanted) is tuple:
        if type(value) is not list:
            raise ProtocolError(f"{where} is not a list")
        return tuple(_read(typing.get_args(wanted)[0], item, where) for item in value)
    if typing.get_origin(wanted) is dict:
        if type(value) is not dict or not all(type(key) is str for key in value):
            raise ProtocolError(f"{where} is not a map of names")
        return {key: _read(int, item, f"{where}.{key}") for key, item in value.items()}
    return _read_address(wanted, value, where)


def _read_fields(kind: type[Any], value: Any, where: str) -> Any:
    hints = _types(kind)
    if type(value) is not dict or value.keys() != hints.keys():
        raise ProtocolError(f"{where} does not have exactly the fields {', '.join(hints) or '(none)'}")
    fields = {name: _read(hint, value[name], f"{where}.{name}") for name, hint in hints.items()}
    try:
        return kind(**fields)
    except ProtocolError:
        raise
    except ProxyvpnError as error:  # the object itself refuses: a Tunnel with a loopback proxy, say
        raise ProtocolError(f"{where}: {error.what}", error.why, error.advice) from error


def _read_address(wanted: Any, value: Any, where: str) -> Any:
    if type(value) is not str or not isinstance(wanted, types.UnionType):
        raise ProtocolError(f"{where} is not an address in text")
    parse = ip_network if IPv4Network in typing.get_args(wanted) else ip_address
    try:
        found = parse(value)
    except ValueError as error:
        raise ProtocolError(f"{where} is not an address") from error
    if str(found) != value:
        raise ProtocolError(f"{where} is not an address in its usual form")
    return found
