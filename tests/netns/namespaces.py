"""A network namespace that a test may do anything to, with a mount namespace beside it.

Each is held open by one process that dies with the test run, so that nothing is left behind even after `kill -9` of
pytest: no name in /run/netns, no link, no rule. In the mount namespace /run is empty, /sys is that of the namespace,
and /etc/resolv.conf and /etc/hosts are files of the test. Nothing here touches the machine's own namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tests.netns import wait

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

_HOLD = """
set -eu
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/sshd /run/lock
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/hosts" /etc/hosts
ip link set lo up
echo ready
exec cat
"""


class Namespace:
    """A network namespace called `name`, whose files are under `home`."""

    def __init__(self, name: str, home: Path) -> None:
        self.name, self.home = name, home
        home.mkdir(parents=True)
        self.resolv_conf = home / "resolv.conf"
        self.resolv_conf.write_text("")
        (home / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        self._holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"),
                *("sh", "-c", _HOLD, "hold", str(home)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"ready\n":
            self._holder.kill()
            raise AssertionError(f"namespace {name} could not be made: is this root?")
        self.pid = self._holder.pid
        self._net = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._children: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        """End everything that was started here; the kernel then takes the namespace away."""
        for child in reversed(self._children):
            end(child)
        for pipe in (self._holder.stdin, self._holder.stdout):
            if pipe:
                pipe.close()
        self._holder.kill()
        self._holder.wait()
        os.close(self._net)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put the calling thread into the network namespace; sockets made meanwhile stay in it for good."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self._net)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def command(self, *argv: str) -> list[str]:
        """Give the argument vector that runs `argv` in here; nsenter executes it, so the pid is the program's."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--target={self.pid}", "--net", "--mount", "--", *argv]

    def run(self, *argv: str, check: bool = True, seconds: float = 60, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and give what it said."""
        done = subprocess.run(self.command(*argv), capture_output=True, text=True, timeout=seconds, check=False, **more)
        assert not check or done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stdout}{done.stderr}"
        return done

    def sh(self, script: str, *args: str) -> str:
        """Run a shell script with `set -eu` and give its standard output."""
        return self.run("sh", "-euc", script, "sh", *args).stdout

    def start(self, *argv: str, stdout: IO[bytes] | int = subprocess.DEVNULL, **more: Any) -> subprocess.Popen[bytes]:
        """Start a program that close() will end."""
        child = subprocess.Popen(self.command(*argv), stdin=subprocess.DEVNULL, stdout=stdout, **more)
        self._children.append(child)
        return child

    def new_socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0) -> socket.socket:
        """Give a socket of this namespace, with a timeout of 20 s."""
        with self.inside():
            sock = socket.socket(family, kind, proto)
        sock.settimeout(20)
        return sock

    def connect(self, host: str, port: int, seconds: float = 20) -> socket.socket:
        """Give a TCP connection made in this namespace. Raises OSError like socket.connect()."""
        sock = self.new_socket(family_of(host))
        try:
            sock.settimeout(seconds)
            sock.connect((host, port))
        except OSError:
            sock.close()
            raise
        return sock

    def listen(self, host: str, port: int, backlog: int = 512) -> socket.socket:
        """Give a listening TCP socket of this namespace."""
        sock = self.new_socket(family_of(host))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(backlog)
        sock.settimeout(None)
        return sock

    def wait_for_port(self, host: str, port: int, seconds: float = 10) -> None:
        """Wait until something accepts connections at host:port as seen from here."""

        def probe() -> bool:
            try:
                self.connect(host, port, 1).close()
            except OSError:
                return False
            return True

        wait.until(probe, f"{self.name}: a server at {host}:{port}", seconds)


def end(child: subprocess.Popen[bytes], sig: int = signal.SIGTERM, seconds: float = 5) -> int:
    """End one process that we started, the hard way after `seconds`, and give its exit code."""
    if child.poll() is None:
        child.send_signal(sig)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def family_of(host: str) -> int:
    """Give the address family of an address in text."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def wire(one: Namespace, link_one: str, two: Namespace, link_two: str) -> None:
    """Lay a cable (veth) between two namespaces; it is born in them and never seen by the machine."""
    with one.inside():
        subprocess.run(
            ["ip", "link", "add", link_one, "type", "veth", "peer", "name", link_two, "netns", str(two.pid)], check=True
        )
    one.run("ip", "link", "set", link_one, "up")
    two.run("ip", "link", "set", link_two, "up")


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
