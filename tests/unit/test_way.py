"""How `up` comes to a helper: the order, and what is said when there is no way; and who may ask one."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from dataclasses import replace

import pytest

from proxyvpn import peer
from proxyvpn.channel import Channel
from proxyvpn.children import ChildGone, Helper
from proxyvpn.errors import Exit, PrivilegeMissing
from proxyvpn.messages import VERSION, Status
from proxyvpn.way import Found, Remote, Way, choose

STAMP = f"# proxyvpn 1.0, protocol {VERSION}\n"
NOTHING = Found(ours=False, launcher=False, socket=False, usable=False)
LAUNCHER = Found(False, True, False, True, STAMP, "proxyvpn", True)
SOCKET = replace(LAUNCHER, launcher=False, socket=True)


@pytest.mark.parametrize(
    ("found", "way"),
    [
        (replace(NOTHING, ours=True), Way.OURS),
        (replace(LAUNCHER, ours=True, stamp=""), Way.OURS),
        (LAUNCHER, Way.LAUNCHER),
        (SOCKET, Way.SOCKET),
        (replace(LAUNCHER, socket=True), Way.LAUNCHER),
        (replace(LAUNCHER, member=False), Way.LAUNCHER),
    ],
)
def test_the_first_way_that_there_is_is_taken(found: Found, way: Way) -> None:
    assert choose(found, "proxyvpn") is way


@pytest.mark.parametrize(
    ("found", "why", "advice"),
    [
        (NOTHING, "not installed", "sudo /v/bin/proxyvpn setup"),
        (replace(LAUNCHER, usable=False), "this login does not know yet", "newgrp proxyvpn"),
        (replace(LAUNCHER, usable=False, member=False), "not in group proxyvpn", "sudo usermod -aG proxyvpn $USER"),
        (replace(SOCKET, usable=False, member=False, group="netops"), "not in group netops", "usermod -aG netops"),
        (replace(LAUNCHER, stamp=""), "of no version that can be read", "sudo /v/bin/proxyvpn setup"),
        (
            replace(LAUNCHER, stamp=f"# proxyvpn 9.0, protocol {VERSION + 1}\n"),
            "of proxyvpn 9.0 and speaks another protocol",
            "sudo /v/bin/proxyvpn setup",
        ),
    ],
)
def test_without_a_way_the_one_command_to_type_is_said(found: Found, why: str, advice: str) -> None:
    with pytest.raises(PrivilegeMissing) as caught:
        choose(found, "/v/bin/proxyvpn")
    assert caught.value.code == Exit.NO_PRIVILEGE
    assert why in caught.value.why and advice in caught.value.advice
    assert str(caught.value).count("\n") == 2


class Ended:
    """A process that has ended with a code."""

    pid = 4242

    def __init__(self, code: int) -> None:
        self._code = code

    def wait(self, timeout: float | None = None) -> int:  # noqa: ARG002
        return self._code

    def kill(self) -> None:
        raise AssertionError("it had ended")


@pytest.mark.parametrize("heard", [True, False], ids=["asked in time", "ended before it was asked"])
@pytest.mark.parametrize(("code", "kind"), [(4, PrivilegeMissing), (1, ChildGone)])
def test_launcher_that_refuses_is_a_missing_privilege(code: int, kind: type[Exception], heard: bool) -> None:
    ours, theirs = Channel.pair()
    helper = Helper(ours, Ended(code))
    if heard:
        helper.send(Status())
    theirs.close()
    with pytest.raises(kind):
        helper.status()


def test_remote_helper_sees_end_of_file_and_is_waited_for() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper = Helper(Channel(ours), Remote(ours.dup()))

    def answer_late_and_end() -> None:
        with theirs:
            theirs.send(b"an answer that nobody waits for")
            while theirs.recv(100):
                pass

    thread = threading.Thread(target=answer_late_and_end)
    thread.start()
    assert helper.end() == helper.end() == 0
    thread.join()


def test_remote_helper_that_goes_on_is_hung_up_on() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    remote = Remote(ours)
    with theirs:
        with pytest.raises(subprocess.TimeoutExpired):
            remote.wait(0.01)
        remote.kill()
        assert remote.wait() == 0
        with pytest.raises(BrokenPipeError):
            theirs.send(b"x")


@pytest.mark.parametrize(
    ("uid", "groups", "ours", "group", "may"),
    [
        (0, (), 1000, None, True),
        (0, (), 1000, 5, True),
        (1000, (), 1000, None, True),
        (1001, (), 1000, None, False),
        (1001, (5,), 1000, 5, True),
        (1000, (), 1000, 5, False),
        (1000, (100,), 1000, 5, False),
        (1000, (), 0, None, False),
    ],
)
def test_who_may_ask_a_helper(uid: int, groups: tuple[int, ...], ours: int, group: int | None, may: bool) -> None:
    assert peer.may_ask(peer.Peer(1, uid, 100), frozenset(groups), ours, group) is may


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert peer.of(ours) == peer.Peer(os.getpid(), os.getuid(), os.getgid())
        assert peer.groups(ours) == {os.getgid(), *os.getgroups()}
