"""The worker's sandbox from within: hostile code in the worker's place (captive.py) gets nowhere.

captive (in the sandbox) ---- its parent: servers at the proxy's port and at another, files, memory
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.netns import captive

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
