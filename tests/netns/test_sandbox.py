"""The worker's sandbox from within: hostile code in the worker's place (captive.py) gets nowhere.

captive (in the sandbox) ---- its parent: servers at the proxy's port and at another, files, memory
host: `proxyvpn up` on a kernel without Landlock ---- mid: squid ---- world: a server
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.netns import captive, clients, internet, proxies, wait, without
from tests.netns.rig import WORLD4, Rig
from tests.netns.up import kill, proxyvpn, up

pytestmark = pytest.mark.privileged

DENIED = {"EPERM", "EACCES", "ENOSYS"}
NOT_IN_THIS_KERNEL = {"ENOSYS", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EAFNOSUPPORT", "EOPNOTSUPP"}
_NEW = ("unshare", "--net", "--mount", "--uts", "--ipc", "--propagation", "private")


def run(mode: str, before: Sequence[str] = ()) -> dict[str, str]:
    """Run captive.py in namespaces of its own, and give the outcomes."""
    done = subprocess.run(
        [*_NEW, *before, sys.executable, "-I", "-c", _CODE, mode],
        cwd=Path(captive.__file__).parents[2],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, str] = json.loads(done.stdout)
    return found


_CODE = "import sys; sys.path.insert(0, '.'); from tests.netns.captive import main; main()"


def test_what_is_tried_works_where_there_is_no_sandbox() -> None:
    found = run("free")
    wrong = {name: found[name] for name in captive.TRIED if found[name] not in {"done", *NOT_IN_THIS_KERNEL}}
    assert wrong == {}
    assert sum(found[name] == "done" for name in captive.TRIED) > 60


def test_sandbox_denies_everything_that_the_worker_does_not_need() -> None:
    found = run("sandbox")
    tried = {**captive.TRIED, **captive.TRIED_IN_SANDBOX}
    assert {name: found[name] for name in tried if found[name] not in DENIED} == {}


def test_sandbox_permits_what_the_worker_does() -> None:
    found = run("sandbox")
    assert {name: found[name] for name in captive.NEEDED if found[name] != "done"} == {}


def as_if_without(*numbers: str) -> tuple[str, ...]:
    """Give the words before a command that hide system calls from it."""
    return (sys.executable, without.__file__, *numbers, "--")


def test_kernel_without_landlock_still_denies_all_but_other_ports() -> None:
    found = run("sandbox", as_if_without(without.LANDLOCK))
    assert "Landlock" in found["missing"] and "seccomp" not in found["missing"]
    assert {name for name in captive.TRIED if found[name] not in DENIED} == {
        "connect to another port",
        "connect to another port, IPv6",
    }


def test_kernel_without_seccomp_still_denies_files_and_other_ports() -> None:
    found = run("sandbox", as_if_without(without.SECCOMP))
    assert "seccomp" in found["missing"] and "Landlock" not in found["missing"]
    for name in (
        "read a file",
        "write a file",
        "connect to another port",
        "an abstract UNIX socket",
        "signal the parent",
    ):
        assert found[name] in DENIED, name


@pytest.mark.parametrize(("number", "word"), [(without.LANDLOCK, "Landlock"), (without.SECCOMP, "seccomp")])
def test_status_says_what_the_kernel_cannot_restrict(fresh: Rig, number: str, word: str) -> None:
    with (
        internet.internet(fresh.world),
        proxies.squid(fresh.mid) as proxy,
        up(fresh.host, "--proxy", proxy.url4, before=as_if_without(number)) as running,
    ):
        assert clients.curl(fresh.host, f"http://{WORLD4}/").returncode == 0
        for wanted in (running.said(), proxyvpn(fresh.host, "status").stdout):
            lines = [line for line in wanted.splitlines() if "sandbox is weaker here" in line]
            assert len(lines) == 1 and word in lines[0]
        kill(running.worker)
        wait.until(lambda: clients.curl(fresh.host, f"http://{WORLD4}/").returncode == 0, "the new worker carries")
        notes = json.loads(proxyvpn(fresh.host, "status", "--json").stdout)["notes"]
        assert len([note for note in notes if word in note]) == 1


def test_status_says_nothing_where_everything_is_restricted(fresh: Rig) -> None:
    with internet.internet(fresh.world), proxies.squid(fresh.mid) as proxy, up(fresh.host, "--proxy", proxy.url4):
        assert "sandbox" not in proxyvpn(fresh.host, "status").stdout
