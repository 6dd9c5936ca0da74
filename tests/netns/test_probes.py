"""Helper and worker, looked into by another process: one of the same user, one of the asker's, one of a stranger's.

host: `proxyvpn up` = app + helper + worker; a prober beside them ---- mid: squid
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import kernel_support as support
from tests.netns import prober, proxies
from tests.netns.attack import forker
from tests.netns.rig import RESOLVER4, Rig
from tests.netns.up import Up, up

pytestmark = pytest.mark.privileged

DENIED = {"EPERM", "EACCES"}
STRANGER = 12345
_SYSTEM_PYTHON = "/usr/bin/python3"  # which every user may execute, wherever this project lies


def as_user(uid: int) -> list[str]:
    """Give the words before a command that run it as `uid` with no capability; a shell between makes it so."""
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        "--inh-caps=-all",
        "sh",
        "-c",
        'exec "$0" "$@"',
    ]


def probe(pid: int, uid: int) -> dict[str, str]:
    """Let a process of `uid` look into `pid`."""
    code = Path(prober.__file__).read_text()
    done = subprocess.run(
        [*as_user(uid), _SYSTEM_PYTHON, "-I", "-c", code, str(pid)], capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, str] = json.loads(done.stdout)
    return found


def let_in(pid: int, uid: int) -> dict[str, str]:
    """Give what was not denied to a process of `uid`."""
    return {name: answer for name, answer in probe(pid, uid).items() if answer not in DENIED}


@pytest.fixture(scope="module")
def running(bed: Rig) -> Iterator[Up]:
    with (
        proxies.squid(bed.mid) as proxy,
        up(bed.host, "--proxy", proxy.url4, "--dns", RESOLVER4, "--killswitch") as found,
    ):
        yield found


def owner(pid: int) -> int:
    """Give the uid that a process runs as."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("\nUid:\t")[2].split()[0])


def test_prober_sees_a_process_that_does_not_defend_itself() -> None:
    sleeping = subprocess.Popen([*as_user(STRANGER), "sleep", "60"], stdin=subprocess.PIPE)
    try:
        seen = {name for name, answer in probe(sleeping.pid, STRANGER).items() if answer == "done"}
    finally:
        sleeping.kill()
        sleeping.communicate()
    assert {"open mem", "open environ", "open maps", "list fd", "follow root", "ptrace, seize"} <= seen
    assert {"pidfd_getfd", "process_vm_readv", "enter root"} <= seen


@pytest.mark.parametrize("whose", ["its own user", "the other's user", "a stranger"])
@pytest.mark.parametrize("which", ["helper", "worker"])
def test_nobody_looks_into_helper_or_worker(running: Up, which: str, whose: str) -> None:
    pids = {"helper": running.helper, "worker": running.worker}
    other = {"helper": "worker", "worker": "helper"}[which]
    uid = {"its own user": owner(pids[which]), "the other's user": owner(pids[other]), "a stranger": STRANGER}[whose]
    assert uid != 0
    assert let_in(pids[which], uid) == {}


def test_asker_who_is_a_plain_user_cannot_look_into_its_helper() -> None:
    with support.bed() as bed, forker(bed) as helpers:
        victim = helpers.helper(uid=STRANGER)
        assert victim.ask("Status")["is"] in ("State", "Refused")
        assert owner(victim.pid) == STRANGER
        assert let_in(victim.pid, STRANGER) == {}
        assert victim.end()[0] == 0


def test_helper_and_worker_are_of_different_users_that_nobody_else_is(running: Up) -> None:
    uids = {owner(running.helper), owner(running.worker), 0, STRANGER}
    assert len(uids) == 4
    for process in (running.helper, running.worker):
        assert os.stat(f"/proc/{process}/environ").st_uid == 0, "not dumpable: its files in /proc are root's"


def held(pid: int) -> set[str]:
    """Give the kinds of what a process holds open, beside standard error."""
    links = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd") if name != "2"}
    return {link.partition(":[")[0] for link in links.values()}


def test_worker_holds_nothing_that_leads_elsewhere(running: Up) -> None:
    assert held(running.worker) <= {
        *("socket", "/dev/null", "/dev/net/tun", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"),
        *("anon_inode", "pipe"),
    }


def test_helper_holds_nothing_that_leads_elsewhere(running: Up) -> None:
    assert held(running.helper) <= {
        *("socket", "/dev/null", "/dev/net/tun", "net", "/proc/sys/net/ipv4/tcp_fastopen_key", "pipe"),
        *("anon_inode", "anon_inode:[eventpoll]"),
    }
