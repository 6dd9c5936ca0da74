"""The PEP 517 backend: maturin's, with the launcher built before and put beside the Python modules.

The launcher is data of the package, and not a script of the environment: without `proxyvpn setup` it is of no use to
anybody. It is linked statically where the C library's static half is installed, so that no loader runs before it.

    python scripts/backend.py      builds the launcher alone, for `maturin develop`, which knows no backend
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import maturin
from maturin import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_ROOT = Path(__file__).resolve().parents[1]
_NAME = "proxyvpn-helper"
_CARGO = ("cargo", "rustc", "--quiet", "--locked", "--release", "--bin", _NAME, "--")
_STATIC = ("-C", "target-feature=+crt-static")
_STRIP = ("-C", "strip=symbols")


def build_wheel(*arguments: Any, **named: Any) -> str:
    build_launcher()
    return str(maturin.build_wheel(*arguments, **named))


def build_editable(*arguments: Any, **named: Any) -> str:
    build_launcher()
    return str(maturin.build_editable(*arguments, **named))


def build_launcher() -> None:
    """Build it, statically if that is possible, and put it where the wheel and `proxyvpn setup` look for it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", _ROOT / "target"))
    if subprocess.run([*_CARGO, *_STRIP, *_STATIC], cwd=_ROOT, check=False).returncode != 0:
        subprocess.run([*_CARGO, *_STRIP], cwd=_ROOT, check=True)
    beside = _ROOT / "python" / "proxyvpn" / _NAME
    beside.unlink(missing_ok=True)
    shutil.copyfile(target / "release" / _NAME, beside)


if __name__ == "__main__":
    build_launcher()
