"""The command line as a person meets it: words on stderr, exit codes, and nothing in the kernel for bad input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxyvpn.errors import Exit
from proxyvpn.state import StateDir


def proxyvpn(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the real program, without any proxy variable but those given."""
    return subprocess.run(
        [sys.executable, "-m", "proxyvpn", *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        stdin=subprocess.DEVNULL,
    )


def lines(found: subprocess.CompletedProcess[str]) -> list[str]:
    return found.stderr.splitlines()


@pytest.mark.parametrize("command", [(), ("up",), ("status",), ("teardown",), ("down",), ("setup",)])
def test_help_is_on_stdout_and_short(command: tuple[str, ...]) -> None:
    found = proxyvpn(*command, "--help")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("Usage: proxyvpn")
    assert len(found.stdout.splitlines()) < 80


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Missing command"),
        (("fly",), "fly"),
        (("up", "--fly"), "--fly"),
        (("up",), "no proxy was given"),
        (("up", "--proxy", "socks5://proxy.example:3128"), "socks5://"),
        (("up", "--proxy", "socks5://proxy.example:1080"), "socks5://"),
        (("up", "--proxy", "http://192.0.2.7:0"), "1 to 65535"),
        (("up", "--proxy", "http://192.0.2.7:70000"), "70000"),
        (("up", "--proxy", "http://:3128"), "no host"),
        (("up", "--proxy", "http://0.0.0.0:3128"), "not the address of one machine"),
        (("up", "--proxy", "http://192.0.2.7", "--dns", "dns.example"), "--dns"),
        (("up", "--proxy", "http://192.0.2.7", "--bypass", "::/0"), "--bypass"),
        (("up", "--proxy", "http://192.0.2.7", "--proxy-password-file", "/nonexistent"), "cannot be read"),
        (("setup", "--check", "--uninstall"), "--uninstall"),
        (("setup", "--group", "Bad Name"), "Bad Name"),
    ],
)
def test_bad_usage_ends_with_2_and_at_most_three_lines(arguments: tuple[str, ...], says: str) -> None:
    found = proxyvpn(*arguments)
    assert found.returncode == Exit.USAGE
    assert says in found.stderr
    assert lines(found)[0].startswith("proxyvpn: ")
    assert all(line.startswith("  ") for line in lines(found)[1:])
    assert len(lines(found)) <= 3
    assert found.stdout == ""


def test_name_that_does_not_resolve_is_an_unreachable_proxy() -> None:
    found = proxyvpn("up", "--dry-run", "--proxy", "http://no-such-host.invalid:3128")
    assert found.returncode == Exit.PROXY_UNREACHABLE
    assert "does not resolve" in found.stderr


def test_password_is_never_repeated() -> None:
    found = proxyvpn("up", "--proxy", "http://ann:hunter2@192.0.2.7:99999")
    assert "hunter2" not in found.stderr + found.stdout
    dry = proxyvpn("up", "--dry-run", PROXYVPN_PROXY="http://ann:hunter2@192.0.2.7:3128")
    assert dry.returncode == 0
    assert "hunter2" not in dry.stderr + dry.stdout


def test_dry_run_needs_no_reachable_proxy_and_makes_no_state(tmp_path: Path) -> None:
    state = tmp_path / "s"
    found = proxyvpn("up", "--dry-run", "--killswitch", "--proxy", "http://192.0.2.7", "--state-dir", str(state))
    assert found.returncode == 0
    assert "ip -4 rule add pref 5200 fwmark 0x70767076/0xffffffff lookup 28790 protocol 118" in found.stdout
    assert "policy drop" in found.stdout
    assert not state.exists()


def test_second_up_on_a_state_directory_ends_with_7(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "s", create=True)
    assert state is not None
    state.lock()
    found = proxyvpn("up", "--proxy", "http://192.0.2.7:3128", "--state-dir", str(state.path))
    assert found.returncode == Exit.ALREADY_UP
    assert "already up" in found.stderr
    state.close()


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_corrupt_state_ends_with_1_and_says_what_mends_it(tmp_path: Path, detach: tuple[str, ...]) -> None:
    state = StateDir.open(tmp_path / "s", create=True)
    assert state is not None
    (state.path / "state.json").write_text("{")
    found = proxyvpn("up", *detach, "--proxy", "http://192.0.2.7:3128", "--state-dir", str(state.path))
    assert found.returncode == Exit.ERROR
    assert "proxyvpn teardown" in found.stderr
    assert (state.path / "log").exists() == bool(detach)
    state.close()


def test_symlinked_state_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to("real")
    found = proxyvpn("up", "--proxy", "http://192.0.2.7:3128", "--state-dir", str(tmp_path / "link"))
    assert found.returncode == Exit.ERROR
    assert "symbolic link" in found.stderr


def test_state_path_under_a_missing_directory_is_refused(tmp_path: Path) -> None:
    found = proxyvpn("up", "--proxy", "http://192.0.2.7:3128", "--state-dir", str(tmp_path / "no" / "s"))
    assert found.returncode == Exit.ERROR
    assert "state directory" in found.stderr


def test_no_colour_where_there_is_no_terminal() -> None:
    assert "\x1b" not in proxyvpn("up").stderr


def test_version() -> None:
    assert proxyvpn("--version").stdout.startswith("proxyvpn 0.")


def test_start_of_the_command_line_imports_little() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import sys, proxyvpn.cli; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"msgpack", "pyroute2", "proxyvpn.app", "proxyvpn._tunstack"} & set(found.stdout.split())


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_descriptors_are_not_taken_for_files_of_ours(tmp_path: Path, closed: str) -> None:
    (tmp_path / "s").mkdir(0o700)
    (tmp_path / "s" / "state.json").write_text("{")
    command = [sys.executable, "-m", "proxyvpn", "up", "--detach", "--proxy", "http://192.0.2.7:3128"]
    script = f'exec "$@" {closed}'
    found = subprocess.run(
        ["sh", "-c", script, "sh", *command, "--state-dir", str(tmp_path / "s")],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert found.returncode == Exit.ERROR
    assert "should not have happened" not in found.stderr
    assert "state.json cannot be read" in (tmp_path / "s" / "log").read_text()
    assert (tmp_path / "s" / "state.json").read_text() == "{"
