"""The stamp of an installed helper, pure: which proxyvpn it is of, and what each of its files holds.

    # proxyvpn 0.1.0, protocol 1
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  lib/proxyvpn/helper.py

It is in the format of sha256sum(1). Byte for byte the same stamp means the same helper.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

_HEAD: Final = re.compile(r"# proxyvpn (\S+), protocol (\d+)\n")
_LINE: Final = re.compile(r"([0-9a-f]{64})  (\S+)")


def of(files: Mapping[str, bytes], version: str, protocol: int) -> str:
    """Give the stamp of `files`, which are named relative to the installed tree."""
    sums = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return f"# proxyvpn {version}, protocol {protocol}\n" + "".join(sums)


def version(text: str) -> tuple[str, int] | None:
    """Give the version of proxyvpn and of its protocol; None when this is not a stamp."""
    found = _HEAD.match(text)
    return (found[1], int(found[2])) if found else None


def sums(text: str) -> dict[str, str]:
    """Give the SHA-256 of each file, by its name."""
    return {found[2]: found[1] for found in map(_LINE.fullmatch, text.splitlines()) if found}
