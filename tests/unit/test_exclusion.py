"""Who is left alone: decided from what is known of a listener, without a kernel; and read from a real one."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address

import pytest

from proxyvpn import cgroups, exclusion, listeners
from proxyvpn.diag import LISTEN, Entry
from proxyvpn.errors import UsageError
from proxyvpn.exclusion import NOBODY, Asker, Excluded, decide, is_in, is_own, published, warned
from proxyvpn.listeners import Listener, chosen, serving
from proxyvpn.plan import Endpoint

NAME = "http://127.0.0.1:3128"
SERVICE, SESSION = "system.slice/cntlm.service", "user.slice/user-1000.slice/session-3.scope"
ANN = Asker(frozenset({1000}), SESSION)


@pytest.mark.parametrize(
    ("cgroup", "own"),
    [
        (SERVICE, True),
        ("user.slice/user-1000.slice/user@1000.service/app.slice/px.service", True),
        ("system.slice/docker-0123abcd.scope", True),
        ("docker/" + "0a" * 32, True),
        ("machine.slice/libpod-77.scope", True),
        (SESSION, False),
        ("user.slice/user-1000.slice/user@1000.service", False),
        ("user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope", False),
        ("init.scope", False),
        ("system.slice", False),
        ("", False),
    ],
)
def test_cgroup_of_a_service_or_a_container_is_its_own(cgroup: str, own: bool) -> None:
    assert is_own(cgroup) is own


def test_service_is_known_by_its_cgroup_whoever_runs_it() -> None:
    for user in (0, 13, 1000):
        found = decide(NAME, Listener(user, SERVICE), NOBODY, ANN)
        assert (found.cgroups, found.users) == ((SERVICE,), ())


def test_user_of_its_own_is_enough_without_a_cgroup() -> None:
    for cgroup in (SESSION, "", "init.scope"):
        found = decide(NAME, Listener(13, cgroup), NOBODY, ANN)
        assert (found.cgroups, found.users) == ((), (13,))


@pytest.mark.parametrize("listener", [Listener(1000, SESSION), Listener(0, "init.scope"), Listener(0, "")])
def test_what_cannot_be_told_apart_is_an_error_that_says_how(listener: Listener) -> None:
    with pytest.raises(UsageError) as caught:
        decide(NAME, listener, NOBODY, ANN)
    assert "--exclude-user" in caught.value.advice and "--exclude-cgroup" in caught.value.advice


def test_cgroup_that_up_is_in_itself_is_not_taken() -> None:
    inside = Asker(frozenset({0}), SERVICE)
    assert decide(NAME, Listener(13, SERVICE), NOBODY, inside).users == (13,)


@pytest.mark.parametrize(
    "given", [Excluded(users=(1000,)), Excluded(cgroups=(SESSION,)), Excluded(cgroups=("user.slice",))]
)
def test_who_is_excluded_already_is_not_looked_at(given: Excluded) -> None:
    assert decide(NAME, Listener(1000, SESSION), given, ANN) == NOBODY


def test_cgroup_is_in_another_only_by_whole_parts() -> None:
    assert is_in("a/b", "a") and is_in("a", "a")
    assert not is_in("ab", "a") and not is_in("a", "a/b") and not is_in("a", "")


def test_holders_that_are_not_root_are_meant() -> None:
    parent, child, maker = Listener(0, "x"), Listener(33, "x"), Listener(0, "")
    assert serving(maker, (parent, child)) == (child,)
    assert serving(maker, (parent,)) == (parent,)
    assert serving(maker, ()) == (maker,)


def entry(address: str, port: int, user: int, only6: bool = False) -> Entry:
    found = ip_address(address)
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6
    key = port.to_bytes(2, "big") + bytes(2) + found.packed.ljust(16, b"\0") + bytes(28)
    told = b"\x05\0\x0b\0\x01\0\0\0" if only6 else b""
    return Entry(family, LISTEN, key, user, told=told)


def test_listener_of_the_very_address_comes_before_one_of_all() -> None:
    entries = [entry("0.0.0.0", 80, 1), entry("127.0.0.1", 80, 2), entry("::", 80, 3), entry("127.0.0.1", 81, 4)]
    assert [each.user for each in chosen(entries, ip_address("127.0.0.1"), 80)] == [2]
    assert [each.user for each in chosen(entries, ip_address("127.0.0.2"), 80)] == [1, 3]
    assert [each.user for each in chosen(entries, ip_address("::1"), 80)] == [3]
    only = [entry("::", 80, 3, only6=True)]
    assert chosen(only, ip_address("127.0.0.1"), 80) == ()


def test_real_listener_is_found_with_its_user_and_its_cgroup() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = listeners.at(Endpoint(ip_address("127.0.0.1"), server.getsockname()[1]))
    assert found == (Listener(os.geteuid(), cgroups.of_process() or ""),)


def test_address_of_this_machine_is_known() -> None:
    assert listeners.is_here(ip_address("127.3.2.1")) and listeners.is_here(ip_address("::1"))
    assert not listeners.is_here(ip_address("192.0.2.1"))


def test_published_port_tells_of_its_container() -> None:
    words = ["/usr/bin/docker-proxy", "-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", "3128"]
    words += ["-container-ip", "172.17.0.2", "-container-port", "8888", "-use-listen-fd", ""]
    assert published("\0".join(words).encode()) == (3128, Endpoint(ip_address("172.17.0.2"), 8888))
    for command in (b"", b"\0", b"docker-proxy\0-host-port\x00x", b"dockerd\0-host-port\0001\0"):
        assert published(command) is None


@pytest.mark.parametrize("text", ["no-such-user-here", "", "a b"])
def test_unknown_user_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="--exclude-user"):
        exclusion.find((text,), (), ())


def test_users_are_known_by_name_and_by_number() -> None:
    assert exclusion.find(("daemon", "77"), (), ()).users == (1, 77)


@pytest.mark.skipif(cgroups.place() is None, reason="no cgroups of version 2")
def test_unknown_unit_is_an_error() -> None:
    with pytest.raises(UsageError, match="no such cgroup"):
        exclusion.find((), ("no-such-unit.service",), ())


def test_what_lists_no_tree_has_none() -> None:
    assert cgroups.place("/dev/null") is None


def test_person_is_told_of_stubs_and_of_strict_filters_where_they_matter() -> None:
    here = Excluded(cgroups=(SERVICE,), notes=("it runs here",))
    assert [len(warned(here, *each).notes) for each in ((False, False), (True, False), (False, True))] == [1, 2, 2]
    assert warned(NOBODY, captured=True, strict=True) == NOBODY
    assert warned(Excluded(users=(13,)), captured=True, strict=True).notes == ()
