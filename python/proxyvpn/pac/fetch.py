"""Fetches a PAC file: by http or https, without any proxy; from a file; or out of a data: URL.

    http://wpad.corp.example/proxy.pac    https://…    file:///etc/proxy.pac    /etc/proxy.pac    data:,function…

Takes LIMIT seconds and MAX_SCRIPT bytes at the most, and follows a few redirections, but none from https to http and
none to a file.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from proxyvpn.errors import ProxyvpnError, UsageError
from proxyvpn.pac.routes import MAX_SCRIPT

LIMIT: Final = 10.0
MOST_REDIRECTIONS: Final = 5
_REDIRECTIONS: Final = (301, 302, 303, 307, 308)
_DATA: Final = re.compile(r"data:([^,]*?)(;base64)?,(.*)", re.DOTALL | re.IGNORECASE)

Connect = Callable[[str, int, float], socket.socket]
"""Host, port and seconds -> a connected socket."""


class Unfetched(ProxyvpnError):
    """The PAC file cannot be had."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A PAC file's text, and where it came from in the end; `address` is the server's, if there was one."""

    text: str
    url: str
    address: str = ""


def straight(host: str, port: int, seconds: float) -> socket.socket:
    """Connect as anybody would."""
    return socket.create_connection((host, port), seconds)


def check(url: str) -> None:
    """Pure: raise UsageError for what cannot be the URL of a PAC file."""
    advice = "write it like --proxy pac:http://proxy.example/proxy.pac, pac:/etc/proxy.pac or pac:auto"
    if any(ord(letter) <= 0x20 or ord(letter) == 0x7F for letter in url) and not url.startswith(("/", "data:")):
        raise UsageError("the PAC file's URL holds a space or a control character", advice=advice)
    if url.startswith("/") or _DATA.fullmatch(url):
        return
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError("the PAC file's URL cannot be read", advice=advice) from error
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError(
            "a PAC file comes from http://, https://, file:///, data: or a path that begins with /", "", advice
        )
    if "@" in parts.netloc:
        raise UsageError("the PAC file's URL holds a user", "credentials for it are not possible", advice)


def port_of(url: str) -> int:
    """Pure: give the port of an http or https URL."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def fetch(
    url: str, connect: Connect = straight, limit: float = LIMIT, redirections: int = MOST_REDIRECTIONS
) -> Fetched:
    """Give the file at `url`, which check() let pass. Raises Unfetched."""
    if found := _DATA.fullmatch(url):
        return Fetched(_text(_data(found[3], bool(found[2]))), "data:")
    if url.startswith(("/", "file:")):
        path = url if url.startswith("/") else unquote_to_bytes(urlsplit(url).path).decode(errors="surrogateescape")
        return Fetched(_text(_file(path)), path)
    deadline = time.monotonic() + limit
    for _ in range(redirections + 1):
        content, elsewhere, address = _get(urlsplit(url), connect, deadline)
        if elsewhere is None:
            return Fetched(_text(content), url, address)
        url = _followed(url, elsewhere)
    raise Unfetched("the PAC file is redirected again and again", f"more than {redirections} times")


def _followed(url: str, elsewhere: str) -> str:
    """Give where a redirection leads."""
    there = urljoin(url, elsewhere)
    scheme = urlsplit(there).scheme
    if scheme not in ("http", "https") or (url.startswith("https:") and scheme != "https"):
        raise Unfetched("the PAC file is redirected to where it is not followed", f"from https to {scheme[:10]}")
    try:
        check(there)
    except UsageError as error:
        raise Unfetched("the PAC file is redirected to no URL", error.what) from error
    return there


def _get(parts: SplitResult, connect: Connect, deadline: float) -> tuple[bytes, str | None, str]:
    """Give the content, or where it is instead, and the server's address."""
    host, port = parts.hostname or "", port_of(parts.geturl())
    try:
        sock = connect(host, port, _left(deadline))
        address = str(sock.getpeername()[0])
        if parts.scheme == "https":
            sock.settimeout(_left(deadline))
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = sock
        with sock:
            sock.settimeout(_left(deadline))
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Accept": "*/*", "Connection": "close"})
            with connection.getresponse() as reply:
                return *_reply(reply, sock, deadline), address
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed(host, error) from error


def _reply(reply: http.client.HTTPResponse, sock: socket.socket, deadline: float) -> tuple[bytes, str | None]:
    if reply.status in _REDIRECTIONS and reply.headers["Location"]:
        return b"", reply.headers["Location"]
    if reply.status != 200:
        raise Unfetched("the PAC file cannot be fetched", f"the server answered {reply.status}")
    content = b""
    while len(content) <= MAX_SCRIPT:
        sock.settimeout(_left(deadline))
        more = reply.read1(65536)
        if not more:
            return content, None
        content += more
    raise _too_long()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it takes too long")
    return left


def _failed(host: str, error: Exception) -> Unfetched:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    shown = "".join(letter if letter.isprintable() else " " for letter in reason)[:200]
    return Unfetched(f"the PAC file cannot be fetched from {host}", shown, "check its URL; no proxy is asked for it")


def _file(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            content = file.read(MAX_SCRIPT + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "that is no path"
        raise Unfetched("the PAC file cannot be read", f"{path}: {reason}") from error
    if len(content) > MAX_SCRIPT:
        raise _too_long()
    return content


def _data(text: str, is_base64: bool) -> bytes:
    content = unquote_to_bytes(text)
    try:
        return base64.b64decode(content, validate=True) if is_base64 else content
    except binascii.Error as error:
        raise Unfetched("the PAC file's data: URL is not base64", str(error)) from error


def _text(content: bytes) -> str:
    """Give the text: UTF-8 with or without a mark at its beginning, else Latin-1, as old files are."""
    if len(content) > MAX_SCRIPT:
        raise _too_long()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _too_long() -> Unfetched:
    return Unfetched("the PAC file is too long", f"more than {MAX_SCRIPT // 1024} KiB")
