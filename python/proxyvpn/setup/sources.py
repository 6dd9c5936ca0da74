"""Reads what `proxyvpn setup` copies, out of the Python that runs it: sources, nothing compiled, nothing of site."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Final

from proxyvpn.errors import ProxyvpnError
from proxyvpn.messages import VERSION
from proxyvpn.setup import contents

_WHOLE: Final = ("pyroute2", "msgpack")
_OURS: Final = Path(__file__).parents[1]
_LAUNCHER: Final = _OURS / "proxyvpn-helper"


def head() -> tuple[str, int]:
    """Give the version of proxyvpn, and of its protocol."""
    return importlib.metadata.version("proxyvpn"), VERSION


def tree(with_launcher: bool) -> dict[str, contents.File]:
    """Give all files to install. Raises ProxyvpnError when something is not there to be copied."""
    library = _helper()
    for name in _WHOLE:
        library |= _package(name)
    start = _OURS.joinpath("start.py").read_bytes()
    return contents.tree(library, start, launcher() if with_launcher else None, head())


def launcher() -> bytes:
    """Give the launcher that came with this proxyvpn. Raises ProxyvpnError when there is none."""
    try:
        return _LAUNCHER.read_bytes()
    except OSError as error:
        advice = "in a source tree: scripts/build.sh; or use the way without one: proxyvpn setup --systemd"
        raise ProxyvpnError("this proxyvpn came without its launcher", str(_LAUNCHER), advice) from error


def _helper() -> dict[str, bytes]:
    """Give the helper and those of our modules that it imports."""
    paths = {_dotted(path): path for path in sorted(_OURS.rglob("*.py"))}
    needed = contents.closure({name: path.read_text() for name, path in paths.items()}, "proxyvpn.helper")
    return {f"proxyvpn/{paths[name].relative_to(_OURS)}": paths[name].read_bytes() for name in needed}


def _dotted(path: Path) -> str:
    parts = path.relative_to(_OURS.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _package(name: str) -> dict[str, bytes]:
    """Give every Python source of a package; those of msgpack do without its compiled half."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ProxyvpnError(f"the Python package {name} is missing", "", "install proxyvpn again")
    folder = Path(spec.origin).parent
    return {f"{name}/{path.relative_to(folder)}": path.read_bytes() for path in sorted(folder.rglob("*.py"))}
