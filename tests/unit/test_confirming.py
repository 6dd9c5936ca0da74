"""Who confirms, by when, and what a terminal has to do with it."""

from __future__ import annotations

import os
import pty

from proxyvpn.confirming import Confirming
from proxyvpn.world import ancestors, came_by_ssh


def test_nothing_is_waited_for_without_the_option() -> None:
    found = Confirming(0, 100.0)
    assert (found.is_waiting, found.left(1e9), found.confirm()) == (False, float("inf"), False)


def test_time_runs_out_unless_it_is_confirmed() -> None:
    found = Confirming(60, 100.0)
    assert (found.left(130.0), found.left(160.0), found.left(170.0)) == (30.0, 0.0, 0.0)
    assert found.confirm() and not found.confirm()
    assert found.left(170.0) == float("inf")


def test_terminal_is_left_alone_in_the_background_and_when_nothing_is_waited_for() -> None:
    ours, theirs = pty.openpty()  # nobody's controlling terminal, so not in the foreground of it
    assert Confirming(60, 0.0, theirs).fileno() == -1
    assert Confirming(0, 0.0, theirs).fileno() == -1
    os.close(ours)
    os.close(theirs)


def test_enter_confirms_and_a_dead_terminal_does_not() -> None:
    ours, theirs = os.pipe()
    found = Confirming(60, 0.0, ours)
    os.write(theirs, b"yes")
    assert not found.read() and found.is_waiting
    os.write(theirs, b"\n")
    assert found.read() and not found.is_waiting
    os.close(theirs)
    found = Confirming(60, 0.0, ours)
    assert not found.read() and found.is_waiting
    assert found.fileno() == -1
    os.close(ours)


def test_login_by_ssh_is_known_by_its_variable_and_under_sudo_by_its_ancestors() -> None:
    assert came_by_ssh({"SSH_CONNECTION": "192.0.2.1 50022 192.0.2.2 22"}, ())
    assert came_by_ssh({}, ("sudo", "bash", "sshd-session", "systemd"))
    assert not came_by_ssh({"HOME": "/root"}, ("sudo", "bash", "login"))


def test_ancestors_are_found_up_to_the_first_process() -> None:
    found = ancestors(os.getpid())
    assert found and found[0].startswith(("python", "pytest"))
    assert ancestors(0) == ()
