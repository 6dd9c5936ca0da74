"""What `proxyvpn setup` installs and what `--check` says, as far as it is pure."""

from __future__ import annotations

import hashlib
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from proxyvpn import places, stamp
from proxyvpn.errors import UsageError
from proxyvpn.places import LAUNCHER, LOCK, PARENT, PYTHON, START, TREE
from proxyvpn.setup import contents, sources, units
from proxyvpn.setup.check import Facts, Seen, findings, first_problem
from proxyvpn.setup.contents import CAPABILITY, Made, closure, known, made

ROOT = Path(__file__).parents[2]
GROUP = 995
FILE, FOLDER, LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK

# What is installed.


def test_the_helper_needs_exactly_what_it_then_imports() -> None:
    program = (
        "import sys, proxyvpn.helper, proxyvpn.kernel; "
        "print(*(name for name in sys.modules if name.split('.')[0] == 'proxyvpn'))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    paths = {name for name in sources.tree(with_launcher=False) if name.startswith("lib/proxyvpn/")}
    named = {
        name.removeprefix("lib/").removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in paths
    }
    assert named == set(done.stdout.split())


def test_only_sources_are_copied_and_nothing_of_site() -> None:
    files = sources.tree(with_launcher=False)
    tops = {name.split("/")[1] for name in files if name.startswith("lib/")}
    assert tops == {"proxyvpn", "pyroute2", "msgpack"}
    assert all(name.endswith(".py") for name in files if name.startswith("lib/"))


def test_closure_follows_imports_wherever_they_stand() -> None:
    texts = {
        "p": "",
        "p.a": "import os\nfrom p import b\n",
        "p.b": "def f():\n    from p.deep.c import x\n",
        "p.deep": "import p.e\n",
        "p.deep.c": "x = 1\n",
        "p.e": "import p.a\n",
        "p.unused": "import p.b\n",
    }
    assert closure(texts, "p.a") == set(texts) - {"p.unused"}
    assert closure(texts, "p.deep.c") == {"p", "p.a", "p.b", "p.deep", "p.deep.c", "p.e"}


def test_capability_is_what_setcap_writes_for_cap_net_admin_p() -> None:
    assert CAPABILITY.hex() == "0000000200100000000000000000000000000000"


@pytest.mark.parametrize("value", [Made(), Made(("proxyvpn",)), Made(("a", "b-c"), True), Made((), True)])
def test_what_was_made_can_be_read_again(value: Made) -> None:
    assert made(value.text()) == value


@pytest.mark.parametrize("line", ["group ../x", "group ", "group a b", "directory /etc", "rm -rf /", "GROUP x"])
def test_what_was_made_is_never_something_else(line: str) -> None:
    assert made(f"{line}\n") == Made()


@pytest.mark.parametrize("name", ["", "-x", "Upper", "a b", "a:b", "a\n", "1st", "x" * 33, "ä"])
def test_impossible_names_of_groups_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        contents.checked_group(name)


@pytest.mark.parametrize("name", ["proxyvpn", "_net", "a-1", "x" * 32])
def test_possible_names_of_groups_are_not(name: str) -> None:
    assert contents.checked_group(name) == name


def test_modes_and_groups_of_what_is_installed() -> None:
    files = contents.tree({"a/b.py": b"x"}, b"start", b"elf", ("1.2", 3))
    assert {name: (file.mode, file.group) for name, file in files.items()} == {
        "lib/a/b.py": (0o644, False),
        "start.py": (0o644, False),
        "proxyvpn-helper": (0o750, True),
        "stamp": (0o644, False),
        "lock": (0o640, True),
    }
    assert "proxyvpn-helper" not in contents.tree({}, b"", None, ("1.2", 3))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("lib/a.py", True),
        ("lib/__pycache__/a.cpython-311.pyc", True),
        ("lib/__pycache__/b.cpython-311.pyc", False),
        ("lib/__pycache__/a.cpython-311.opt-1.pyc", False),
        ("lib/a.pyc", False),
        ("stamp", True),
        ("lock", True),
        ("made", True),
        ("lib/stamp", False),
    ],
)
def test_what_is_ours_in_the_tree(name: str, ours: bool) -> None:
    assert known(name, ["lib/a.py"]) is ours


def test_stamp_has_the_sum_of_every_file() -> None:
    text = stamp.of({"b": b"2", "a": b"1"}, "1.2.3", 7)
    assert stamp.version(text) == ("1.2.3", 7)
    assert stamp.sums(text) == {"a": hashlib.sha256(b"1").hexdigest(), "b": hashlib.sha256(b"2").hexdigest()}
    assert text == stamp.of({"a": b"1", "b": b"2"}, "1.2.3", 7)


@pytest.mark.parametrize(
    "text", ["", "\n", "# proxyvpn 1.2", "# proxyvpn 1.2, protocol x\n", "x\n# proxyvpn 1, protocol 1\n"]
)
def test_what_is_no_stamp_is_of_no_version(text: str) -> None:
    assert stamp.version(text) is None


def test_launcher_and_units_look_where_setup_puts_things() -> None:
    rust = (ROOT / "rust" / "launcher.rs").read_text()
    assert f'const TREE: &str = "{TREE}";' in rust and f'const PYTHON: &str = "{PYTHON}";' in rust
    arguments = re.search(r"const ARGUMENTS[^=]*= \[(.*)\];", rust)
    assert arguments
    assert re.findall(r'c"([^"]*)"', arguments[1]) == [PYTHON, "-I", "-S", "-B", START]
    assert f"ExecStart={PYTHON} -I -S -B {START}\n" in units.texts("x")[units.SERVICE_UNIT]
    assert all(
        path.startswith(f"{TREE}/") for path in (LAUNCHER, LOCK, START, places.STAMP, places.MADE, places.LIBRARY)
    )


def test_units_are_known_as_ours() -> None:
    texts = units.texts("netops")
    assert all(units.ours(text) for text in texts.values()) and not units.ours("[Unit]\n")
    assert "SocketGroup=netops\n" in texts[units.SOCKET_UNIT] and "SocketMode=0660\n" in texts[units.SOCKET_UNIT]
    assert "SupplementaryGroups=netops\n" in texts[units.SERVICE_UNIT]


# What --check says.

WANTED = stamp.of({"start.py": b"start", "proxyvpn-helper": b"elf"}, "1.0", 1)
SUMS = stamp.sums(WANTED)
WAYS = tuple(Seen(path, 0, 0, FOLDER | 0o755) for path in ("/", "/usr", "/usr/local", PARENT, TREE))
FILES = (
    Seen(START, 0, 0, FILE | 0o644, SUMS["start.py"]),
    Seen(LAUNCHER, 0, GROUP, FILE | 0o750, SUMS["proxyvpn-helper"]),
    Seen(LOCK, 0, GROUP, FILE | 0o640),
    Seen(f"{TREE}/stamp", 0, 0, FILE | 0o644),
)
GOOD = Facts(
    wanted=WANTED,
    installed=WANTED,
    ways=WAYS,
    files=FILES,
    capability=CAPABILITY,
    python=(3, 11),
    tun=stat.S_IFCHR | 0o666,
    user="ann",
    group=GROUP,
    group_name="proxyvpn",
    member=True,
    in_session=True,
)
UNITS = {"/etc/a.socket": "one", "/etc/b.service": "two"}
STAMP_WITHOUT = stamp.of({"start.py": b"start"}, "1.0", 1)
SYSTEMD = replace(
    GOOD,
    wanted=STAMP_WITHOUT,
    installed=STAMP_WITHOUT,
    files=tuple(seen for seen in FILES if seen.path != LAUNCHER),
    capability=b"",
    units=UNITS,
    wanted_units=UNITS,
    listening=True,
)


def with_file(seen: Seen) -> tuple[Seen, ...]:
    """Give the files with one more, or one replaced."""
    return (*(each for each in FILES if each.path != seen.path), seen)


@pytest.mark.parametrize("facts", [GOOD, SYSTEMD, replace(GOOD, user="", member=False, in_session=False)])
def test_what_is_well_has_no_finding(facts: Facts) -> None:
    assert findings(facts) == ()


def test_files_that_cannot_be_read_are_not_called_changed() -> None:
    assert findings(replace(GOOD, files=with_file(Seen(LAUNCHER, 0, GROUP, FILE | 0o750)))) == ()


ROWS: Mapping[str, tuple[Facts, str, str]] = {
    "nothing installed": (replace(GOOD, installed=""), "nothing is installed", "sudo proxyvpn setup"),
    "older version": (
        replace(GOOD, installed=WANTED.replace("1.0", "0.9")),
        "version 0.9 (protocol 1), this proxyvpn 1.0",
        "sudo proxyvpn setup",
    ),
    "same version, other code": (
        replace(GOOD, wanted=stamp.of({"start.py": b"new", "proxyvpn-helper": b"elf"}, "1.0", 1)),
        "not the one of this proxyvpn",
        "sudo proxyvpn setup",
    ),
    "no stamp that can be read": (replace(GOOD, installed="x"), "version unknown", "sudo proxyvpn setup"),
    "lost capability": (replace(GOOD, capability=b""), "has lost its capability", "sudo proxyvpn setup"),
    "other capability": (replace(GOOD, capability=b"\1"), "another capability", "sudo proxyvpn setup"),
    "launcher for everybody": (
        replace(GOOD, files=with_file(Seen(LAUNCHER, 0, GROUP, FILE | 0o755, SUMS["proxyvpn-helper"]))),
        "0750",
        "sudo proxyvpn setup",
    ),
    "launcher of another group": (
        replace(GOOD, files=with_file(Seen(LAUNCHER, 0, 7, FILE | 0o750, SUMS["proxyvpn-helper"]))),
        "0750",
        "sudo proxyvpn setup",
    ),
    "launcher of a user": (
        replace(GOOD, files=with_file(Seen(LAUNCHER, 1000, GROUP, FILE | 0o750, SUMS["proxyvpn-helper"]))),
        "does not belong to root",
        "sudo proxyvpn setup",
    ),
    "missing file": (replace(GOOD, files=FILES[1:]), f"{START} is missing", "sudo proxyvpn setup"),
    "missing lock": (
        replace(GOOD, files=tuple(seen for seen in FILES if seen.path != LOCK)),
        f"{LOCK} is missing",
        "sudo proxyvpn setup",
    ),
    "changed file": (
        replace(GOOD, files=with_file(Seen(START, 0, 0, FILE | 0o644, "0" * 64))),
        f"{START} was changed",
        "sudo proxyvpn setup",
    ),
    "file for others to write": (
        replace(GOOD, files=with_file(Seen(START, 0, 0, FILE | 0o664, SUMS["start.py"]))),
        "written by others",
        "sudo proxyvpn setup",
    ),
    "foreign file": (
        replace(GOOD, files=with_file(Seen(f"{TREE}/lib/x.pth", 0, 0, FILE | 0o644))),
        "x.pth was not installed by",
        "sudo proxyvpn setup",
    ),
    "link": (
        replace(GOOD, files=with_file(Seen(f"{TREE}/start.py.x", 0, 0, LINK | 0o777))),
        "was not installed by",
        "sudo proxyvpn setup",
    ),
    "parent for others to write": (
        replace(GOOD, ways=(*WAYS[:2], Seen("/usr/local", 0, 50, FOLDER | 0o2775))),
        "/usr/local can be written by others",
        "chmod go-w /usr/local",
    ),
    "python of a user": (
        replace(GOOD, ways=(*WAYS, Seen("/usr/bin/python3", 1000, 0, FILE | 0o755))),
        "/usr/bin/python3 does not belong to root",
        "chown root /usr/bin/python3",
    ),
    "no python": (replace(GOOD, python=None), f"{PYTHON} does not run", "3.11"),
    "old python": (replace(GOOD, python=(3, 9)), f"{PYTHON} is 3.9", "3.11"),
    "nosuid": (replace(GOOD, nosuid=True), "mounted nosuid", "--systemd"),
    "no_new_privs": (replace(GOOD, no_new_privs=True), "no_new_privs is set", "--systemd"),
    "bounding set": (replace(GOOD, bounded=True), "bounding set", "--cap-add NET_ADMIN"),
    "no tun": (replace(GOOD, tun=None), "there is no /dev/net/tun", "modprobe tun"),
    "tun for root only": (replace(GOOD, tun=stat.S_IFCHR | 0o600), "the mode 0600", "chmod 0666 /dev/net/tun"),
    "not in the group": (
        replace(GOOD, member=False, in_session=False),
        "user ann is not in group proxyvpn",
        "sudo usermod -aG proxyvpn ann",
    ),
    "old login": (replace(GOOD, in_session=False), "this login does not know yet", "log in anew"),
    "nothing listens": (replace(SYSTEMD, listening=False), "nothing listens", "systemctl enable --now"),
    "missing unit": (
        replace(SYSTEMD, units={"/etc/a.socket": "one"}),
        "/etc/b.service is missing",
        "sudo proxyvpn setup --systemd",
    ),
    "other unit": (
        replace(SYSTEMD, units={**UNITS, "/etc/a.socket": "1"}),
        "/etc/a.socket is not the one of this proxyvpn",
        "sudo proxyvpn setup --systemd",
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_fault_has_a_finding_and_a_way_to_mend_it(row: tuple[Facts, str, str]) -> None:
    facts, what, mend = row
    found = findings(facts)
    assert any(what in each.what and mend in each.mend for each in found), found
    assert all("\n" not in each.what + each.mend for each in found)


@pytest.mark.parametrize("name", ["nosuid", "no_new_privs", "bounding set"])
def test_what_counts_for_files_with_capabilities_does_not_for_systemd(name: str) -> None:
    facts = ROWS[name][0]
    assert findings(replace(SYSTEMD, nosuid=facts.nosuid, no_new_privs=facts.no_new_privs, bounded=facts.bounded)) == ()


def test_first_problem_on_a_way() -> None:
    assert first_problem(WAYS) == ""
    assert first_problem((*WAYS, Seen("/l", 0, 0, LINK | 0o777))) == ""
    assert first_problem((*WAYS, Seen("/l", 1, 0, LINK | 0o777))) == "/l does not belong to root"
    assert first_problem((*WAYS, Seen("/tmp", 0, 0, FOLDER | 0o1777))) == "/tmp can be written by others than root"
