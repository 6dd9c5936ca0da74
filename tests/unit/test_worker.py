"""The worker's Python side: the order in which it gives things up, and what ends it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from proxyvpn import worker
from proxyvpn.channel import Channel
from proxyvpn.children import Worker
from proxyvpn.errors import Exit, ProxyvpnError
from proxyvpn.messages import (
    Carry,
    Carrying,
    Count,
    Counters,
    Down,
    Grant,
    Message,
    Outcome,
    Refused,
    Replace,
    Replaced,
    Standing,
    Start,
    Tried,
    Try,
    Upstream,
    Wish,
)
from proxyvpn.plan import Endpoint

START = Start(
    (
        Upstream(Endpoint(ip_address("192.0.2.7"), 3128), "proxy.example", user="ann", password=b"hunter2"),
        Upstream(Endpoint(ip_address("2001:db8::7"), 80), "2001:db8::7"),
    ),
    uid=65519,
    files=("names",),
    ports=(80, 8080),
)


@dataclass
class FakeStack:
    """Notes and counters without packets."""

    waiting: list[str] = field(default_factory=list)
    stopped: bool = False
    crashed: bool = False
    replaced: list[Upstream] = field(default_factory=list)
    wanted: list[tuple[int, str, bytes]] = field(default_factory=list)
    granted: list[tuple[int, bytes, str, bool]] = field(default_factory=list)
    carried: int = 0
    outcomes: list[tuple[int, str, str]] | None = None

    def __post_init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._event

    def tell(self, note: str) -> None:
        self.waiting.append(note)
        os.eventfd_write(self._event, 1)

    def crash(self) -> None:
        self.crashed = True
        os.eventfd_write(self._event, 1)

    def notes(self) -> list[str]:
        os.eventfd_read(self._event)
        if self.crashed:
            raise RuntimeError("thread 0 has ended")
        taken, self.waiting = self.waiting, []
        return taken

    def counters(self) -> dict[str, int]:
        return {"flows_open_now": 3}

    def standings(self) -> list[tuple[str, int, str, int, dict[str, int]]]:
        return [("192.0.2.7", 3128, "down", 9, {"connects": 4})]

    def attempt(self, target: tuple[str, int] | None, /) -> None:
        self.outcomes = [(0, "ok", str(target))]
        os.eventfd_write(self._event, 1)

    def tried(self) -> list[tuple[int, str, str]] | None:
        taken, self.outcomes = self.outcomes, None
        return taken

    def carry(self, queues: Sequence[int], /) -> None:
        self.carried = len(queues)

    def want(self, *wishes: tuple[int, str, bytes]) -> None:
        self.wanted += wishes
        os.eventfd_write(self._event, 1)

    def wishes(self, most: int, /) -> list[tuple[int, str, bytes]]:
        taken, self.wanted = self.wanted[:most], self.wanted[most:]
        return taken

    def grant(self, number: int, content: bytes, refusal: str, fd: int, /) -> None:
        self.granted.append((number, content, refusal, fd >= 0))
        if fd >= 0:
            os.close(fd)

    def replace(self, upstreams: Sequence[Upstream], /) -> None:
        self.replaced = list(upstreams)

    def stop(self) -> None:
        self.stopped = True


class Running:
    """serve() in a thread, with parts that write down what is done."""

    def __init__(self, fail: dict[str, Exception] | None = None) -> None:
        self.channel, theirs = Channel.pair()
        self.done: list[str] = []
        self.said: list[str] = []
        self.heard = threading.Event()
        self.stack = FakeStack()
        self.fail = fail or {}
        self.code: Exit | None = None
        self._theirs = Channel(theirs)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.code = worker.serve(self._theirs, worker.Parts(self._drop, self._sandbox, self._stack, self._say))
        self._theirs.close()

    def _did(self, what: str) -> None:
        self.done.append(what)
        if what.split(maxsplit=1)[0] in self.fail:
            raise self.fail[what.split(maxsplit=1)[0]]

    def _drop(self, uid: int) -> None:
        self._did(f"drop {uid}")

    def _sandbox(self, ports: Sequence[int]) -> list[str]:
        self._did(f"sandbox {ports}")
        return ["no Landlock"]

    def _stack(self, start: Start, files: Mapping[str, int]) -> FakeStack:
        self._did(f"stack {start.upstreams[0].name} {list(files)}")
        return self.stack

    def _say(self, line: str) -> None:
        self.said.append(line)
        self.heard.set()

    def start(self) -> Message:
        with open("/dev/null", "rb") as queue:
            self.channel.send(START, (queue.fileno(),))
        return self.answer()

    def carry(self) -> Message:
        with open("/dev/null", "rb") as queue:
            self.channel.send(Carry(), (queue.fileno(),))
        return self.answer()

    def answer(self) -> Message:
        received = self.channel.receive()
        assert received is not None
        return received.message

    def end(self) -> Exit | None:
        self.channel.close()
        self._thread.join(5)
        return self.code


def test_privilege_goes_before_the_sandbox_and_both_before_the_first_packet() -> None:
    running = Running()
    assert running.start().sandbox == ("no Landlock",)  # type: ignore[union-attr]
    assert [step.split()[0] for step in running.done] == ["drop", "sandbox", "stack"]
    assert running.done[:2] == ["drop 65519", "sandbox [80, 3128, 8080]"]
    assert running.done[2] == "stack proxy.example ['names']"
    assert (running.carry(), running.stack.carried) == (Carrying(), 1)
    assert running.end() is Exit.OK


def test_end_of_file_stops_the_stack() -> None:
    running = Running()
    running.start()
    assert running.end() is Exit.OK
    assert running.stack.stopped


def test_end_of_file_before_start_ends_quietly() -> None:
    running = Running()
    assert running.end() is Exit.OK
    assert (running.done, running.said) == ([], [])


def test_counters_are_given_when_asked() -> None:
    running = Running()
    running.start()
    running.channel.send(Count())
    standing = Standing(Endpoint(ip_address("192.0.2.7"), 3128), "down", 9, {"connects": 4})
    assert running.answer() == Counters({"flows_open_now": 3}, (standing,))
    assert running.end() is Exit.OK


def test_other_proxies_are_handed_to_the_stack() -> None:
    running = Running()
    running.start()
    others = (Upstream(Endpoint(ip_address("192.0.2.8"), 3128), "other.example"),)
    running.channel.send(Replace(others))
    assert running.answer() == Replaced()
    assert running.stack.replaced == list(others)
    assert running.end() is Exit.OK


def test_trial_is_told_when_it_is_over() -> None:
    running = Running()
    running.start()
    running.channel.send(Try("a.example", 443))
    assert running.answer() == Tried((Outcome(0, "ok", "('a.example', 443)"),))
    assert running.end() is Exit.OK


def test_wishes_go_out_and_grants_come_in() -> None:
    running = Running()
    running.start()
    running.stack.want((7, "direct", b"x"))
    assert running.answer() == Wish(7, "direct", b"x")
    with open("/dev/null", "rb") as file:
        running.channel.send(Grant(7, b"y"), (file.fileno(),))
    running.stack.want((8, "token", b""))
    assert running.answer() == Wish(8, "token", b"")
    running.channel.send(Grant(8, refusal="no ticket"))
    running.channel.send(Count())
    running.answer()
    assert running.stack.granted == [(7, b"y", "", True), (8, b"", "no ticket", False)]
    assert running.end() is Exit.OK


def test_more_wishes_wait_until_others_are_granted() -> None:
    running = Running()
    running.start()
    running.stack.want(*((number, "token", b"") for number in range(worker.MOST_WISHES + 1)))
    heard = [running.answer() for _ in range(worker.MOST_WISHES)]
    running.channel.send(Count())
    assert isinstance(running.answer(), Counters), "nothing more before a grant"
    running.channel.send(Grant(0))
    assert [*heard, running.answer()] == [Wish(number, "token", b"") for number in range(worker.MOST_WISHES + 1)]
    assert running.end() is Exit.OK


def test_descriptors_come_with_queues_and_grants_only() -> None:
    running = Running()
    running.start()
    with open("/dev/null", "rb") as file:
        running.channel.send(Count(), (file.fileno(),))
    assert running.channel.receive() is None
    assert running.end() is Exit.ERROR


def test_notes_become_lines() -> None:
    running = Running()
    running.start()
    running.stack.tell("the proxy answers 407")
    assert running.heard.wait(5)
    assert running.said == ["the proxy answers 407"]
    running.end()


def test_ended_thread_ends_the_process_with_an_error() -> None:
    running = Running()
    running.start()
    running.stack.crash()
    assert running.channel.receive() is None
    assert running.end() is Exit.ERROR
    assert running.stack.stopped
    assert "thread 0 has ended" in running.said[0]


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("drop", ProxyvpnError("privilege cannot be given up")),
        ("sandbox", OSError(1, "Operation not permitted")),
        ("stack", ValueError("a bad address")),
    ],
)
def test_failed_start_is_refused_and_carries_no_packet(part: str, error: Exception) -> None:
    running = Running({part: error})
    answer = running.start()
    assert isinstance(answer, Refused)
    assert str(error).split("]")[-1].strip() in answer.why
    assert running.done[-1].startswith(part)
    assert running.end() is Exit.ERROR


def test_unknown_request_ends_the_worker() -> None:
    running = Running()
    running.start()
    running.channel.send(Down())
    assert running.channel.receive() is None
    assert running.end() is Exit.ERROR
    assert running.stack.stopped


def test_start_without_its_files_is_refused() -> None:
    running = Running()
    running.channel.send(START)
    assert running.channel.receive() is None
    assert running.end() is Exit.ERROR
    assert running.done == []


def test_start_never_prints_a_credential() -> None:
    assert "hunter2" not in repr(START)


def test_real_worker_ends_with_its_channel() -> None:
    child = Worker.start({"PATH": os.environ["PATH"], "https_proxy": "http://a:b@c"})
    assert b"https_proxy" not in Path(f"/proc/{child.pid}/environ").read_bytes()
    assert child.end() == 0


def test_worker_started_by_hand_explains_itself() -> None:
    found = subprocess.run(
        [sys.executable, "-I", "-m", "proxyvpn.worker"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert found.returncode == Exit.USAGE
    assert b"proxyvpn up" in found.stderr


def test_terminal_is_opened_anew_for_writing_alone() -> None:
    master, slave = os.openpty()
    worker.only_write(slave)
    assert fcntl.fcntl(slave, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    os.write(slave, b"a line")
    assert os.read(master, 100) == b"a line"
    with pytest.raises(OSError):
        os.read(slave, 1)
    for fd in (master, slave):
        os.close(fd)


def test_what_is_no_terminal_stays_as_it_is(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb+") as file:
        before = os.fstat(file.fileno()), fcntl.fcntl(file.fileno(), fcntl.F_GETFL)
        worker.only_write(file.fileno())
        assert (os.fstat(file.fileno()), fcntl.fcntl(file.fileno(), fcntl.F_GETFL)) == before
