"""Rules of the house that no linter knows: which file may use what."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "python" / "proxyvpn"
RUST = ROOT / "rust"

PYTHON_FILES = {str(path.relative_to(PYTHON)): path for path in sorted(PYTHON.rglob("*.py"))}
RUST_FILES = {str(path.relative_to(RUST)): path for path in sorted(RUST.rglob("*.rs"))}

PURE = (
    *("plan.py", "tunnel.py", "ruleset.py", "chains.py", "proxy.py", "resolvers.py", "options.py", "report.py"),
    *("restarts.py", "figures.py", "schemes.py"),
    *("places.py", "stamp.py", "setup/contents.py", "setup/units.py", "setup/check.py"),
    *("messages.py", "mark.py", "errors.py"),
    *("config/keys.py", "config/merge.py", "config/show.py"),
)


def imports(path: Path) -> set[str]:
    """Give the top names of all that a Python file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def rust_code(path: Path) -> str:
    """Give a Rust file without its comments and without its tests."""
    text = path.read_text().split("#[cfg(test)]")[0]
    return re.sub(r"//[^\n]*", "", text)


@pytest.mark.parametrize("name", [name for name in PURE if name in PYTHON_FILES])
def test_pure_files_open_nothing(name: str) -> None:
    assert not imports(PYTHON_FILES[name]) & {"os", "subprocess", "socket", "select", "io", "pathlib", "threading"}


def test_pure_files_exist() -> None:
    assert {"plan.py", "proxy.py", "resolvers.py", "messages.py"} <= set(PYTHON_FILES)


@pytest.mark.parametrize(
    ("library", "doors"),
    [
        ("pyroute2", {"netlink.py", "tun.py"}),
        ("msgpack", {"messages.py"}),
        ("click", {"cli.py"}),
        ("nftables", {"firewall/nft.py"}),
        ("spnego", {"tokens.py"}),
        (
            "subprocess",
            {"children.py", "way.py", "password.py", "firewall/nft.py", "firewall/iptables.py", "setup/programs.py"},
        ),
    ],
)
def test_foreign_things_come_in_by_one_door(library: str, doors: set[str]) -> None:
    users = {name for name, path in PYTHON_FILES.items() if library in imports(path)}
    assert users <= doors


def test_only_the_worker_loads_the_data_plane() -> None:
    """import-linter sees no module that is not Python."""
    assert {name for name, path in PYTHON_FILES.items() if "_tunstack" in path.read_text()} == {"worker.py"}


def test_nothing_waits_by_sleeping() -> None:
    assert [name for name, path in PYTHON_FILES.items() if re.search(r"\bsleep\(", path.read_text())] == []


def test_only_the_door_knows_python() -> None:
    assert {name for name, path in RUST_FILES.items() if "pyo3" in rust_code(path)} <= {"lib.rs"}


def test_only_the_loop_waits() -> None:
    waits = re.compile(r"\b(epoll_p?wait2?|p?poll|p?select|sleep|nanosleep|usleep|park|wait_timeout|recv_timeout)\s*\(")
    users = {name for name, path in RUST_FILES.items() if waits.search(re.sub(r"\.poll\(", ".", rust_code(path)))}
    assert users <= {"worker.rs"}


@pytest.mark.parametrize("name", sorted(RUST_FILES))
def test_every_rust_file_says_what_it_is_for(name: str) -> None:
    assert RUST_FILES[name].read_text().startswith("//!")


@pytest.mark.parametrize("name", sorted(PYTHON_FILES))
def test_every_python_file_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(PYTHON_FILES[name].read_text()))
