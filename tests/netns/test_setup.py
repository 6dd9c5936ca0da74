"""`sudo proxyvpn setup`, once; then `up`, `status` and `teardown` as a plain user (plain.py has the machine)."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyvpn.places import LAUNCHER, LOCK, PARENT, SOCKET, STAMP, TREE
from proxyvpn.setup import units
from proxyvpn.setup.contents import CAPABILITY
from tests.netns import plain, wait
from tests.netns.clients import curl
from tests.netns.dumps import difference, dump
from tests.netns.internet import PAGE, Internet
from tests.netns.namespaces import end
from tests.netns.plain import ANN, BOB, EVE, Plain
from tests.netns.proxies import RunningProxy
from tests.netns.rig import RESOLVER4, WORLD4, Rig
from tests.netns.up import kill

pytestmark = pytest.mark.privileged

PAGE_URL = f"http://{WORLD4}/"
DNS = ("--dns", RESOLVER4)
ACTIVATION = Path(__file__).with_name("activation.py")


@pytest.fixture(scope="module")
def machine(bed: Rig) -> Plain:
    return plain.prepare(bed.host)


@pytest.fixture
def installed(machine: Plain) -> Iterator[Plain]:
    """The machine with the helper installed, and ann and bob in its group."""
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    machine.join("ann", "bob")
    yield machine
    machine.setup("--uninstall")


def status(pid: int) -> dict[str, str]:
    """Give /proc/PID/status."""
    lines = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, value in lines}


def test_user_without_setup_is_told_the_one_command(machine: Plain, bed: Rig, squid: RunningProxy) -> None:
    before = dump(bed.host)
    done = machine.proxyvpn(ANN, "up", "--proxy", squid.url4)
    assert done.returncode == 4 and f"sudo {machine.program} setup" in done.stderr, done.stderr
    assert done.stderr.count("\n") <= 3
    assert difference(before, dump(bed.host)) == ""


@pytest.mark.parametrize("words", [(), ("--systemd",), ("--uninstall",)])
def test_setup_itself_needs_root_and_says_so(machine: Plain, words: tuple[str, ...]) -> None:
    done = machine.proxyvpn(ANN, "setup", *words)
    assert done.returncode == 4 and f"sudo {machine.program} setup" in done.stderr
    assert " ".join(words) in done.stderr


@pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
def test_user_of_the_group_needs_no_sudo(
    installed: Plain, bed: Rig, world: Internet, squid: RunningProxy, killswitch: str
) -> None:
    before = dump(bed.host)
    with installed.up(ANN, "--proxy", squid.url4, killswitch, *DNS) as running:
        logged = squid.log_size()
        page = installed.run(ANN, "curl", "-sS", "--noproxy", "*", "--max-time", "20", PAGE_URL)
        assert (page.stdout, page.stderr) == (PAGE, "")
        squid.logged(f"CONNECT {WORLD4}:80", logged)
        assert curl(bed.host, PAGE_URL).stdout == PAGE, "that of root goes the same way"
        shown = installed.proxyvpn(ANN, "status")
        assert (shown.returncode, shown.stderr) == (0, "") and "pvpn0" in shown.stdout
        ended = installed.proxyvpn(ANN, "teardown")
        assert ended.returncode == 0, ended.stderr
        assert running.wait() == 0
    assert difference(before, dump(bed.host)) == ""
    assert installed.proxyvpn(ANN, "status").returncode == 3


def test_helper_of_a_user_has_one_capability_and_keeps_it_to_itself(installed: Plain, squid: RunningProxy) -> None:
    with installed.up(ANN, "--proxy", squid.url4, *DNS) as running:
        helper, worker = status(running.helper), status(running.worker)
        assert set(helper["Uid"].split()) == {str(ANN)}, "see docs/security.md for what that means"
        assert int(helper["CapEff"], 16) == int(helper["CapPrm"], 16) == 1 << 12
        assert int(helper["CapInh"], 16) == int(helper["CapAmb"], 16) == 0
        assert helper["NoNewPrivs"] == "1"
        assert Path(f"/proc/{running.helper}/mem").stat().st_uid == 0, "not dumpable"
        assert {int(worker[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
        assert running.stop() == 0


def test_a_crash_is_cleaned_up_by_any_member_and_by_nobody_else(
    installed: Plain, bed: Rig, squid: RunningProxy
) -> None:
    before = dump(bed.host)
    with installed.up(ANN, "--proxy", squid.url4, "--killswitch", *DNS) as running:
        assert installed.proxyvpn(BOB, "up", "--proxy", squid.url4).returncode == 7
        kill(running.process.pid, running.helper)
    assert installed.proxyvpn(ANN, "status").returncode == 9
    assert installed.proxyvpn(BOB, "status").returncode == 9
    refused = installed.proxyvpn(EVE, "teardown")
    assert refused.returncode == 4 and "not in group proxyvpn" in refused.stderr
    assert difference(before, dump(bed.host)) != ""
    done = installed.proxyvpn(BOB, "teardown")
    assert done.returncode == 0, done.stderr
    assert difference(before, dump(bed.host)) == ""


def test_tun_that_only_root_can_open_is_said(installed: Plain, bed: Rig, squid: RunningProxy) -> None:
    bed.host.sh("chmod 0600 /dev/net/tun")
    try:
        before = dump(bed.host)
        done = installed.proxyvpn(ANN, "up", "--proxy", squid.url4)
        checked = installed.proxyvpn(ANN, "setup", "--check")
        assert difference(before, dump(bed.host)) == ""
    finally:
        bed.host.sh("chmod 0666 /dev/net/tun")
    assert done.returncode == 4 and "/dev/net/tun cannot be opened" in done.stderr, done.stderr
    assert checked.returncode == 4 and "sudo chmod 0666 /dev/net/tun" in checked.stdout


# What is installed.


@pytest.mark.parametrize("words", [(), ("--systemd",), ("--group", "netops")], ids=str)
def test_uninstall_leaves_everything_as_it_was(machine: Plain, words: tuple[str, ...]) -> None:
    before = machine.files()
    assert machine.setup(*words).returncode == 0
    assert machine.files() != before
    machine.setup(*words)  # again, over itself
    done = machine.setup("--uninstall")
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.files() == before
    assert machine.setup("--uninstall").stdout == "nothing is installed\n"


def test_uninstall_keeps_what_was_there_before(machine: Plain) -> None:
    machine.host.sh(f"groupadd proxyvpn; mkdir {PARENT}; echo hello > {PARENT}/other")
    try:
        before = machine.files()
        assert machine.setup().returncode == 0
        machine.setup("--systemd")
        machine.setup("--uninstall")
        assert machine.files() == before
    finally:
        machine.host.sh(f"groupdel proxyvpn; rm -r {PARENT}")


def test_uninstall_leaves_a_file_that_is_not_ours(machine: Plain) -> None:
    machine.setup()
    machine.host.sh(f"echo mine > {TREE}/lib/mine.txt")
    done = machine.setup("--uninstall")
    left = machine.host.sh(f"find {TREE} -type f").split()
    machine.host.sh(f"rm -r {PARENT}")
    assert left == [f"{TREE}/lib/mine.txt"] and left[0] in done.stdout


def test_a_tree_that_is_not_ours_is_not_touched(machine: Plain) -> None:
    machine.host.sh(f"mkdir -p {TREE}; echo mine > {TREE}/start.py")
    before = machine.files()
    try:
        for words in ((), ("--systemd",), ("--uninstall",)):
            done = machine.setup(*words)
            assert done.returncode == 1 and "not what `proxyvpn setup` made" in done.stderr
            assert machine.files() == before
    finally:
        machine.host.sh(f"rm -r {PARENT}")


def test_all_of_it_is_root_s_and_nobody_else_can_write_to_it(installed: Plain) -> None:
    found = installed.host.sh(f"find {TREE} -printf '%m %u %g %y %p\\n'").splitlines()
    assert len(found) > 300
    for line in found:
        mode, user, group, kind, path = line.split()
        wanted = {LAUNCHER: ("750", "proxyvpn"), LOCK: ("640", "proxyvpn")}
        assert (mode, group) == wanted.get(path, ("755" if kind == "d" else "644", "root")), line
        assert user == "root" and kind in "df"
        assert path.endswith((".py", ".pyc")) or kind == "d" or path in (LAUNCHER, LOCK, STAMP, f"{TREE}/made")
    inside = f"/proc/{installed.host.pid}/root{LAUNCHER}"
    assert os.getxattr(inside, "security.capability") == CAPABILITY
    modules = {path.split("/lib/")[1].split("/")[0] for *_, path in map(str.split, found) if "/lib/" in path}
    assert modules == {"proxyvpn", "pyroute2", "msgpack"}
    ours = {path.split("/lib/proxyvpn/")[1] for *_, path in map(str.split, found) if "/lib/proxyvpn/" in path}
    assert {"helper.py", "kernel.py"} <= ours and not {"app.py", "cli.py", "worker.py", "way.py", "setup"} & ours


def test_stamp_is_what_sha256sum_says(installed: Plain) -> None:
    assert installed.host.run("sh", "-c", f"cd {TREE} && sha256sum --quiet --strict -c stamp").stdout == ""


def test_setup_is_refused_while_its_helper_runs_and_changes_nothing(
    installed: Plain, bed: Rig, world: Internet, squid: RunningProxy
) -> None:
    with installed.up(ANN, "--proxy", squid.url4, *DNS) as running:
        before = installed.files()
        for words in ((), ("--systemd",), ("--uninstall",)):
            done = installed.setup(*words)
            assert done.returncode == 7 and "teardown" in done.stderr, done.stderr
            assert installed.files() == before
        assert curl(bed.host, PAGE_URL).stdout == PAGE
        assert running.stop() == 0
    assert installed.setup().returncode == 0


def test_remains_of_a_killed_setup_are_in_nobody_s_way(machine: Plain) -> None:
    before = machine.files()
    machine.host.sh(f"mkdir -p {PARENT}/.proxyvpn.new/lib; echo x > {PARENT}/.proxyvpn.new/lock")
    assert machine.setup().returncode == 0
    machine.host.sh(f"mkdir -p {PARENT}/.proxyvpn.new/lib")
    machine.setup("--uninstall")
    machine.host.sh(f"rmdir {PARENT} 2>/dev/null || true")
    assert machine.files() == before


def test_while_it_is_replaced_there_is_always_a_whole_one_or_a_sentence(installed: Plain) -> None:
    replaced: list[int] = []
    replacing = threading.Thread(target=lambda: replaced.extend(installed.setup().returncode for _ in range(5)))
    replacing.start()
    seen: list[tuple[int, str]] = []
    while replacing.is_alive():
        done = installed.proxyvpn(ANN, "status")
        seen.append((done.returncode, done.stderr))
    replacing.join()
    assert set(replaced) <= {0, 7} and 0 in replaced, "7: that status had a helper running"
    for code, said in seen:
        assert code == 3 or "`proxyvpn setup` is at work" in said, said
    assert installed.proxyvpn(ANN, "status").returncode == 3


def test_installed_helper_of_another_protocol_is_not_started(installed: Plain, squid: RunningProxy) -> None:
    installed.host.sh("sed -i '1s/.*/# proxyvpn 9.9, protocol 99/' \"$1\"", STAMP)
    done = installed.proxyvpn(ANN, "up", "--proxy", squid.url4)
    assert done.returncode == 4 and "of proxyvpn 9.9" in done.stderr and "setup" in done.stderr


# --check.


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (f"chown root {LAUNCHER}", "has lost its capability: sudo proxyvpn setup"),
        (f"cp {LAUNCHER} {LAUNCHER}.x; mv {LAUNCHER}.x {LAUNCHER}", "has lost its capability: sudo proxyvpn setup"),
        (f"chmod 0755 {LAUNCHER}", "has not the mode 0750"),
        (f"rm {LAUNCHER}", "proxyvpn-helper is missing"),
        (f"echo >> {TREE}/lib/proxyvpn/plan.py", "plan.py was changed: sudo proxyvpn setup"),
        (f"rm {TREE}/lib/pyroute2/common.py", "common.py is missing"),
        (f"echo > {TREE}/lib/site.py", "site.py was not installed by"),
        (f"chown ann {TREE}/start.py", "start.py does not belong to root: sudo proxyvpn setup"),
        (f"chmod o+w {TREE}/lib/proxyvpn", "can be written by others than root"),
        (f"chmod o+w {PARENT}", f"sudo chmod go-w {PARENT}"),
        ("mount -o remount,nosuid /usr/local", "mounted nosuid"),
        (f"sed -i 's/^\\(# proxyvpn\\) [^,]*,/\\1 0.0.1,/' {STAMP}", "is of version 0.0.1"),
        ("gpasswd -d ann proxyvpn", "user ann is not in group proxyvpn: sudo usermod -aG proxyvpn ann"),
        ("rm /dev/net/tun", "there is no /dev/net/tun: sudo modprobe tun"),
    ],
    ids=lambda value: value[:30],
)
def test_check_says_what_is_wrong_and_setup_mends_it(installed: Plain, do: str, said: str) -> None:
    assert installed.proxyvpn(ANN, "setup", "--check").stdout == "all is well\n"
    installed.host.sh(do)
    try:
        done = installed.proxyvpn(ANN, "setup", "--check")
        assert done.returncode == 4 and said in done.stdout, done.stdout
    finally:
        installed.host.sh(
            f"mount -o remount,suid /usr/local; chmod 0755 {PARENT}; usermod -aG proxyvpn ann; "
            "test -e /dev/net/tun || mknod -m 0666 /dev/net/tun c 10 200"
        )
        installed.setup()
    assert installed.proxyvpn(ANN, "setup", "--check").stdout == "all is well\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--no-new-privs", "no_new_privs is set"),
        ("--bounding-set=-net_admin", "CAP_NET_ADMIN is not in the bounding set"),
        ("--groups=41001", "this login does not know yet that ann is in group proxyvpn: log in anew"),
    ],
)
def test_check_says_what_is_wrong_with_the_process_that_asks(installed: Plain, more: str, said: str) -> None:
    done = installed.proxyvpn(ANN, "setup", "--check", more=(more,))
    assert done.returncode == 4 and said in done.stdout, done.stdout
    tried = installed.proxyvpn(ANN, "up", "--proxy", "http://10.71.0.1:3128", more=(more,))
    assert tried.returncode == 4, tried.stderr


# systemd.


@contextlib.contextmanager
def listening(machine: Plain) -> Iterator[Callable[[], int]]:
    """Do what systemd does with the units; gives what tells the pid of the latest helper."""
    text = machine.host.sh(f"cat {units.SERVICE_UNIT}")
    command = next(line for line in text.splitlines() if line.startswith("ExecStart=")).removeprefix("ExecStart=")
    log = machine.host.home / "activation.log"
    with log.open("wb") as out:
        process = machine.host.start(
            "/usr/bin/python3", str(ACTIVATION), SOCKET, "proxyvpn", *command.split(), stdout=out, stderr=out
        )
    wait.for_line(log, "listening")
    try:
        yield lambda: int(re.findall(r"helper (\d+)", log.read_text())[-1])
    finally:
        end(process)


@pytest.fixture
def by_systemd(machine: Plain) -> Iterator[Plain]:
    done = machine.setup("--systemd")
    assert done.returncode == 0, done.stderr
    machine.join("ann")
    yield machine
    machine.setup("--uninstall")


def test_helper_by_socket_activation_is_somebody_else(
    by_systemd: Plain, bed: Rig, world: Internet, squid: RunningProxy
) -> None:
    assert by_systemd.host.run("test", "-e", LAUNCHER, check=False).returncode == 1, "no file has a capability"
    before = dump(bed.host)
    with listening(by_systemd) as latest:
        with by_systemd.up(ANN, "--proxy", squid.url4, "--killswitch", *DNS) as running:
            assert curl(bed.host, PAGE_URL).stdout == PAGE
            helper = status(latest())
            assert str(ANN) not in helper["Uid"].split()
            assert int(helper["CapEff"], 16) == 1 << 12 and int(helper["CapBnd"], 16) & ~(1 << 12) == 0
            assert by_systemd.run(ANN, "kill", "-9", str(latest())).returncode != 0
            assert by_systemd.proxyvpn(ANN, "status").returncode == 0
            kill(running.process.pid)
        assert by_systemd.proxyvpn(ANN, "status").returncode == 9, "locked, as with any helper"
        assert by_systemd.proxyvpn(ANN, "teardown").returncode == 0
        assert difference(before, dump(bed.host)) == ""
        assert by_systemd.proxyvpn(EVE, "up", "--proxy", squid.url4).returncode == 4
        with by_systemd.up(ANN, "--proxy", squid.url4, *DNS) as running:
            assert running.stop() == 0
    assert difference(before, dump(bed.host)) == ""


def test_helper_does_not_answer_through_a_socket_of_another_namespace(by_systemd: Plain, bed: Rig) -> None:
    ask = "import socket; s = socket.socket(1, 5); s.connect(__import__('sys').argv[1]); print(s.recv(99))"
    with listening(by_systemd):
        inside = f'nsenter --net=/proc/{bed.box.pid}/ns/net sh -c \'exec "$@"\' sh /usr/bin/python3 -c "$1" "$2"'
        done = by_systemd.host.run("sh", "-c", inside, "sh", ask, SOCKET, check=False)
    assert done.stdout == "b''\n", "it hangs up"


def test_units_are_correct_and_hardened(by_systemd: Plain, tmp_path: Path) -> None:
    for path in (units.SOCKET_UNIT, units.SERVICE_UNIT):
        (tmp_path / Path(path).name).write_text(by_systemd.host.sh('cat "$1"', path))
    names = [str(tmp_path / Path(path).name) for path in (units.SOCKET_UNIT, units.SERVICE_UNIT)]
    verified = by_systemd.host.run("systemd-analyze", "verify", "--man=no", *names, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    command = ("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", names[1])
    judged = by_systemd.host.run(*command, check=False)
    assert judged.returncode == 0, judged.stdout
