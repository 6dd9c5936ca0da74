"""Real proxies in `mid`, and one whose answers a test writes itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.netns import wait
from tests.netns.namespaces import Namespace, end
from tests.netns.rig import MID4, MID6

SQUID, SQUID_WITH_USERS, TINYPROXY, SCRIPTED = 3128, 3129, 8888, 8080
SECOND_SQUID, HAPROXY = 3138, 3150

_SQUID_CONF = """
http_port {port}
acl all_ports port 0-65535
{access}
cache deny all
cache_mem 0
memory_pools off
access_log stdio:{home}/access.log
logfile_rotate 0
buffered_logs off
cache_log {home}/cache.log
cache_store_log none
pid_filename {home}/squid.pid
coredump_dir none
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname proxy.test
dns_nameservers 198.51.100.53
max_filedescriptors 60000
client_db off
half_closed_clients on
"""
_AUTH = """
auth_param basic program /usr/lib/squid/basic_ncsa_auth {home}/users
auth_param basic children 1 startup=1
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """A proxy: its port, its URL by IPv4 and by IPv6, its access log, and its process."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url4(self) -> str:
        return f"http://{MID4}:{self.port}"

    @property
    def url6(self) -> str:
        return f"http://[{MID6}]:{self.port}"

    def logged(self, part: str, start: int) -> str:
        """Wait for a line with `part` after byte `start` of the log, which squid writes when a tunnel has ended."""
        return wait.for_line(self.log, part, start=start)

    def log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0


@contextlib.contextmanager
def squid(
    mid: Namespace, users: dict[str, str] | None = None, port: int = SQUID, auth: str = _AUTH
) -> Iterator[RunningProxy]:
    """Run squid with CONNECT to all ports allowed; with `users`, only for those who know a password, which `auth` says
    how to ask for: by the file `users` (hashes) or `words` (for Digest).
    """
    home = _folder(mid, "squid")
    if users:
        (home / "users").write_text("".join(f"{user}:{_hashed(word)}\n" for user, word in users.items()))
        (home / "words").write_text("".join(f"{user}:{word}\n" for user, word in users.items()))
    access = auth.format(home=home) if users else "http_access allow all"
    (home / "squid.conf").write_text(_SQUID_CONF.format(home=home, access=access, port=port))
    shutil.chown(home, "proxy")
    with (home / "errors").open("wb") as errors:
        process = mid.start(
            *("sh", "-c", 'ulimit -n $(ulimit -Hn); exec squid -N -f "$0"', str(home / "squid.conf")),
            stderr=errors,
        )
    try:
        mid.wait_for_port(MID4, port)
        yield RunningProxy(port, home / "access.log", process)
    finally:
        end(process, signal.SIGKILL)  # it takes a second for an orderly end


@contextlib.contextmanager
def tinyproxy(mid: Namespace, more: str = "") -> Iterator[RunningProxy]:
    """Run tinyproxy, with `more` lines of configuration; it has no list of allowed CONNECT ports, so all are."""
    home = _folder(mid, "tinyproxy")
    conf, log = home / "conf", home / "log"
    conf.write_text(
        f'Port {TINYPROXY}\nListen 0.0.0.0\nListen ::\nTimeout 600\nLogFile "{log}"\nLogLevel Connect\nMaxClients 200\n'
        f"{more}\n"
    )
    process = mid.start("tinyproxy", "-d", "-c", str(conf))
    try:
        mid.wait_for_port(MID4, TINYPROXY)
        yield RunningProxy(TINYPROXY, log, process)
    finally:
        end(process)


HAPROXY_CONF = """
global
  maxconn 5000
defaults
  mode tcp
  timeout connect 2s
  timeout client 600s
  timeout server 600s
  retries 3
  option redispatch 1
listen squids
  bind {address}:{port}
  balance leastconn
  default-server check inter 500ms fall 1 rise 1 on-marked-down shutdown-sessions
{servers}
"""


@contextlib.contextmanager
def haproxy(mid: Namespace, *ports: int) -> Iterator[RunningProxy]:
    """Run haproxy in front of the proxies that listen on `ports`."""
    home = _folder(mid, "haproxy")
    servers = "\n".join(f"  server squid{port} {MID4}:{port}" for port in ports)
    (home / "conf").write_text(HAPROXY_CONF.format(address=MID4, port=HAPROXY, servers=servers))
    process = mid.start("haproxy", "-db", "-f", str(home / "conf"))
    try:
        mid.wait_for_port(MID4, HAPROXY)
        yield RunningProxy(HAPROXY, home / "log", process)
    finally:
        end(process)


Answer = Callable[[bytes], bytes]
"""What is said to a request's head; with `keep-alive` in it, another request may follow."""


def honest(_request: bytes) -> bytes:
    """Answer 200, and so let the tunnel through."""
    return b"HTTP/1.1 200 Connection established\r\n\r\n"


class ScriptedProxy:
    """A CONNECT proxy with a thread for each connection, for answers that real proxies cannot be made to give.

    `answer` gets the request's head and gives what is sent; what starts like a 2xx opens the tunnel, else it closes.
    Half-closed connections stay half-open. `requests` holds every head that came.
    """

    def __init__(self, mid: Namespace, answer: Answer = honest, port: int = SCRIPTED) -> None:
        self.mid, self.answer, self.port = mid, answer, port
        self.session: Callable[[], Answer] | None = None
        """Gives the answer of one connection, which may remember what was said on it."""
        self.requests: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listener = mid.listen("::", port)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url4(self) -> str:
        return f"http://{MID4}:{self.port}"

    def close(self) -> None:
        """Stop listening, and end every connection; a second time is nothing."""
        if self._listener.fileno() == -1:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(client)
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            said = self.session() if self.session else self.answer
            while True:
                head = _read_head(client)
                if not head:
                    return
                self.requests.append(head)
                answer = said(head)
                if answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")):
                    break
                client.sendall(answer)
                if b"keep-alive" not in answer:
                    return
            host, _, port = head.split()[1].decode().rpartition(":")
            try:
                connected = self.mid.connect(host.strip("[]"), int(port))
            except OSError:
                client.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
                return
            with connected as server:
                server.settimeout(None)
                self._open.add(server)
                client.sendall(answer)
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
                self._open.discard(server)
        self._open.discard(client)


@contextlib.contextmanager
def scripted(mid: Namespace, answer: Answer = honest, port: int = SCRIPTED) -> Iterator[ScriptedProxy]:
    """Run a ScriptedProxy."""
    proxy = ScriptedProxy(mid, answer, port)
    try:
        yield proxy
    finally:
        proxy.close()


def _read_head(client: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = client.recv(1)
        if not piece:
            return b""
        head += piece
    return head


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(1 << 18):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _folder(space: Namespace, name: str) -> Path:
    """Make a folder for one run of a server, which may be the second of its kind."""
    path = space.home / f"{name}-{len(os.listdir(space.home))}"
    path.mkdir()
    path.chmod(0o755)
    return path


def _hashed(word: str) -> str:
    return subprocess.run(
        ["openssl", "passwd", "-apr1", "-stdin"], input=word, capture_output=True, text=True, check=True
    ).stdout.strip()
