"""The state directory: who may use it, and what is read back from it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyvpn import state
from proxyvpn.errors import AlreadyUp, StateError
from proxyvpn.state import MAX_BYTES, Record, StateDir, decode, default_path

RECORD = Record(
    version=1,
    boot_id="b",
    netns=4026531840,
    pid=42,
    ifname="pvpn0",
    proxies=("http://ann:***@192.0.2.7:3128",),
    resolvers=("192.0.2.53",),
    bypass=(),
    killswitch=True,
    phase="engaged",
    steps=("ip -4 rule add pref 5200",),
    since=1,
)


def opened(path: Path) -> StateDir:
    found = StateDir.open(path, create=True)
    assert found is not None
    return found


def test_record_comes_back_as_it_was(tmp_path: Path) -> None:
    directory = opened(tmp_path / "s")
    assert directory.read() is None
    directory.write(RECORD)
    assert directory.read() == RECORD
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "s" / "state.json").stat().st_mode & 0o777 == 0o600


def test_second_holder_of_the_lock_is_refused(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "s"), opened(tmp_path / "s")
    first.lock()
    with pytest.raises(AlreadyUp):
        second.lock()
    first.close()
    second.lock()


def test_clear_leaves_an_empty_directory(tmp_path: Path) -> None:
    directory = opened(tmp_path / "s")
    directory.lock()
    directory.write(RECORD)
    directory.clear()
    directory.clear()
    directory.close()
    assert list((tmp_path / "s").iterdir()) == []


def test_missing_directory_is_none_unless_it_is_to_be_made(tmp_path: Path) -> None:
    assert StateDir.open(tmp_path / "s") is None
    assert StateDir.open(tmp_path / "s", create=True) is not None


def test_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(StateError):
        StateDir.open(tmp_path / "link", create=True)


@pytest.mark.parametrize("name", ["lock", "state.json", "state.json.new"])
def test_symlink_inside_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    directory = opened(tmp_path / "s")
    (tmp_path / "s" / name).symlink_to(victim)
    with pytest.raises(StateError):
        for act in (directory.lock, directory.read, lambda: directory.write(RECORD)):
            act()
    assert victim.read_text() == "precious"


def test_directory_open_to_others_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(0o755)
    with pytest.raises(StateError, match="0755"):
        StateDir.open(tmp_path / "s", create=True)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o755


def test_foreign_directory_is_refused(tmp_path: Path) -> None:
    foreign = Path("/")
    if os.geteuid() == 0:
        foreign = tmp_path
        os.chown(foreign, 12345, 12345)
    with pytest.raises(StateError, match="belongs to user"):
        StateDir.open(foreign, create=True)


def test_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(StateError):
        StateDir.open(tmp_path / "s", create=True)


def test_full_disk_leaves_the_old_record(tmp_path: Path) -> None:
    directory = opened(tmp_path / "s")
    directory.write(RECORD)
    (tmp_path / "s" / "state.json.new").symlink_to("/dev/full")  # not followed: the write fails like a full disk
    with pytest.raises(StateError):
        directory.write(replace(RECORD, pid=43))
    assert directory.read() == RECORD


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 60_000,
        json.dumps(asdict(RECORD)).encode() + b" " * MAX_BYTES,
        json.dumps({**asdict(RECORD), "more": 1}).encode(),
        json.dumps({**asdict(RECORD), "version": 2}).encode(),
        json.dumps({**asdict(RECORD), "version": True}).encode(),
        json.dumps({**asdict(RECORD), "pid": "42"}).encode(),
        json.dumps({**asdict(RECORD), "pid": -1}).encode(),
        json.dumps({**asdict(RECORD), "killswitch": 1}).encode(),
        json.dumps({**asdict(RECORD), "steps": "rm"}).encode(),
        json.dumps({**asdict(RECORD), "steps": ["\x1b]0;hello\x07"]}).encode(),
    ],
)
def test_corrupt_record_is_an_error_that_says_how_to_mend_it(tmp_path: Path, text: bytes) -> None:
    directory = opened(tmp_path / "s")
    (tmp_path / "s" / "state.json").write_bytes(text)
    with pytest.raises(StateError, match="proxyvpn teardown"):
        directory.read()


def test_fifo_in_place_of_the_record_does_not_hang(tmp_path: Path) -> None:
    directory = opened(tmp_path / "s")
    os.mkfifo(tmp_path / "s" / "state.json")
    with pytest.raises(StateError):
        directory.read()


@pytest.mark.parametrize("name", ["lock", "log", "state.json", "state.json.new"])
@pytest.mark.parametrize("planted", ["fifo", "hard link"])
def test_what_others_planted_is_refused_at_once(tmp_path: Path, name: str, planted: str) -> None:
    directory, victim = opened(tmp_path / "s"), tmp_path / "victim"
    victim.write_text("precious")
    if planted == "fifo":
        os.mkfifo(tmp_path / "s" / name)
    else:
        os.link(victim, tmp_path / "s" / name)
    act = {"lock": directory.lock, "log": directory.log, "state.json": directory.read}
    with pytest.raises(StateError):
        act.get(name, lambda: directory.write(RECORD))()
    assert victim.read_text() == "precious"


@given(st.binary())
def test_any_bytes_are_a_record_or_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_default_directory(tmp_path: Path) -> None:
    assert default_path(0, {"XDG_RUNTIME_DIR": "/nowhere"}) == Path("/run/proxyvpn")
    mine = os.geteuid() or 12345
    if os.geteuid():
        assert default_path(mine, {"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "proxyvpn"
    with pytest.raises(StateError, match="--state-dir"):
        default_path(mine, {"XDG_RUNTIME_DIR": str(tmp_path / "missing")})
    with pytest.raises(StateError):
        default_path(mine, {"XDG_RUNTIME_DIR": "relative"})


def test_record_has_no_room_for_credentials() -> None:
    assert not {"user", "password", "authorization"} & set(asdict(RECORD))
    assert state.RECORD == "state.json"
