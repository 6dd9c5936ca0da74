"""What programs do in these tests: fetch, talk, insist on an interface. All of it unaware of any proxy."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
import subprocess
from collections.abc import Iterable

from tests.netns import wait
from tests.netns.internet import Internet
from tests.netns.namespaces import Namespace, family_of
from tests.netns.peer import ECHO, stream
from tests.netns.rig import WORLD4, WORLD6


def curl(space: Namespace, url: str, *options: str, world: Internet | None = None) -> subprocess.CompletedProcess[str]:
    """Run curl, which fails after 20 s; with `world`, trust its certificate."""
    trust = ("--cacert", str(world.certificate)) if world else ()
    command = ("curl", "--noproxy", "*", "--silent", "--show-error", "--max-time", "20", *trust, *options, url)
    return space.run(*command, check=False)


def echoes(sock: socket.socket, message: bytes = b"are you there?") -> bool:
    """Send a message to an echo server over an open connection; True when it came back."""
    try:
        sock.sendall(message)
        got = b""
        while len(got) < len(message) and (piece := sock.recv(len(message) - len(got))):
            got += piece
    except OSError:
        return False
    return got == message


def connect_error(space: Namespace, host: str, port: int) -> int:
    """Give the errno of connect(), 0 when it succeeds."""
    try:
        space.connect(host, port).close()
    except OSError as error:
        return error.errno or -1
    return 0


def is_reset(sock: socket.socket) -> bool:
    """Wait until the connection ends; True when by a reset."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except OSError as error:
        return error.errno == errno.EPIPE
    return False


def offer_datagrams(space: Namespace, count: int, hosts: Iterable[str] = (WORLD4, WORLD6), port: int = ECHO) -> None:
    """Try to send UDP datagrams to each host; refusals are the kernel's right."""
    for host in hosts:
        with space.new_socket(family_of(host), socket.SOCK_DGRAM) as sock:
            for _ in range(count):
                with contextlib.suppress(OSError):
                    sock.sendto(b"datagram", (host, port))


def offer_bound_connections(space: Namespace, count: int, device: str = "eth0") -> None:
    """Try to connect by TCP past the routes, with SO_BINDTODEVICE; nobody waits for an answer."""
    for host in (WORLD4, WORLD6):
        for _ in range(count):
            with space.new_socket(family_of(host)) as sock, contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
                sock.setblocking(False)
                sock.connect((host, ECHO))


def offer_pings(space: Namespace, count: int) -> None:
    """Try to send ICMP echo requests, and packets of an unknown protocol."""
    kinds = ((socket.AF_INET, 1, WORLD4), (socket.AF_INET6, 58, WORLD6), (socket.AF_INET, 253, WORLD4))
    for family, proto, host in kinds:
        with space.new_socket(family, socket.SOCK_RAW, proto) as sock:
            for _ in range(count):
                with contextlib.suppress(OSError):
                    sock.sendto(
                        b"\x08\0\xf7\xff\0\0\0\0" if family == socket.AF_INET else b"\x80" + bytes(7), (host, 0)
                    )


def ask_for_an_address(space: Namespace, device: str = "eth0") -> None:
    """Send what a DHCP client sends, for IPv4 and IPv6, and the former to a server far away as well."""
    index = str(space.sh(f"cat /sys/class/net/{device}/ifindex")).strip()
    listed = wait.until(lambda: space.sh(f"ip -6 -o address show dev {device} scope link -tentative"), "an address")
    link_local = listed.split()[3].partition("/")[0]
    asked: tuple[tuple[str, int, tuple[str | int, ...]], ...] = (
        ("", 68, ("255.255.255.255", 67)),
        ("", 68, (WORLD4, 67)),
        (link_local, 546, ("ff02::1:2", 547, 0, int(index))),
    )
    for source, port, target in asked:
        with space.new_socket(family_of(str(target[0])), socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sock.bind((source, port, 0, int(index)) if source else (source, port))
            sock.sendto(b"who am I?", target)


def upload(sock: socket.socket, count: int) -> str:
    """Send `count` bytes of the test stream, and give what the sink should answer."""
    digest = hashlib.sha256()
    for block in stream(count):
        digest.update(block)
        sock.sendall(block)
    return f"{count} {digest.hexdigest()}\n"


def download(sock: socket.socket, count: int) -> tuple[int, str]:
    """Ask the source for `count` bytes, and give how many came and their SHA-256."""
    sock.sendall(b"%d\n" % count)
    return receive_all(sock)


def receive_all(sock: socket.socket) -> tuple[int, str]:
    """Read to end of file, and give how many bytes came and their SHA-256."""
    digest, got, room = hashlib.sha256(), 0, bytearray(1 << 20)
    while size := sock.recv_into(room):
        digest.update(memoryview(room)[:size])
        got += size
    return got, digest.hexdigest()


def digest_of(count: int) -> str:
    """Give the SHA-256 of the first `count` bytes of the test stream."""
    digest = hashlib.sha256()
    for block in stream(count):
        digest.update(block)
    return digest.hexdigest()


def ended() -> contextlib.AbstractContextManager[None]:
    """Ignore that a connection was ended meanwhile, by whomever."""
    return contextlib.suppress(ConnectionError)


def suppressed() -> contextlib.AbstractContextManager[None]:
    """Ignore that a non-blocking socket has nothing to give or take just now."""
    return contextlib.suppress(BlockingIOError)
