"""Programs that resolve names each in its own way, and the daemons that do it for others."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.netns.internet import PAGE, Internet
from tests.netns.namespaces import Namespace, end

_PYTHON = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode(), end='')"
_NSCD_CONF = """
debug-level 0
paranoia no
enable-cache hosts yes
positive-time-to-live hosts 60
negative-time-to-live hosts 2
shared hosts yes
persistent hosts no
"""


def together(space: Namespace, commands: dict[str, list[str]], env: dict[str, str]) -> dict[str, str]:
    """Run programs at the same time; give those that failed, and what they said."""
    running = {
        name: subprocess.Popen(
            space.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
        )
        for name, words in commands.items()
    }
    said = {name: child.communicate(timeout=60)[0].decode(errors="replace") for name, child in running.items()}
    return {name: said[name] for name, child in running.items() if child.returncode != 0}


def pages(space: Namespace, host: str, world: Internet) -> dict[str, bool]:
    """Fetch the page with programs of several kinds; give which of them got it."""
    static = _musl(space.home / "fetch")
    plain = {
        "glibc: curl": ["curl", "-sS", "--noproxy", "*", f"http://{host}/"],
        "glibc: Python": ["/usr/bin/python3", "-I", "-c", _PYTHON, f"http://{host}/"],
        "musl, static": [static, host, "80"],
    }
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    found = {name: space.run(*words, check=False, env=env).stdout.endswith(PAGE) for name, words in plain.items()}
    go = space.run("hey", "-n", "20", "-c", "5", f"https://{host}/", check=False, env={**env, "GODEBUG": "netdns=go+1"})
    return {**found, "Go": "[200]\t20 responses" in go.stdout and "forcing use of Go's resolver" in go.stdout + go.stderr}


def _musl(program: Path) -> str:
    source = Path(__file__).with_name("fetch.c")
    subprocess.run(["musl-gcc", "-static", "-Os", "-Wall", "-o", str(program), str(source)], check=True)
    return str(program)


@contextlib.contextmanager
def nscd(space: Namespace) -> Iterator[None]:
    """Let nscd resolve for all programs of glibc in `space`."""
    conf, socket = space.home / "nscd.conf", "/run/nscd/socket"
    conf.write_text(_NSCD_CONF)
    space.run("mkdir", "-p", "/run/nscd")
    process = space.start("nscd", "-F", "-f", str(conf), stderr=subprocess.DEVNULL)
    try:
        space.sh(f"for try in $(seq 100); do [ -S {socket} ] && exit 0; sleep 0.05; done; exit 1")
        yield
    finally:
        end(process)
        space.run("rm", "-rf", "/run/nscd")


@contextlib.contextmanager
def forwarder(space: Namespace, address: str, resolver: str) -> Iterator[None]:
    """Run a stub at `address` that passes questions on to `resolver`, as Docker does for its containers."""
    process = space.start(
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"),
        *(f"--listen-address={address}", "--bind-interfaces", f"--server={resolver}", "--cache-size=0"),
        stderr=subprocess.DEVNULL,
    )
    try:
        space.wait_for_port(address, 53)
        yield
    finally:
        end(process)
