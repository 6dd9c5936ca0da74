"""A machine that is reached by SSH: the session lives through every phase, and `--confirm` undoes what nobody confirms.

host: sshd, `proxyvpn up` ---- mid: squid ---- world: ssh
"""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns import proxies, wait
from tests.netns.dumps import difference, dump
from tests.netns.namespaces import end
from tests.netns.rig import HOST4, HOST6, RESOLVER4, Rig
from tests.netns.up import PROGRAM, environment, kill, proxyvpn, up

pytestmark = pytest.mark.privileged

BOTH = pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
_SSHD = "-o HostKey={home}/host -o AuthorizedKeysFile={home}/user.pub -o PidFile=none -o StrictModes=no -o UsePAM=no"


@pytest.fixture
def proxy(fresh: Rig) -> Iterator[proxies.RunningProxy]:
    """squid alone: nothing here goes to the world."""
    with proxies.squid(fresh.mid) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Session:
    """An ssh from `world` that runs `cat` on `host`."""

    process: subprocess.Popen[bytes]

    def lives(self) -> bool:
        """Send some lines and get them back, each within ten seconds."""
        assert self.process.stdin and self.process.stdout
        for number in range(20):
            line = f"line {number}\n".encode()
            late = threading.Timer(10, self.process.kill)
            late.start()
            try:
                self.process.stdin.write(line)
                self.process.stdin.flush()
                if self.process.stdout.readline() != line:
                    return False
            except OSError:
                return False
            finally:
                late.cancel()
        return self.process.poll() is None


@contextlib.contextmanager
def sshd(bed: Rig) -> Iterator[Path]:
    """Run sshd on `host`; give the folder with the keys."""
    home = bed.host.home / "sshd"
    home.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    server = bed.host.start(
        *("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-o", "PermitRootLogin=yes"),
        *_SSHD.format(home=home).split(),
        stderr=subprocess.DEVNULL,
    )
    try:
        bed.world.wait_for_port(HOST4, 22)
        yield home
    finally:
        end(server)


@contextlib.contextmanager
def session(bed: Rig, home: Path, address: str) -> Iterator[Session]:
    """Log in."""
    options = ("-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
    command = ("ssh", *options, "-i", str(home / "user"), f"root@{address}", "cat")
    process = subprocess.Popen(
        bed.world.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield Session(process)
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        end(process)


@BOTH
@pytest.mark.parametrize("address", [HOST4, HOST6])
def test_ssh_session_lives_through_every_phase(
    fresh: Rig, proxy: proxies.RunningProxy, killswitch: str, address: str
) -> None:
    options = ("--proxy", proxy.url4, killswitch, "--dns", RESOLVER4)
    with sshd(fresh) as home, session(fresh, home, address) as earlier:
        assert earlier.lives()
        with up(fresh.host, *options) as running, session(fresh, home, address) as later:
            both = (earlier, later)
            assert all(each.lives() for each in both), "steady"
            fresh.host.run("nft", "flush", "ruleset")
            assert all(each.lives() for each in both), "after a flush"
            fresh.host.sh("ip link set pvpn0 down")
            assert all(each.lives() for each in both), "with the TUN set down"
            kill(running.worker)
            assert all(each.lives() for each in both), "worker killed"
            kill(running.process.pid)
            assert all(each.lives() for each in both), "app killed"
            with session(fresh, home, address) as newest:
                assert newest.lives(), "a new login"
            with up(fresh.host, *options) as second:
                assert all(each.lives() for each in both), "up again"
                kill(second.helper)
                assert all(each.lives() for each in both), "helper killed"
            assert all(each.lives() for each in both), "all ended"
            assert proxyvpn(fresh.host, "teardown").returncode == 0
            assert all(each.lives() for each in both), "torn down"


@BOTH
def test_what_nobody_confirms_is_undone(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str) -> None:
    before = dump(fresh.host)
    with up(fresh.host, "--proxy", proxy.url4, killswitch, "--dns", RESOLVER4, "--confirm", "2") as running:
        assert "unless confirmed" in running.ready_line()
        assert running.wait() == 8, running.said()
        assert "not confirmed within 2 s" in running.said()
    assert difference(before, dump(fresh.host)) == ""


def test_confirmed_from_anywhere_it_stays(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    assert proxyvpn(fresh.host, "confirm").returncode == 3
    with up(fresh.host, "--proxy", proxy.url4, "--dns", RESOLVER4, "--confirm", "3") as running:
        assert "unless it is confirmed" in proxyvpn(fresh.host, "status").stdout
        done = proxyvpn(fresh.host, "confirm")
        assert (done.returncode, "stays up" in done.stdout) == (0, True), done.stderr
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(4)
        assert "nothing to confirm" in proxyvpn(fresh.host, "confirm").stdout


def test_enter_confirms(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    ours, theirs = pty.openpty()
    out = fresh.host.home / "confirm.out"
    command = ("setsid", "--ctty", PROGRAM, "up", "--proxy", proxy.url4, "--dns", RESOLVER4, "--confirm", "4")
    with out.open("wb") as said:
        process = subprocess.Popen(
            fresh.host.command(*command), stdin=theirs, stdout=said, stderr=said, env=environment()
        )
    os.close(theirs)
    try:
        wait.for_line(out, "ready:")
        os.write(ours, b"\n")
        wait.for_line(out, "confirmed: the tunnel stays up")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(5)
    finally:
        process.terminate()
        assert process.wait(15) == 0
        os.close(ours)


def test_ssh_is_told_of_confirm(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    ssh = {"SSH_CONNECTION": "192.0.2.1 50022 192.0.2.2 22"}
    with up(fresh.host, "--proxy", proxy.url4, "--dns", RESOLVER4, env=ssh) as running:
        assert "--confirm 60" in running.ready_line()
