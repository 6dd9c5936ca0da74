"""nftables, by text: libnftables in this process, else the `nft` program (only as root: it must be able to).

A table with our name that is not ours (ruleset.is_ours) is neither filled nor removed: with one, nothing is loaded.
The text is ruleset.py's and nobody else's, never a caller's: libnftables would follow an `include` in it. The Python
module `nftables` is used where the system has it, else the same few calls of libnftables.so.1 (libnftables(3)).
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from proxyvpn import ruleset
from proxyvpn.errors import KernelError, PrivilegeMissing
from proxyvpn.mark import NFT_TABLE
from proxyvpn.plan import Connection, Host, Tunnel

PROGRAM_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_LIBRARY: Final = "libnftables.so.1"
_LIMIT: Final = 20.0
_SHOWN: Final = {"inet": "list chains inet", "arp": f"list table arp {NFT_TABLE}"}
"""What tells whose a table is; the whole of the first could hold thousands of elements."""
_COUNTED: Final = re.compile(r"packets \d+ bytes \d+")
_CHUNK: Final = 500
"""Elements that are added with one command."""

Run = Callable[[str], tuple[int, str, str]]
"""Text of commands -> exit status (0: all done, as one transaction), output, errors."""


class Nft:
    """The tables `inet proxyvpn` and `arp proxyvpn`."""

    kind = "nft"

    def __init__(self, run: Run, way: str, needs_root: bool) -> None:
        self._run = run
        self.way = way
        self.needs_root = needs_root
        self._do("list tables")

    def add(self, tunnel: Tunnel, host: Host) -> None:
        """Load the ruleset in one transaction; with tables of ours there, they are emptied and filled in it.

        A kernel that knows no time-outs for conntrack is asked again without them: only whether they can be loaded
        tells whether it does.
        """
        self.check()
        try:
            self._load(tunnel, host)
        except KernelError:
            self._load(tunnel, replace(host, timeouts=False))

    def _load(self, tunnel: Tunnel, host: Host) -> None:
        self._do(ruleset.take_over(tunnel, host) if self._kinds(ours=True) else ruleset.text(tunnel, host))

    def check(self) -> None:
        """Raise KernelError when somebody else has a table with our name."""
        for kind in self._kinds(ours=False):
            name = f"{kind} {NFT_TABLE}"
            raise KernelError(
                f"the nftables table {name} is somebody else's: it does not have our chains",
                "",
                f"see `nft list table {name}`",
            )

    def remove(self) -> None:
        """Delete our tables in one transaction."""
        if kinds := self._kinds(ours=True):
            self._do(ruleset.delete(kinds))

    def admit(self, connections: Iterable[Connection]) -> None:
        """Add to the sets of connections that came in before."""
        for name, values in ruleset.of_earlier(connections).items():
            for start in range(0, len(values), _CHUNK):
                self._do(ruleset.add(name, values[start : start + _CHUNK]))

    def update(self, tunnel: Tunnel, host: Host) -> None:
        """Replace the elements of the proxy and resolver sets in one transaction."""
        wanted = {**ruleset.of_proxies(tunnel.proxies), **ruleset.of_resolvers(tunnel.resolvers)}
        there = [name for name in wanted if host.ipv6 or not name.endswith("6")]
        self._do("".join(ruleset.replace(name, wanted[name]) for name in there))

    def present(self) -> tuple[str, ...]:
        """Give the tables of ours, as `nft add` would name them."""
        return tuple(f"nft add table {kind} {NFT_TABLE}" for kind in self._kinds(ours=True))

    def locked(self) -> bool:
        """Say whether our guard drops what it does not know."""
        if "inet" not in self._kinds(ours=True):
            return False
        status, output, _ = self._run(f"list chain inet {NFT_TABLE} guard")
        return status == 0 and "policy drop" in output

    def _kinds(self, ours: bool) -> tuple[str, ...]:
        """Give the families in which there is a table with our name that is ours, or is not."""
        listed = self._do("list tables").splitlines()
        there = [kind for kind in _SHOWN if f"table {kind} {NFT_TABLE}" in listed]
        return tuple(kind for kind in there if ruleset.is_ours(kind, self._do(_SHOWN[kind])) == ours)

    def loaded(self) -> str:
        """Give both tables as nft lists them, but for counters; empty when one of them is not there."""
        found = [self._run(f"list table {kind} {NFT_TABLE}") for kind in ("inet", "arp")]
        return "" if any(status for status, _, _ in found) else _COUNTED.sub("", "".join(each[1] for each in found))

    def dropped(self) -> int:
        """Give the packets of the counter `dropped`; 0 without a table."""
        status, output, _ = self._run(f"list counter inet {NFT_TABLE} dropped")
        found = re.search(r"packets (\d+)", output) if status == 0 else None
        return int(found[1]) if found else 0

    def _do(self, text: str) -> str:
        status, output, errors = self._run(text)
        if status == 0:
            return output
        first = next((line.strip() for line in errors.splitlines() if line.strip()), "no reason was given")
        if "Operation not permitted" in errors:
            raise PrivilegeMissing("nftables was not allowed", first)
        raise KernelError(f"nftables refused, by {self.way}", first, "is nf_tables built for this kernel, or loaded?")


def by_library() -> Nft:
    """Give nftables by libnftables. Raises KernelError, PrivilegeMissing."""
    return Nft(_module() or _Library(), "libnftables", needs_root=False)


def by_program() -> Nft:
    """Give nftables by the `nft` program. Raises KernelError."""
    path = shutil.which("nft", path=PROGRAM_PATH)
    if path is None:
        raise KernelError("there is no nft program")

    def run(text: str) -> tuple[int, str, str]:
        try:
            done = subprocess.run(
                [path, "-f", "-"],
                input=text,
                capture_output=True,
                text=True,
                env={"PATH": PROGRAM_PATH, "LC_ALL": "C"},
                timeout=_LIMIT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return 1, "", f"{path}: {error}"
        return done.returncode, done.stdout, done.stderr

    return Nft(run, "the nft program", needs_root=True)


def _module() -> Run | None:
    """Give the run of the system's own Python module; None when it has none."""
    with contextlib.suppress(Exception):  # absent, or without its library: the shim will say what is missing
        import nftables  # noqa: PLC0415

        there: Any = nftables.Nftables()

        def run(text: str) -> tuple[int, str, str]:
            status, output, errors = there.cmd(text)
            return int(status), str(output), str(errors)

        return run
    return None


class _Library:
    """libnftables(3), as far as it is needed: one context that keeps output and errors in memory."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise KernelError(f"there is no {_LIBRARY}") from error
        self._lib.nft_ctx_new.restype = ctypes.c_void_p
        self._lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(self._lib, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._lib, name).argtypes = [ctypes.c_void_p]
            getattr(self._lib, name).restype = ctypes.c_char_p
        self._lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._context = self._lib.nft_ctx_new(0)
        if not self._context:
            raise KernelError(f"{_LIBRARY} could not be started")
        if self._lib.nft_ctx_buffer_output(self._context) or self._lib.nft_ctx_buffer_error(self._context):
            raise KernelError(f"{_LIBRARY} has no memory for its output")

    def __call__(self, text: str) -> tuple[int, str, str]:
        status = self._lib.nft_run_cmd_from_buffer(self._context, text.encode("ascii"))
        output = self._lib.nft_ctx_get_output_buffer(self._context) or b""
        errors = self._lib.nft_ctx_get_error_buffer(self._context) or b""
        return int(status), output.decode("utf-8", "replace"), errors.decode("utf-8", "replace")
