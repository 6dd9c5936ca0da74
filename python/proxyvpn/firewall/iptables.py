"""The fallback for a kernel without nf_tables: the iptables programs, only as root, since they refuse anybody else.

The chains are chains.py's. Each program is given text on its standard input and a fixed environment; nothing of a
caller's is in either. One load per family: iptables has no transaction over both, so the guard of one family stands a
few milliseconds before that of the other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from proxyvpn import chains
from proxyvpn.errors import KernelError, PrivilegeMissing
from proxyvpn.firewall.nft import PROGRAM_PATH
from proxyvpn.mark import CHAIN_PREFIX
from proxyvpn.plan import Connection, Host, Tunnel

_LIMIT: Final = 20.0
_TABLES: Final = ("mangle", "filter")
_COUNTED: Final = re.compile(r" \[\d+:\d+\]$")


@dataclass(frozen=True, slots=True)
class Programs:
    """The two programs of one IP version."""

    version: int
    save: str
    restore: str


class Iptables:
    """Our chains, by the programs of one kind (legacy, or whatever the system calls iptables)."""

    kind = "iptables"
    needs_root = True

    def __init__(self, programs: tuple[Programs, ...], way: str) -> None:
        self.way = way
        self._programs = programs
        for each in programs:
            _saved(each)

    def check(self) -> None:
        """Raise KernelError when somebody else has chains with our names."""
        for each in self._programs:
            for chain in chains.strangers(_saved(each)):
                program = "iptables" if each.version == 4 else "ip6tables"
                raise KernelError(
                    f"the {program} chain {chain} is somebody else's: nothing in it is ours",
                    "",
                    f"see `{program} -t {chain.replace(' ', ' -S ')}`",
                )

    def add(self, tunnel: Tunnel, host: Host) -> None:
        """Fill our chains, one commit a table; those that are there are refilled."""
        self.check()
        for each in self._programs:
            _restore(each, chains.load(tunnel, host, each.version, _saved(each)))

    def remove(self) -> None:
        """Remove our jumps and chains."""
        for each in self._programs:
            _restore(each, chains.removal(_saved(each)))

    def admit(self, connections: Iterable[Connection]) -> None:
        """Add to the chain of connections that came in before."""
        listed = tuple(connections)
        for each in self._programs:
            _restore(each, chains.admit(listed, each.version))

    def update(self, tunnel: Tunnel, host: Host) -> None:
        """Refill the chains but that of earlier connections."""
        for each in self._programs:
            _restore(each, chains.load(tunnel, host, each.version, _saved(each), keep_earlier=True))

    def present(self) -> tuple[str, ...]:
        """Give our chains, as a person would make them."""
        return tuple(
            f"{'iptables' if each.version == 4 else 'ip6tables'} -t {chain.replace(' ', ' -N ')}"
            for each in self._programs
            for chain in chains.present(_saved(each))
        )

    def locked(self) -> bool:
        """Say whether a closed guard is there, for any family."""
        return any(chains.locked(_saved(each)) for each in self._programs)

    def loaded(self) -> str:
        """Give our chains and the jumps into them; empty when some of ours are missing for a family."""
        found = [[line for line in _saved(each).splitlines() if CHAIN_PREFIX in line] for each in self._programs]
        return "\n".join(_COUNTED.sub("", line) for lines in found for line in lines) if all(found) else ""

    def dropped(self) -> int:
        """Give the packets that were stopped, of both families."""
        return sum(chains.dropped(_saved(each, "-c")) for each in self._programs)


def legacy() -> Iptables:
    """Give iptables-legacy, which does without nf_tables. Raises KernelError."""
    return _found("-legacy", "iptables-legacy")


def usual() -> Iptables:
    """Give what the system calls iptables. Raises KernelError."""
    return _found("", "iptables")


def _found(infix: str, way: str) -> Iptables:
    names = ["iptables", "ip6tables"] if os.path.exists("/proc/sys/net/ipv6") else ["iptables"]
    programs = tuple(
        Programs(6 if name.startswith("ip6") else 4, _path(f"{name}{infix}-save"), _path(f"{name}{infix}-restore"))
        for name in names
    )
    return Iptables(programs, way)


def _path(name: str) -> str:
    path = shutil.which(name, path=PROGRAM_PATH)
    if path is None:
        raise KernelError(f"there is no program {name}")
    return path


def _saved(programs: Programs, *more: str) -> str:
    return "".join(_run([programs.save, "-t", table, *more]) for table in _TABLES)


def _restore(programs: Programs, text: str) -> None:
    if text:
        _run([programs.restore, "--noflush", "--wait", "5"], text)


def _run(argv: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            env={"PATH": PROGRAM_PATH, "LC_ALL": "C"},
            timeout=_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{argv[0]} failed", str(error)) from error
    if done.returncode == 0:
        return done.stdout
    why = next((line.strip() for line in done.stderr.splitlines() if line.strip()), f"status {done.returncode}")
    if "Permission denied" in why or "you must be root" in why:
        raise PrivilegeMissing(f"{argv[0]} was not allowed", why)
    raise KernelError(f"{argv[0]} refused", why)
