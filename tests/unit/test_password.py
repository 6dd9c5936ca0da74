"""The proxy's password from a file, a credential or a command; no error tells it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from proxyvpn import password
from proxyvpn.errors import UsageError


def python(code: str) -> str:
    return f"'{sys.executable}' -c '{code}'"


def test_file_loses_one_line_end_only(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b" se cret \r\n")
    assert password.from_file(str(tmp_path / "p")) == " se cret "
    (tmp_path / "p").write_bytes(b"one\n\n")
    assert password.from_file(str(tmp_path / "p")) == "one\n"


def test_bad_files_are_refused_without_their_text(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"hunter2\xff")
    with pytest.raises(UsageError, match="not UTF-8") as caught:
        password.from_file(str(tmp_path / "p"))
    assert caught.value.__cause__ is None
    (tmp_path / "p").write_bytes(b"x" * (password.MAX_BYTES + 1))
    with pytest.raises(UsageError, match="longer than"):
        password.from_file(str(tmp_path / "p"))
    with pytest.raises(UsageError, match="cannot be read"):
        password.from_file(str(tmp_path / "nothing"))


def test_first_line_that_a_command_prints_is_the_password() -> None:
    assert password.from_command(python(r'print("s e:c\r\nuser: ann")')) == "s e:c"
    assert password.from_command("printf '%s' 'no end'") == "no end"


def test_no_shell_sees_the_command(tmp_path: Path) -> None:
    assert password.from_command("echo $HOME; true > x | cat") == "$HOME; true > x | cat"
    assert password.from_command("sh -c 'echo one | tr o O'") == "One"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "empty"),
        ("''", "empty"),
        ("echo 'hunter2", "quotation mark"),
        ("/nonexistent/hunter2", "cannot be started"),
        ("sh -c 'echo hunter2; exit 3'", "exit code 3"),
        ("sh -c 'echo hunter2; kill -9 $$'", "signal 9"),
        ("true", "printed no password"),
        ("echo", "printed no password"),
        (r"printf '\377hunter2'", "not UTF-8"),
        ("yes hunter2", "printed more than"),
        (python('print("hunter2" * 1000)'), "longer than"),
    ],
)
def test_command_that_gives_none_is_refused_without_its_words(command: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        password.from_command(command)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("command", ["sleep 60", "sh -c 'sleep 60 & exec >&-; wait'", "sh -c 'sleep 3 & echo early'"])
def test_command_that_does_not_end_is_ended(command: str) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"has not ended\nwithin 0\.3 seconds"):
        password.from_command(command, patience=0.3)
    assert time.monotonic() - began < 2


def test_only_the_program_of_a_command_is_said() -> None:
    assert password.program("pass show 'proxy x'") == "pass"
    assert password.program("echo 'hunter2") == ""


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd"])
def test_credential_is_a_name_and_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be one"):
        password.from_credential(name, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_credential_where_systemd_gave_none() -> None:
    assert not password.is_there({})
    with pytest.raises(UsageError, match="CREDENTIALS_DIRECTORY is not set"):
        password.from_credential("x", {})
