"""Real servers in `world`: nginx with http, https and files, dnsmasq, sshd, and the raw TCP and UDP peer.

world.test and every name below it is theirs.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.netns import peer, wait
from tests.netns.certificates import authority
from tests.netns.namespaces import Namespace, end, family_of
from tests.netns.rig import MID4, RESOLVER4, RESOLVER6, WORLD4, WORLD6

PAGE = "The page of the world.\n"

_NGINX_CONF = """
daemon off; user root; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log; worker_rlimit_nofile 60000;
events {{ worker_connections 30000; }}
http {{
  access_log {home}/access.log; default_type text/plain;
  client_body_temp_path {home}/body; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u;
  scgi_temp_path {home}/s;
  server {{
    listen 80 backlog=16384; listen [::]:80 backlog=16384; listen 443 ssl; listen [::]:443 ssl;
    ssl_certificate {certificate.chain}; ssl_certificate_key {certificate.key}; root {home}/www;
  }}
}}
"""
_SSHD_CONF = """
Port 22
HostKey {home}/host_key
AuthorizedKeysFile {home}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
"""


@dataclass(frozen=True, slots=True)
class Internet:
    """What runs in `world`: nginx's folder of pages, what the raw peer printed, the ssh key that opens the door."""

    www: Path
    printed: Path
    queries: Path
    certificate: Path
    ssh_key: Path


@contextlib.contextmanager
def internet(world: Namespace) -> Iterator[Internet]:
    """Run all servers of `world`."""
    home = world.home / "servers"
    home.mkdir()
    children = [_nginx(world, home), _dnsmasq(world, home), _peer(world, home), _sshd(world, home)]
    try:
        for port in (80, 443, 22):
            world.wait_for_port(WORLD4, port)
        world.wait_for_port(RESOLVER4, 53)
        wait.for_line(home / "peer.out", "ready")
        yield Internet(home / "www", home / "peer.out", home / "dns.log", home / "ca" / "ca.pem", home / "user_key")
    finally:
        for child in children:
            end(child)


def _nginx(world: Namespace, home: Path) -> subprocess.Popen[bytes]:
    (home / "www").mkdir()
    (home / "www" / "index.html").write_text(PAGE)
    names = ("DNS:world.test", "DNS:*.world.test", f"IP:{WORLD4}", f"IP:{WORLD6}")
    certificate = authority(home / "ca", "tests of proxyvpn").issue("world.test", *names)
    (home / "nginx.conf").write_text(_NGINX_CONF.format(home=home, certificate=certificate))
    return world.start("nginx", "-c", str(home / "nginx.conf"), "-e", str(home / "error.log"))


def _dnsmasq(world: Namespace, home: Path) -> subprocess.Popen[bytes]:
    return world.start(
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"),
        *(f"--listen-address={RESOLVER4}", f"--listen-address={RESOLVER6}", "--bind-interfaces", "--log-queries"),
        *(f"--address=/world.test/{WORLD4}", f"--address=/world.test/{WORLD6}", f"--log-facility={home}/dns.log"),
        *("--address=/proxy.test/10.71.0.1", "--address=/proxy.test/2001:db8:71::1"),
        stderr=subprocess.DEVNULL,
    )


def _peer(world: Namespace, home: Path) -> subprocess.Popen[bytes]:
    script = 'ulimit -n $(ulimit -Hn); exec "$0" -I "$1"'
    with (home / "peer.out").open("wb") as out, (home / "peer.err").open("wb") as err:
        return world.start("sh", "-c", script, sys.executable, peer.__file__, stdout=out, stderr=err)


@contextlib.contextmanager
def echoing_proxy(mid: Namespace) -> Iterator[str]:
    """Run the peer in `mid`, and give the URL of its proxy that is the far end as well."""
    home = mid.home / f"peer-{len(os.listdir(mid.home))}"
    home.mkdir()
    child = _peer(mid, home)
    try:
        wait.for_line(home / "peer.out", "ready")
        yield f"http://{MID4}:{peer.CONNECT}"
    finally:
        end(child)


def _sshd(world: Namespace, home: Path) -> subprocess.Popen[bytes]:
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    (home / "sshd.conf").write_text(_SSHD_CONF.format(home=home))
    return world.start("/usr/sbin/sshd", "-D", "-e", "-f", str(home / "sshd.conf"), stderr=subprocess.DEVNULL)


def ask(space: Namespace, resolver: str, name: str = "world.test", seconds: float = 2, tcp: bool = False) -> bool:
    """Ask a resolver for an A record from `space`; True when an answer with our number came."""
    number = random.randrange(1 << 16)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with space.new_socket(family_of(resolver), socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        try:
            sock.connect((resolver, 53))
            sock.send(struct.pack(">H", len(query)) + query if tcp else query)
            answer = sock.recv(4096)[2 * tcp :]
        except OSError:
            return False
    return answer[:2] == query[:2] and struct.unpack(">H", answer[6:8])[0] > 0
