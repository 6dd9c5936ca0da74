"""The programs that are measured: how each is set up in the machine's namespace, and which of its processes count.

Each is a context manager that yields the process whose tree does the work (None where there is no program). Those that
are not installed are left out; the environment names the executables of those that Debian does not have:
HEV_SOCKS5_TUNNEL, SING_BOX, TUN2SOCKS, TUN2PROXY.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROXY, ORIGIN = "10.99.0.1:3128", "198.51.100.1:9000"
SOCKS = "10.99.0.1:3128"
TUN_TABLE = "100"


@dataclass(frozen=True)
class Place:
    """Where a contestant runs, and a folder for its files."""

    machine: str
    folder: Path


@dataclass
class Running:
    """A contestant that is ready."""

    process: subprocess.Popen[str] | None = None
    via: str = ""
    ready_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def inside(place: Place, *command: str) -> list[str]:
    return ["ip", "netns", "exec", place.machine, *command]


def run(place: Place, *command: str, text: str | None = None) -> None:
    subprocess.run(inside(place, *command), check=True, input=text, text=True, capture_output=True)


@contextlib.contextmanager
def direct(_: Place) -> Iterator[Running]:
    """No proxy at all."""
    yield Running()


@contextlib.contextmanager
def limit(_: Place) -> Iterator[Running]:
    """The load generator speaks CONNECT itself: what no program can beat."""
    yield Running(via=PROXY)


@contextlib.contextmanager
def started(place: Place, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program in the machine's namespace; its own output goes to a file."""
    with (place.folder / "log").open("w") as log:
        process = subprocess.Popen(inside(place, *command), stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def proxyvpn(place: Place) -> Iterator[Running]:
    """As `proxyvpn up` sets it up."""
    begin = time.monotonic()
    command = (str(ROOT / ".venv/bin/proxyvpn"), "up", "--proxy", f"http://{PROXY}", "--dns", "10.99.0.1")
    with started(place, *command, "--state-dir", str(place.folder / "state")) as process:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("ready:"):
            raise RuntimeError((place.folder / "log").read_text())
        yield Running(process, ready_seconds=time.monotonic() - begin)


@contextlib.contextmanager
def redsocks(place: Place) -> Iterator[Running]:
    """Debian's redsocks, splicing, behind a REDIRECT of nftables."""
    host, port = PROXY.split(":")
    config = place.folder / "redsocks.conf"
    config.write_text(
        "base { log_debug = off; log_info = off; daemon = off; redirector = iptables; splice = true;"
        " rlimit_nofile = 20000; redsocks_conn_max = 9000; }\n"
        f"redsocks {{ local_ip = 0.0.0.0; local_port = 12345; listenq = 4096; ip = {host}; port = {port};"
        " type = http-connect; }\n"
    )
    rules = f"""table ip bench {{ chain out {{ type nat hook output priority -100; policy accept;
        ip daddr {host} return
        ip daddr 127.0.0.0/8 return
        meta l4proto tcp redirect to :12345
    }} }}"""
    run(place, "nft", "-f", "-", text=rules)
    try:
        with started(place, shutil.which("redsocks") or "/usr/sbin/redsocks", "-c", str(config)) as process:
            time.sleep(0.5)
            yield Running(process)
    finally:
        run(place, "nft", "delete", "table", "ip", "bench")


@contextlib.contextmanager
def by_tun(place: Place, *command: str, mtu: int = 8500) -> Iterator[Running]:
    """A program that attaches to a TUN `bench0` and leaves routes to us: one route for the origin."""
    run(place, "ip", "tuntap", "add", "dev", "bench0", "mode", "tun")
    run(place, "ip", "address", "add", "198.18.0.1/15", "dev", "bench0")
    run(place, "ip", "link", "set", "bench0", "mtu", str(mtu), "txqueuelen", "1000", "up")
    run(place, "ip", "route", "add", f"{ORIGIN.split(':', maxsplit=1)[0]}/32", "dev", "bench0", "congctl", "cubic")
    try:
        with started(place, *command) as process:
            time.sleep(1.0)
            yield Running(process)
    finally:
        run(place, "ip", "link", "del", "bench0")


@contextlib.contextmanager
def hev(place: Place) -> Iterator[Running]:
    """hev-socks5-tunnel with its recommended MTU, pipelining its greeting."""
    host, port = SOCKS.split(":")
    config = place.folder / "hev.yml"
    config.write_text(
        f"tunnel:\n  name: bench0\n  mtu: 8500\n  ipv4: 198.18.0.1\n"
        f"socks5:\n  address: {host}\n  port: {port}\n  udp: tcp\n  pipeline: true\n"
        "misc:\n  limit-nofile: 20000\n"
    )
    with by_tun(place, os.environ["HEV_SOCKS5_TUNNEL"], str(config)) as running:
        yield running


@contextlib.contextmanager
def tun2socks(place: Place) -> Iterator[Running]:
    with by_tun(
        place, os.environ["TUN2SOCKS"], "-device", "bench0", "-proxy", f"http://{PROXY}", "-loglevel", "error", mtu=9000
    ) as running:
        yield running


@contextlib.contextmanager
def tun2proxy(place: Place) -> Iterator[Running]:
    command = (os.environ["TUN2PROXY"], "--tun", "bench0", "--proxy", f"http://{PROXY}", "--max-sessions", "20000")
    with by_tun(place, *command, "-v", "off", mtu=1500) as running:
        yield running


@contextlib.contextmanager
def sing_box(place: Place) -> Iterator[Running]:
    """sing-box's TUN with its mixed stack and routes of its own."""
    host, port = PROXY.split(":")
    config = place.folder / "sing-box.json"
    config.write_text(
        '{"log": {"disabled": true}, "inbounds": [{"type": "tun", "interface_name": "bench0", "mtu": 65535,'
        ' "address": ["198.18.0.1/30"], "auto_route": true, "stack": "mixed"}],'
        f' "outbounds": [{{"type": "http", "server": "{host}", "server_port": {port}}}]}}'
    )
    with started(place, os.environ["SING_BOX"], "run", "-c", str(config)) as process:
        time.sleep(1.5)
        yield Running(process)


def available() -> dict[str, object]:
    """Give the contestants of this machine, by name."""
    found: dict[str, object] = {"direct": direct, "limit": limit, "proxyvpn": proxyvpn}
    if shutil.which("redsocks") or Path("/usr/sbin/redsocks").exists():
        found["redsocks"] = redsocks
    named = {"HEV_SOCKS5_TUNNEL": ("hev", hev), "SING_BOX": ("sing-box", sing_box)}
    named |= {"TUN2SOCKS": ("tun2socks", tun2socks), "TUN2PROXY": ("tun2proxy", tun2proxy)}
    for variable, (name, contestant) in named.items():
        if os.environ.get(variable):
            found[name] = contestant
    return found
