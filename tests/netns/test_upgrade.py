"""The package is replaced by another version while `up` runs: what the new one says to the old one, and the old to it.

host: `up` from an installation of its own, whose files are then changed ---- mid: squid ---- world
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import proxyvpn
from tests.netns import proxies, wait
from tests.netns.dumps import difference, dump
from tests.netns.rig import RESOLVER4, Rig
from tests.netns.stepwise import children
from tests.netns.up import environment, gone, kill

pytestmark = pytest.mark.privileged

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Installation:
    """A virtual environment with a copy of the package."""

    home: Path
    bed: Rig
    proxy: proxies.RunningProxy

    @property
    def package(self) -> Path:
        return self.home / f"lib/python3.{sys.version_info[1]}/site-packages/proxyvpn"

    def run(self, *words: str) -> Done:
        """Run a command of whatever version is installed now."""
        python = str(self.home / "bin/python")
        return self.bed.host.run(python, "-m", "proxyvpn", *words, check=False, env=environment())

    def up(self, killswitch: bool) -> int:
        """Bring a detached tunnel up; give its pid."""
        switch = "--killswitch" if killswitch else "--no-killswitch"
        done = self.run("up", "--proxy", self.proxy.url4, "--dns", RESOLVER4, switch, "--detach")
        assert done.returncode == 0, done.stderr
        return int(self.run("status", "--json").stdout.partition('"pid": ')[2].partition(",")[0])

    def replace(self, *changes: tuple[str, str, str]) -> None:
        """Install the next version: VERSION grows, and in a file one text becomes another."""
        for file, old, new in (*changes, *((each, "VERSION: Final = 1", "VERSION: Final = 2") for each in VERSIONED)):
            path = self.package / file
            text = path.read_text()
            assert old in text, (file, old)
            fresh = path.with_suffix(".new")
            fresh.write_text(text.replace(old, new))
            fresh.rename(path)


VERSIONED = ("messages.py", "state.py")
NEW_REPORT = ("messages.py", "    restarts: int\n", "    restarts: int\n    novelty: int\n")
NEW_START = ("messages.py", "    uid: int\n", "    uid: int\n    novelty: int\n")
NEW_ASK = ("messages.py", "class Ask:\n", "class Ask:\n    novelty: int = 7\n")
NEW_DOWN = ("messages.py", "class Down:\n", "class Down:\n    novelty: int = 7\n")


@pytest.fixture
def installed(bed: Rig, squid: proxies.RunningProxy, tmp_path: Path) -> Iterator[Installation]:
    """An installation, and the machine as it was when all is over."""
    before = dump(bed.host)
    found = Installation(tmp_path / "env", bed, squid)
    venv.create(found.home, symlinks=True)
    shutil.copytree(Path(proxyvpn.__file__).parent, found.package, ignore=shutil.ignore_patterns("__pycache__"))
    dependencies = Path(click.__file__).parent.parent
    found.package.with_name("dependencies.pth").write_text(f"{dependencies}\n")
    yield found
    found.run("teardown")
    assert difference(before, dump(bed.host)) == ""


@pytest.mark.parametrize("killswitch", [True, False], ids=["killswitch", "open"])
def test_next_version_asks_and_ends_the_running_one(installed: Installation, killswitch: bool) -> None:
    installed.up(killswitch)
    installed.replace()
    assert installed.run("status").returncode == 0
    again = installed.run("up", "--proxy", installed.proxy.url4, "--dns", RESOLVER4)
    assert again.returncode == 7, again.stderr
    done = installed.run("teardown")
    assert (done.returncode, "undone" in done.stdout) == (0, True), done.stderr


def test_answer_that_the_next_version_does_not_know_is_a_sentence(installed: Installation) -> None:
    pid = installed.up(killswitch=True)
    installed.replace(NEW_REPORT)
    done = installed.run("status")
    assert done.returncode == 1
    assert f"the running proxyvpn (pid {pid}) speaks another version" in done.stderr and f"kill {pid}" in done.stderr
    assert installed.run("teardown").returncode == 0


@pytest.mark.parametrize("change", [NEW_ASK, NEW_DOWN], ids=["status", "teardown"])
def test_question_that_the_running_version_does_not_know_is_a_sentence(
    installed: Installation, change: tuple[str, str, str]
) -> None:
    before = dump(installed.bed.host)
    pid = installed.up(killswitch=True)
    during = dump(installed.bed.host)
    installed.replace(change)
    done = installed.run("teardown" if change is NEW_DOWN else "status")
    assert (done.returncode, f"kill {pid}" in done.stderr) == (1, True), done.stderr
    assert difference(during, dump(installed.bed.host)) == ""
    installed.bed.host.run("kill", str(pid))  # what the sentence advises
    wait.until(lambda: gone(pid), "up ends in order")
    assert difference(before, dump(installed.bed.host)) == ""


def test_helper_that_dies_after_the_upgrade_is_cleaned_up_after_by_the_next_version(installed: Installation) -> None:
    before = dump(installed.bed.host)
    pid = installed.up(killswitch=False)
    installed.replace()
    kill(child(pid, "helper"))
    wait.until(lambda: gone(pid), "up ends")
    assert difference(before, dump(installed.bed.host)) == ""


def test_worker_that_dies_after_the_upgrade_is_replaced_by_the_next_version(installed: Installation) -> None:
    pid = installed.up(killswitch=True)
    installed.replace()
    old = child(pid, "worker")
    kill(old)
    wait.until(lambda: child(pid, "worker") not in (0, old), "a new worker")
    assert installed.run("status").returncode == 0


def test_worker_of_a_version_that_cannot_be_spoken_to_ends_in_a_lock(installed: Installation) -> None:
    pid = installed.up(killswitch=True)
    installed.replace(NEW_START)
    kill(child(pid, "worker"))
    wait.until(lambda: gone(pid), "up gives the worker up", 20)
    assert installed.run("status").returncode == 9
    assert installed.run("teardown").returncode == 0


def test_record_of_the_next_version_is_no_obstacle_to_going_back(installed: Installation) -> None:
    older = {file: (installed.package / file).read_text() for file in VERSIONED}
    installed.replace()
    pid = installed.up(killswitch=True)
    installed.bed.host.run("kill", "-KILL", *map(str, (*all_children(pid), pid)))
    wait.until(lambda: gone(pid), "up is gone")
    for file, text in older.items():
        (installed.package / file).write_text(text)
    done = installed.run("status")
    assert (done.returncode, "it is of version 2, not 1" in done.stdout) == (9, True), done.stdout
    done = installed.run("up", "--proxy", installed.proxy.url4, "--dns", RESOLVER4)
    assert (done.returncode, "proxyvpn teardown" in done.stderr) == (1, True), done.stderr
    assert installed.run("teardown").returncode == 0


def child(parent: int, name: str) -> int:
    """Give a child by the name of its module; 0 when there is none."""
    return children(parent).get(name, 0)


def all_children(parent: int) -> tuple[int, ...]:
    """Give all children."""
    return tuple(children(parent).values())
