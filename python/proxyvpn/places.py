"""Where `proxyvpn setup` puts things, for those that write them and those that look for them: names, nothing else.

The launcher has two of them as constants of its own (rust/launcher.rs), since nobody may tell it where to look.
"""

from __future__ import annotations

from typing import Final

PARENT: Final = "/usr/local/libexec"
TREE: Final = f"{PARENT}/proxyvpn"
"""All of it is root's, and nobody else can write to it."""
LAUNCHER: Final = f"{TREE}/proxyvpn-helper"
START: Final = f"{TREE}/start.py"
LIBRARY: Final = f"{TREE}/lib"
STAMP: Final = f"{TREE}/stamp"
"""The version, and the SHA-256 of every file that was installed."""
MADE: Final = f"{TREE}/made"
"""What else was made for it, so that it can be taken away."""
LOCK: Final = f"{TREE}/lock"
"""Held by every helper that runs from there; its group is the one that may use it."""
PYTHON: Final = "/usr/bin/python3"

GROUP: Final = "proxyvpn"
UNITS: Final = "/etc/systemd/system"
UNIT: Final = "proxyvpn-helper"
SOCKET: Final = "/run/proxyvpn-helper.socket"
