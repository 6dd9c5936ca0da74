"""Pure: the text that names an HTTP proxy -> Proxy.

    [http://|https://][user[:password]@]host[:port][/]

User and password are percent-encoded (RFC 3986 §3.2.1) and become credentials (UTF-8). An error never
quotes what stands before the last `@`, nor a port that is not a number: both may be somebody's password. Opens nothing;
`refuse_address` is for the addresses that a name turned out to have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import unquote_to_bytes

from proxyvpn.errors import UsageError

PORTS: Final = {"http": 80, "https": 443}
"""Of each kind, where the URL names none."""
EXAMPLE: Final = "write it like http://proxy.example:3128"

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """An HTTP proxy: `host` is a name or an address without brackets; `user` None means no credentials. `schemes` are
    those of authentication that may be used, none: all; `preemptive`: Basic is sent before the proxy asks for it;
    `tls`: it is spoken to by TLS (https://).
    """

    host: str
    port: int
    user: str | None = None
    password: str = field(default="")
    schemes: tuple[str, ...] = ()
    preemptive: bool = False
    tls: bool = False

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The host as an address; None when it is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        who = "" if self.user is None else f"{_printable(self.user)}{':***' if self.password else ''}@"
        return f"{'https' if self.tls else 'http'}://{who}{host}:{self.port}"

    def __repr__(self) -> str:
        return f"Proxy({str(self)!r})"


def parse(url: str, user: str | None = None, password: str | None = None) -> Proxy:
    """Give the Proxy that `url` names; `user` and `password` replace what it says. Raises UsageError."""
    if any(ord(letter) <= 0x20 or ord(letter) == 0x7F for letter in url):
        raise UsageError("the proxy's URL holds a space or a control character", advice=EXAMPLE)
    scheme, rest = _scheme(url)
    userinfo, at, place = rest.rpartition("@")
    found_user, found_password = _credentials(userinfo) if at else (None, None)
    host, port = _place(place, PORTS[scheme])
    user = found_user if user is None else user
    password = found_password if password is None else password
    if user is None and password is not None:
        raise UsageError("a proxy password was given, but no user", "", "add --proxy-user USER")
    _refuse_unsendable(user, password)
    proxy = Proxy(host, port, user, password or "", tls=scheme == "https")
    if proxy.address is not None:
        refuse_address(proxy.address, str(proxy))
    return proxy


def refuse_address(address: IPv4Address | IPv6Address, proxy: str) -> None:
    """Raise UsageError when a proxy cannot be used at `address`; `proxy` is its printed form."""
    if address.is_unspecified or address.is_multicast or address == IPv4Address("255.255.255.255"):
        raise UsageError(f"{proxy} cannot be a proxy", f"{address} is not the address of one machine", EXAMPLE)
    if isinstance(address, IPv6Address) and address.is_link_local:
        raise UsageError(
            f"{proxy} cannot be used", "link-local addresses are not possible so far", "give the proxy's global address"
        )


def split_user(text: str) -> tuple[str, str | None]:
    """Split USER[:PASSWORD] as it was typed; a user cannot hold a colon (RFC 7617 §2)."""
    user, colon, password = text.partition(":")
    return user, password if colon else None


def host_and_port(text: str) -> tuple[str, int]:
    """Read HOST:PORT, an IPv6 address in brackets. Raises UsageError."""
    found = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:]*)):([0-9]+)", text)
    if found is None:
        raise UsageError("this is not a host and a port", _printable(text))
    return _host(found[2]) if found[1] is None else _ipv6(found[1]), _port(found[3], 0)


def _scheme(url: str) -> tuple[str, str]:
    found = _SCHEME.match(url)
    if found is None:
        return "http", url
    scheme = found[1].lower()
    if scheme not in PORTS:
        why = "only http:// and https:// proxies (CONNECT) are possible"
        advice = "if the proxy listens for HTTP too, give that port: http://proxy.example:3128"
        raise UsageError(f"a proxy of the kind {scheme[:20]}:// cannot be used", why, advice)
    return scheme, url[found.end() :]


def _credentials(userinfo: str) -> tuple[str | None, str | None]:
    if re.search(r"[/?#\[\]@]", userinfo) or re.search(r"%(?![0-9A-Fa-f]{2})", userinfo):
        raise UsageError(
            "the user or password in the proxy's URL holds a character that must be written in percent",
            "these are / ? # [ ] @ : and % itself",
            "write %40 for @, %2F for /, %25 for %; or use --proxy-user with --proxy-password-file",
        )
    user, colon, password = userinfo.partition(":")
    if not userinfo.strip(":"):
        return None, None
    return _decoded(user), _decoded(password) if colon else None


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise UsageError("the user or password in the proxy's URL is not UTF-8", advice=EXAMPLE) from error


def _refuse_unsendable(user: str | None, password: str | None) -> None:
    for name, text in (("user", user or ""), ("password", password or "")):
        if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in text):
            raise UsageError(f"the proxy's {name} holds a line break, a NUL or another control character")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the proxy's {name} is not UTF-8") from error
    if user == "":
        raise UsageError("the proxy's user is empty", advice="write --proxy-user USER[:PASSWORD]")
    if user is not None and ":" in user:
        raise UsageError("the proxy's user holds a colon", "Basic credentials cannot carry that (RFC 7617)")


def _place(place: str, default: int) -> tuple[str, int]:
    end = re.search(r"[/?#]", place)
    authority = place[: end.start()] if end else place
    if end and place[end.start() :] != "/":
        raise UsageError("the proxy's URL has a path", "a proxy is only a host and a port", EXAMPLE)
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", authority)
    if bracketed:
        return _ipv6(bracketed[1]), _port(bracketed[2], default)
    if authority.count(":") > 1:
        raise UsageError(
            "the proxy's URL holds more than one colon after the user",
            "an IPv6 address stands in brackets",
            "write it like http://[2001:db8::1]:3128",
        )
    host, colon, port = authority.partition(":")
    return _host(host), _port(port if colon else None, default)


def _port(text: str | None, default: int) -> int:
    if text is None:
        return default
    port = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if not 1 <= port <= 65535:
        shown = f" ({port})" if port else ""
        raise UsageError(f"the proxy's port is not a number from 1 to 65535{shown}", advice=EXAMPLE)
    return port


def _ipv6(text: str) -> str:
    if "%" in text:
        raise UsageError(
            "the proxy's address has a zone (%…)", "zones are not possible so far", "give the proxy's global address"
        )
    try:
        address = IPv6Address(text)
    except ValueError as error:
        raise UsageError("the proxy's address in brackets is not an IPv6 address", advice=EXAMPLE) from error
    return str(address.ipv4_mapped or address)


def _host(text: str) -> str:
    if not text:
        raise UsageError("the proxy's URL names no host", advice=EXAMPLE)
    if not text.isascii():
        raise UsageError("the proxy's host holds letters outside ASCII", "", "write its name in the xn-- form")
    labels = text.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):  # what inet_aton(3) would read as an address: only the usual form is taken
        try:
            return str(IPv4Address(text))
        except ValueError as error:
            raise UsageError("the proxy's host is not an IPv4 address", _printable(text), EXAMPLE) from error
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise UsageError("the proxy's host is not a host name", _printable(text), EXAMPLE)
    return text


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80])
