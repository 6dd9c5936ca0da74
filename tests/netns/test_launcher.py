"""The launcher and the helper that it starts, as a user of group proxyvpn attacks them (attacker.py).

In place of the helper's first lines lies a script that says as what it was started: in the tests' own /usr/local, so
that root, and nobody else, can put it there.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyvpn.places import LAUNCHER, PARENT, START, TREE
from tests.netns import plain
from tests.netns.plain import ANN, EVE, Plain
from tests.netns.proxies import RunningProxy
from tests.netns.rig import Rig

pytestmark = pytest.mark.privileged

ATTACKER = Path(__file__).with_name("attacker.py")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
SAID = f"/run/user/{ANN}/said"
COPY = f"/run/user/{ANN}/copy"
CONFESSION = (
    f"""
import json, os, resource, signal, sys
said = {SAID!r}
"""
    + """
fds = {fd: os.readlink("/proc/self/fd/" + fd) for fd in "0123456789" if os.path.lexists("/proc/self/fd/" + fd)}
more = len(os.listdir("/proc/self/fd")) - len(fds)
limits = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in "AS CORE DATA NOFILE STACK".split()}
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
mask = os.umask(0)
json.dump({
    "argv": sys.argv, "environment": dict(os.environ), "cwd": os.getcwd(), "umask": mask, "limits": limits,
    "fds": fds, "more": more,
    "path": sys.path, "flags": [sys.flags.isolated, sys.flags.no_site, sys.flags.dont_write_bytecode],
    "modules": sorted(sys.modules), "blocked": status["SigBlk"].strip(), "ignored": status["SigIgn"].strip(),
    "permitted": status["CapPrm"].strip(), "ambient": status["CapAmb"].strip(), "uid": os.getresuid(),
    "timer": signal.getitimer(signal.ITIMER_REAL),
}, open(said, "w"))
"""
)


@pytest.fixture(scope="module")
def machine(bed: Rig) -> Plain:
    made = plain.prepare(bed.host)
    assert made.setup().returncode == 0
    made.join("ann")
    bed.host.sh('cp "$1" /usr/local/lib/attacker.py; chmod 0644 /usr/local/lib/attacker.py', str(ATTACKER))
    return made


@pytest.fixture
def confessing(machine: Plain) -> Iterator[Plain]:
    """The machine with a start script that says as what it was started."""
    machine.host.sh('cp -p "$1" /usr/local/lib/start.py; printf "%s" "$2" > "$1"', START, CONFESSION)
    yield machine
    machine.host.sh('cp -p /usr/local/lib/start.py "$1"', START)


def attack(machine: Plain, uid: int = ANN, more: tuple[str, ...] = (), **how: Any) -> subprocess.CompletedProcess[str]:
    """Let a user start the launcher after all that `how` asks for."""
    how = {"program": LAUNCHER, "argv": [LAUNCHER], "env": {}, **how}
    command = (*machine.as_user(uid, *more), "/usr/bin/python3", "/usr/local/lib/attacker.py", "start", "-")
    return machine.host.run(*command, check=False, input=json.dumps(how))


def confession(machine: Plain, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Give what the script said, and check all that must be so however it was started."""
    assert (done.returncode, done.stderr) == (0, "")
    said: dict[str, Any] = json.loads(machine.host.sh('cat "$1"; rm "$1"', SAID))
    assert said["argv"] == [START] and said["environment"] == ENVIRONMENT
    assert said["cwd"] == "/" and said["umask"] == 0o077
    assert set(said["fds"]) == {"0", "1", "2"} and said["more"] <= 1, "one is that of the listing"
    assert said["flags"] == [1, 1, 1] and "site" not in said["modules"]
    assert all(path.startswith("/usr/lib/python3") for path in said["path"])
    assert said["limits"]["CORE"] == [0, 0] and said["limits"]["STACK"][0] == 8 << 20
    assert int(said["permitted"], 16) == int(said["ambient"], 16) == 1 << 12
    assert int(said["blocked"], 16) == 0 and said["timer"] == [0, 0]
    assert said["uid"] == [ANN] * 3
    return said


def test_helper_is_started_the_same_whoever_starts_it_how(confessing: Plain) -> None:
    said = confession(confessing, attack(confessing))
    ignored = {number for number in range(1, 65) if int(said["ignored"], 16) >> (number - 1) & 1}
    assert {1, 2, 13, 15} <= ignored <= {1, 2, 13, 15, 25}, "HUP, INT, PIPE, TERM; Python itself adds XFSZ"


@pytest.fixture(scope="module")
def trap(bed: Rig, machine: Plain) -> Path:
    """A folder of eve's kind of files, each of which leaves a mark when something of it is run."""
    folder = bed.home / "trap"
    folder.mkdir()
    source = folder / "trap.c"
    source.write_text(
        "#include <fcntl.h>\n#include <unistd.h>\n"
        f'__attribute__((constructor)) static void run(void) {{ close(open("{folder}/marks/native", 66, 0666)); }}\n'
        "unsigned la_version(unsigned v) { run(); return v; }\n"
        "int gconv_init(void *p) { run(); return 0; }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "trap.so"), str(source)], check=True)
    for name in ("libc.so.6", "libpython3.so", "TRAP.so"):
        (folder / name).write_bytes((folder / "trap.so").read_bytes())
    (folder / "gconv-modules").write_text("module TRAP// INTERNAL TRAP 1\nmodule UTF-8// INTERNAL TRAP 1\n")
    mark = f"open({str(folder / 'marks' / 'python')!r}, 'w')\n"
    for name in (
        "sitecustomize.py",
        "usercustomize.py",
        "startup.py",
        "os.py",
        "fcntl.py",
        "proxyvpn.py",
    ):
        (folder / name).write_text(mark)
    (folder / "evil.pth").write_text(f"import builtins; {mark}")
    (folder / "marks").mkdir()
    (folder / "marks").chmod(0o777)
    return folder


def traps(folder: Path) -> dict[str, str]:
    """Give every variable that makes some loader or interpreter run what is in a folder."""
    lib, here = str(folder / "trap.so"), str(folder)
    return {
        **dict.fromkeys(("LD_PRELOAD", "LD_AUDIT"), lib),
        **dict.fromkeys(("LD_LIBRARY_PATH", "LD_ORIGIN_PATH", "GCONV_PATH", "LOCPATH", "NLSPATH", "TMPDIR"), here),
        **{"LD_DEBUG": "all", "LD_BIND_NOW": "1", "LD_PROFILE": "libc.so.6", "MALLOC_CHECK_": "3", "MALLOC_TRACE": lib},
        **{"GLIBC_TUNABLES": "glibc.malloc.check=3", "RES_OPTIONS": "debug", "HOSTALIASES": lib, "LANG": "tr_TR.TRAP"},
        **dict.fromkeys(("PYTHONPATH", "PYTHONUSERBASE", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX", "HOME"), here),
        **{"PYTHONSTARTUP": f"{here}/startup.py", "PYTHONINSPECT": "1", "PYTHONBREAKPOINT": "startup.f"},
        **{
            "PYTHONWARNINGS": "error::startup.E",
            "PYTHONDEVMODE": "1",
            "PYTHONIOENCODING": "TRAP",
            "PYTHONVERBOSE": "2",
        },
        **{"PYTHONHOME": here, "PYTHONEXECUTABLE": f"{here}/python", "PYTHONSAFEPATH": "", "PYTHONNOUSERSITE": ""},
        **{"IFS": "x", "BASH_ENV": lib, "ENV": lib, "PATH": here, "RUST_BACKTRACE": "full", "RUST_MIN_STACK": "1"},
    }


def test_no_variable_reaches_the_helper(confessing: Plain, trap: Path) -> None:
    every = traps(trap)
    for name, value in every.items():
        confession(confessing, attack(confessing, env={name: value}, cwd=str(trap)))
    confession(confessing, attack(confessing, env=every, cwd=str(trap)))
    assert list((trap / "marks").iterdir()) == []


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_AUDIT", "PYTHONPATH"])
def test_the_same_variables_run_code_in_a_program_that_is_not_ours(machine: Plain, trap: Path, name: str) -> None:
    """The control: these traps do catch."""
    attack(machine, program="/usr/bin/python3", argv=["python3", "-c", "pass"], env={name: traps(trap)[name]})
    found = list((trap / "marks").iterdir())
    for mark in found:
        mark.unlink()
    assert found


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]], ids=str)
def test_closed_descriptors_are_opened_to_nothing(confessing: Plain, closed: list[int]) -> None:
    said = confession(confessing, attack(confessing, close=closed))
    assert all(said["fds"][str(number)] in ("/dev/null", "/dev/full") for number in closed)


def test_other_descriptors_are_closed(confessing: Plain) -> None:
    confession(confessing, attack(confessing, open=900))


def test_signals_and_timers_do_not_reach_the_helper(confessing: Plain) -> None:
    confession(confessing, attack(confessing, block=True, alarm=30.0))


@pytest.mark.parametrize("argv", [[], [""], ["-c", "import os"], ["x", "-m", "evil", "--", "-i"], ["x" * 100_000] * 10])
def test_no_argument_reaches_the_helper(confessing: Plain, argv: list[str]) -> None:
    confession(confessing, attack(confessing, argv=argv))


def test_a_huge_environment_is_no_trouble(confessing: Plain) -> None:
    confession(confessing, attack(confessing, env={f"X{number}": "x" * 100_000 for number in range(10)}))


@pytest.mark.parametrize("name", ["NOFILE", "AS", "DATA", "STACK", "FSIZE", "CPU"])
def test_soft_limits_are_raised(confessing: Plain, name: str) -> None:
    soft = {"NOFILE": 30, "AS": 64 << 20, "DATA": 64 << 20, "STACK": 1 << 20, "FSIZE": 0, "CPU": 1}[name]
    said = confession(confessing, attack(confessing, limits={name: (soft, -1 if name != "NOFILE" else 512)}))
    if name in said["limits"]:
        assert said["limits"][name][0] != soft


@pytest.mark.parametrize(
    ("name", "hard"), [("NOFILE", 30), ("AS", 128 << 20), ("DATA", 64 << 20), ("STACK", 512 << 10)]
)
def test_too_small_a_limit_is_named(confessing: Plain, name: str, hard: int) -> None:
    done = attack(confessing, limits={name: (hard, hard)})
    assert done.returncode == 4 and "the limit of" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "hard"),
    [
        ("NOFILE", 0),
        ("NOFILE", 3),
        ("AS", 0),
        ("AS", 1 << 20),
        ("AS", 4 << 20),
        ("DATA", 0),
        ("STACK", 0),
        ("STACK", 1 << 16),
    ],
)
def test_tiny_limits_end_it_before_the_helper_runs(confessing: Plain, name: str, hard: int) -> None:
    done = attack(confessing, limits={name: (hard, hard)})
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert confessing.host.run("test", "-e", SAID, check=False).returncode == 1


@pytest.mark.parametrize(
    ("do", "undo", "named"),
    [
        (f"chmod 0777 {PARENT}", f"chmod 0755 {PARENT}", f"{PARENT} can be written by others"),
        ("chmod g+w /usr/local", "chmod g-w /usr/local", "/usr/local can be written by others"),
        ("chmod 1777 /usr/local", "chmod 0755 /usr/local", "/usr/local can be written by others"),
        (f"chown ann {TREE}", f"chown root {TREE}", f"{TREE} does not belong to root"),
        (f"chmod o+w {TREE}/lib", f"chmod o-w {TREE}/lib", f"{TREE}/lib can be written by others"),
        (f"chown ann {START}", f"chown root {START}", f"{START} does not belong to root"),
        (
            f"chown ann {TREE}/lib/msgpack/ext.py",
            f"chown root {TREE}/lib/msgpack/ext.py",
            f"{TREE}/lib/msgpack/ext.py does not belong to root",
        ),
        (f"chmod g+w {TREE}/lib/proxyvpn/mark.py", f"chmod g-w {TREE}/lib/proxyvpn/mark.py", "mark.py can be written"),
        (
            f"mv {TREE}/lib /usr/local/lib/pv-lib; ln -s /usr/local/lib/pv-lib {TREE}/lib",
            f"rm {TREE}/lib; mv /usr/local/lib/pv-lib {TREE}/lib",
            "neither",
        ),
        (f"ln -s /etc/passwd {TREE}/lib/x.py", f"rm {TREE}/lib/x.py", "x.py is neither a file nor a directory"),
        (f"mkfifo {TREE}/lib/x.py", f"rm {TREE}/lib/x.py", "x.py is neither a file nor a directory"),
        (
            "cp /usr/bin/python3 /usr/local/lib/p; chown ann /usr/local/lib/p; "
            "mount --bind /usr/local/lib/p /usr/bin/python3",
            "umount /usr/bin/python3; rm /usr/local/lib/p",
            "does not belong to root",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_what_others_than_root_can_change_is_refused(confessing: Plain, do: str, undo: str, named: str) -> None:
    confessing.host.sh(do)
    try:
        done = attack(confessing)
    finally:
        confessing.host.sh(undo)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert named in done.stderr and done.stderr.count("\n") == 1
    confession(confessing, attack(confessing))


def test_a_link_in_the_path_is_followed_only_where_root_made_all_of_it(confessing: Plain) -> None:
    host = confessing.host
    host.sh(
        f"mkdir /usr/local/ann; chown ann /usr/local/ann; mv {PARENT} /usr/local/ann/; "
        f"ln -s /usr/local/ann/libexec {PARENT}"
    )
    try:
        refused = attack(confessing)
        host.sh("chown root /usr/local/ann")
        trusted = attack(confessing)
    finally:
        host.sh(f"rm {PARENT}; mv /usr/local/ann/libexec /usr/local/; rmdir /usr/local/ann")
    assert refused.returncode == 4 and "/usr/local/ann does not belong to root" in refused.stderr
    confession(confessing, trusted)


@pytest.mark.parametrize(
    ("more", "how", "named"),
    [
        (("--no-new-privs",), {}, "no_new_privs is set"),
        (("--bounding-set=-net_admin",), {}, "CAP_NET_ADMIN is not in the bounding set"),
        ((), {"trace": True}, "this process is being traced"),
        ((), {"program": COPY}, "the file has lost it"),
    ],
    ids=["no_new_privs", "bounding set", "traced", "copied"],
)
def test_missing_capability_is_explained(
    confessing: Plain, more: tuple[str, ...], how: dict[str, Any], named: str
) -> None:
    confessing.run(ANN, "cp", LAUNCHER, COPY)
    try:
        done = attack(confessing, more=more, **how)
    finally:
        confessing.host.sh(f"rm -f {COPY}")
    assert done.returncode == 4 and named in done.stderr, done.stderr
    assert done.stderr.startswith("proxyvpn-helper: no capability: ") and done.stderr.count("\n") == 1


def test_nosuid_mount_is_explained(confessing: Plain) -> None:
    confessing.host.sh("mount -o remount,nosuid /usr/local")
    try:
        done = attack(confessing)
    finally:
        confessing.host.sh("mount -o remount,suid /usr/local")
    assert done.returncode == 4 and "mounted nosuid" in done.stderr, done.stderr


def test_who_is_not_in_the_group_cannot_even_execute_it(machine: Plain) -> None:
    assert attack(machine, uid=EVE).returncode == 100 + 13  # EACCES


def test_user_cannot_get_at_the_helper_that_runs_for_them(machine: Plain, squid: RunningProxy) -> None:
    def probe(pid: int) -> dict[str, bool]:
        done = machine.run(ANN, "/usr/bin/python3", "/usr/local/lib/attacker.py", "probe", str(pid))
        return dict(json.loads(done.stdout))

    with machine.up(ANN, "--proxy", squid.url4, "--dns", "198.51.100.53") as running:
        own = machine.host.start(*machine.as_user(ANN), "sleep", "100")
        control = probe(own.pid)
        assert sum(control.values()) >= len(control) - 3, control
        found = probe(running.helper)
    assert {name for name, worked in found.items() if worked} == set()
