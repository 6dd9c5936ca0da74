"""privilege.py as far as it goes without any: each test gives up in a child process of its own, and reads /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxyvpn import privilege

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbroken line\nlate:x:61184:61184::/:/bin/false\nplus:x:+61185:1::/:/bin/false\n"


def status_after(code: str) -> dict[str, str]:
    """Run `code` in a child and give its /proc/self/status."""
    program = f"from proxyvpn import privilege\n{code}\nprint(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)


def test_drop_all_leaves_no_capability_and_no_way_back() -> None:
    status = status_after("privilege.drop_all()")
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_keep_only_gains_nothing_that_was_not_there() -> None:
    before = status_after("")
    status = status_after("privilege.keep_only(range(41))")
    assert int(status["CapPrm"], 16) & ~int(before["CapPrm"], 16) == 0


def test_dropping_twice_is_no_error() -> None:
    status_after("privilege.drop_all(); privilege.drop_all()")


def test_process_is_not_dumpable_afterwards() -> None:
    code = "import ctypes; privilege.drop_all(); assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0"  # PR_GET_DUMPABLE
    status_after(code)


def test_process_with_threads_is_refused() -> None:
    code = (
        "import threading\n"
        "wait = threading.Event(); threading.Thread(target=wait.wait).start()\n"
        "try: privilege.drop_all()\n"
        "except privilege.PrivilegeMissing as error: assert 'threads' in error.why\n"
        "else: raise SystemExit('not refused')\n"
        "finally: wait.set()\n"
    )
    status_after(code)


def test_has_says_what_proc_says() -> None:
    permitted = int(status_after("")["CapPrm"], 16)
    for capability in (privilege.CAP_NET_ADMIN, privilege.CAP_NET_RAW, 38):
        assert privilege.has(capability) == bool(permitted >> capability & 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="somebody who is not root")
def test_who_is_not_root_stays_who_they_are() -> None:
    assert privilege.helper_uid() == 0
    assert status_after("privilege.drop_all(61184)")["Uid"].split()[0] == str(os.geteuid())


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody else")
def test_root_becomes_nobody_for_good() -> None:
    status = status_after("privilege.keep_only((privilege.CAP_NET_ADMIN,), 61190)")
    assert status["Uid"].split() == status["Gid"].split() == ["61190"] * 4
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 1 << privilege.CAP_NET_ADMIN
    assert int(status["CapBnd"], 16) == 0 and status["Groups"].strip() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone has a bounding set to keep")
def test_programs_get_what_was_kept_and_no_more() -> None:
    code = "privilege.keep_only((12, 13), programs=True)\nimport subprocess\n"
    code += "print(subprocess.run(['grep', 'Cap', '/proc/self/status'], capture_output=True, text=True).stdout)\n"
    code += "raise SystemExit"
    program = f"from proxyvpn import privilege\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {int(line.split()[1], 16) for line in done.stdout.splitlines() if line[3:6] in ("Prm", "Eff", "Bnd")} == {
        0x3000
    }


def test_free_uid_is_the_first_that_nobody_has() -> None:
    assert privilege.free_uid(PASSWD, ()) == 61185
    assert privilege.free_uid(PASSWD, {61185, 61186}) == 61187
    assert privilege.free_uid("", (), range(5, 7)) == 5
    assert privilege.free_uid(PASSWD, {61185}, range(61184, 61186)) == 0


def test_helper_uid_belongs_to_nobody() -> None:
    named = {line.split(":")[2] for line in Path("/etc/passwd").read_text().splitlines() if line.count(":") > 2}
    assert str(privilege.helper_uid() or "none") not in named
