"""The programs that are measured: how each is set up on its machine, and which process is the root of its tree.

Each is a context manager that gives the pid of the program (0 where there is none) once it was started; rules and
devices end with the namespace. The environment names the executables of those that Debian does not have:
HEV_SOCKS5_TUNNEL, SING_BOX, TUN2SOCKS, TUN2PROXY.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.netns.certificates import authority
from tests.netns.namespaces import end

from bench.stage import ORIGIN, PROXY_PORT, ROOT, Machine

Contestant = Callable[[Machine], contextlib.AbstractContextManager[int]]
REDSOCKS_PORT = 12345
BY_ENVIRONMENT = {
    "hev": "HEV_SOCKS5_TUNNEL",
    "sing-box": "SING_BOX",
    "tun2socks": "TUN2SOCKS",
    "tun2proxy": "TUN2PROXY",
}


@contextlib.contextmanager
def nothing(_: Machine) -> Iterator[int]:
    """No program."""
    yield 0


@contextlib.contextmanager
def started(at: Machine, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program on the machine; what it says goes to a file."""
    with (at.folder / "log").open("wb") as log:
        process = at.machine.start(*command, stdout=subprocess.PIPE, stderr=log)
    try:
        yield process
    finally:
        end(process)
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def proxyvpn(at: Machine) -> Iterator[int]:
    """As `proxyvpn up` sets it up, until it says that it is ready."""
    command = (str(ROOT / ".venv/bin/proxyvpn"), "up", "--proxy", f"http://{at.proxy}:{PROXY_PORT}", "--dns", at.proxy)
    with started(at, *command) as process:
        line = process.stdout.readline() if process.stdout else b""
        if not line.startswith(b"ready:"):
            raise RuntimeError((at.folder / "log").read_text(errors="replace"))
        yield process.pid


FRONT_PORT = 3443
_FRONT = """
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 300s
  timeout server 300s
listen front
  bind {address}:{port} {how}
  server behind {address}:{behind}
"""


@contextlib.contextmanager
def behind_haproxy(at: Machine, *, tls: bool) -> Iterator[int]:
    """The same, with haproxy before the proxy, once in plain text and once with TLS: what TLS costs is the ratio."""
    signer = authority(at.folder / "authority", "benchmark")
    how = f"ssl crt {signer.issue('proxy', f'IP:{at.proxy}').both}" if tls else ""
    conf = at.folder / "haproxy.cfg"
    conf.write_text(_FRONT.format(address=at.proxy, port=FRONT_PORT, behind=PROXY_PORT, how=how))
    front = at.world.start("haproxy", "-q", "-db", "-f", str(conf))
    try:
        at.world.wait_for_port(at.proxy, FRONT_PORT)
        url = f"{'https' if tls else 'http'}://{at.proxy}:{FRONT_PORT}"
        trust = ("--proxy-ca", str(signer.certificate)) if tls else ()
        with started(at, str(ROOT / ".venv/bin/proxyvpn"), "up", "--proxy", url, "--dns", at.proxy, *trust) as process:
            line = process.stdout.readline() if process.stdout else b""
            if not line.startswith(b"ready:"):
                raise RuntimeError((at.folder / "log").read_text(errors="replace"))
            yield process.pid
    finally:
        end(front)


@contextlib.contextmanager
def redsocks(at: Machine) -> Iterator[int]:
    """Debian's redsocks, splicing, behind a REDIRECT of nftables."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    config = at.folder / "redsocks.conf"
    config.write_text(
        "base { log_debug = off; log_info = off; daemon = off; redirector = iptables;"
        f" rlimit_nofile = {descriptors}; }}\n"
        f"redsocks {{ local_ip = 0.0.0.0; local_port = {REDSOCKS_PORT}; listenq = 4096; ip = {at.proxy};"
        f" port = {PROXY_PORT}; type = http-connect;"
        " splice = true; }\n"
    )
    redirect = f"ip daddr {ORIGIN} meta l4proto tcp redirect to :{REDSOCKS_PORT}"
    at.machine.run("nft", f"""table ip bench {{
        chain out {{ type nat hook output priority -100; {redirect}; }}
        chain forwarded {{ type nat hook prerouting priority -100; {redirect}; }}
    }}""")  # fmt: skip
    with started(at, shutil.which("redsocks") or "/usr/sbin/redsocks", "-c", str(config)) as process:
        yield process.pid


@contextlib.contextmanager
def by_tun(at: Machine, mtu: int, *command: str) -> Iterator[int]:
    """A program that attaches to a TUN `bench0` and leaves routes to us: one route for the origin."""
    at.machine.sh(
        """
        ip tuntap add dev bench0 mode tun
        ip address add 198.18.0.1/15 dev bench0
        ip link set bench0 mtu "$1" txqueuelen 1000 up
        ip route add "$2"/32 dev bench0 congctl cubic
        """,
        str(mtu),
        ORIGIN,
    )
    with started(at, *command) as process:
        yield process.pid


@contextlib.contextmanager
def hev(at: Machine) -> Iterator[int]:
    """hev-socks5-tunnel with its usual MTU, by SOCKS5; without pipelining it waits 200 ms per connection."""
    config = at.folder / "hev.yml"
    config.write_text(
        "tunnel:\n  name: bench0\n  mtu: 8500\n  ipv4: 198.18.0.1\n"
        f"socks5:\n  address: {at.proxy}\n  port: {PROXY_PORT}\n  udp: tcp\n  pipeline: true\n"
        "misc:\n  limit-nofile: 100000\n"
    )
    with by_tun(at, 8500, os.environ["HEV_SOCKS5_TUNNEL"], str(config)) as pid:
        yield pid


@contextlib.contextmanager
def tun2socks(at: Machine) -> Iterator[int]:
    """xjasonlyu/tun2socks, by CONNECT."""
    proxy = f"http://{at.proxy}:{PROXY_PORT}"
    options = ("-device", "tun://bench0", "-mtu", "9000", "-proxy", proxy, "-loglevel", "error")
    with by_tun(at, 9000, os.environ["TUN2SOCKS"], *options) as pid:
        yield pid


@contextlib.contextmanager
def tun2proxy(at: Machine) -> Iterator[int]:
    """tun2proxy-bin with its usual MTU, by CONNECT."""
    proxy = f"http://{at.proxy}:{PROXY_PORT}"
    options = ("--tun", "bench0", "--proxy", proxy, "--max-sessions", "24000", "--verbosity", "off")
    with by_tun(at, 1500, os.environ["TUN2PROXY"], *options) as pid:
        yield pid


@contextlib.contextmanager
def sing_box(at: Machine) -> Iterator[int]:
    """sing-box's TUN with its mixed stack, a route for the origin only, by CONNECT."""
    tun = {"type": "tun", "interface_name": "bench0", "mtu": 65535, "address": ["198.18.0.1/30"], "stack": "mixed"}
    tun |= {"auto_route": True, "route_address": [f"{ORIGIN}/32"]}
    out = {"type": "http", "server": at.proxy, "server_port": PROXY_PORT}
    config = at.folder / "sing-box.json"
    config.write_text(json.dumps({"log": {"level": "error"}, "inbounds": [tun], "outbounds": [out]}))
    with started(at, os.environ["SING_BOX"], "run", "-c", str(config)) as process:
        yield process.pid


def available() -> dict[str, Contestant]:
    """Give the contestants of this machine, by name, in the order of tables."""
    found: dict[str, Contestant] = {"direct": nothing, "limit": nothing, "proxyvpn": proxyvpn}
    if shutil.which("haproxy"):
        found["fronted"] = functools.partial(behind_haproxy, tls=False)
        found["tls"] = functools.partial(behind_haproxy, tls=True)
    if shutil.which("redsocks") or Path("/usr/sbin/redsocks").exists():
        found["redsocks"] = redsocks
    named: dict[str, Contestant] = {"hev": hev, "sing-box": sing_box, "tun2socks": tun2socks, "tun2proxy": tun2proxy}
    return found | {name: named[name] for name, variable in BY_ENVIRONMENT.items() if os.environ.get(variable)}
